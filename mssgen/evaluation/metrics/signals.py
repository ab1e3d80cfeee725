"""What all metrics share: silence, the other sources, safe ratios, one result a song."""

import math
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.resampling import resample
from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Audio, Score, Song
from mssgen.extras import missing

SILENCE_DB = -80.0
"""Mean power over a whole song, dB of full scale, below which it is silent: above 16-bit dither."""
MAX_RATIO_DB = 120.0
"""Ratios are limited to plus and minus this: float32 is no finer, and means stay finite."""
BLOCK_SAMPLES = 2**16

NO_OTHERS = Score(None, 0, "no other reference")
SILENT_REFERENCE = Score(None, 0, "silent reference")
SILENT_ESTIMATE = Score(None, 0, "silent estimate")
TOO_SHORT = Score(None, 0, "too short")

Result = TypeVar("Result")


def per_song(function: Callable[..., Result]) -> Callable[..., Result]:
    """Remember what `function(song, ...)` gave for as long as the song lives.

    Songs are told apart by identity, since comparing them would compare all their samples. Further
    arguments must be hashable and positional.
    """
    kept: dict[int, dict[tuple[Any, ...], Result]] = {}

    def remembered(song: Song, *arguments: Any) -> Result:
        key = id(song)
        if key not in kept:
            kept[key] = {}
            weakref.finalize(song, kept.pop, key, None)
        results = kept[key]
        if arguments not in results:
            results[arguments] = function(song, *arguments)
        return results[arguments]

    return remembered


def power_db(audio: NDArray[Any]) -> float:
    """Mean power of [C, T] or [T], dB of full scale; -200 of nothing at all."""
    return to_db(energy(audio) / max(1, audio.size), floor_db=-200.0)


def energy(audio: NDArray[Any]) -> float:
    """The sum of squares in float64, without a float64 copy of the whole."""
    flat = np.ascontiguousarray(audio).reshape(-1)
    starts = range(0, flat.size, BLOCK_SAMPLES)
    parts = (flat[start : start + BLOCK_SAMPLES].astype(np.float64) for start in starts)
    return math.fsum(float(part @ part) for part in parts)


def is_silent(audio: NDArray[Any]) -> bool:
    """Whether there is nothing to compare in [C, T]; also where T is 0."""
    return power_db(audio) < SILENCE_DB


def to_db(power: float, *, floor_db: float = -MAX_RATIO_DB) -> float:
    """10 log10, not below `floor_db`."""
    return max(floor_db, 10 * math.log10(max(power, 1e-30)))


def ratio_db(numerator: float, denominator: float) -> float:
    """10 log10 of a ratio of energies, within plus and minus MAX_RATIO_DB; 0 dB of 0 / 0."""
    if denominator <= 0:
        return MAX_RATIO_DB if numerator > 0 else 0.0
    return min(MAX_RATIO_DB, to_db(max(0.0, numerator) / denominator))


def others(song: Song, stem: str) -> dict[str, Audio]:
    """The references beside `stem` that are not silent, by name.

    Where there are none, the mixture less the reference stands for all of them ("accompaniment").
    Empty where that is silent too, or there is no mixture.
    """
    found = {
        name: audio
        for name, audio in song.references.items()
        if name != stem and not _is_silent_reference(song, name)
    }
    if found or len(song.references) > 1 or song.mixture is None:
        return found
    rest = np.asarray(song.mixture - song.references[stem], np.float32)
    return {} if is_silent(rest) else {"accompaniment": rest}


@per_song
def _is_silent_reference(song: Song, stem: str) -> bool:
    return is_silent(song.references[stem])


@per_song
def check(song: Song, stem: str) -> Score | None:
    """Why there is nothing to measure: the reference is silent; None where it is not."""
    return SILENT_REFERENCE if _is_silent_reference(song, stem) else None


@per_song
def check_both(song: Song, stem: str) -> Score | None:
    """As `check`, and the estimate must not be silent either."""
    missing = check(song, stem)
    return missing or (SILENT_ESTIMATE if is_silent(song.estimates[stem]) else None)


def at_rate(audio: Audio, in_rate: int, out_rate: int) -> Audio:
    """[C, T] resampled as a whole; at least one sample of what had one."""
    parts = list(resample(iter([audio]), len(audio), in_rate, out_rate))
    joined = np.concatenate(parts, axis=1)
    # The resampler may have nothing to say of a sample or two.
    return joined if joined.shape[1] or not audio.shape[1] else audio[:, :1]


def absent(package: str, extra: str = "evaluate") -> UsageError:
    """The refusal where a metric's package is not installed."""
    return missing(package, extra, "this metric")
