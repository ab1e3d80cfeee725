"""Scores on disk, one file per track and system, so that an evaluation resumes."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from mssgen import __version__
from mssgen.evaluation.metrics.base import Metric, Score
from mssgen.evaluation.recordings import Recording
from mssgen.files import write_text

_FORMAT = 1


def key_of(
    references: Mapping[str, Recording],
    estimates: Mapping[str, Recording],
    mixture: Recording | None,
) -> str:
    """Cache key of a track of a system: a hash over all files that a metric may read.

    All stems of the track count, because metrics of interference read them all. Raises AudioError
    if a file is missing.
    """
    parts = [f"{_FORMAT}"]
    parts += [f"reference {stem} {references[stem].fingerprint()}" for stem in sorted(references)]
    parts += [f"estimate {stem} {estimates[stem].fingerprint()}" for stem in sorted(estimates)]
    parts += [f"mixture {mixture.fingerprint()}"] if mixture is not None else []
    # The order of the references decides the sample rate.
    parts.append(" ".join(references))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def identity(metric: Metric) -> str:
    """Name and version of a metric: scores are valid until mssgen or its source changes."""
    function: Any = metric.function
    while isinstance(function, partial):
        function = function.func
    parts = (__version__, metric.name, metric.definition, _source(function.__module__))
    return f"{metric.name}@{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


@cache
def _source(module: str) -> str:
    import sys

    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return module


class ScoreCache:
    """Scores and notes by track; damaged files count as missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> tuple[dict[str, dict[str, Score]], list[str]]:
        """(scores by `identity` of the metric and stem, notes)."""
        try:
            content = json.loads(self._path(key).read_bytes())
            scores = {
                name: {stem: Score(**score) for stem, score in stems.items()}
                for name, stems in content["scores"].items()
            }
            return scores, [str(note) for note in content["notes"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, []

    def write(self, key: str, scores: Mapping[str, Mapping[str, Score]], notes: list[str]) -> None:
        """Replace the entry of a track; raises MssgenError if it cannot be written."""
        content: dict[str, Any] = {
            "scores": {
                name: {stem: vars(score) for stem, score in stems.items()}
                for name, stems in scores.items()
            },
            "notes": notes,
        }
        write_text(self._path(key), json.dumps(content) + "\n")

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
