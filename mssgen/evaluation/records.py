"""Files of an evaluation: scores.jsonl (one score per line) and evaluation.json (its context)."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mssgen import __version__
from mssgen.errors import MssgenError
from mssgen.evaluation.commits import own_commit
from mssgen.evaluation.metrics.base import Metric, Score
from mssgen.evaluation.pairing import Note, Pairing
from mssgen.files import write_text

FORMAT_VERSION = 1
SCORES, EVALUATION = "scores.jsonl", "evaluation.json"
_PACKAGES = ("numpy", "scipy", "museval", "librosa", "pyloudnorm", "auraloss", "torch", "soxr")


@dataclass(frozen=True)
class Record:
    """One line of scores.jsonl: a score, its system, track, stem and metric."""

    system: str
    track: str
    stem: str
    metric: str
    value: float | None
    n: int
    reason: str

    @property
    def score(self) -> Score:
        return Score(self.value, self.n, self.reason)


_RECORD = TypeAdapter(Record)


def write_scores(records: Iterable[Record], folder: Path) -> Path:
    """Write scores.jsonl, complete or not at all; raises MssgenError."""
    lines = [json.dumps(asdict(record), ensure_ascii=False) for record in records]
    return write_text(folder / SCORES, "".join(f"{line}\n" for line in lines))


def read_scores(folder: Path) -> list[Record]:
    """Read scores.jsonl; raises MssgenError if it is missing or damaged."""
    path = folder / SCORES
    try:
        text = path.read_text(encoding="utf-8")
        return [_RECORD.validate_json(line, strict=True) for line in text.splitlines()]
    except OSError as error:
        raise MssgenError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise MssgenError(f"{path} is damaged; run mssgen evaluate again") from error


def evaluation_of(
    pairing: Pairing,
    metrics: Sequence[Metric],
    *,
    options: Mapping[str, Any],
    notes: Iterable[Note],
) -> dict[str, Any]:
    """Content of evaluation.json in the format `FORMAT_VERSION`."""
    tracks: dict[str, dict[str, Any]] = {}
    for track in pairing.tracks:
        mixture = str(track.mixture.path) if track.mixture else None
        entry = tracks.setdefault(track.key, {"track": track.key, "stems": {}, "mixture": mixture})
        for stem, reference in track.references.items():
            if len(reference.files) > 1:
                continue  # a sum: there is no file to play
            estimates = {
                system.name: str(system.estimates[track.key][stem].path)
                for system in pairing.systems
                if stem in system.estimates.get(track.key, {})
            }
            entry["stems"][stem] = {"reference": str(reference.path), "estimates": estimates}
    systems = []
    for system in pairing.systems:
        about = {"name": system.name, "folder": system.folder}
        if system.checkpoint_hash:
            about["checkpoint_hash"] = system.checkpoint_hash
        systems.append(about)
    return {
        "format_version": FORMAT_VERSION,
        "systems": systems,
        "references": pairing.references,
        "mixture": pairing.mixture,
        "metrics": [described(metric) for metric in metrics],
        "options": dict(options),
        "versions": versions(),
        "commit": own_commit(),
        "notes": [asdict(note) for note in notes],
        "tracks": list(tracks.values()),
    }


def described(metric: Metric) -> dict[str, str]:
    """The fields of a metric that files and pages show."""
    names = ("name", "title", "unit", "better", "aggregate", "definition", "group")
    return {name: getattr(metric, name) for name in names}


def write_evaluation(evaluation: Mapping[str, Any], folder: Path) -> Path:
    """Write evaluation.json, complete or not at all; raises MssgenError."""
    text = json.dumps(evaluation, indent=2, ensure_ascii=False, default=str)
    return write_text(folder / EVALUATION, text + "\n")


def versions() -> dict[str, str]:
    """Versions of mssgen, Python and the installed packages that compute the scores."""
    found = {"mssgen": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
