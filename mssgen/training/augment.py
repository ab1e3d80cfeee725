"""Augmentation of stems: gain, polarity, channels swapped, stems of other songs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import UsageError

AUGMENTED = "~augmented-"
"""Part of the key of a segment that was altered by chance: work on it need not be kept."""


@dataclass(frozen=True)
class Augmentation:
    """How stems are altered at random (Uhlich et al., "Improving music source separation based on
    deep neural networks through data augmentation and network blending", 2017); all off at first.

    Where the input is the mixture every stem is altered for itself. A separated stem belongs to
    its real mixture, so there input and target are altered alike.
    """

    min_gain_db: float = 0.0
    """The gain is uniform in dB from here ..."""
    max_gain_db: float = 0.0
    """... to here."""
    p_swap: float = 0.0
    """How often left and right change places."""
    p_polarity: float = 0.0
    """How often the sign changes."""
    p_remix: float = 0.0
    """How often the other stems of a mixture come from other songs."""

    def __post_init__(self) -> None:
        for name in ("p_swap", "p_polarity", "p_remix"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"data.augment.{name} is a probability; use 0 to 1")
        if not -60 <= self.min_gain_db <= self.max_gain_db <= 60:
            raise UsageError(
                "data.augment.min_gain_db must not exceed max_gain_db; use -60 to 60 dB for both"
            )


@dataclass(frozen=True)
class Change:
    """What happens to one stem."""

    gain: float = 1.0
    """Negative where the sign changes."""
    is_swapped: bool = False

    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C, T] -> [C, T]."""
        audio = audio[::-1] if self.is_swapped else audio
        return np.ascontiguousarray(audio * np.float32(self.gain))


NO_CHANGE = Change()


def draw_change(options: Augmentation, numbers: np.random.Generator, n_channels: int) -> Change:
    """Draw what happens to one stem; always takes three numbers."""
    position, swap, polarity = numbers.random(3)
    gain_db = options.min_gain_db + position * (options.max_gain_db - options.min_gain_db)
    sign = -1.0 if polarity < options.p_polarity else 1.0
    return Change(sign * 10 ** (gain_db / 20), n_channels == 2 and bool(swap < options.p_swap))


def add_noise(
    audio: NDArray[np.float32], noise_db: float, numbers: np.random.Generator
) -> NDArray[np.float32]:
    """[C, T] with white Gaussian noise `noise_db` above the audio's own level (below: negative).

    After experiment N3 of the thesis, which does not give its level.
    """
    noise = numbers.standard_normal(audio.shape, dtype=np.float32)
    return audio + noise * np.float32(level(audio) * 10 ** (noise_db / 20))


def level(audio: NDArray[np.float32]) -> float:
    """Root mean square of [C, T]."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def level_db(audio: NDArray[np.float32]) -> float:
    """Root mean square in dB of full scale; -inf for silence."""
    return 20 * float(np.log10(value)) if (value := level(audio)) else -np.inf
