"""Reads and checks the files that `mssgen evaluate` wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mssgen.checkpoints.registry import STEMS
from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.metrics.base import Score
from mssgen.evaluation.records import EVALUATION, FORMAT_VERSION, read_scores

_METRIC_FIELDS = ("name", "title", "unit", "better", "aggregate", "definition", "group")


@dataclass(frozen=True)
class StemFiles:
    """The sound files of one stem of a track."""

    reference: Path
    estimates: Mapping[str, Path]
    """By system; a system that has no such stem is absent."""


@dataclass(frozen=True)
class TrackFiles:
    """The sound files of a track."""

    name: str
    stems: Mapping[str, StemFiles]
    mixture: Path | None


@dataclass(frozen=True)
class Results:
    """An evaluation: systems, metrics, files and scores."""

    systems: tuple[str, ...]
    stems: tuple[str, ...]
    """The usual four first, others in order of appearance."""
    metrics: tuple[Mapping[str, str], ...]
    """Each with name, title, unit, better, aggregate, definition and group."""
    tracks: tuple[TrackFiles, ...]
    scores: Mapping[tuple[str, str, str, str], Score]
    """By (metric, stem, system, track); a track not among `tracks` stands for the whole set."""
    notes: tuple[Mapping[str, str], ...]
    """Each with system, track and note."""
    about: Mapping[str, str]
    """Facts for the reader: where the references are, commit, versions."""


def read_results(folder: Path) -> Results:
    """Read scores.jsonl and evaluation.json of `folder`.

    Raises UsageError if they are missing, MssgenError if they are damaged or from a newer version.
    """
    head = _read_evaluation(folder / EVALUATION)
    path = folder / EVALUATION
    try:
        tracks = tuple(_track(entry) for entry in head["tracks"])
        systems = tuple(str(entry["name"]) for entry in head["systems"])
        metrics = tuple(_metric(entry) for entry in head["metrics"])
        notes = tuple(
            {key: str(note.get(key) or "") for key in ("system", "track", "note")}
            for note in head.get("notes") or ()
        )
        about = _about(head)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MssgenError(
            f"{path} is not what `mssgen evaluate` writes ({type(error).__name__}: {error}); run "
            "it again"
        ) from None
    if not systems or not tracks:
        raise MssgenError(
            f"{path} names no {'tracks' if systems else 'systems'}; run `mssgen evaluate` again"
        )
    names = dict.fromkeys(stem for track in tracks for stem in track.stems)
    stems = tuple(sorted(names, key=lambda stem: (*STEMS, stem).index(stem)))
    scores = {
        (record.metric, record.stem, record.system, record.track): record.score
        for record in read_scores(folder)
    }
    return Results(systems, stems, metrics, tracks, scores, notes, about)


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path} does not exist; give the output folder of `mssgen evaluate`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise MssgenError(f"{path} cannot be read ({error}); run `mssgen evaluate` again") from None
    if not isinstance(head, dict) or head.get("format_version") != FORMAT_VERSION:
        raise MssgenError(
            f"{path} is not an evaluation of format {FORMAT_VERSION}; run this version of "
            "`mssgen evaluate`"
        )
    return head


def _metric(entry: Mapping[str, Any]) -> dict[str, str]:
    metric = {name: str(entry[name]) for name in _METRIC_FIELDS}
    if metric["aggregate"] not in ("mean", "median"):
        raise ValueError(f"aggregate {metric['aggregate']!r}")
    return metric


def _track(entry: Mapping[str, Any]) -> TrackFiles:
    stems = {
        str(stem): StemFiles(
            Path(files["reference"]),
            {str(name): Path(path) for name, path in files["estimates"].items()},
        )
        for stem, files in entry["stems"].items()
    }
    mixture = entry.get("mixture")
    return TrackFiles(str(entry["track"]), stems, Path(mixture) if mixture else None)


def _about(head: Mapping[str, Any]) -> dict[str, str]:
    about = {}
    for system in head["systems"]:
        checkpoint = system.get("checkpoint_hash")
        known = f" (checkpoint {str(checkpoint)[:12]})" if checkpoint else ""
        about[f"system {system['name']}"] = f"{system.get('folder', '')}{known}"
    about["references"] = str(head.get("references") or "")
    about["mixture"] = str(head.get("mixture") or "")
    about["commit"] = str(head.get("commit") or "")
    versions = head.get("versions") or {}
    about["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {name: text for name, text in about.items() if text}
