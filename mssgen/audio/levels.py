"""How loud the loud parts of a sound are, and the gain that brings them where a network works."""

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]

NATURAL: Range = (0.01, 0.3)
"""What the loud parts of songs and stems have, -40 to -10 dB of full scale: left as it is."""


class LoudLevel:
    """The root of the mean power, power weighted by itself: silence and fades hardly count."""

    def __init__(self) -> None:
        self._power, self._square = 0.0, 0.0

    def add(self, block: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """Append samples of any shape."""
        power = np.square(block, dtype=np.float64)
        self._power += float(power.sum())
        self._square += float(np.square(power).sum())

    @property
    def value(self) -> float:
        """0 for silence, about 0.6 of the peak for a sine."""
        return (self._square / self._power) ** 0.5 if self._power else 0.0


def gain_into(level: float, wanted: Range) -> float:
    """What brings a level to the nearest end of a range; 1 inside of it, and for silence."""
    low, high = wanted
    return min(max(level, low), high) / level if level > 0 else 1.0


def level(audio: NDArray[np.float32]) -> float:
    """Root mean square of [C, T]."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def level_db(audio: NDArray[np.float32]) -> float:
    """Root mean square in dB of full scale; -inf for silence."""
    return 20 * float(np.log10(value)) if (value := level(audio)) else -np.inf
