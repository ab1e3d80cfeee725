"""Tracks and their stems on disk: finds them in a folder, reads any part of them at any rate.

Three layouts are told apart by what is in a folder, at any depth and mixed if need be:

* MUSDB18-HQ: a folder a track with drums.wav, bass.wav, other.wav, vocals.wav and perhaps
  mixture.wav (or flac, ...: all that mssgen reads);
* MUSDB18: TRACK.stem.mp4 with the streams mixture, drums, bass, other, vocals
  (https://sigsep.github.io/datasets/musdb.html), read by the stempeg package;
* MoisesDB: a folder a track with data.json, whose "stems" list the recordings of each stem as
  STEM/ID.EXTENSION (https://github.com/moises-ai/moises-db, moisesdb/track.py). As in its
  `mix_4_stems` all that is neither drums, bass nor vocals is other.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mssgen.audio import check_finite, open_source, resample
from mssgen.channels import downmixed
from mssgen.errors import AudioError, UsageError
from mssgen.registry import STEMS
from mssgen.tracks import EXTENSIONS
from mssgen.training.stem_mp4 import STREAMS, SUFFIX, StemStream

MIXTURE = "mixture"
SPLITS = ("train", "valid", "test")
PAIRS_MANIFEST = "pairs.json"
"""Marks a folder of separated stems, which look like tracks but are none."""
# Two more that datasets of the MUSDB18-HQ layout may have (htdemucs_6s gives them): without them
# the sum of the stems would not be the mixture.
_NAMES = (*STEMS, "guitar", "piano")
# Sound around a segment, so that its ends are resampled as they are within the whole song.
_CONTEXT_S = 0.05


class StemFile(Protocol):
    """One recording; all are [C, T] float32, full scale at 1."""

    @property
    def path(self) -> Path: ...

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def n_samples(self) -> int: ...

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """[C, n_samples] at its own rate; zeros after its end."""
        ...


@dataclass(frozen=True)
class SoundFile:
    """A recording that is a file of its own."""

    path: Path

    @property
    def sample_rate(self) -> int:
        return self._shape[0]

    @property
    def n_samples(self) -> int:
        return self._shape[1]

    @cached_property
    def _shape(self) -> tuple[int, int]:
        with open_source(self.path, strict=True) as source:
            return source.info.sample_rate, source.n_samples

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        with open_source(self.path, strict=True) as source:
            return source.segment(start_sample, n_samples)


@dataclass(frozen=True)
class TrackStems:
    """A song and its stems."""

    key: str
    """Its path below the library, divided by "/", without suffix."""
    files: dict[str, tuple[StemFile, ...]]
    """The recordings of each stem, which is their sum."""
    mixture: StemFile | None
    """None where the mixture is the sum of the stems."""
    split: str = ""
    """"train", "valid", "test", or "" where the library has no such folders."""

    def has(self, stem: str) -> bool:
        """Whether there is such a stem; "mixture" is always there."""
        return stem == MIXTURE or bool(self.files.get(stem))

    def recordings(self, stem: str) -> tuple[StemFile, ...]:
        """What sums to `stem`, or to the "mixture"."""
        if stem != MIXTURE:
            return self.files.get(stem, ())
        if self.mixture is not None:
            return (self.mixture,)
        return tuple(file for files in self.files.values() for file in files)

    @property
    def sample_rate(self) -> int:
        """Hz, of the mixture or the first stem."""
        return self.recordings(MIXTURE)[0].sample_rate

    @property
    def duration_s(self) -> float:
        """Of the longest part of the mixture."""
        return max(file.n_samples / file.sample_rate for file in self.recordings(MIXTURE))

    def n_samples(self, sample_rate: int) -> int:
        """The length at `sample_rate`."""
        files = self.recordings(MIXTURE)
        return max(-(-file.n_samples * sample_rate // file.sample_rate) for file in files)

    @cached_property
    def fingerprint(self) -> str:
        """Names and sizes of its files: tells whether what was made from it is still good.

        Times are left out, since they change when a library is copied.
        """
        parts = [self.recordings(MIXTURE), *self.files.values()]
        paths = {file.path for part in parts for file in part}
        try:
            lines = sorted(f"{path.name} {path.stat().st_size}" for path in paths)
        except OSError as error:
            raise AudioError(f"{error.filename} cannot be read ({error.strerror})") from error
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def read(
        self, stem: str, start_sample: int, n_samples: int, *, sample_rate: int, n_channels: int
    ) -> NDArray[np.float32]:
        """A part of a stem or of the "mixture", [n_channels, n_samples].

        `start_sample` and `n_samples` count at `sample_rate`. Silence after the end, and where
        there is no such stem. Raises AudioError for damaged files.
        """
        files = self.recordings(stem)
        return read_sum(
            files, start_sample, n_samples, sample_rate=sample_rate, n_channels=n_channels
        )


@dataclass(frozen=True)
class Library:
    """The tracks below a folder, in order of their keys."""

    folder: Path
    tracks: tuple[TrackStems, ...]

    def without_test(self) -> "Library":
        """The tracks to train with: those below a folder test are never among them."""
        tracks = tuple(track for track in self.tracks if track.split != "test")
        if not tracks:
            raise UsageError(f"{self.folder} holds tracks to test on only; name others to train on")
        return Library(self.folder, tracks)


def open_library(folder: Path, *, split: str | None = None) -> Library:
    """Find the tracks of `folder`; `split` takes those below a folder train, valid or test only.

    Raises UsageError where there are none, or a package that they need is not installed;
    AudioError for a damaged data.json. Sound files are not opened yet.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name the one that holds the tracks")
    if (folder / PAIRS_MANIFEST).exists():
        raise UsageError(
            f"{folder} holds separated stems; name the folder of the tracks themselves"
        )
    tracks: dict[str, TrackStems] = {}
    for track in _walk(folder, folder):
        if track.key in tracks:
            raise UsageError(f"{folder} holds {track.key} in two layouts; move one of them away")
        tracks[track.key] = track
    if not tracks:
        raise UsageError(
            f"{folder} holds no tracks: a folder a song with {', '.join(STEMS)} as sound files, "
            f"SONG{SUFFIX} files or MoisesDB's folders are expected"
        )
    found = tuple(tracks[key] for key in sorted(tracks) if split in (None, tracks[key].split))
    if not found:
        raise UsageError(f"{folder} has no tracks below a folder {split}; leave the split out")
    return Library(folder, found)


def read_sum(
    files: Iterable[StemFile],
    start_sample: int,
    n_samples: int,
    *,
    sample_rate: int,
    n_channels: int,
) -> NDArray[np.float32]:
    """The sum of recordings, [n_channels, n_samples]; see `TrackStems.read`."""
    total = np.zeros((n_channels, n_samples), np.float32)
    for file in files:
        total += read_at(file, start_sample, n_samples, sample_rate, n_channels)
    return total


def read_at(
    file: StemFile, start_sample: int, n_samples: int, sample_rate: int, n_channels: int
) -> NDArray[np.float32]:
    """[n_channels, n_samples] from `start_sample` on, both at `sample_rate` (Hz).

    The same, to the resampler's precision, as that part of the whole file resampled.
    """
    # Of `step_out` samples at one rate exactly `step_in` at the other: starting there keeps phase.
    common = int(np.gcd(file.sample_rate, sample_rate))
    step_in, step_out = file.sample_rate // common, sample_rate // common
    context = 0 if step_in == step_out else round(_CONTEXT_S * sample_rate)
    first_step = max(0, start_sample - context) // step_out
    n_before = start_sample - first_step * step_out
    n_read = -(-(n_before + n_samples + context) * step_in // step_out)
    block = file.read(first_step * step_in, n_read)
    check_finite(block, first_step * step_in, file.sample_rate, str(file.path))
    block = to_channels(block, min(n_channels, len(block)))  # no more is resampled than needed
    parts = list(resample([block], len(block), file.sample_rate, sample_rate))
    whole = np.concatenate(parts, axis=1)
    return to_channels(whole[:, n_before : n_before + n_samples], n_channels)


def to_channels(block: NDArray[np.float32], n_channels: int) -> NDArray[np.float32]:
    """[C, T] -> [n_channels, T], n_channels 1 or 2.

    One channel is the mean, the mid of stereo: unlike a channel picked at random it keeps what is
    panned, and the stems still sum to the mixture. Mono is doubled.
    """
    if n_channels == 1:
        return np.asarray(downmixed(block).mean(axis=0, keepdims=True))
    return np.repeat(block, 2, axis=0) if len(block) == 1 else downmixed(block)


def _walk(folder: Path, root: Path) -> Iterator[TrackStems]:
    """The tracks at and below `folder`."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror or error})") from error
    if (folder / PAIRS_MANIFEST).exists():
        return
    if track := _moises_track(folder, root) or _stem_track(folder, entries, root):
        yield track
        return
    for entry in entries:
        if entry.name.endswith(SUFFIX) and entry.is_file():
            streams = [StemStream(entry, index) for index in range(len(STREAMS))]
            files: dict[str, tuple[StemFile, ...]] = {
                name: (stream,) for name, stream in zip(STREAMS, streams, strict=True)
            }
            mixture = files.pop(MIXTURE)[0]
            key = entry.relative_to(root).as_posix().removesuffix(SUFFIX)
            yield TrackStems(key, files, mixture, _split(key))
        elif entry.is_dir():
            yield from _walk(entry, root)


def _stem_track(folder: Path, entries: list[Path], root: Path) -> TrackStems | None:
    """A folder with sound files that are called like stems."""
    found: dict[str, Path] = {}
    for entry in entries:
        name = entry.stem.lower()
        if name in (*_NAMES, MIXTURE) and entry.suffix.lower() in EXTENSIONS and entry.is_file():
            if name in found:
                raise UsageError(f"{folder} holds {name} twice; keep one of the files")
            found[name] = entry
    if not set(found) & set(_NAMES):
        return None
    files: dict[str, tuple[StemFile, ...]] = {
        name: (SoundFile(found[name]),) for name in _NAMES if name in found
    }
    mixture = SoundFile(found[MIXTURE]) if MIXTURE in found else None
    key = _key(folder, root)
    return TrackStems(key, files, mixture, _split(key))


def _moises_track(folder: Path, root: Path) -> TrackStems | None:
    path = folder / "data.json"
    if not path.is_file():
        return None
    try:
        stems = json.loads(path.read_bytes()).get("stems")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise AudioError(f"{path} is damaged ({error}); get the track again") from error
    if not isinstance(stems, list):
        return None  # another program's data.json
    files: dict[str, tuple[StemFile, ...]] = {}
    try:
        for stem in stems:
            name = stem["stemName"] if stem["stemName"] in STEMS else "other"
            found = [_inside(folder, stem["stemName"], track) for track in stem["tracks"]]
            files[name] = (*files.get(name, ()), *found)
    except (KeyError, TypeError, ValueError) as error:
        raise AudioError(f"{path} does not list stems as MoisesDB does; get it again") from error
    key = _key(folder, root)
    return TrackStems(key, files, None, _split(key)) if any(files.values()) else None


def _inside(folder: Path, stem: str, track: dict[str, Any]) -> SoundFile:
    """A recording of MoisesDB; ValueError for a name that would lead out of the folder."""
    name = f"{track['id']}.{track['extension']}"
    if any(part in ("", ".", "..") or os.path.basename(part) != part for part in (stem, name)):
        raise ValueError(name)
    return SoundFile(folder / stem / name)


def _key(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else folder.resolve().name


def _split(key: str) -> str:
    """The split among the folders of a key."""
    return next((part for part in key.split("/")[:-1] if part in SPLITS), "")
