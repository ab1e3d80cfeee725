"""Shared by all metrics: silence, other sources, results remembered per track."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Audio, TrackAudio, Undefined
from mssgen.extras import require
from mssgen.inspection.decibels import rms_db

SILENCE_DB = -80.0
"""Audio with less mean power, in dBFS, counts as silent; above 16-bit dither."""

Result = TypeVar("Result")


def per_track(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: remember results of `function(track, ...)`, Undefined too, while the track lives.

    Tracks are told apart by identity, because comparing them would compare all samples. Further
    arguments must be hashable and positional.
    """
    kept: dict[int, dict[tuple[Any, ...], Result | Undefined]] = {}

    def remembered(track: TrackAudio, *arguments: Any) -> Result:
        key = id(track)
        if key not in kept:
            kept[key] = {}
            weakref.finalize(track, kept.pop, key, None)
        results = kept[key]
        if arguments not in results:
            try:
                results[arguments] = function(track, *arguments)
            except Undefined as reason:
                results[arguments] = reason
        found = results[arguments]
        if isinstance(found, Undefined):
            raise found
        return found

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


def sources(track: TrackAudio) -> dict[str, Audio]:
    """Everything that an estimate is explained by, "r NAME", and all estimates, "e NAME"."""
    found = {f"r {name}": audio for name, audio in track.references.items()}
    for stem in track.references:
        found |= {f"r {name}": audio for name, audio in others(track, stem).items()}
    return found | {f"e {name}": audio for name, audio in track.estimates.items()}


@per_track
def _is_silent_reference(track: TrackAudio, stem: str) -> bool:
    return is_silent(track.references[stem])


def pair(track: TrackAudio, stem: str) -> tuple[Audio, Audio]:
    """(reference, estimate), each [C, T]; raises Undefined if the reference is silent."""
    if _is_silent_reference(track, stem):
        raise Undefined("silent reference")
    return track.references[stem], track.estimates[stem]


def audible_pair(track: TrackAudio, stem: str) -> tuple[Audio, Audio]:
    """(reference, estimate), each [C, T]; raises Undefined if one of them is silent."""
    both = pair(track, stem)
    if _is_silent_estimate(track, stem):
        raise Undefined("silent estimate")
    return both


@per_track
def _is_silent_estimate(track: TrackAudio, stem: str) -> bool:
    return is_silent(track.estimates[stem])


def package(module: str, extra: str = "evaluate") -> Any:
    """The module of an optional package; UsageError if it is not installed."""
    return require(module, extra, "this metric")
