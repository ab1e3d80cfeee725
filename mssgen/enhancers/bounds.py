"""Regions of a spectrogram, and how much may happen in one.

A region is about a third of an octave (at least four bins) by a twentieth of a second. Energies are
those of regions; gains are per region too and read off between them, so that nothing steps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_OCTAVES = 1 / 3
_MIN_BINS = 4


class Bands:
    """Overlapping triangles over the bins of a spectrum; at every bin they sum to one.

    Args:
        n_bins: F, from zero to half the sample rate.
    """

    def __init__(self, n_bins: int) -> None:
        centres = [0.0]
        while centres[-1] < n_bins - 1:
            centres.append(centres[-1] + max(_MIN_BINS, centres[-1] * (2**_OCTAVES - 1)))
        middle = torch.tensor(centres)  # [K], in bins
        bins = torch.arange(n_bins)
        above = torch.searchsorted(middle, bins.float()).clamp(1, len(centres) - 1)
        share = (bins - middle[above - 1]) / (middle[above] - middle[above - 1])
        self.weights = torch.zeros(len(centres), n_bins)  # [K, F]
        self.weights[above - 1, bins] = 1 - share
        self.weights[above, bins] = share
        self.octaves = torch.log2(middle.clamp_min(_MIN_BINS))
        """[K], the bands' places on a logarithmic axis."""

    def energies(self, spectra: Tensor) -> Tensor:
        """Complex spectra [..., F, N] to energies [..., K, N]."""
        return self.weights @ squared(spectra)

    def at_bins(self, gains: Tensor) -> Tensor:
        """One gain a band, [..., K, N], to one a bin, [..., F, N]."""
        return self.weights.T @ gains


def squared(spectra: Tensor) -> Tensor:
    """|X|^2 of complex X, without the root."""
    return spectra.real.square() + spectra.imag.square()


def smoothed(values: Tensor, n_frames: int) -> Tensor:
    """The mean over `n_frames` (odd) frames around each, [..., N] -> [..., N]."""
    flat = values.reshape(-1, 1, values.shape[-1])
    mean = F.avg_pool1d(flat, n_frames, 1, n_frames // 2, count_include_pad=False)
    return mean.view_as(values)


def gain_within(energies: Tensor, allowed: Tensor, n_frames: int) -> Tensor:
    """The gain (0 to 1) that brings the mean energy of each window down to what is allowed.

    Args:
        energies: [..., N].
        allowed: likewise; where it is 0, so is the gain.
        n_frames: length of a window, odd.
    """
    there, most = smoothed(energies, n_frames), smoothed(allowed, n_frames)
    return torch.where(there > most, most / there, 1).sqrt()


def in_all_windows(gain: Tensor, n_frames: int, n_bands: int = 1) -> Tensor:
    """A smooth gain that is nowhere above that of any window (or next band) it takes part in.

    With g = `gain_within(e, a, n)` and h = `in_all_windows(g, n)`, every window W of n frames has
    sum_W h^2 e <= sum_W a: each h in W averages minima over frames that all see the middle of W.
    What looks ahead as far as it looks back needs no attack or release.

    Args:
        gain: [..., K, N].
        n_frames: length of a window, odd.
        n_bands: how many neighbouring bands a bin may lie in, counted over both sides (odd).
    """
    flat = gain.reshape(-1, 1, *gain.shape[-2:])
    size = (n_bands, 2 * n_frames - 1)
    lowest = -F.max_pool2d(-flat, size, 1, (size[0] // 2, size[1] // 2))
    return smoothed(lowest.view_as(gain), n_frames)
