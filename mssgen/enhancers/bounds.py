"""Regions of a spectrogram, and gains that keep the energy of each region within a bound.

A region is about a third of an octave (four bins or more) by 58 ms. Gains are computed per region
and interpolated between regions, so that they never jump.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_OCTAVES = 1 / 3
_MIN_BINS = 4


class Bands:
    """Overlapping triangular bands over the bins of a spectrum; at every bin they sum to one.

    Args:
        n_bins: number of bins F, from 0 Hz to half the sample rate.
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
        """Centres of the bands [K], log2 of the bin."""

    def energies(self, spectra: Tensor) -> Tensor:
        """Complex spectra [..., F, N] to band energies [..., K, N]."""
        return self.weights @ squared(spectra)

    def at_bins(self, gains: Tensor) -> Tensor:
        """Gains per band [..., K, N] to gains per bin [..., F, N]."""
        return self.weights.T @ gains


def squared(spectra: Tensor) -> Tensor:
    """|X|^2 of a complex X, elementwise."""
    return spectra.real.square() + spectra.imag.square()


def smoothed(values: Tensor, n_frames: int) -> Tensor:
    """Moving average over `n_frames` (odd) centred frames, [..., N] -> [..., N]."""
    flat = values.reshape(-1, 1, values.shape[-1])
    mean = F.avg_pool1d(flat, n_frames, 1, n_frames // 2, count_include_pad=False)
    return mean.view_as(values)


def gain_within(energies: Tensor, allowed: Tensor, n_frames: int) -> Tensor:
    """Gains [..., N], 0 to 1, that lower the mean energy of each window to the allowed energy.

    Args:
        energies: [..., N].
        allowed: [..., N]; where it is 0, so is the gain.
        n_frames: length of a window, odd.
    """
    there, most = smoothed(energies, n_frames), smoothed(allowed, n_frames)
    return torch.where(there > most, most / there, 1).sqrt()


def in_all_windows(gain: Tensor, n_frames: int, n_bands: int = 1) -> Tensor:
    """A smooth gain that nowhere exceeds that of any window (or neighbouring band) around it.

    With g = `gain_within(e, a, n)` and h = `in_all_windows(g, n)`, every window W of n frames has
    sum_W h^2 e <= sum_W a: each h in W averages minima over frames that all include the middle of
    W. The gain looks ahead as far as it looks back, so it needs no attack or release.

    Args:
        gain: [..., K, N].
        n_frames: length of a window, odd.
        n_bands: number of neighbouring bands, counted over both sides (odd), that bound a band.
    """
    flat = gain.reshape(-1, 1, *gain.shape[-2:])
    size = (n_bands, 2 * n_frames - 1)
    lowest = -F.max_pool2d(-flat, size, 1, (size[0] // 2, size[1] // 2))
    return smoothed(lowest.view_as(gain), n_frames)
