"""Sound files in: every input becomes float32 blocks [C, T] that can be read more than once.

libsndfile reads wav, flac, ogg, opus, mp3, aiff, caf, w64 and more; what it does not know (m4a,
wma, ...) goes through ffmpeg where that is installed. Nothing here holds a song: memory is one
block, whatever the length. The names of writing
(`encoding`, `stem_writer`, `targets`) can be had from here too: one door for all sound files.
"""

import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from mssgen.audio import ffmpeg
from mssgen.audio.containers.channel_maps import read_layout
from mssgen.audio.containers.file_layout import FileLayout, cut_short
from mssgen.audio.containers.ogg_pages import NO_END
from mssgen.audio.containers.part_reader import PartReader
from mssgen.audio.containers.parts import DECODE_ERRORS, find_layout
from mssgen.audio.encodings import AudioInfo
from mssgen.audio.resampling import BLOCK_SAMPLES, resample
from mssgen.audio.speakers import canonical, order_from
from mssgen.audio.spooling import reading, spool, temporary_folder
from mssgen.errors import AudioError, UsageError

MIN_RATE, MAX_RATE = 8_000, 192_000
# A damaged header can claim a thousand channels; no music has more than this.
MAX_CHANNELS = 64
# Some programs scale float samples like 32-bit integers; what is above that is damage.
MAX_MAGNITUDE = 2.0**32

_log = logging.getLogger(__name__)
_SF_ERR_MALFORMED_FILE = 3


@dataclass(frozen=True)
class AudioSource:
    """A sound file that can be read from its start any number of times."""

    name: str
    """As the user gave it, or "standard input"."""
    path: Path
    """The file that is read; temporary for standard input and for what ffmpeg decoded."""
    info: AudioInfo
    _reader: PartReader
    warnings: list[str] = field(default_factory=list)
    """What is missing of a damaged file and what else was noticed, each the end of a sentence that
    begins with the name; what only decoding shows is added by the first pass."""
    _order: tuple[int, ...] = ()
    """Which channel of the file is first, second, ... here; () changes nothing."""
    _cancel: threading.Event | None = None
    _decoded_from: Path | None = None
    """What ffmpeg made `path` of."""

    @property
    def original(self) -> Path:
        """The file that holds the tags: `path`, or what ffmpeg decoded."""
        return self._decoded_from or self.path

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        """Yield the file from its start as blocks [C, T'], T' at most `block_samples`.

        What is damaged is left out or silent, with a warning. Raises AudioError where the file
        holds no samples, or was opened with `strict` and something is missing.
        """
        rate, n_read = self.info.sample_rate, 0
        for part_rate, blocks in self._reader.streams(block_samples):
            fitted = (
                self._in_order(_with_channels(block, self.info.n_channels)) for block in blocks
            )
            for block in resample(fitted, self.info.n_channels, part_rate, rate):
                if self._cancel is not None and self._cancel.is_set():
                    raise AudioError(f"{self.name} was not read: it was interrupted")
                for start in range(0, block.shape[1], block_samples):
                    n_read += min(block_samples, block.shape[1] - start)
                    yield block[:, start : start + block_samples]
        if n_read == 0:
            raise AudioError(f"{self.name} holds no samples; choose another file")

    @cached_property
    def n_samples(self) -> int:
        """The length T; a file that does not declare it for sure is read through once."""
        self._reader.search()
        return self._seekable_samples or sum(block.shape[1] for block in self.blocks())

    def segment(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """Samples `start_sample` and on, [C, n_samples], with zeros after the end of the file.

        Uncompressed files and FLAC are read at that place only; all others are decoded from their
        start, because a lossy decoder that begins in the middle gives other samples.
        Raises AudioError as `blocks` does, and where the file is damaged at that place.
        """
        if self._seekable_samples:
            found = self._seek(start_sample, n_samples)
        else:
            parts, position = [np.zeros((self.info.n_channels, 0), np.float32)], 0
            for block in self.blocks():
                first, last = start_sample - position, start_sample + n_samples - position
                parts.append(block[:, max(0, first) : max(0, last)])
                position += block.shape[1]
                if last <= block.shape[1]:
                    break
            found = np.concatenate(parts, axis=1)
        return np.pad(found, ((0, 0), (0, n_samples - found.shape[1])))

    @cached_property
    def _seekable_samples(self) -> int:
        """The length of a file whose every sample can be found at once; else 0."""
        is_exact = self.info.subtype.startswith(("PCM_", "FLOAT", "DOUBLE"))
        if not (is_exact or self._decoded_from is not None):
            return 0
        return self._reader.seekable_samples()

    def _seek(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        n_expected = min(n_samples, max(0, self._seekable_samples - start_sample))
        try:
            block = self._reader.read(min(start_sample, self._seekable_samples), n_expected)
        except DECODE_ERRORS:
            block = np.zeros((0, self.info.n_channels), np.float32)
        if len(block) < n_expected:
            raise AudioError(
                f"{self.name} is damaged or cut short after "
                f"{start_sample / self.info.sample_rate:.2f} s; get a complete copy"
            )
        return self._in_order(np.ascontiguousarray(block.T))

    def _in_order(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """A block [C, T'] of the file with its channels in the order of WAV."""
        return block[list(self._order)] if self._order else block


@contextmanager
def open_source(
    path: Path | str,
    *,
    stdin: BinaryIO | None = None,
    strict: bool = False,
    warn: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[AudioSource]:
    """Open a sound file; "-" is standard input (or `stdin`), spooled to a temporary file.

    Pipes are spooled too, because a song is read twice.

    Args:
        path: the file, or "-".
        stdin: read in place of standard input.
        strict: refuse a file of which something is missing, instead of warning.
        warn: told each warning as a sentence; None logs it.
        cancel: once set, reading ends with AudioError.

    Raises:
        AudioError: the file is missing, a folder, not readable, empty, not sound, outside 8 to
            192 kHz, or only ffmpeg could read it and ffmpeg is not installed.
    """
    name = "standard input" if str(path) == "-" else str(path)
    with ExitStack() as stack:
        if name != str(path):
            if stdin is None and sys.stdin is None:
                raise UsageError("standard input is closed; pipe a sound file into mssgen")
            stream = sys.stdin.buffer if stdin is None else stdin
            if stream.isatty():
                raise UsageError("standard input is a terminal; pipe a sound file into mssgen")
            file = spool(stack, stream, name)
        else:
            file = Path(path)
            with reading(name):
                if file.is_fifo():
                    file = spool(stack, stack.enter_context(open(file, "rb")), name)
        said = _Warnings(name, strict, warn or _log.warning)
        yield replace(_identify(stack, file, said, cancel), _cancel=cancel)


@dataclass(frozen=True)
class _Warnings:
    """What is to be said about a file."""

    name: str
    strict: bool
    warn: Callable[[str], None]
    said: list[str] = field(default_factory=list)

    def note(self, note: str) -> None:
        """Say something: the end of a sentence that begins with the name."""
        self.said.append(note)
        self.warn(f"{self.name} {note}")

    def loss(self, loss: str) -> None:
        """Say that something is missing; AudioError if that must not be."""
        if self.strict:
            raise AudioError(f"{self.name} {loss}; get a complete copy, or leave out `strict`")
        self.note(loss)


def _identify(
    stack: ExitStack, file: Path, said: _Warnings, cancel: threading.Event | None
) -> AudioSource:
    """The source behind `file`, by libsndfile or else by ffmpeg."""
    name = said.name
    if file.is_dir():
        with reading(name):
            os.scandir(file).close()  # a folder that cannot be read is told as such
        raise AudioError(f"{name} is a folder, not a sound file; name a file in it")
    with reading(name), open(file, "rb") as opened:
        head = opened.read(4096)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); get a new copy of it")
    source = _probe(file, said)
    if source is not None:
        return source
    if _is_text(head):
        raise AudioError(f"{name} is text, not sound, whatever its name says; give a sound file")
    folder = temporary_folder(stack)
    with reading(name):
        decoded = ffmpeg.decode(file, folder, name, head, cancel)
    source = _probe(decoded.path, said)
    if source is None:
        raise AudioError(f"{name} holds no sound that ffmpeg can decode; convert it to wav")
    for note in decoded.notes:
        said.note(note)
    for loss in decoded.losses:
        said.loss(loss)
    container = file.suffix.lstrip(".").lower()
    info = replace(source.info, container=container, subtype=decoded.subtype)
    return replace(source, info=info, _decoded_from=file)


def _probe(file: Path, said: _Warnings) -> AudioSource | None:
    """What libsndfile says about the file; None where it cannot open it."""
    name = said.name
    with reading(name):
        found = find_layout(file)
    reader = PartReader(name, file, found.parts if found is not None else (None,), said.loss)
    try:
        with reader.open_first() as opened:
            n_samples, log = opened.frames, opened.extra_info
            container, subtype = opened.format.lower(), opened.subtype
    except DECODE_ERRORS as error:
        # What libsndfile knows and finds broken may be all that there is.
        is_known = getattr(error, "code", None) == _SF_ERR_MALFORMED_FILE
        if is_known and shutil.which("ffmpeg") is None:
            raise AudioError(f"{name} is damaged or cut short; get a new copy of it") from error
        return None
    formats = reader.formats()
    rate, n_channels = (max(values) for values in zip(*formats, strict=True))
    if n_samples == 0 and len(formats) == 1:
        raise AudioError(f"{name} holds no samples; choose another file")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"{name} has {rate} samples per second where 8000 to 192000 can be read; resample it"
        )
    if n_channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {n_channels} channels where {MAX_CHANNELS} can be read; split it"
        )
    container = "wav" if container in ("wavex", "rf64") else container
    for loss in _losses(found, container, log, n_samples / rate):
        said.loss(loss)
    layout = read_layout(file, container, subtype, n_channels)
    info = AudioInfo(rate, n_channels, container, subtype, canonical(layout))
    return AudioSource(name, file, info, reader, said.said, order_from(layout))


def _losses(
    layout: FileLayout | None, container: str, log: str, duration_s: float
) -> Iterator[str]:
    """What is missing, by the headers."""
    if layout is not None:
        yield from layout.losses
        return
    if (share := _held_share(log)) is not None:
        yield cut_short(duration_s, duration_s / share)
    if container == "ogg" and re.search(
        r"end-of-stream bit|Junk after|ended unexpectedly", log, re.I
    ):
        yield NO_END


def _held_share(log: str) -> float | None:
    """The share that a file holds of what its header declares, by libsndfile's log; None of all."""
    label = r"(?:data|SSND|Data Size|riff)"
    for declared, held in re.findall(rf"^\s*{label}\s*: (\d+) \(should be (\d+)\)", log, re.M):
        size = int(declared)
        # Programs that write to a pipe cannot know the length and declare about 2 or 4 GiB.
        is_placeholder = size > 2**62 or any(abs(size - n) < 2**16 for n in (2**31, 2**32))
        # Some writers count the header in: a few dozen bytes are not a loss.
        if size - int(held) > 64 and not is_placeholder:
            return max(1, int(held)) / size
    match = re.search(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)", log)
    if match is not None and int(match[1]) < int(match[2]) < 2**62:
        return max(1, int(match[1])) / int(match[2])
    return None


def _with_channels(block: NDArray[np.float32], n_channels: int) -> NDArray[np.float32]:
    """A part [C', T] with the channels of the whole: mono goes to all, more than those to mono."""
    if len(block) == n_channels:
        return block
    if n_channels == 1:
        return block.mean(axis=0, keepdims=True)
    if len(block) == 1:
        return np.repeat(block, n_channels, axis=0)
    return np.pad(block[:n_channels], ((0, max(0, n_channels - len(block))), (0, 0)))


def _is_text(head: bytes) -> bool:
    if set(head) & set(range(32)) - set(b"\t\n\f\r\x1b"):
        return False
    try:
        # The last character may be cut in two.
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True


def check_finite(
    block: NDArray[np.float32], position_samples: int, sample_rate: int, name: str
) -> None:
    """Raise AudioError where a block [C, T'] that starts at `position_samples` holds no sound."""
    is_bad = ~(np.abs(block) <= MAX_MAGNITUDE).all(axis=0)  # NaN compares as false
    if is_bad.any():
        position_s = (position_samples + int(is_bad.argmax())) / sample_rate
        raise AudioError(
            f"{name} holds samples that are no sound (NaN, infinite or huge), the first at "
            f"{position_s:.3f} s; repair it or export it again"
        )


class Source(Protocol):
    """Sound that can be read more than once; `mssgen.audio.reading.AudioSource` is one."""

    @property
    def name(self) -> str: ...

    @property
    def info(self) -> AudioInfo: ...

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        """[C, T'] from the start."""
        ...
