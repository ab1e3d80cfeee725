"""Finds the parts of a sound file that libsndfile can read, and decodes them."""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mssgen.audio.containers import flac_frames, mp3_frames, ogg_pages
from mssgen.audio.containers.byte_views import ByteView
from mssgen.audio.containers.file_layout import Bytes, FileLayout, Part
from mssgen.audio.containers.header_sizes import scan_caf, scan_wav

# Exceptions of soundfile on damaged files: its own, and those of its unchecked code.
DECODE_ERRORS = (sf.SoundFileError, OSError, RuntimeError, TypeError, ValueError, AssertionError)
# libsndfile declares streams of unknown length to be longer than this.
UNDECLARED = 2**62
_FLAC_BLOCK = 4096
# Xing headers count frames, and decoders have a delay.
_MPEG_TOLERANCE = 2 * 1152
_MPEG_STARTS = (b"ID3", b"TAG", b"APETAGEX")
_SCANS: tuple[tuple[bytes, Callable[[Bytes], FileLayout | None]], ...] = (
    (b"OggS", ogg_pages.scan),
    (b"fLaC", flac_frames.scan),
    (b"RIFF", scan_wav),
    (b"caff", scan_caf),
)


class DecodeError(Exception):
    """A part ended before its declared end, or the decoder failed there."""

    def __init__(self, n_samples: int, n_declared: int, *, is_failure: bool) -> None:
        super().__init__(f"after {n_samples} of {n_declared} samples")
        self.n_samples = n_samples
        """Samples decoded before the error."""
        self.n_declared = n_declared
        """Declared length; 0 if unknown."""
        self.is_failure = is_failure
        """Whether the decoder failed, rather than ending early."""


class SoundStream(sf.SoundFile):  # type: ignore[misc]
    """A sound file read from its start without seeking, which fails if the length is wrong."""

    def seekable(self) -> bool:
        return False


def mapped(path: Path) -> "mmap.mmap | bytes":
    """Map a file into memory instead of reading all of it."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def find_layout(
    path: Path, *, is_thorough: bool = False, is_mp3: bool = False
) -> FileLayout | None:
    """Layout of a file that is damaged, joined or has a wrong header; None to read it as it is.

    `is_thorough` also finds joined FLAC files, which takes a search of the whole file. `is_mp3`
    looks for MPEG frames whatever the first bytes are.
    """
    data = mapped(path)
    for start, scan in _SCANS:
        if data[:4] == start:
            found = flac_frames.layout if is_thorough and start == b"fLaC" else scan
            return found(data)
    if is_mp3 or data[:8].startswith(_MPEG_STARTS) or mp3_frames.parse_header(data[:4]) is not None:
        return mp3_frames.scan(data)
    return None


def open_stream(stack: ExitStack, path: Path, part: Part | None) -> sf.SoundFile:
    """Open a part of a file, or with None the file as it is; raises `DECODE_ERRORS`."""
    if part is None:
        return stack.enter_context(SoundStream(os.fsencode(path)))
    return stack.enter_context(SoundStream(stack.enter_context(ByteView(path, part.pieces))))


def decode_part(path: Path, part: Part | None, block_samples: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of a part as blocks [C, T'], T' at most `block_samples`.

    Raises DecodeError after the last valid block if the part ends early.
    """
    with ExitStack() as stack:
        try:
            file = open_stream(stack, path, part)
        except DECODE_ERRORS as error:
            raise DecodeError(0, 0, is_failure=True) from error
        limit = part.n_samples if part is not None else None
        n_declared = file.frames if file.frames < UNDECLARED else 0
        # Read frame by frame, so that frames before a damaged one are not lost with it.
        step = _flac_block(path, part) if file.format == "FLAC" else block_samples
        if file.format == "FLAC" and limit is None and n_declared:
            limit = n_declared  # data after the last frame would corrupt it
        for block in _read(file, n_declared, limit, min(step, block_samples), block_samples):
            yield np.ascontiguousarray(block.T)


def _flac_block(path: Path, part: Part | None) -> int:
    """Number of samples per FLAC frame."""
    size = path.stat().st_size
    with ByteView(path, (range(size),) if part is None else part.pieces) as view:
        head = view.read(2**12)
    info = flac_frames.stream_info(head, max(0, head.find(b"fLaC")))
    return _FLAC_BLOCK if info is None else info.block_samples or _FLAC_BLOCK


def _read(
    file: sf.SoundFile, n_declared: int, limit: int | None, step: int, block_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Yield blocks [T', C], each joined from several reads of `step` samples."""
    n_read, waiting = 0, list[NDArray[np.float32]]()
    failure: Exception | None = None
    while limit is None or n_read < limit:
        try:
            n_wanted = step if limit is None else min(step, limit - n_read)
            block: Any = file.read(n_wanted, dtype="float32", always_2d=True)
        except DECODE_ERRORS as error:
            failure = error
            break
        if not len(block):
            break
        n_read += len(block)
        waiting.append(block)
        if sum(map(len, waiting)) + step > block_samples:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting:
        yield np.concatenate(waiting)
    n_declared = n_declared if limit is None else limit
    tolerance = _MPEG_TOLERANCE if file.subtype.startswith("MPEG") else 0
    if n_read < n_declared - tolerance or (failure is not None and not n_declared):
        raise DecodeError(n_read, n_declared, is_failure=failure is not None) from failure
