"""Arithmetic that all instruments share, on sounds [C, T] of float32 at 44.1 kHz."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.levels import level

SAMPLE_RATE = 44100
Audio = NDArray[np.float32]


def fitted(sound: Audio, n_samples: int) -> Audio:
    """A sound [C, T] cut or zero-padded at its end to `n_samples`."""
    sound = sound[:, :n_samples]
    return np.pad(sound, ((0, 0), (0, n_samples - sound.shape[1])))


def mixed(sounds: Sequence[tuple[int, Audio]]) -> Audio:
    """The sum [2, T] of pairs (start in samples, sound [2, T']); T is the end of the last one."""
    mix = np.zeros((2, max((start + each.shape[1] for start, each in sounds), default=0)), "f4")
    for start, sound in sounds:
        mix[:, start : start + sound.shape[1]] += sound
    return mix


def at_level(sound: Audio, wanted: float) -> Audio:
    """A sound with a gain to the RMS level `wanted`, 1 is full scale; silence stays silence."""
    return np.asarray(sound * (wanted / max(level(sound), 1e-9)), np.float32)


def pan_gains(place: float) -> NDArray[np.float64]:
    """Gains [2, 1] of left and right at constant power; `place` from -1 (left) to 1 (right)."""
    angle = (1 + place) * np.pi / 4
    return np.array([[np.cos(angle)], [np.sin(angle)]]) * np.sqrt(2)
