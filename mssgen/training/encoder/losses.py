"""Losses between a stem encoder's predictions and the clean stem's latents and tokens.

Thesis, section 6.2.1, losses a to d. Each is one function of tensors and returns a mean over items
and frames, independent of segment length and batch size.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mssgen.codecs.base import Codebook, Codec

Residual = Literal["expected", "chosen", "target"]


def latent_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of latents [B, D, N], a scalar (loss a).

    The target is the clean stem's latents before or after quantisation.
    """
    return F.mse_loss(prediction.float(), target.float())


def level_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 between logarithmic band energies [B, D', N], a scalar.

    It learns the median. MSE learns the mean of logarithms, which is far too low for bands that are
    either loud or silent.
    """
    return F.l1_loss(prediction.float(), target.float())


def token_cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K, N, V] against codes [B, >= K, N], a scalar (loss b).

    The mean over the K codebooks.
    """
    target = codes[:, : logits.shape[1]]
    return F.cross_entropy(logits.float().flatten(0, 2), target.flatten())


def residual_loss(
    latents: Tensor,
    codes: Tensor,
    codebooks: Sequence[Codebook],
    temperature: float | Sequence[float],
    *,
    n_levels: int | None = None,
    is_checkpointed: bool = True,
    residual: Residual = "expected",
) -> Tensor:
    """The thesis' residual loss (loss c, equations 6 to 10), a scalar: the sum over codebooks.

    For codebook k the residual v_k is assigned softly, p_k = softmax(-|c_k - v_k|^2 / temperature)
    (equations 6 and 8, with the minus sign that is in the thesis' text but not in its formulae),
    and classified against the clean stem's code by cross-entropy. The next residual is
    v_{k+1} = v_k - sum_i p_k,i c_k,i (equations 7 and 9).

    Args:
        latents: the prediction [B, D, N], v_0.
        codes: codes of the clean stem (equation 10) [B, >= n_levels, N].
        codebooks: codebooks of the codec, in order.
        temperature: in the unit of the codebooks' distances, for all codebooks or for each.
        n_levels: number of codebooks, from the first; None: as many as `codes` has.
        is_checkpointed: recompute each codebook in the backward pass and store D numbers per frame
            instead of V: 1.3 MB instead of 11 per second of audio with EnCodec's 32 codebooks.
        residual: the vector that a codebook subtracts: the "expected" one (the thesis), the
            "chosen" (nearest) one, or that of the "target" code, which avoids error propagation:
            optimising free latents then finds all tokens, while the others get stuck.
    """
    n_levels = codes.shape[1] if n_levels is None else min(n_levels, codes.shape[1])
    temperatures = temperature if isinstance(temperature, Sequence) else [temperature] * n_levels
    vector = latents.float()
    total = vector.new_zeros(())
    for codebook, target, level_temperature in zip(
        codebooks[:n_levels], codes.unbind(1), temperatures, strict=False
    ):
        arguments = (codebook, target, level_temperature, residual)
        if is_checkpointed and torch.is_grad_enabled():
            loss, vector = checkpoint(_level, vector, *arguments, use_reentrant=False)
        else:
            loss, vector = _level(vector, *arguments)
        total = total + loss
    return total


def _level(
    vector: Tensor, codebook: Codebook, target: Tensor, temperature: float, residual: Residual
) -> tuple[Tensor, Tensor]:
    """(cross-entropy of one codebook, the residual [B, D, N] for the next one)."""
    logits = codebook.distances(vector) / -temperature
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    if residual == "expected":
        return loss, vector - codebook.expected(logits.softmax(dim=-1))
    return loss, vector - codebook.vectors(
        target if residual == "target" else logits.argmax(dim=-1)
    )


def codebook_scales(codec: Codec) -> list[float]:
    """The mean squared distance of code vectors to their nearest neighbour, for each codebook.

    A temperature in this unit is equally soft for the first codebook and for the last, whose
    vectors are much smaller. Duplicate vectors (dead codes) do not count.
    """
    codes = torch.arange(codec.codebook_size, device=codec.device)[None]
    scales = []
    for codebook in codec.codebooks:
        with torch.no_grad():
            distances = codebook.distances(codebook.vectors(codes))[0]
        is_same = distances <= 1e-5 * distances.amax()
        nearest = distances.masked_fill(is_same, torch.inf).amin(dim=-1)
        nearest = nearest[nearest.isfinite()]
        scales.append(float(nearest.mean()) if len(nearest) else 1.0)
    return scales


class EmbeddingDiscriminator(nn.Module):
    """Maps latents [B, D, N] to logits [B, N], high for frames of clean stems (loss d).

    The thesis' two linear layers: 128 -> 64 -> ReLU -> 1, here D -> D / 2 -> 1.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        hidden_size = max(1, latent_dim // 2)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1)
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents.mT).squeeze(-1)


def discriminator_loss(real: Tensor, predicted: Tensor) -> Tensor:
    """Binary cross-entropy of logits [B, N] of real and predicted latents, a scalar (loss d)."""
    return 0.5 * (
        F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + F.binary_cross_entropy_with_logits(predicted, torch.zeros_like(predicted))
    )


def adversarial_loss(predicted: Tensor) -> Tensor:
    """Cross-entropy of the logits [B, N] of predictions against "real", a scalar (loss d)."""
    return F.binary_cross_entropy_with_logits(predicted, torch.ones_like(predicted))


def token_accuracy(codes: Tensor, reference: Tensor) -> Tensor:
    """Share of equal tokens of each codebook, [K], 0 to 1, from codes [B, K, N] of both."""
    return (codes == reference).float().mean(dim=(0, 2))
