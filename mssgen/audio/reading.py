"""Reading sound files as float32 blocks [C, T'], any number of times and in constant memory.

libsndfile reads wav, flac, ogg, opus, mp3, aiff, caf, w64 and more; other formats (m4a, wma, ...)
are decoded by the ffmpeg program if it is installed.
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
from mssgen.audio.speakers import canonical, order_from, usual_layout
from mssgen.audio.spooling import reading, spool, temporary_folder
from mssgen.errors import AudioError, UsageError

MIN_RATE, MAX_RATE = 8_000, 192_000
# Higher rates are resampled, up to 16 times those of DVD and CD; beyond is damage.
_MAX_FILE_RATE = 32 * 48_000
# A damaged header can claim thousands of channels; no music has more than this.
MAX_CHANNELS = 64
# Some programs scale float samples like 32-bit integers; larger values are damage.
MAX_MAGNITUDE = 2.0**32

_log = logging.getLogger(__name__)
_SF_ERR_MALFORMED_FILE = 3


@dataclass(frozen=True)
class AudioSource:
    """A sound file that can be read from its start any number of times."""

    name: str
    """Path as the user gave it, or "standard input"."""
    path: Path
    """The file that is read: a temporary one for standard input and for files decoded by ffmpeg."""
    info: AudioInfo
    file_rate: int
    """Sample rate of the file in Hz; `info.sample_rate` is lower if this is above `MAX_RATE`."""
    _reader: PartReader
    warnings: list[str] = field(default_factory=list)
    """Damage and other remarks, each continuing a sentence that starts with the name; the first
    pass adds damage that only decoding reveals."""
    _order: tuple[int, ...] = ()
    """Channels of the file in WAV order; () keeps the order of the file."""
    _cancel: threading.Event | None = None
    _decoded_from: Path | None = None
    """The file that ffmpeg decoded to `path`; None if libsndfile reads it."""

    @property
    def original(self) -> Path:
        """The file that holds the tags: `path`, or the one that ffmpeg decoded."""
        return self._decoded_from or self.path

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        """Yield the file from its start as blocks [C, T'], T' at most `block_samples`.

        Damaged stretches are skipped or replaced by silence, with a warning. Raises AudioError if
        the file holds no samples, or is incomplete and was opened with `strict`.
        """
        rate, n_read = self.info.sample_rate, 0
        for part_rate, blocks in self._reader.streams(block_samples):
            for block in resample(map(self._fitted, blocks), self.info.n_channels, part_rate, rate):
                if self._cancel is not None and self._cancel.is_set():
                    raise AudioError(f"{self.name} was not read: it was interrupted")
                for start in range(0, block.shape[1], block_samples):
                    n_read += min(block_samples, block.shape[1] - start)
                    yield block[:, start : start + block_samples]
        if n_read == 0:
            raise AudioError(f"{self.name} holds no samples; choose another file")

    @cached_property
    def n_samples(self) -> int:
        """Length in samples; if the header does not reliably declare it, the file is decoded."""
        self._reader.search()
        return self._seekable_samples or sum(block.shape[1] for block in self.blocks())

    def segment(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """`n_samples` samples from `start_sample`, [C, n_samples], zero-padded after the end.

        Uncompressed files and FLAC are read at that place only; other files are decoded from the
        start, because a lossy decoder that starts in the middle outputs different samples.
        Raises AudioError as `blocks` does, and if the file is damaged at that place.
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
        """Length in samples of a file with sample-accurate seeking; 0 for other files."""
        if self.file_rate != self.info.sample_rate:
            return 0
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

    def _fitted(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert a block [C', T'] of a part with any number of channels to those of `info`."""
        n_channels, layout = self.info.n_channels, self.info.layout
        own = usual_layout(len(block), self.info.container)
        if len(block) == n_channels:
            return self._in_order(block)
        if n_channels > 2 and own and {*own} <= {*layout}:
            placed = np.zeros((n_channels, block.shape[1]), np.float32)
            placed[[layout.index(name) for name in own]] = block
            return placed
        return _with_channels(block, n_channels)

    def _in_order(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reorder the channels of a block [C, T'] of the file to WAV order."""
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
    """Open a sound file; standard input and pipes are first copied to a temporary file.

    Args:
        path: the file, or "-" for standard input.
        stdin: stream to read instead of standard input.
        strict: refuse an incomplete file instead of warning.
        warn: called with each warning, a sentence; None logs it.
        cancel: reading raises AudioError once this is set.

    Raises:
        AudioError: the file is missing, a folder, unreadable, empty, not a sound file, below 8 kHz,
            or needs ffmpeg and ffmpeg is not installed.
        UsageError: standard input is closed or a terminal.
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
    """Collects and passes on the warnings about one file."""

    name: str
    strict: bool
    warn: Callable[[str], None]
    said: list[str] = field(default_factory=list)

    def note(self, note: str) -> None:
        """Warn; `note` continues a sentence that starts with the name."""
        self.said.append(note)
        self.warn(f"{self.name} {note}")

    def loss(self, loss: str) -> None:
        """Warn that audio is missing, or raise AudioError if `strict`."""
        if self.strict:
            raise AudioError(f"{self.name} {loss}; get a complete copy, or leave out `strict`")
        self.note(loss)


def _identify(
    stack: ExitStack, file: Path, said: _Warnings, cancel: threading.Event | None
) -> AudioSource:
    """Open `file` with libsndfile, else with ffmpeg; AudioError if neither can read it."""
    name = said.name
    if file.is_dir():
        with reading(name):
            os.scandir(file).close()  # raises if the folder cannot be read
        raise AudioError(f"{name} is a folder, not a sound file; name a file in it")
    with reading(name), open(file, "rb") as opened:
        head = opened.read(4096)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); get a new copy of it")
    source = _probe(file, said)
    if source is not None:
        return source
    if _is_text(head):
        raise AudioError(f"{name} is text, not sound, despite its name; give a sound file")
    folder = temporary_folder(stack)
    with reading(name):
        decoded = ffmpeg.decode(file, folder, name, head, cancel)
    source = _probe(decoded.path, said)
    if source is None:
        raise AudioError(f"{name} holds no sound that ffmpeg can decode; convert it to wav")
    for note in decoded.notes:
        said.note(note)
    layout = find_layout(file)  # knows of a missing end where ffmpeg does not
    for loss in decoded.losses or (layout.losses if layout is not None else ()):
        said.loss(loss)
    container = file.suffix.lstrip(".").lower()
    info = replace(source.info, container=container, subtype=decoded.subtype)
    return replace(source, info=info, _decoded_from=file)


def _probe(file: Path, said: _Warnings, *, is_mp3: bool = False) -> AudioSource | None:
    """Open a file with libsndfile; None if libsndfile cannot open it."""
    name = said.name
    with reading(name):
        found = find_layout(file, is_mp3=is_mp3)
    reader = PartReader(name, file, found.parts if found is not None else (None,), said.loss)
    try:
        with reader.open_first() as opened:
            n_samples, log = opened.frames, opened.extra_info
            container, subtype = opened.format.lower(), opened.subtype
    except DECODE_ERRORS as error:
        # libsndfile knows the format but finds it malformed: without ffmpeg, give up here.
        is_known = getattr(error, "code", None) == _SF_ERR_MALFORMED_FILE
        if is_known and shutil.which("ffmpeg") is None:
            raise AudioError(f"{name} is damaged or cut short; get a new copy of it") from error
        return None
    if container == "mp3" and found is None and not is_mp3:
        # Odd bytes before the first frame hide what the file is, and lose frames in libmpg123.
        return _probe(file, said, is_mp3=True)
    formats = reader.formats()
    rate, n_channels = (max(values) for values in zip(*formats, strict=True))
    if n_samples == 0 and len(formats) == 1:
        raise AudioError(f"{name} holds no samples; choose another file")
    if not MIN_RATE <= rate <= _MAX_FILE_RATE:
        raise AudioError(
            f"{name} has a sample rate of {rate} Hz, and {MIN_RATE} to {_MAX_FILE_RATE} Hz can be "
            "read; resample it"
        )
    if n_channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {n_channels} channels, and at most {MAX_CHANNELS} can be read; split it"
        )
    container = "wav" if container in ("wavex", "rf64") else container
    for loss in _losses(found, container, log, n_samples / rate):
        said.loss(loss)
    read_rate = rate
    while read_rate > MAX_RATE:
        read_rate //= 2
    if read_rate < rate:
        said.note(f"has a sample rate of {rate} Hz and is read at {read_rate} Hz")
    layout = read_layout(file, container, subtype, n_channels)
    info = AudioInfo(read_rate, n_channels, container, subtype, canonical(layout))
    return AudioSource(name, file, info, rate, reader, said.said, order_from(layout))


def _losses(
    layout: FileLayout | None, container: str, log: str, duration_s: float
) -> Iterator[str]:
    """Missing audio according to the headers; each item continues a sentence."""
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
    """Fraction of the declared length that the file holds, from libsndfile's log; None if whole."""
    label = r"(?:data|SSND|Data Size|riff)"
    for declared, held in re.findall(rf"^\s*{label}\s*: (\d+) \(should be (\d+)\)", log, re.M):
        size = int(declared)
        # Programs that write to a pipe cannot know the length and declare about 2 or 4 GiB.
        is_placeholder = size > 2**62 or any(abs(size - n) < 2**16 for n in (2**31, 2**32))
        # Some writers include the header in the size: a few dozen bytes are not a loss.
        if size - int(held) > 64 and not is_placeholder:
            return max(1, int(held)) / size
    match = re.search(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)", log)
    if match is not None and int(match[1]) < int(match[2]) < 2**62:
        return max(1, int(match[1])) / int(match[2])
    return None


def _with_channels(block: NDArray[np.float32], n_channels: int) -> NDArray[np.float32]:
    """Convert a block [C', T] to [n_channels, T].

    Mono is copied to all channels, mono output is the mean; otherwise channels are cut or
    zero-padded.
    """
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
    """Raise AudioError if a block [C, T'] at `position_samples` holds NaN, infinity or huge values.

    `name` is the file, for the message.
    """
    is_bad = ~(np.abs(block) <= MAX_MAGNITUDE).all(axis=0)  # NaN compares as false
    if is_bad.any():
        position_s = (position_samples + int(is_bad.argmax())) / sample_rate
        raise AudioError(
            f"{name} holds invalid samples (NaN, infinite or huge), the first at "
            f"{position_s:.3f} s; repair it or export it again"
        )


class Source(Protocol):
    """Audio that can be read more than once, such as `mssgen.audio.reading.AudioSource`."""

    @property
    def name(self) -> str: ...

    @property
    def info(self) -> AudioInfo: ...

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        """Yield blocks [C, T'] from the start, T' at most `block_samples`."""
        ...
