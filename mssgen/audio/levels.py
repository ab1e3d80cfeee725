"""Levels of a signal, as linear amplitudes (1 is full scale) or in dB, and gains to a range."""

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]

NATURAL: Range = (0.01, 0.3)
"""Usual `LoudLevel` of songs and stems, -40 to -10 dBFS: signals in this range are not scaled."""


class LoudLevel:
    """RMS of a signal with each sample's power weighted by itself: silence and fades hardly count.

    That is sqrt(sum(x**4) / sum(x**2)).
    """

    def __init__(self) -> None:
        self._power, self._square = 0.0, 0.0

    def add(self, block: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """Add samples of any shape."""
        power = np.square(block, dtype=np.float64)
        self._power += float(power.sum())
        self._square += float(np.square(power).sum())

    @property
    def value(self) -> float:
        """The level so far: 0 for silence, 0.87 of the peak for a sine."""
        return (self._square / self._power) ** 0.5 if self._power else 0.0


def gain_into(level: float, wanted: Range) -> float:
    """Factor that moves `level` to the nearest end of the range; 1 inside it, and for silence."""
    low, high = wanted
    return min(max(level, low), high) / level if level > 0 else 1.0


def level(audio: NDArray[np.float32]) -> float:
    """Root mean square of [C, T]; 0 if empty."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def level_db(audio: NDArray[np.float32]) -> float:
    """Root mean square of [C, T] in dBFS (0 dB is a constant 1); -inf for silence."""
    return 20 * float(np.log10(value)) if (value := level(audio)) else -np.inf
