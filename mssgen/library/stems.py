"""Finds multitracks in a folder, and reads any part of their stems at any sample rate.

Three layouts are recognised by the content of a folder, at any depth and also mixed:

* MUSDB18-HQ: a folder per track with drums.wav, bass.wav, other.wav, vocals.wav and optionally
  mixture.wav (or any format that mssgen reads). Other sound files in such a folder are further
  stems, named as the files are. A folder without any of these names is a track if it holds two or
  more sound files of the same length and no folders;
* MUSDB18: TRACK.stem.mp4 with the streams mixture, drums, bass, other, vocals
  (https://sigsep.github.io/datasets/musdb.html), read by the stempeg package;
* MoisesDB: a folder per track with data.json, whose "stems" list the recordings of each stem
  as STEM/ID.EXTENSION (https://github.com/moises-ai/moises-db, moisesdb/track.py).

The stem "other" is the sum of all stems that a model does not name: everything but drums, bass and
vocals for a model of four stems (as in MoisesDB's `mix_4_stems`), also without guitar and piano for
one of six. `Library.naming` sets the named stems.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from mssgen.inputs.folder_scan import SOUND_EXTENSIONS, leads_up, listed
from mssgen.library.stem_mp4 import STREAMS, SUFFIX, StemStream

MIXTURE = "mixture"
SPLITS = ("train", "valid", "test")
PAIRS_MANIFEST = "pairs.json"
"""Marks a folder of separated stems, which is not a library although it looks like one."""
OTHER = "other"
NAMED = tuple(stem for stem in STEMS if stem != OTHER)
"""Stems that are not part of "other", for a model of four stems."""
_TRACK_NAMES = {*STEMS, "guitar", "piano", MIXTURE}
"""Sound files with these names make a folder a track, whatever else is in it."""
_MAX_SPREAD_S = 0.1
# Audio around a segment, so that its ends are resampled as within the whole recording.
_CONTEXT_S = 0.05


class StemFile(Protocol):
    """One recording: samples [C, T] float32 with full scale at 1."""

    @property
    def path(self) -> Path: ...

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def n_samples(self) -> int: ...

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """Samples [C, n_samples] from `start_sample` at its own rate; zeros after the end."""
        ...


@dataclass(frozen=True)
class SoundFile:
    """A recording in a sound file of its own."""

    path: Path

    @property
    def sample_rate(self) -> int:
        return self._shape[0]

    @property
    def n_samples(self) -> int:
        return self._shape[1]

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(sample rate in Hz, number of samples)."""
        with open_source(self.path, strict=True) as source:
            return source.info.sample_rate, source.n_samples

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        with open_source(self.path, strict=True) as source:
            return source.segment(start_sample, n_samples)


@dataclass(frozen=True)
class TrackStems:
    """A mixture and its stems."""

    key: str
    """Path relative to the library, with "/" and without suffix."""
    files: dict[str, tuple[StemFile, ...]]
    """For each stem, the recordings whose sum it is."""
    mixture: StemFile | None
    """Recording of the mixture; None if the mixture is the sum of the stems."""
    split: str = ""
    """"train", "valid", "test", or "" outside such folders."""
    named: tuple[str, ...] = NAMED
    """The stems that are not part of "other"."""

    def has(self, stem: str) -> bool:
        """Whether the track has `stem`; every track has "mixture"."""
        return bool(self.recordings(stem))

    def parts(self, stem: str) -> tuple[str, ...]:
        """Keys of `files` whose sum is `stem`: one, or any number for "other"."""
        if stem == OTHER:
            return tuple(name for name in self.files if name not in self.named)
        return (stem,) if stem in self.files else ()

    def recordings(self, stem: str) -> tuple[StemFile, ...]:
        """Recordings whose sum is `stem` (or "mixture"); empty if the track has no such stem."""
        if stem == MIXTURE and self.mixture is not None:
            return (self.mixture,)
        names = self.files if stem == MIXTURE else self.parts(stem)
        return tuple(file for name in names for file in self.files[name])

    @property
    def sample_rate(self) -> int:
        """Sample rate of the mixture, or of the first stem, in Hz."""
        return self.recordings(MIXTURE)[0].sample_rate

    @property
    def duration_s(self) -> float:
        """Length of the longest recording in the mixture in seconds."""
        return max(file.n_samples / file.sample_rate for file in self.recordings(MIXTURE))

    def n_samples(self, sample_rate: int) -> int:
        """Length in samples at `sample_rate` (Hz)."""
        files = self.recordings(MIXTURE)
        return max(-(-file.n_samples * sample_rate // file.sample_rate) for file in files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its files' names and sizes, to detect changes of the track.

        Modification times are left out, because they change when a library is copied.
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
        """A part of a stem or of "mixture" as samples [n_channels, n_samples].

        `start_sample` and `n_samples` are at `sample_rate` (Hz). Zeros after the end, and for a
        stem that the track does not have. Raises AudioError for damaged files.
        """
        files = self.recordings(stem)
        return read_sum(
            files, start_sample, n_samples, sample_rate=sample_rate, n_channels=n_channels
        )


@dataclass(frozen=True)
class Library:
    """The tracks below a folder, sorted by key."""

    folder: Path
    tracks: tuple[TrackStems, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Folders that cannot be read, with the reason."""

    def without_test(self) -> "Library":
        """The library without tracks of the split "test"; UsageError if none are left."""
        tracks = tuple(track for track in self.tracks if track.split != "test")
        if not tracks:
            raise UsageError(
                f"{self.folder} holds test tracks only; choose a folder with tracks to train on"
            )
        return replace(self, tracks=tracks)

    def naming(self, stems: Iterable[str]) -> "Library":
        """The same tracks, with "other" as the sum of all stems but `stems`."""
        named = tuple(stem for stem in stems if stem != OTHER)
        return replace(self, tracks=tuple(replace(track, named=named) for track in self.tracks))


def open_library(folder: Path, *, split: str | None = None) -> Library:
    """Find the tracks below `folder`, or only those of `split` (a folder train, valid or test).

    Sound files are opened only if their names do not tell whether they are stems. Raises UsageError
    if there are no tracks or a package that they need is not installed, AudioError for a damaged
    data.json.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder that holds the tracks")
    if (folder / PAIRS_MANIFEST).exists():
        raise UsageError(
            f"{folder} holds separated stems; give the folder of the tracks themselves"
        )
    tracks: dict[str, TrackStems] = {}
    unreadable: dict[str, str] = {}
    for track in _walk(folder, folder, unreadable):
        if track.key in tracks:
            raise UsageError(f"{folder} holds {track.key} in two layouts; move one of them away")
        tracks[track.key] = track
    if not tracks and unreadable:
        raise UsageError(" ".join(next(iter(unreadable.items()))))
    if not tracks:
        raise UsageError(
            f"{folder} holds no tracks: a folder per song with its stems as sound files "
            f"({', '.join(STEMS)} or others of one length), "
            f"SONG{SUFFIX} files or MoisesDB's folders are expected"
        )
    found = tuple(tracks[key] for key in sorted(tracks) if split in (None, tracks[key].split))
    if not found:
        raise UsageError(f"{folder} has no tracks below a folder {split}; leave the split out")
    return Library(folder, found, unreadable)


def read_sum(
    files: Iterable[StemFile],
    start_sample: int,
    n_samples: int,
    *,
    sample_rate: int,
    n_channels: int,
) -> NDArray[np.float32]:
    """Sum of recordings as samples [n_channels, n_samples]; see `TrackStems.read`."""
    total = np.zeros((n_channels, n_samples), np.float32)
    for file in files:
        total += read_at(file, start_sample, n_samples, sample_rate, n_channels)
    return total


def read_at(
    file: StemFile, start_sample: int, n_samples: int, sample_rate: int, n_channels: int
) -> NDArray[np.float32]:
    """Samples [n_channels, n_samples] from `start_sample`, counted at `sample_rate` (Hz).

    They equal that part of the whole file resampled, to the resampler's precision.
    """
    # `step_in` samples of the file last exactly as long as `step_out` at `sample_rate`: reads start
    # at multiples of them to keep the phase.
    common = int(np.gcd(file.sample_rate, sample_rate))
    step_in, step_out = file.sample_rate // common, sample_rate // common
    context = 0 if step_in == step_out else round(_CONTEXT_S * sample_rate)
    first_step = max(0, start_sample - context) // step_out
    n_before = start_sample - first_step * step_out
    n_read = -(-(n_before + n_samples + context) * step_in // step_out)
    block = file.read(first_step * step_in, n_read)
    check_finite(block, first_step * step_in, file.sample_rate, str(file.path))
    block = to_channels(block, min(n_channels, len(block)))  # resample no more than needed
    parts = list(resample([block], len(block), file.sample_rate, sample_rate))
    whole = np.concatenate(parts, axis=1)
    return to_channels(whole[:, n_before : n_before + n_samples], n_channels)


def to_channels(block: NDArray[np.float32], n_channels: int) -> NDArray[np.float32]:
    """Samples [C, T] -> [n_channels, T], for n_channels 1 or 2.

    Mono is the mean of the channels: unlike a single channel it keeps panned sources, and the stems
    still sum to the mixture. Mono becomes stereo with two equal channels.
    """
    if n_channels == 1:
        return np.asarray(downmixed(block).mean(axis=0, keepdims=True))
    return np.repeat(block, 2, axis=0) if len(block) == 1 else downmixed(block)


def _walk(folder: Path, root: Path, unreadable: dict[str, str]) -> Iterator[TrackStems]:
    """Yield the tracks at and below `folder`; see `listed` for `unreadable`."""
    entries = listed(folder, root, unreadable)
    if not entries or (folder / PAIRS_MANIFEST).exists():
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
            yield from _walk(entry, root, unreadable)


def _stem_track(folder: Path, entries: list[Path], root: Path) -> TrackStems | None:
    """The track whose stems are the sound files in `folder`; None if it is not one."""
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
    """Whether sound files without known names are stems of one song: they are equally long."""
    if len(sounds) < 2 or any(entry.is_dir() for entry in entries):
        return False
    try:
        lengths_s = [file.n_samples / file.sample_rate for file in map(SoundFile, sounds)]
    except AudioError:
        return False
    return max(lengths_s) - min(lengths_s) <= _MAX_SPREAD_S


def _moises_track(folder: Path, root: Path) -> TrackStems | None:
    """The MoisesDB track in `folder`; None if it is not one."""
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
    """A recording of a MoisesDB track; ValueError for a name that leads out of `folder`."""
    name = f"{track['id']}.{track['extension']}"
    if any(part in ("", ".", "..") or os.path.basename(part) != part for part in (stem, name)):
        raise ValueError(name)
    return SoundFile(folder / stem / name)


def _key(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else folder.resolve().name


def _split(key: str) -> str:
    """ "train", "valid" or "test" if the key has such a folder, else ""."""
    return next((part for part in key.split("/")[:-1] if part in SPLITS), "")
