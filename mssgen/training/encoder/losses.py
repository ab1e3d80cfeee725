"""Losses that pull a stem encoder's predictions to the clean stem's latents and tokens.

Thesis, section 6.2.1, losses a to d. Each is one function of tensors, and each gives a mean over
items and frames, so that the length of segments and the size of batches do not change its weight.
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

    The target may be the clean stem's latents before quantisation or after it.
    """
    return F.mse_loss(prediction.float(), target.float())


def level_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 between logarithmic levels of bands [B, D', N], a scalar.

    It learns the median. The mean of logarithms, which MSE learns, is far too soft a guess for
    what is either loud or not there.
    """
    return F.l1_loss(prediction.float(), target.float())


def token_cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K, N, V] against codes [B, >= K, N], a scalar (loss b).

    The mean over the K levels.
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
    """The thesis' residual loss (loss c, equations 6 to 10), a scalar: the sum over levels.

    On level k the residual v_k is assigned softly, p_k = softmax(-||c_k - v_k||^2 / temperature)
    (equations 6 and 8, with the minus sign that the thesis' text speaks of and its formulae drop),
    and classified against the clean stem's code by cross-entropy. The next residual is
    v_{k+1} = v_k - sum_i p_k,i c_k,i (equations 7 and 9).

    Args:
        latents: the prediction [B, D, N], v_0.
        codes: of the clean stem (equation 10) [B, >= levels, N].
        codebooks: of the codec, first level first.
        temperature: in the unit of the codebooks' distances, one for all levels or one for each.
        n_levels: the first so many levels only; None takes as many as `codes` has.
        is_checkpointed: compute each level again on the way back and keep its D numbers a frame,
            not its V: 1.3 MB for a second of audio with EnCodec's 32 levels, not 11.
        residual: what a level leaves to the next: the residual less the "expected" vector (the
            thesis), less the "chosen" (nearest) one, less the "target" code's, which carries no
            errors on: descent on free latents then finds all tokens, where the others get stuck.
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
    """(cross-entropy of one level, what it leaves of `vector` [B, D, N])."""
    logits = codebook.distances(vector) / -temperature
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    if residual == "expected":
        return loss, vector - codebook.expected(logits.softmax(dim=-1))
    return loss, vector - codebook.vectors(
        target if residual == "target" else logits.argmax(dim=-1)
    )


def codebook_scales(codec: Codec) -> list[float]:
    """For each level the mean squared distance of a code vector to its nearest neighbour.

    The scale at which a level tells its codes apart: a temperature in this unit is equally soft on
    the first level and on the last, whose vectors are much smaller. Vectors that stand twice (dead
    codes) do not count.
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
    """Latents [B, D, N] to a logit [B, N] of each frame being a clean stem's (loss d).

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
    """Binary cross-entropy of the discriminator's logits [B, N], each half of a scalar (loss d)."""
    return 0.5 * (
        F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + F.binary_cross_entropy_with_logits(predicted, torch.zeros_like(predicted))
    )


def adversarial_loss(predicted: Tensor) -> Tensor:
    """How far the discriminator is from taking predictions [B, N] for real, a scalar (loss d)."""
    return F.binary_cross_entropy_with_logits(predicted, torch.ones_like(predicted))


def token_accuracy(codes: Tensor, reference: Tensor) -> Tensor:
    """Share of equal tokens on each level: [B, K, N], [B, K, N] -> [K], 0 to 1."""
    return (codes == reference).float().mean(dim=(0, 2))
