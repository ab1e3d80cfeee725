"""Fréchet audio distances of whole sets: all estimates of a stem against all of its references."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mssgen.audio.resampling import at_rate
from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.metrics.embeddings import EMBEDDINGS, Embedding, codec_embedding
from mssgen.evaluation.metrics.frechet import Frames, frechet_audio_distance
from mssgen.evaluation.metrics.table import CodecSource, codec_hash, shared_codec
from mssgen.evaluation.pairing import Pairing
from mssgen.evaluation.recordings import Recording
from mssgen.events import Failed, Hook, ignore
from mssgen.files import whole_file
from mssgen.inspection.cells import csv_text

_PREFIX = "fad_"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetDistance:
    """Fréchet distance between all estimates and all references of a stem."""

    system: str
    stem: str
    embedding: str
    fad: float
    fad_infinity: float | None
    """Extrapolated to infinitely many frames; None if there are too few."""
    n_tracks: int
    n_reference_frames: int
    n_frames: int


def set_distances(
    pairing: Pairing,
    metrics: Sequence[Metric],
    *,
    cache: Path,
    codec: CodecSource | None = None,
    seed: int = 0,
    hook: Hook = ignore,
) -> list[SetDistance]:
    """FAD (Kilgour et al. 2019) and FAD-infinity (Gui et al. 2024) of each system and stem.

    For every embedding whose per-track distance (fad_NAME) is among `metrics`. Tracks without an
    estimate, or with digital silence, are left out of both sets. Frames are kept in `cache`.

    Raises UsageError if an embedding is not available. Unreadable files are reported to `hook` and
    left out.
    """
    found = []
    for embedding, version in _embeddings(metrics, codec):
        store = _Frames(embedding, cache / hashlib.sha256(version.encode()).hexdigest()[:16], hook)
        for system in pairing.systems:
            pairs: dict[str, list[tuple[Frames, Frames]]] = {}
            for track in pairing.tracks:
                given = system.estimates.get(track.key, {})
                for stem, reference in track.references.items():
                    if stem in given:
                        both = store.of(reference), store.of(given[stem])
                        if both[0] is not None and both[1] is not None:
                            pairs.setdefault(stem, []).append((both[0], both[1]))
            for stem, frames in pairs.items():
                ours, theirs = zip(*frames, strict=True)
                distance = frechet_audio_distance(ours, theirs, seed=seed)
                if distance is not None:
                    found.append(
                        SetDistance(
                            system.name,
                            stem,
                            embedding.name,
                            distance.value,
                            distance.infinity,
                            len(frames),
                            distance.n_reference_frames,
                            distance.n_frames,
                        )
                    )
    return found


def set_distances_csv(distances: Iterable[SetDistance]) -> str:
    """CSV with one row per system, stem and embedding; "" if there are none."""
    return csv_text([asdict(distance) for distance in distances])


class _Frames:
    """Embedding frames of recordings, computed once and kept on disk."""

    def __init__(self, embedding: Embedding, folder: Path, hook: Hook) -> None:
        self._embedding, self._folder, self._hook = embedding, folder, hook
        self._failed: set[Recording] = set()

    def of(self, recording: Recording) -> Frames | None:
        """Frames [N, D]; None for silence and unreadable files."""
        if recording in self._failed:
            return None
        try:
            path = self._folder / f"{recording.fingerprint()[:32]}.npy"
            frames = self._kept(path)
            if frames is None:
                audio, sample_rate = recording.read()
                audio = at_rate(audio, sample_rate, self._embedding.sample_rate)
                frames = self._embedding(audio) if audio.any() else np.zeros((0, 1), np.float32)
                self._keep(path, frames)
        except UsageError:
            raise
        except Exception as error:
            _log.debug("%s failed", recording.path, exc_info=True)
            self._failed.add(recording)
            kind = "" if isinstance(error, MssgenError) else f"{type(error).__name__}: "
            self._hook(Failed(str(recording.path), f"{self._embedding.name}: {kind}{error}"))
            return None
        return frames if len(frames) else None

    @staticmethod
    def _kept(path: Path) -> Frames | None:
        try:
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        except (OSError, ValueError, EOFError):
            return None

    @staticmethod
    def _keep(path: Path, frames: Frames) -> None:
        with whole_file(path) as draft, open(draft, "wb") as file:
            np.save(file, frames)


def _embeddings(
    metrics: Sequence[Metric], codec: CodecSource | None
) -> Iterable[tuple[Embedding, str]]:
    """Pairs (embedding, version of its frames)."""
    for metric in metrics:
        if metric.group != "embedding" or not metric.name.startswith(_PREFIX):
            continue
        name = metric.name.removeprefix(_PREFIX)
        if name in EMBEDDINGS:
            yield EMBEDDINGS[name], f"{name} {EMBEDDINGS[name].source}"
        elif codec is not None:
            loaded = shared_codec(codec)
            yield codec_embedding(loaded), f"{name} {codec_hash(loaded)}"
