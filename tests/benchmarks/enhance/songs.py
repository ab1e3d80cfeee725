"""The songs of the benchmark: clean stems, mixtures, and what the shipped model makes of these."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile as sf

import mssgen
from mssgen.audio.reading import open_source
from mssgen.evaluation.metrics.base import Audio
from mssgen.library.stems import MIXTURE, TrackStems, open_library
from mssgen.separators.base import Separator

SEPARATOR = "htdemucs"


@dataclass(frozen=True)
class Excerpt:
    """One stem of one song; all sound is [2, T] at one rate."""

    song_set: str
    track: str
    stem: str
    sample_rate: int
    clean: Audio
    mixture: Audio
    separated: Audio

    @property
    def duration_s(self) -> float:
        return float(self.clean.shape[1] / self.sample_rate)

    @cached_property
    def digest(self) -> str:
        """Of all its samples: what was measured on others does not count."""
        digest = hashlib.sha256()
        for audio in (self.clean, self.mixture, self.separated):
            digest.update(np.ascontiguousarray(audio).tobytes())
        return digest.hexdigest()


class SongSet:
    """The songs below a folder, or the middle of each.

    Args:
        name: in tables and in the paths of the cache.
        folder: as `mssgen.library.stems.open_library` reads it.
        max_seconds: of each song; None takes all of it.
        cache: separated stems are kept there.
        separated: folders to look in first, as `mssgen separate` and `mssgen data pairs` write
            them: of whole songs, TRACK/STEM.ext or NAME/TRACK/STEM.ext.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        max_seconds: float | None,
        cache: Path,
        separated: Sequence[Path] = (),
    ) -> None:
        self.name, self.folder = name, folder
        self._max_seconds, self._cache, self._separated = max_seconds, cache, separated
        self._tracks = open_library(folder).tracks

    def n_songs(self, stem: str) -> int:
        """That have such a stem."""
        return sum(track.has(stem) for track in self._tracks)

    @cached_property
    def _separator(self) -> Separator:
        return mssgen.load_separator(SEPARATOR, device="cpu")

    def excerpts(self, stems: Sequence[str]) -> Iterator[Excerpt]:
        """Every song's stems, as far as they are there."""
        for track in self._tracks:
            wanted = [stem for stem in stems if track.has(stem)]
            if not wanted:
                continue
            rate = track.sample_rate
            n_whole = track.n_samples(rate)
            n_samples = n_whole
            if self._max_seconds is not None:
                n_samples = min(n_whole, round(self._max_seconds * rate))
            start = (n_whole - n_samples) // 2
            mixture = track.read(MIXTURE, start, n_samples, sample_rate=rate, n_channels=2)
            separated = self._stems(track, wanted, mixture, start, rate, n_whole)
            for stem in wanted:
                clean = track.read(stem, start, n_samples, sample_rate=rate, n_channels=2)
                yield Excerpt(self.name, track.key, stem, rate, clean, mixture, separated[stem])

    def _stems(
        self,
        track: TrackStems,
        stems: Sequence[str],
        mixture: Audio,
        start: int,
        rate: int,
        n_whole: int,
    ) -> dict[str, Audio]:
        """The separated stems: found, kept from an earlier run, or made now."""
        found: dict[str, Audio] = {}
        n_samples = mixture.shape[1]
        for stem in stems:
            for path in self._given(track.key, stem):
                with open_source(path) as source:
                    if (source.info.sample_rate, source.n_samples) == (rate, n_whole):
                        found[stem] = _stereo(source.segment(start, n_samples))
                        break
        if len(found) == len(stems):
            return found
        digest = hashlib.sha256(mixture.tobytes()).hexdigest()[:12]
        folder = self._cache / self.name / track.key / digest
        # All stems of the model: they cost nothing more, and another run may want them.
        paths = {stem: folder / f"{stem}.wav" for stem in self._separated_stems}
        if not all(path.is_file() for path in paths.values()):
            print(f"{self.name}/{track.key}: separating {n_samples / rate:.0f} s", flush=True)
            made = mssgen.separate(mixture, rate, separator=self._separator)
            folder.mkdir(parents=True, exist_ok=True)
            for stem, audio in made.items():
                write(paths[stem], audio, rate)
        for stem in stems:
            with open_source(paths[stem]) as source:
                found[stem] = source.segment(0, n_samples)
        return found

    @cached_property
    def _separated_stems(self) -> tuple[str, ...]:
        from mssgen.checkpoints.registry import lookup

        return lookup(SEPARATOR, "separate").stems

    def _given(self, key: str, stem: str) -> Iterator[Path]:
        for folder in self._separated:
            for place in (folder / self.name / key, folder / key):
                yield from sorted(place.glob(f"{stem}.*"))


def write(path: Path, audio: Audio, sample_rate: int) -> None:
    """As 32-bit float wav, complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    sf.write(part, audio.T, sample_rate, "FLOAT", format="WAV")
    os.replace(part, path)


def _stereo(audio: Audio) -> Audio:
    return np.repeat(audio, 2, axis=0) if len(audio) == 1 else audio
