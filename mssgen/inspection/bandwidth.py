"""Bandwidth of audio: where its energy ends, as left by lossy coding or a lower sample rate."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FLOOR_BELOW_PEAK_DB = 90.0
BAND_HZ = 100.0
_EDGE_DB = 18.0


@dataclass(frozen=True)
class Bandwidth:
    """Upper end of the energy in the mean power spectrum of a file, in bands of 100 Hz."""

    ends_hz: float
    """Upper edge of the highest band above the floor."""
    floor_db: float
    """Floor per band, dBFS: 90 dB below the strongest band, or 10 dB above the dither of the used
    bits, whichever is higher."""
    drop_db: float | None
    """Level of the last 1 kHz below the end minus that of the 1 kHz above it; None if there is no
    room above."""
    is_abrupt: bool
    """Whether the energy ends well below half the sample rate with a drop of 18 dB or more, unlike
    music itself: the file was lossy or resampled."""


class LongTermSpectrum:
    """Mean power in bands of 100 Hz, over time and channels."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate = sample_rate
        self._n_fft = 2 ** round(math.log2(sample_rate / 10))
        self._waiting = np.zeros((n_channels, 0), np.float32)
        self._sum = np.zeros(self._n_fft // 2 + 1)
        self._n_frames = 0

    def add(self, block: NDArray[np.float32]) -> None:
        """The next samples, [C, T]."""
        samples = np.concatenate([self._waiting, block], axis=1)
        n_whole = samples.shape[1] // self._n_fft * self._n_fft
        self._waiting = samples[:, n_whole:]
        if n_whole:
            self._add_frames(samples[:, :n_whole].reshape(-1, self._n_fft))

    def bands(self) -> NDArray[np.float64]:
        """Mean square per band of 100 Hz, from 0 Hz; audio below one frame is padded."""
        if not self._n_frames:
            missing = self._n_fft - self._waiting.shape[1]
            self._add_frames(np.pad(self._waiting, ((0, 0), (0, missing))))
        frequencies = np.arange(len(self._sum)) * self._rate / self._n_fft
        bands = np.bincount((frequencies // BAND_HZ).astype(int), self._sum / self._n_frames)
        return np.asarray(bands, np.float64)

    def _add_frames(self, frames: NDArray[np.float32]) -> None:
        window = _window(self._n_fft)
        power = np.square(np.abs(np.fft.rfft(frames * window))).sum(axis=0)
        power[1:-1] *= 2
        self._sum += power / (self._n_fft * float(np.square(window).sum()))
        self._n_frames += len(frames)


def bandwidth(
    bands: NDArray[np.float64], sample_rate: int, used_bits: int | None
) -> Bandwidth | None:
    """Bandwidth from a long-term spectrum; None for silence. See `Bandwidth`."""
    if not bands.max(initial=0) > 0:
        return None
    levels = 10 * np.log10(np.maximum(bands, 1e-30))
    floor_db = float(levels.max()) - FLOOR_BELOW_PEAK_DB
    if used_bits is not None:
        # Triangular dither has a power of step^2 / 4, and spreads it evenly.
        noise_db = 10 * math.log10(4.0 ** (1 - used_bits) / 4 * BAND_HZ / (sample_rate / 2))
        floor_db = max(floor_db, noise_db + 10)
    above = np.flatnonzero(levels > floor_db)
    if not len(above):  # nothing but dither
        return None
    last = int(above[-1])
    ends_hz = min((last + 1) * BAND_HZ, sample_rate / 2)
    n_bands = round(1000 / BAND_HZ)
    below = levels[max(0, last - n_bands) : last]
    # One band of slope, and not the last of all, which filters of resamplers bend.
    beyond = levels[last + 2 : last + 2 + n_bands]
    drop_db = None
    if len(below) and len(beyond) == n_bands:
        drop_db = float(below.mean() - np.maximum(beyond, floor_db - 60).mean())
    is_abrupt = ends_hz < 0.94 * sample_rate / 2 and drop_db is not None and drop_db >= _EDGE_DB
    return Bandwidth(ends_hz, floor_db, drop_db, is_abrupt)


@lru_cache(maxsize=4)
def _window(n_fft: int) -> NDArray[np.float64]:
    """Four-term Blackman-Harris window: side lobes 92 dB down."""
    terms, angle = (0.35875, -0.48829, 0.14128, -0.01168), 2 * np.pi * np.arange(n_fft) / n_fft
    return np.asarray(sum(a * np.cos(i * angle) for i, a in enumerate(terms)), np.float64)
