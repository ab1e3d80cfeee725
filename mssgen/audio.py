"""Sound files in: every input becomes float32 blocks [C, T] that can be read more than once.

libsndfile reads wav, flac, ogg, opus, mp3, aiff, caf, w64 and more; what it does not know (m4a,
wma, ...) goes through ffmpeg where that is installed. Nothing here holds a song: memory is one
block, whatever the length. The names of writing
(`encoding`, `stem_writer`, `targets`) can be had from here too: one door for all sound files.
"""

import errno
import logging
import os
import re
import select
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from mssgen import ffmpeg
from mssgen.channel_maps import read_layout
from mssgen.encoding import CONTAINERS as CONTAINERS
from mssgen.encoding import Encoding as Encoding
from mssgen.encoding import choose_encoding as choose_encoding
from mssgen.errors import AudioError, UsageError
from mssgen.speakers import Layout, canonical, order_from
from mssgen.stem_writer import StemWriter as StemWriter
from mssgen.stem_writer import copy_to_stdout as copy_to_stdout
from mssgen.targets import safe_target as safe_target

MIN_RATE, MAX_RATE = 8_000, 192_000
# A damaged header can claim a thousand channels; no music has more than this.
MAX_CHANNELS = 64
# Some programs scale float samples like 32-bit integers; what is above that is damage.
MAX_MAGNITUDE = 2.0**32
BLOCK_SAMPLES = 2**16

_log = logging.getLogger(__name__)
# What soundfile raises on damaged files: its own errors, and slips of its checks.
_DECODE_ERRORS = (sf.SoundFileError, OSError, RuntimeError, TypeError, ValueError, AssertionError)
_SF_ERR_MALFORMED_FILE = 3
_MP3_FRAME = 1152
# What libsndfile gives for the length of a stream is more than this.
_UNDECLARED = 2**62


@dataclass(frozen=True)
class AudioInfo:
    """What an input is."""

    sample_rate: int
    """Hz, 8000 to 192000."""
    n_channels: int
    container: str
    """Lower-case: "wav", "flac", "ogg", "mp3", ..."""
    subtype: str
    """libsndfile's name of the sample format: "PCM_16", "FLOAT", "VORBIS", ...; "" by ffmpeg."""
    layout: Layout = ()
    """The speaker of each channel, in the order of WAV (`mssgen.speakers`); () where unknown."""


@dataclass(frozen=True)
class AudioSource:
    """A sound file that can be read from its start any number of times."""

    name: str
    """As the user gave it, or "standard input"."""
    path: Path
    """The file that is read; temporary for standard input and for what ffmpeg decoded."""
    info: AudioInfo
    _guessed_from: int | None = None
    """Where the sound of an MP3 starts (bytes) whose length libsndfile can only guess."""
    _order: tuple[int, ...] = ()
    """Which channel of the file is first, second, ... here; () changes nothing."""

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
        """Yield the file from its start as blocks [C, T'], T' at most `block_samples`.

        Raises AudioError where the file is damaged, ends early or holds no samples.
        """
        rate, n_read = self.info.sample_rate, 0
        with ExitStack() as stack:
            whole = None
            if self._guessed_from is not None:
                whole = stack.enter_context(_LongerFile(self.path, self._guessed_from))
                block_samples = min(block_samples, _MP3_FRAME)
            try:
                file = stack.enter_context(sf.SoundFile(whole or os.fsencode(self.path)))
            except _DECODE_ERRORS as error:
                raise AudioError(f"{self.name} can no longer be read; was it changed?") from error
            while True:
                try:
                    block = file.read(block_samples, dtype="float32", always_2d=True)
                except _DECODE_ERRORS as error:
                    if whole is not None and whole.is_at_end():
                        break
                    raise AudioError(
                        f"{self.name} is damaged or cut short after {n_read / rate:.2f} s; "
                        "get a complete copy"
                    ) from error
                if not len(block):
                    break
                n_read += len(block)
                yield self._in_order(block)
            # Headers of streams declare nothing (a huge number); Xing headers round to frames.
            declared = 0 if whole is not None or file.frames >= _UNDECLARED else file.frames
        if n_read < declared - (2 * _MP3_FRAME if self.info.container == "mp3" else 0):
            raise AudioError(
                f"{self.name} is damaged or cut short: it holds {n_read / rate:.2f} s of the "
                f"{declared / rate:.2f} s it declares; get a complete copy"
            )
        if n_read == 0:
            raise AudioError(f"{self.name} holds no samples; choose another file")

    @cached_property
    def n_samples(self) -> int:
        """The length T; a file that does not declare it for sure is read through once."""
        return self._seekable_samples or sum(block.shape[1] for block in self.blocks())

    def segment(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """Samples `start_sample` and on, [C, n_samples], with zeros after the end of the file.

        Uncompressed files and FLAC are read at that place only; all others are decoded from their
        start, because a lossy decoder that begins in the middle gives other samples.
        Raises AudioError as `blocks` does.
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
        # No subtype: ffmpeg made `path`, and that is wav.
        if not (self.info.subtype or "FLOAT").startswith(("PCM_", "FLOAT", "DOUBLE")):
            return 0
        n_samples = sf.info(os.fsencode(self.path)).frames
        return n_samples if n_samples < _UNDECLARED else 0

    def _seek(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        n_expected = min(n_samples, max(0, self._seekable_samples - start_sample))
        try:
            with sf.SoundFile(os.fsencode(self.path)) as file:
                file.seek(min(start_sample, self._seekable_samples))
                block = file.read(n_expected, dtype="float32", always_2d=True)
        except _DECODE_ERRORS:
            block = np.zeros((0, self.info.n_channels), np.float32)
        if len(block) < n_expected:
            raise AudioError(
                f"{self.name} is damaged or cut short after "
                f"{start_sample / self.info.sample_rate:.2f} s; get a complete copy"
            )
        return self._in_order(block)

    def _in_order(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Frames [T', C] of the file as a block [C, T'] in the order of WAV."""
        return np.ascontiguousarray(frames.T[list(self._order)] if self._order else frames.T)


@contextmanager
def open_source(path: Path | str, *, stdin: BinaryIO | None = None) -> Iterator[AudioSource]:
    """Open a sound file; "-" is standard input (or `stdin`), spooled to a temporary file.

    Pipes are spooled too, because a song is read twice. Raises AudioError when the file is
    missing, a folder, not readable, empty, not sound, cut short, or outside 8 to 192 kHz, and
    when only ffmpeg could read it and ffmpeg is not installed.
    """
    name = "standard input" if str(path) == "-" else str(path)
    with ExitStack() as stack:
        if name != str(path):
            stream = sys.stdin.buffer if stdin is None else stdin
            if stream.isatty():
                raise UsageError("standard input is a terminal; pipe a sound file into mssgen")
            file = _spool(stack, stream, name)
        else:
            file = Path(path)
            with _reading(name):
                if file.is_fifo():
                    file = _spool(stack, stack.enter_context(open(file, "rb")), name)
        yield _identify(stack, file, name)


def _identify(stack: ExitStack, file: Path, name: str) -> AudioSource:
    """The source behind `file`, by libsndfile or else by ffmpeg."""
    if file.is_dir():
        raise AudioError(f"{name} is a folder, not a sound file; name a file in it")
    with _reading(name), open(file, "rb") as opened:
        head = opened.read(4096)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); get a new copy of it")
    source = _probe(file, name)
    if source is not None:
        return source
    if _is_text(head):
        raise AudioError(f"{name} is text, not sound, whatever its name says; give a sound file")
    folder = _temporary_folder(stack)
    with _reading(name):
        wav = ffmpeg.decode(file, folder, name, head)
    decoded = _probe(wav, name)
    if decoded is None:
        raise AudioError(f"{name} holds no sound that ffmpeg can decode; convert it to wav")
    container = file.suffix.lstrip(".").lower()
    info = replace(decoded.info, container=container, subtype="")
    return replace(decoded, info=info)


def _probe(file: Path, name: str) -> AudioSource | None:
    """What libsndfile says about the file; None where it cannot open it."""
    try:
        with sf.SoundFile(os.fsencode(file)) as opened:
            rate, n_channels, n_samples = opened.samplerate, opened.channels, opened.frames
            container, subtype, log = opened.format.lower(), opened.subtype, opened.extra_info
    except _DECODE_ERRORS as error:
        # What libsndfile knows and finds broken is not for ffmpeg, which would drop the rest.
        if getattr(error, "code", None) == _SF_ERR_MALFORMED_FILE:
            raise AudioError(f"{name} is damaged or cut short; get a new copy of it") from error
        return None
    if container in ("wavex", "rf64"):
        container = "wav"
    if _is_cut_short(log):
        raise AudioError(f"{name} is cut short: it declares more than it holds; get a new copy")
    if n_samples == 0:
        raise AudioError(f"{name} holds no samples; choose another file")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"{name} has {rate} samples per second where 8000 to 192000 can be read; resample it"
        )
    if n_channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {n_channels} channels where {MAX_CHANNELS} can be read; split it"
        )
    if container == "ogg" and re.search(
        r"end-of-stream bit|Junk after|ended unexpectedly", log, re.I
    ):
        _log.warning("%s has no end mark: it may be cut short", name)
    layout = read_layout(file, container, subtype, n_channels)
    info = AudioInfo(rate, n_channels, container, subtype, canonical(layout))
    guessed_from = _guessed_from(file) if container == "mp3" else None
    return AudioSource(name, file, info, guessed_from, order_from(layout))


def _is_cut_short(log: str) -> bool:
    """Whether libsndfile's log of the header tells of more samples than the file holds."""
    label = r"(?:data|SSND|Data Size|riff)"
    for declared, held in re.findall(rf"^\s*{label}\s*: (\d+) \(should be (\d+)\)", log, re.M):
        size = int(declared)
        # Programs that write to a pipe cannot know the length and declare about 2 or 4 GiB.
        is_placeholder = size > 2**62 or any(abs(size - n) < 2**16 for n in (2**31, 2**32))
        # Some writers count the header in: a few dozen bytes are not a loss.
        if size - int(held) > 64 and not is_placeholder:
            return True
    match = re.search(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)", log)
    return match is not None and int(match[1]) < int(match[2]) < 2**62


def _guessed_from(file: Path) -> int | None:
    """The first frame (bytes) of an MP3 without a Xing, Info or VBRI header; else None."""
    from mutagen.mp3 import BitrateMode, MPEGInfo

    try:
        with open(file, "rb") as opened:
            # Not `MP3`, which fails on odd tags too.
            info = MPEGInfo(opened)
    except Exception:  # damaged in a way of its own: libsndfile's guess must do
        return None
    return int(info.frame_offset) if info.bitrate_mode == BitrateMode.UNKNOWN else None


class _LongerFile:
    """A file from byte `start` on that looks 64 times its size.

    libsndfile guesses the length of an MP3 without a length header from the size of its first
    frame, and reads no further: a file of variable bit rate can lose half its music that way.
    What stands before the first frame would hide from it what the file is.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 (closed in __exit__)
        self._start = self._file.seek(start)
        self._is_measuring = False

    def __enter__(self) -> "_LongerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_at_end(self) -> bool:
        return not self._file.peek(1)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._is_measuring = whence == os.SEEK_END
        n_before = self._start if whence == os.SEEK_SET else 0
        return self._file.seek(n_before + offset, whence) - self._start

    def tell(self) -> int:
        return (self._file.tell() - self._start) * (64 if self._is_measuring else 1)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


def _is_text(head: bytes) -> bool:
    if set(head) & set(range(32)) - set(b"\t\n\f\r\x1b"):
        return False
    try:
        # The last character may be cut in two.
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True


def _spool(stack: ExitStack, stream: BinaryIO, name: str) -> Path:
    """Copy a stream to a temporary file that lives as long as the stack."""
    file = _temporary_folder(stack) / "input"
    with _reading(name), open(file, "wb") as spool:
        read = getattr(stream, "read1", stream.read)
        while True:
            # A signal that another thread takes does not wake a read: look up now and then.
            while not _is_ready(stream, timeout_s=0.5):
                pass
            if not (data := read(2**20)):
                return file
            spool.write(data)


def _is_ready(stream: BinaryIO, timeout_s: float) -> bool:
    try:
        return bool(select.select([stream], [], [], timeout_s)[0])
    except (OSError, ValueError):  # no pipe, or none of Unix
        return True


def _temporary_folder(stack: ExitStack) -> Path:
    with _reading("the temporary folder"):
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mssgen-")))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn the system's errors into sentences."""
    try:
        yield
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check its spelling") from error
    except PermissionError as error:
        raise AudioError(f"{name} may not be read by this user; change its permissions") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AudioError(
                f"{name} does not fit into the temporary folder {tempfile.gettempdir()}; free some "
                "space there, or set TMPDIR to another folder"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name} cannot be read ({reason}); copy it elsewhere first") from error


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


def resample(
    blocks: Iterable[NDArray[np.float32]], n_channels: int, in_rate: int, out_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Resample blocks [C, T'] from `in_rate` to `out_rate` (Hz), without shifting them in time.

    The whole has T * out_rate / in_rate samples to within one; see `fit_length`.
    """
    if in_rate == out_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(in_rate, out_rate, n_channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(block.T)).T)
    end = np.zeros((0, n_channels), np.float32)
    yield np.ascontiguousarray(stream.resample_chunk(end, last=True).T)


def fit_length(
    blocks: Iterable[NDArray[np.float32]], n_channels: int, n_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Yield exactly `n_samples` in all from blocks [C, T']: the end is cut or padded with zeros."""
    n_left = n_samples
    for block in blocks:
        if n_left == 0:
            return
        yield block[:, :n_left]
        n_left -= min(n_left, block.shape[1])
    while n_left:
        n_zeros = min(n_left, BLOCK_SAMPLES)
        yield np.zeros((n_channels, n_zeros), np.float32)
        n_left -= n_zeros
