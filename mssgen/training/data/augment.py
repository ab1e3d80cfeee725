"""Augmentation of stems: gain, spectral tilt, polarity, swapped channels, stems of other songs."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from mssgen.audio.levels import level
from mssgen.errors import UsageError
from mssgen.recipes.schema import Share
from mssgen.recipes.sections import check_fields

AUGMENTED = "~augmented-"
"""Part of the key of a randomly altered segment, which does not recur: do not cache results."""

_PIVOT, _LOWEST = 1 / 40, 1 / 2000  # frequencies as shares of the sample rate
Gain = Annotated[float, Field(ge=-60, le=60)]


@dataclass(frozen=True)
class Augmentation:
    """Random alterations of stems (Uhlich et al., "Improving music source separation based on
    deep neural networks through data augmentation and network blending", 2017); all off by default.

    If the input is the mixture, every stem is altered independently. A separated stem belongs to
    its real mixture, so input and target get the same alteration.
    """

    min_gain_db: Gain = 0.0
    """Lower bound of the gain, which is uniform in dB."""
    max_gain_db: Gain = 0.0
    """Upper bound of the gain, dB."""
    max_tilt_db: Annotated[float, Field(ge=0, le=12)] = 0.0
    """Largest change of the spectral slope, up or down, dB per octave."""
    p_swap: Share = 0.0
    """Probability of swapping left and right."""
    p_polarity: Share = 0.0
    """Probability of inverting the polarity."""
    p_remix: Share = 0.0
    """Probability that the other stems of a mixture come from other songs."""

    def __post_init__(self) -> None:
        check_fields(self, "data.augment")
        if self.min_gain_db > self.max_gain_db:
            raise UsageError("data.augment.min_gain_db must not exceed max_gain_db; swap them")


@dataclass(frozen=True)
class Change:
    """The alteration of one stem."""

    gain: float = 1.0
    """Linear; negative to invert the polarity."""
    is_swapped: bool = False
    tilt_db: float = 0.0
    """Slope, dB per octave; the level at 1/40 of the sample rate, about 1 kHz, stays."""

    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C, T] -> [C, T]."""
        audio = audio[::-1] if self.is_swapped else audio
        audio = tilted(audio, self.tilt_db) if self.tilt_db else audio
        return np.ascontiguousarray(audio * np.float32(self.gain))


def tilted(audio: NDArray[np.float32], tilt_db: float) -> NDArray[np.float32]:
    """Audio [C, T] with `tilt_db` dB per octave added to its spectral slope; the phase stays."""
    frequencies = torch.fft.rfftfreq(audio.shape[-1]).clamp_min(_LOWEST)
    gains = 10 ** (tilt_db / 20 * (frequencies / _PIVOT).log2())
    # torch's transforms take a quarter of the time of numpy's.
    spectrum = torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(audio))) * gains
    found: NDArray[np.float32] = torch.fft.irfft(spectrum, audio.shape[-1]).numpy()
    return found


NO_CHANGE = Change()


def draw_change(options: Augmentation, numbers: np.random.Generator, n_channels: int) -> Change:
    """Draw the alteration of one stem; always draws four numbers."""
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
    """Audio [C, T] plus white Gaussian noise at `noise_db` dB relative to the audio's RMS level.

    As in experiment N3 of the thesis, which does not state the level.
    """
    noise = numbers.standard_normal(audio.shape, dtype=np.float32)
    return audio + noise * np.float32(level(audio) * 10 ** (noise_db / 20))
