"""Tracks and their stems on disk: finds them in a folder, reads any part of them at any rate.

Three layouts are told apart by what is in a folder, at any depth and mixed if need be:

* MUSDB18-HQ: a folder for each track with drums.wav, bass.wav, other.wav, vocals.wav and perhaps
  mixture.wav (or flac, ...: all that mssgen reads). Every other sound file in such a folder is a
  stem of the track as well, under its own name; a folder that has none of these names is a track
  where it holds two or more sound files of one length, and no other folders;
* MUSDB18: TRACK.stem.mp4 with the streams mixture, drums, bass, other, vocals
  (https://sigsep.github.io/datasets/musdb.html), read by the stempeg package;
* MoisesDB: a folder for each track with data.json, whose "stems" list the recordings of each stem
  as STEM/ID.EXTENSION (https://github.com/moises-ai/moises-db, moisesdb/track.py).

The stem "other" is the sum of all that a model does not name: of everything but drums, bass and
vocals for a model of four stems (as in MoisesDB's `mix_4_stems`), without guitar and piano for one
of six. `Library.naming` says which stems are named.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.channels import downmixed
from mssgen.audio.reading import check_finite, open_source
from mssgen.audio.resampling import resample
from mssgen.checkpoints.registry import STEMS
from mssgen.errors import AudioError, UsageError
from mssgen.inputs.folder_scan import SOUND_EXTENSIONS, is_hidden, leads_up
from mssgen.library.stem_mp4 import STREAMS, SUFFIX, StemStream

MIXTURE = "mixture"
SPLITS = ("train", "valid", "test")
PAIRS_MANIFEST = "pairs.json"
"""Marks a folder of separated stems, which look like tracks but are none."""
OTHER = "other"
NAMED = tuple(stem for stem in STEMS if stem != OTHER)
"""What is not other, for a model of four stems."""
_TRACK_NAMES = {*STEMS, "guitar", "piano", MIXTURE}
"""A folder with a sound file of one of these names is a track, whatever else is in it."""
_MAX_SPREAD_S = 0.1
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
    named: tuple[str, ...] = NAMED
    """The stems that are not part of "other"."""

    def has(self, stem: str) -> bool:
        """Whether there is such a stem; "mixture" is always there."""
        return bool(self.recordings(stem))

    def parts(self, stem: str) -> tuple[str, ...]:
        """The keys of `files` that sum to `stem`: several where that is "other"."""
        if stem == OTHER:
            return tuple(name for name in self.files if name not in self.named)
        return (stem,) if stem in self.files else ()

    def recordings(self, stem: str) -> tuple[StemFile, ...]:
        """What sums to `stem`, or to the "mixture"."""
        if stem == MIXTURE and self.mixture is not None:
            return (self.mixture,)
        names = self.files if stem == MIXTURE else self.parts(stem)
        return tuple(file for name in names for file in self.files[name])

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

    def naming(self, stems: Iterable[str]) -> "Library":
        """The same tracks, whose "other" is the sum of all but `stems`."""
        named = tuple(stem for stem in stems if stem != OTHER)
        return replace(self, tracks=tuple(replace(track, named=named) for track in self.tracks))


def open_library(folder: Path, *, split: str | None = None) -> Library:
    """Find the tracks of `folder`; `split` takes those below a folder train, valid or test only.

    Raises UsageError where there are none, or a package that they need is not installed;
    AudioError for a damaged data.json. Sound files are not opened yet, but for those whose names
    do not tell whether they are stems.
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
            f"{folder} holds no tracks: a folder for each song with its stems as sound files "
            f"({', '.join(STEMS)} or others of one length), "
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
        entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
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
        elif entry.is_dir() and not leads_up(entry):
            yield from _walk(entry, root)


def _stem_track(folder: Path, entries: list[Path], root: Path) -> TrackStems | None:
    """A folder whose sound files are stems."""
    sounds = [
        entry
        for entry in entries
        if entry.suffix.lower() in SOUND_EXTENSIONS
        and not entry.name.lower().endswith(SUFFIX)
        and entry.is_file()
    ]
    names = [entry.stem.lower() for entry in sounds]
    if not set(names) - {MIXTURE}:
        return None
    if not set(names) & _TRACK_NAMES and not _are_stems(entries, sounds):
        return None
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{folder} holds {name} twice; keep one of the files")
    found = {name: SoundFile(entry) for name, entry in zip(names, sounds, strict=True)}
    mixture = found.pop(MIXTURE, None)
    # Known stems first, in their usual order.
    order = sorted(found, key=lambda name: STEMS.index(name) if name in STEMS else len(STEMS))
    key = _key(folder, root)
    return TrackStems(key, {name: (found[name],) for name in order}, mixture, _split(key))


def _are_stems(entries: list[Path], sounds: list[Path]) -> bool:
    """Whether files whose names do not tell are stems: those of one song are equally long."""
    if len(sounds) < 2 or any(entry.is_dir() for entry in entries):
        return False
    try:
        lengths_s = [file.n_samples / file.sample_rate for file in map(SoundFile, sounds)]
    except AudioError:
        return False
    return max(lengths_s) - min(lengths_s) <= _MAX_SPREAD_S


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
            name = stem["stemName"]
            found = [_inside(folder, name, track) for track in stem["tracks"]]
            if found:
                files[name] = (*files.get(name, ()), *found)
    except (KeyError, TypeError, ValueError) as error:
        raise AudioError(f"{path} does not list stems as MoisesDB does; get it again") from error
    key = _key(folder, root)
    return TrackStems(key, files, None, _split(key)) if files else None


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
