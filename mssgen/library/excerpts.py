"""Excerpts of tracks, so that many tracks can be separated in little time."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import UsageError
from mssgen.library.stems import Library, StemFile, TrackStems


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording; itself a `StemFile`."""

    file: StemFile
    """The whole recording."""
    start_s: int
    duration_s: int

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def sample_rate(self) -> int:
        return self.file.sample_rate

    @property
    def n_samples(self) -> int:
        left = self.file.n_samples - self.start_s * self.sample_rate
        return max(0, min(left, self.duration_s * self.sample_rate))

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        n_here = max(0, min(n_samples, self.n_samples - start_sample))
        block = self.file.read(self.start_s * self.sample_rate + start_sample, n_here)
        return np.pad(block, ((0, 0), (0, n_samples - n_here)))


def excerpts(library: Library, duration_s: int) -> Library:
    """The same tracks, cut to at most `duration_s` seconds; the track's key decides the start.

    Raises UsageError for less than a second.
    """
    if duration_s < 1:
        raise UsageError(f"excerpts of {duration_s} s are too short; use 1 or more")
    return replace(library, tracks=tuple(_excerpt(track, duration_s) for track in library.tracks))


def _excerpt(track: TrackStems, duration_s: int) -> TrackStems:
    n_starts = max(0, int(track.duration_s) - duration_s) + 1
    digest = hashlib.sha256(track.key.encode()).digest()
    start_s = int.from_bytes(digest[:8], "big") % n_starts

    def part(file: StemFile) -> StemFile:
        return Excerpt(file, start_s, duration_s)

    files = {stem: tuple(map(part, recordings)) for stem, recordings in track.files.items()}
    return replace(track, files=files, mixture=track.mixture and part(track.mixture))
