"""A pseudo quadrature mirror filter bank (PQMF): audio to critically sampled sub-bands and back.

Cosine-modulated, with near-perfect reconstruction: Nguyen, "Near-perfect-reconstruction pseudo-QMF
banks", IEEE TSP 1994; the prototype is a Kaiser window whose cutoff is tuned as in Lin and
Vaidyanathan, "A Kaiser window approach for the design of prototype filters", IEEE SPL 1998.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import full_precision

_TAPS_PER_BAND = 16
_BETA = 10.0  # about 100 dB of stop-band attenuation


class Pqmf(nn.Module):
    """Filter bank with `n_bands` bands; T is a multiple of `n_bands`.

    `analysis`: [B, C, T] -> [B, C * n_bands, T / n_bands]; `synthesis`: the inverse.
    """

    def __init__(self, n_bands: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # constants need values even in a model on the meta device
            filters = _filters(n_bands)
        self.analysis = _Analysis(filters)
        self.synthesis = _Synthesis(filters)


class _Analysis(nn.Module):
    """Audio [B, C, T] to sub-bands [B, C * n_bands, T / n_bands]."""

    filters: Tensor  # [bands, 1, taps]

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        # Determined by the number of bands, so not part of checkpoints.
        self.register_buffer("filters", filters.flip(-1)[:, None], persistent=False)
        # Named as in torch's convolutions, for `streaming`, which needs the receptive field.
        self.kernel_size, self.stride = (filters.shape[1],), (len(filters),)
        self.dilation, self.transposed = (1,), False

    def forward(self, audio: Tensor) -> Tensor:
        n_channels, (n_bands, _, length) = audio.shape[1], self.filters.shape
        flat = F.pad(audio.flatten(0, 1)[:, None], (length // 2, length // 2 - 1))
        with full_precision(audio):  # half precision adds audible noise
            bands = F.conv1d(flat.float(), self.filters, stride=n_bands)
        return bands.unflatten(0, (-1, n_channels)).flatten(1, 2)


class _Synthesis(nn.Module):
    """Sub-bands [B, C * n_bands, N] to audio [B, C, N * n_bands]."""

    filters: Tensor  # [bands, 1, taps]

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        n_bands = len(filters)
        # The synthesis filters are the analysis filters reversed in time.
        self.register_buffer("filters", (filters.flip(-1) * n_bands)[:, None], persistent=False)
        self.kernel_size, self.stride = (filters.shape[1],), (n_bands,)
        self.dilation, self.transposed = (1,), True

    def forward(self, bands: Tensor) -> Tensor:
        n_bands, _, length = self.filters.shape
        flat = bands.unflatten(1, (-1, n_bands)).flatten(0, 1)
        with full_precision(bands):
            audio = F.conv_transpose1d(flat.float(), self.filters, stride=n_bands)
        n_samples = bands.shape[-1] * n_bands
        start = length // 2
        audio = F.pad(audio, (0, max(0, start + n_samples - audio.shape[-1])))
        return audio[..., start : start + n_samples].unflatten(0, (len(bands), -1)).squeeze(2)


def _filters(n_bands: int) -> Tensor:
    """Analysis filters [n_bands, taps]."""
    length = _TAPS_PER_BAND * n_bands
    n = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    prototype = _prototype(n, n_bands)
    k = torch.arange(n_bands, dtype=torch.float64)[:, None]
    phase = (-1.0) ** k * math.pi / 4
    return (2 * prototype * torch.cos((2 * k + 1) * math.pi / (2 * n_bands) * n + phase)).float()


def _prototype(n: Tensor, n_bands: int) -> Tensor:
    """Low-pass prototype [taps] whose cutoff minimises reconstruction ripple (golden section)."""
    window = torch.kaiser_window(len(n), periodic=False, beta=_BETA, dtype=torch.float64)

    def design(cutoff: float) -> Tensor:
        return window * cutoff / math.pi * torch.sinc(n * cutoff / math.pi)

    def ripple(cutoff: float) -> float:
        """Largest autocorrelation at the non-zero multiples of 2 `n_bands`, ideally 0."""
        h = design(cutoff)
        spectrum = torch.fft.rfft(h, 2 * len(h)).abs().square()
        correlation = torch.fft.irfft(spectrum)[2 * n_bands : len(h) : 2 * n_bands]
        return float(correlation.abs().max())

    low, high = 0.3 * math.pi / n_bands, 0.9 * math.pi / n_bands
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if ripple(a) < ripple(b) else (a, high)
    h = design((low + high) / 2)
    return h / h.square().sum().sqrt() * math.sqrt(1 / (2 * n_bands))
