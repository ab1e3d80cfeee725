"""Heads of stem encoders, from latents to logits of codes or to better latents.

They are the thesis' intermediate layers (section 6.2.1): a dense network that classifies each
frame, and a small transformer over frames.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mssgen.errors import UsageError


class DenseHead(nn.Module):
    """Latents [B, D, N] to logits [B, K, N, V], per frame: D -> hidden_size -> ReLU -> K * V."""

    def __init__(
        self, latent_dim: int, hidden_size: int, n_codebooks: int, codebook_size: int
    ) -> None:
        super().__init__()
        self._shape = (n_codebooks, codebook_size)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, n_codebooks * codebook_size),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents.mT).unflatten(-1, self._shape).transpose(1, 2)


class TransformerHead(nn.Module):
    """Latents [B, D, N] to latents [B, D, N], or to logits [B, K, N, V] of the first K codebooks.

    Sinusoidal positions are added to the frames, followed by transformer encoder layers of width D.

    Args:
        latent_dim: D, a multiple of `n_heads`.
        n_layers: number of transformer layers.
        n_heads: number of attention heads.
        tokens: (K, V) for logits; None for latents.
        is_causal: whether frames attend only to themselves and earlier frames. The thesis calls its
            transformer autoregressive, but all frames of the input are available at once.
        is_residual: whether the output, initially zero, is added to the latents, so that an
            untrained head keeps them. False: as in the thesis, it replaces them.
        dropout: dropout probability.

    Raises:
        UsageError: D is not a multiple of `n_heads`.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        n_layers: int = 3,
        n_heads: int = 4,
        tokens: tuple[int, int] | None = None,
        is_causal: bool = False,
        is_residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if latent_dim % n_heads:
            raise UsageError(
                f"{n_heads} attention heads do not divide the codec's {latent_dim} latent "
                "dimensions: choose another n_heads"
            )
        self._tokens, self._is_causal = tokens, is_causal
        self._is_residual = is_residual and tokens is None
        layer = nn.TransformerEncoderLayer(
            latent_dim,
            n_heads,
            dim_feedforward=4 * latent_dim,
            dropout=dropout,
            batch_first=True,
            # Latents have an arbitrary scale, which pre-norm layers tolerate.
            norm_first=is_residual,
        )
        norm = nn.LayerNorm(latent_dim) if is_residual else None
        self.layers = nn.TransformerEncoder(layer, n_layers, norm, enable_nested_tensor=False)
        # nn.TransformerEncoder copies one layer; give each copy weights of its own.
        for weight in self.layers.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.output = nn.Linear(latent_dim, math.prod(tokens) if tokens else latent_dim)
        if self._is_residual:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, latents: Tensor) -> Tensor:
        _, width, n_frames = latents.shape
        frames = latents.mT + positions(n_frames, width, latents)
        mask = None
        if self._is_causal:
            mask = nn.Transformer.generate_square_subsequent_mask(
                n_frames, device=frames.device, dtype=frames.dtype
            )
        output = self.output(self.layers(frames, mask=mask, is_causal=self._is_causal))
        if self._tokens is not None:
            return output.unflatten(-1, self._tokens).transpose(1, 2)
        return latents + output.mT if self._is_residual else output.mT


def positions(n_frames: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions [n_frames, width], with dtype and device of `like`.

    Source: Vaswani et al. 2017 (arXiv 1706.03762, section 3.5).
    """
    index = torch.arange(n_frames, device=like.device, dtype=torch.float32)
    powers = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angles = index[:, None] * torch.pow(10_000.0, -powers)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)


@dataclass(frozen=True)
class Window:
    """A window of frames `start` to `stop`, of whose output frames `first` to `last` are kept.

    All are indices into the whole signal; ends are exclusive.
    """

    start: int
    stop: int
    first: int
    last: int


def windows(n_frames: int, length: int) -> Iterator[Window]:
    """Windows of `length` frames with 50 % overlap, of which the middle half is kept.

    Every kept frame, except near the ends, has a quarter of a window of context on either side.
    """
    stride, margin = max(1, length // 2), length // 4
    for start in range(0, n_frames, stride):
        is_last = start + length >= n_frames
        first = start + margin if start else 0
        yield Window(
            start,
            min(start + length, n_frames),
            first,
            n_frames if is_last else start + margin + stride,
        )
        if is_last:
            return
