"""Studio chunks of WAV files: time stamp, loops, cues, tempo and notes.

They are copied from a WAV (or RF64) into its stems, so that a workstation places the stems where
the song was. At another sample rate, positions in samples are converted.

Sources: EBU Tech 3285 (`bext`); Microsoft, "Multimedia Programming Interface and Data
Specifications" 1.0 (`cue `, `LIST` of type `adtl`) and "New Multimedia Data Types" (`smpl`); the
iXML specification 3.0. `acid` counts in beats and is not converted.
"""

import logging
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mssgen.audio.containers.chunks import chunks
from mssgen.audio.resampling import out_samples

_log = logging.getLogger(__name__)

_KEPT = (b"bext", b"smpl", b"cue ", b"acid", b"iXML", b"LIST")
_MAX_BYTES = 2**23
"""Limit for all chunks together; below the margin that `Encoding.sndfile_format` leaves."""


@dataclass(frozen=True)
class StudioChunks:
    """Studio chunks of one file."""

    sample_rate: int
    """Rate in Hz of the sample positions in the chunks."""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """(name, content) in the order of the file."""

    def at(self, sample_rate: int) -> "StudioChunks":
        """Convert the positions to another rate in Hz."""
        if sample_rate == self.sample_rate:
            return self
        return StudioChunks(
            sample_rate,
            tuple(
                (name, _CONVERT.get(name, _as_it_is)(content, self.sample_rate, sample_rate))
                for name, content in self.chunks
            ),
        )


def read_studio_chunks(path: Path, sample_rate: int) -> StudioChunks:
    """Read the chunks of a WAV or RF64 file; none from other formats, unreadable or huge chunks."""
    found, n_bytes = [], 0
    try:
        with open(path, "rb") as file:
            if file.read(4) not in (b"RIFF", b"RF64", b"BW64"):
                return StudioChunks(sample_rate)
            for chunk in chunks(file):
                if chunk.name not in _KEPT or n_bytes + chunk.size > _MAX_BYTES:
                    continue
                file.seek(chunk.start)
                content = file.read(chunk.size)
                # Other lists are titles and the like, which are copied as tags.
                is_other_list = chunk.name == b"LIST" and content[:4] != b"adtl"
                if len(content) == chunk.size and not is_other_list:
                    found.append((chunk.name, content))
                    n_bytes += chunk.size
    except OSError as error:  # never a reason to lose a song
        _log.debug("no chunks from %s: %r", path, error)
    return StudioChunks(sample_rate, tuple(found))


def write_studio_chunks(path: Path, studio: StudioChunks) -> None:
    """Append the chunks to a finished WAV or RF64 file; raises OSError."""
    if not studio.chunks:
        return
    with open(path, "r+b") as file:
        file.write(b"\0" * (file.seek(0, 2) % 2))
        for name, content in studio.chunks:
            file.write(name + len(content).to_bytes(4, "little") + content)
            file.write(b"\0" * (len(content) % 2))
        _declare_size(file, file.tell() - 8)


def _declare_size(file: BinaryIO, n_bytes: int) -> None:
    file.seek(0)
    if file.read(4) == b"RIFF":
        file.write(n_bytes.to_bytes(4, "little"))
        return
    for chunk in chunks(file):
        if chunk.name == b"ds64":
            file.seek(chunk.start)
            file.write(n_bytes.to_bytes(8, "little"))
            return


def _as_it_is(content: bytes, in_rate: int, out_rate: int) -> bytes:
    return content


def _convert_u32(content: bytearray, at: int, in_rate: int, out_rate: int) -> None:
    """Convert the position at byte `at` in place; 0xFFFFFFFF means none and stays."""
    if at + 4 <= len(content):
        (position,) = struct.unpack_from("<I", content, at)
        if position != 2**32 - 1:
            moved = min(out_samples(position, in_rate, out_rate), 2**32 - 2)
            struct.pack_into("<I", content, at, moved)


def _bext(content: bytes, in_rate: int, out_rate: int) -> bytes:
    at, found = 338, bytearray(content)
    if len(found) >= at + 8:
        (reference,) = struct.unpack_from("<Q", found, at)
        struct.pack_into("<Q", found, at, out_samples(reference, in_rate, out_rate) % 2**64)
    return bytes(found)


def _smpl(content: bytes, in_rate: int, out_rate: int) -> bytes:
    found = bytearray(content)
    if len(found) >= 36:
        struct.pack_into("<I", found, 8, round(1e9 / out_rate))
        (n_loops,) = struct.unpack_from("<I", found, 28)
        for index in range(min(n_loops, (len(found) - 36) // 24)):
            _convert_u32(found, 36 + 24 * index + 8, in_rate, out_rate)
            _convert_u32(found, 36 + 24 * index + 12, in_rate, out_rate)
    return bytes(found)


def _cue(content: bytes, in_rate: int, out_rate: int) -> bytes:
    found = bytearray(content)
    for index in range((len(found) - 4) // 24):
        _convert_u32(found, 4 + 24 * index + 4, in_rate, out_rate)
        _convert_u32(found, 4 + 24 * index + 20, in_rate, out_rate)
    return bytes(found)


def _labels(content: bytes, in_rate: int, out_rate: int) -> bytes:
    """Convert the lengths of labelled regions (`ltxt`) in an `adtl` list."""
    found, at = bytearray(content), 4
    while at + 8 <= len(found):
        (size,) = struct.unpack_from("<I", found, at + 4)
        if found[at : at + 4] == b"ltxt":
            _convert_u32(found, at + 12, in_rate, out_rate)
        at += 8 + size + size % 2
    return bytes(found)


def _ixml(content: bytes, in_rate: int, out_rate: int) -> bytes:
    halves = [
        re.search(rb"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_%s>\s*(\d+)" % half, content)
        for half in (b"HI", b"LO")
    ]
    if halves[0] and halves[1]:
        stamp = int(halves[0][1]) << 32 | int(halves[1][1])
        stamp = out_samples(stamp, in_rate, out_rate)
        content = _with_number(content, b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI", stamp >> 32)
        content = _with_number(content, b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO", stamp % 2**32)
    for name in (b"FILE_SAMPLE_RATE", b"TIMESTAMP_SAMPLE_RATE"):
        content = _with_number(content, name, out_rate)
    return content


def _with_number(content: bytes, name: bytes, number: int) -> bytes:
    return re.sub(rb"(<%s>)\s*\d+\s*(</)" % name, rb"\g<1>%d\g<2>" % number, content)


_CONVERT: dict[bytes, Callable[[bytes, int, int], bytes]] = {
    b"bext": _bext,
    b"smpl": _smpl,
    b"cue ": _cue,
    b"LIST": _labels,
    b"iXML": _ixml,
}
