"""Augmentation of stems: gain, tilt, polarity, channels swapped, stems of other songs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.audio.levels import level
from mssgen.errors import UsageError

AUGMENTED = "~augmented-"
"""Part of the key of a segment that was altered by chance: work on it need not be kept."""


_PIVOT, _LOWEST = 1 / 40, 1 / 2000  # of the sample rate


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
    max_tilt_db: float = 0.0
    """The spectrum's slope changes by up to so many dB an octave, up or down."""
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
        if not 0 <= self.max_tilt_db <= 12:
            raise UsageError("data.augment.max_tilt_db is a slope in dB an octave; use 0 to 12")


@dataclass(frozen=True)
class Change:
    """What happens to one stem."""

    gain: float = 1.0
    """Negative where the sign changes."""
    is_swapped: bool = False
    tilt_db: float = 0.0
    """An octave; 1/40 of the sample rate, around 1 kHz, keeps its level."""

    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C, T] -> [C, T]."""
        audio = audio[::-1] if self.is_swapped else audio
        audio = tilted(audio, self.tilt_db) if self.tilt_db else audio
        return np.ascontiguousarray(audio * np.float32(self.gain))


def tilted(audio: NDArray[np.float32], tilt_db: float) -> NDArray[np.float32]:
    """[C, T] with a spectrum that rises by `tilt_db` an octave more; its phase stays."""
    frequencies = torch.fft.rfftfreq(audio.shape[-1]).clamp_min(_LOWEST)
    gains = 10 ** (tilt_db / 20 * (frequencies / _PIVOT).log2())
    # By torch, whose transforms take a quarter of the time of numpy's.
    spectrum = torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(audio))) * gains
    found: NDArray[np.float32] = torch.fft.irfft(spectrum, audio.shape[-1]).numpy()
    return found


NO_CHANGE = Change()


def draw_change(options: Augmentation, numbers: np.random.Generator, n_channels: int) -> Change:
    """Draw what happens to one stem; always takes four numbers."""
    position, swap, polarity, slope = numbers.random(4)
    gain_db = options.min_gain_db + position * (options.max_gain_db - options.min_gain_db)
    sign = -1.0 if polarity < options.p_polarity else 1.0
    return Change(
        sign * 10 ** (gain_db / 20),
        n_channels == 2 and bool(swap < options.p_swap),
        options.max_tilt_db * (2 * float(slope) - 1),
    )


def add_noise(
    audio: NDArray[np.float32], noise_db: float, numbers: np.random.Generator
) -> NDArray[np.float32]:
    """[C, T] with white Gaussian noise `noise_db` above the audio's own level (below: negative).

    After experiment N3 of the thesis, which does not give its level.
    """
    noise = numbers.standard_normal(audio.shape, dtype=np.float32)
    return audio + noise * np.float32(level(audio) * 10 ** (noise_db / 20))
