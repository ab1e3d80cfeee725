"""Residual vector quantisation with factorised codebooks: each level has a small space of its own.

Source: the quantiser of the Descript Audio Codec, Kumar et al. 2023 (arXiv 2306.06546, section
3.2), after Improved VQGAN, Yu et al. 2021 (arXiv 2110.04627).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COMMITMENT = 0.25  # beside 1 for the codebooks
_USAGE_DECAY = 0.99
_DEAD_SHARE = 0.03  # of the mean code's use


@dataclass(frozen=True)
class FactorizedCodebook:
    """Codes are nearest in a projection of the latents; vectors are projected back."""

    level: Any
    """in_proj, codebook and out_proj of one level."""
    by_angle: bool = True
    """As DAC: lengths do not count."""

    @property
    def embedding(self) -> Tensor:
        weight: Tensor = self.level.codebook.weight
        return weight

    def distances(self, residual: Tensor) -> Tensor:
        """||e - c||^2 with e = in_proj(r); of e / ||e|| and c / ||c|| by angle, so up to 4."""
        frames = self.level.in_proj(residual).transpose(1, 2)
        embedding = self.level.codebook.weight
        if self.by_angle:
            frames, embedding = F.normalize(frames, dim=-1), F.normalize(embedding)
        return squared_distances(frames, embedding)

    def expected(self, probabilities: Tensor) -> Tensor:
        mean = (probabilities @ self.level.codebook.weight).transpose(1, 2)
        vectors: Tensor = self.level.out_proj(mean)
        return vectors

    def vectors(self, codes: Tensor) -> Tensor:
        embedded = F.embedding(codes, self.level.codebook.weight).transpose(1, 2)
        vectors: Tensor = self.level.out_proj(embedded)
        return vectors


def squared_distances(frames: Tensor, vectors: Tensor) -> Tensor:
    """||f - v||^2 of frames [..., D] and vectors [V, D]: [..., V]."""
    square = frames.square().sum(-1, keepdim=True) + vectors.square().sum(-1)
    return square - 2 * frames @ vectors.T


class FactorizedQuantizer(nn.Module):
    """K levels on latents [B, D, N]; each looks up the residual of those before it.

    Unlike DAC's, lengths count: codebooks of 1024 x 8 by k-means on the principal components of
    music kept 1 to 1.5 dB more of it than by angle.
    """

    def __init__(
        self,
        latent_dim: int,
        codebook_size: int,
        codebook_dim: int,
        parts: Sequence[tuple[int, int]],
    ) -> None:
        """One level for each of `parts`: which dimension of the latents it begins with, and how
        many it sees. To the others it adds nothing."""
        super().__init__()
        self.latent_dim = latent_dim
        self.levels = nn.ModuleList(
            Level(latent_dim, codebook_size, codebook_dim, *part) for part in parts
        )

    @property
    def codebooks(self) -> list[FactorizedCodebook]:
        """The levels, first to last."""
        return [FactorizedCodebook(level, by_angle=False) for level in self.levels]

    def forward(self, latents: Tensor, n_levels: int) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors [B, D, N] with straight-through gradients, codes [B, K, N], loss).

        The loss is the sum over the levels of the codebook's loss and 0.25 times the commitment. In
        train mode a level starts from what it sees first, and codes that nobody uses are replaced.
        """
        residual, total, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        codes = []
        for level in self.levels[:n_levels]:
            vectors, level_codes, level_loss = level(residual)
            total, residual = total + vectors, residual - vectors
            codes.append(level_codes)
            loss = loss + level_loss
        return total, torch.stack(codes, dim=1), loss

    @torch.no_grad()
    def encode(self, latents: Tensor, n_levels: int) -> Tensor:
        """Codes [B, K, N] of latents [B, D, N]; changes nothing."""
        residual, codes = latents, []
        for codebook in self.codebooks[:n_levels]:
            codes.append(codebook.distances(residual).argmin(dim=-1))
            residual = residual - codebook.vectors(codes[-1])
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """The sum of the code vectors [B, D, N] of codes [B, K, N]."""
        total = codes.new_zeros(codes.shape[0], codes.shape[2], self.latent_dim).float()
        for level, level_codes in zip(self.levels, codes.unbind(dim=1), strict=False):
            assert isinstance(level, Level)
            # A matrix product: as a convolution, as in `Codebook.vectors`, four times as slow.
            embedded = F.embedding(level_codes, level.codebook.weight)
            vectors = F.linear(embedded, level.out_proj.weight[..., 0], level.out_proj.bias)
            total.narrow(2, level.in_proj.first, vectors.shape[2]).add_(vectors)
        return total.mT


class Level(nn.Module):
    """One codebook, its projections, and how much each code is used."""

    usage: Tensor  # [V], of each code against the mean code; all zero before the first batch

    def __init__(
        self, latent_dim: int, codebook_size: int, codebook_dim: int, first: int, n_dims: int
    ) -> None:
        super().__init__()
        self.latent_dim, after = latent_dim, latent_dim - first - n_dims
        self.in_proj = _Narrowing(first, n_dims, codebook_dim)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self.out_proj = _Widening(codebook_dim, n_dims, (first, after))
        self.register_buffer("usage", torch.zeros(codebook_size))

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors [B, D, N], codes [B, N], loss) of a residual [B, D, N]."""
        projected = self.in_proj(residual)  # [B, E, N]
        if self.training:
            self._keep_alive(projected.detach())
        frames = projected.detach().transpose(1, 2)
        codes = squared_distances(frames, self.codebook.weight.detach()).argmin(dim=-1)
        if self.training:
            self._count(codes)
        embedded = self.codebook(codes).transpose(1, 2)
        loss = F.mse_loss(embedded, projected.detach())
        loss = loss + _COMMITMENT * F.mse_loss(projected, embedded.detach())
        straight = projected + (embedded - projected).detach()
        return self.out_proj(straight), codes, loss

    @torch.no_grad()
    def _keep_alive(self, projected: Tensor) -> None:
        """Put frames of this batch in the places of dead codes; of all, at the first batch."""
        is_dead = self.usage < _DEAD_SHARE
        if not bool(is_dead.any()):
            return
        frames = projected.transpose(1, 2).flatten(0, 1)
        chosen = frames[torch.randint(len(frames), (len(is_dead),), device=frames.device)]
        self.codebook.weight.copy_(torch.where(is_dead[:, None], chosen, self.codebook.weight))
        self.usage.copy_(torch.where(is_dead, torch.ones_like(self.usage), self.usage))

    @torch.no_grad()
    def _count(self, codes: Tensor) -> None:
        counts = torch.bincount(codes.flatten(), minlength=len(self.usage)).to(self.usage.dtype)
        self.usage.mul_(_USAGE_DECAY).add_(counts / counts.mean(), alpha=1 - _USAGE_DECAY)


class _Narrowing(nn.Conv1d):
    """Some dimensions of the latents [B, D, N] to those of a codebook."""

    def __init__(self, first: int, n_dims: int, codebook_dim: int) -> None:
        super().__init__(n_dims, codebook_dim, 1, bias=False)
        self.first = first

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents.narrow(1, self.first, self.in_channels))


class _Widening(nn.Conv1d):
    """The way back; nothing in the other dimensions."""

    def __init__(self, codebook_dim: int, n_dims: int, around: tuple[int, int]) -> None:
        super().__init__(codebook_dim, n_dims, 1)
        self.around = around

    def forward(self, vectors: Tensor) -> Tensor:
        return F.pad(super().forward(vectors), (0, 0, *self.around))
