"""Shared by all metrics: silence, other sources, resampling, results remembered per track."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.resampling import resample
from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Audio, Score, TrackAudio
from mssgen.extras import missing
from mssgen.inspection.decibels import rms_db

SILENCE_DB = -80.0
"""Audio with less mean power, in dBFS, counts as silent; above 16-bit dither."""

NO_OTHERS = Score(None, 0, "no other reference")
SILENT_REFERENCE = Score(None, 0, "silent reference")
SILENT_ESTIMATE = Score(None, 0, "silent estimate")
TOO_SHORT = Score(None, 0, "too short")

Result = TypeVar("Result")


def per_track(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: remember results of `function(track, ...)` as long as the track object lives.

    Tracks are told apart by identity, because comparing them would compare all samples. Further
    arguments must be hashable and positional.
    """
    kept: dict[int, dict[tuple[Any, ...], Result]] = {}

    def remembered(track: TrackAudio, *arguments: Any) -> Result:
        key = id(track)
        if key not in kept:
            kept[key] = {}
            weakref.finalize(track, kept.pop, key, None)
        results = kept[key]
        if arguments not in results:
            results[arguments] = function(track, *arguments)
        return results[arguments]

    return remembered


def is_silent(audio: NDArray[Any]) -> bool:
    """Whether the mean power of [C, T] is below `SILENCE_DB`; also if T is 0."""
    return rms_db(audio) < SILENCE_DB


def others(track: TrackAudio, stem: str) -> dict[str, Audio]:
    """References other than `stem` that are not silent, by stem.

    If there are none, the mixture minus the reference stands for them ("accompaniment"). Empty if
    that is silent too, or if there is no mixture.
    """
    found = {
        name: audio
        for name, audio in track.references.items()
        if name != stem and not _is_silent_reference(track, name)
    }
    if found or len(track.references) > 1 or track.mixture is None:
        return found
    rest = np.asarray(track.mixture - track.references[stem], np.float32)
    return {} if is_silent(rest) else {"accompaniment": rest}


@per_track
def _is_silent_reference(track: TrackAudio, stem: str) -> bool:
    return is_silent(track.references[stem])


@per_track
def check(track: TrackAudio, stem: str) -> Score | None:
    """A score without value if the reference is silent, else None."""
    return SILENT_REFERENCE if _is_silent_reference(track, stem) else None


@per_track
def check_both(track: TrackAudio, stem: str) -> Score | None:
    """A score without value if the reference or the estimate is silent, else None."""
    missing = check(track, stem)
    return missing or (SILENT_ESTIMATE if is_silent(track.estimates[stem]) else None)


def at_rate(audio: Audio, in_rate: int, out_rate: int) -> Audio:
    """[C, T] resampled as a whole, not shifted in time; at least one sample if there was one."""
    if in_rate == out_rate:
        return audio
    joined = np.concatenate(list(resample([audio], len(audio), in_rate, out_rate)), axis=1)
    # The resampler may return nothing for one or two samples.
    return joined if joined.shape[1] or not audio.shape[1] else audio[:, :1]


def absent(package: str, extra: str = "evaluate") -> UsageError:
    """The error for a metric whose package is not installed."""
    return missing(package, extra, "this metric")
