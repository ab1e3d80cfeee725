"""Effects for recorded instruments: saturation, amplifier cabinets, a drum bus."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import butter, oaconvolve, resample_poly, sosfilt

from mssgen.audio.levels import level
from mssgen.audio.reading import open_source
from mssgen.audio.resampling import at_rate
from mssgen.rendering.sounds import SAMPLE_RATE, Audio, at_level

_OVERSAMPLING = 4
_MAX_RESPONSE_S = 0.2


def saturate(sound: Audio, drive_db: float, bias: float = 0.0) -> Audio:
    """Soft clipping by tanh, four times oversampled to keep aliasing below 20 kHz low.

    Args:
        sound: [C, T].
        drive_db: gain of the loudest sample over 1, where tanh bends; 0 dB changes little.
        bias: offset before tanh, which adds even harmonics like a single-ended valve.

    Returns audio [C, T] of the same RMS level.
    """
    peak = float(np.abs(sound).max(initial=0.0))
    if not peak:
        return sound
    gained = sound.astype(np.float32) * np.float32(10 ** (drive_db / 20) / peak)
    driven = resample_poly(gained, _OVERSAMPLING, 1, axis=1)
    bent = np.tanh(driven + np.float32(bias))
    bent = resample_poly(bent, 1, _OVERSAMPLING, axis=1)[:, : sound.shape[1]]
    bent -= bent.mean(axis=1, keepdims=True)
    return at_level(bent, level(sound))


def find_cabinets(folder: Path) -> tuple[Path, ...]:
    """The impulse responses of amplifiers in the package guitarix-common."""
    return tuple(sorted(path for path in folder.rglob("*.wav") if path.parent.name == "amps"))


def amplify(
    sound: Audio, cabinets: Sequence[Path], rng: np.random.Generator, *, is_bass: bool
) -> tuple[Audio, dict[str, Any]]:
    """Audio [2, T] through a mono amplifier of random drive and cabinet, at its RMS level before;
    and the settings that were drawn.

    A bass is blended with its direct signal, which keeps the lows. Without impulse responses of
    cabinets a band-pass filter is used.
    """
    if not np.any(sound):
        return sound, {}
    drive_db = rng.uniform(-6, 14)
    if not is_bass:  # clean, or distorted
        drive_db = rng.uniform(-6, 8) if rng.random() < 0.5 else rng.uniform(8, 32)
    sound = sound.mean(axis=0, keepdims=True)
    before = level(sound)
    tight = butter(2, 30 if is_bass else 70, "highpass", fs=SAMPLE_RATE, output="sos")
    driven = saturate(sosfilt(tight, sound), drive_db, rng.uniform(0, 0.4))
    if cabinets:
        cabinet = cabinets[int(rng.integers(len(cabinets)))]
        heard, name = oaconvolve(driven, _response(cabinet), axes=1), cabinet.stem
    else:
        highest = rng.uniform(3500, 6500)
        heard, name = sosfilt(butter(3, highest, fs=SAMPLE_RATE, output="sos"), driven), "band"
    heard = at_level(heard[:, : sound.shape[1]], before)
    share = 1.0
    if is_bass:
        share = float(rng.uniform(0.3, 0.8))
        crossing = butter(2, rng.uniform(150, 350), "highpass", fs=SAMPLE_RATE, output="sos")
        heard = share * sosfilt(crossing, heard) + (1 - share / 2) * sound
    facts = {"drive_db": round(drive_db, 1), "cabinet": name, "share": round(share, 2)}
    return np.repeat(at_level(heard, before), 2, axis=0), facts


def drum_bus(sound: Audio, rng: np.random.Generator) -> Audio:
    """Parallel saturation of all drums [2, T] together, as on a drum bus."""
    share = rng.uniform(0.0, 0.6)
    crushed = saturate(sound, rng.uniform(0, 14))
    return (sound * (1 - share) + crushed * share).astype(np.float32)


@lru_cache(maxsize=64)
def _response(path: Path) -> Audio:
    """An impulse response [1, T] at 44.1 kHz, scaled to unit energy."""
    with open_source(path) as source:
        rate = source.info.sample_rate
        sound = source.segment(0, min(source.n_samples, round(_MAX_RESPONSE_S * rate)))
    mono = sound.mean(axis=0, keepdims=True)
    mono = at_rate(mono, rate, SAMPLE_RATE)
    return (mono / max(float(np.sqrt(np.sum(np.square(mono)))), 1e-9)).astype(np.float32)
