"""The multichannel Wiener filter, which separates with the stems' directions besides their levels.

A. A. Nugraha, A. Liutkus and E. Vincent, "Multichannel music separation with deep neural networks"
(EUSIPCO 2016), in the simplified form that norbert and Open-Unmix made customary: every stem is
Gaussian with a power per bin and frame, and a spatial covariance matrix per bin that stays the same
over all frames.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

MAX_ITERATIONS = 64
Iterations = Annotated[int, Field(ge=0, le=MAX_ITERATIONS)]
_MAX_MAGNITUDE = 10.0  # louder mixtures are scaled down to it, so that `eps` means the same


def refine(estimates: Tensor, mixture: Tensor, n_iterations: int, *, eps: float) -> Tensor:
    """Refine spectrograms of stems by expectation-maximisation.

    Args:
        estimates: first estimates [B, S, C, N, F], complex; C is 1 or 2.
        mixture: spectrogram of the mixture [B, C, N, F], complex.
        n_iterations: rounds of measuring powers and covariances, and filtering the mixture again.
        eps: power of the noise that is assumed in each bin is its square root; keeps sums finite.

    Returns:
        Spectrograms of the stems [B, S, C, N, F].
    """
    if not n_iterations:
        return estimates
    scale = (mixture.abs().amax(dim=(1, 2, 3), keepdim=True) / _MAX_MAGNITUDE).clamp_min(1.0)
    mixture, estimates = mixture / scale, estimates / scale[:, None]
    for _ in range(n_iterations):
        power = estimates.abs().square().mean(dim=2)  # [B, S, N, F]
        covariance = torch.einsum("bscnf,bsdnf->bscdf", estimates, estimates.conj())
        covariance = covariance / (power.sum(dim=2) + eps)[:, :, None, None]
        weights = power.to(covariance.dtype)
        total = torch.einsum("bsnf,bscdf->bcdnf", weights, covariance)
        total.diagonal(dim1=1, dim2=2).add_(eps**0.5)
        whitened = _solve(total, mixture)  # [B, C, N, F]
        estimates = weights[:, :, None] * torch.einsum("bscdf,bdnf->bscnf", covariance, whitened)
    return estimates * scale[:, None]


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix [B, C, C, N, F] inverse times vector [B, C, N, F]; in closed form for C of 1 or 2."""
    if vector.shape[1] == 1:
        return vector / matrix[:, 0]
    (a, b), (c, d) = matrix[:, 0].unbind(1), matrix[:, 1].unbind(1)
    x, y = vector.unbind(1)
    return torch.stack([d * x - b * y, a * y - c * x], dim=1) / (a * d - b * c)[:, None]
