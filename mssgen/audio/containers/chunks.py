"""Finds the chunks of wav, rf64, aiff and caf files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_UNKNOWN_32 = 2**32 - 1
_MAX_CHUNKS = 10_000


@dataclass(frozen=True)
class Chunk:
    """One chunk of a file."""

    name: bytes
    """Four bytes."""
    start: int
    """Position of the content, in bytes from the start of the file."""
    size: int
    """Declared size of the content, in bytes."""


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks of a RIFF, RF64, BW64, AIFF or CAF file up to damage; none for other files.

    The position of `file` may be changed between two chunks.
    """
    file.seek(0)
    head = file.read(12)
    n_bytes = file.seek(0, 2)
    is_caf, is_big = head[:4] == b"caff", head[:4] in (b"caff", b"FORM")
    if not (is_caf or (is_big and head[8:11] == b"AIF") or _is_wave(head)):
        return
    position, size_bytes, data_size = (8 if is_caf else 12), (8 if is_caf else 4), 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(4 + size_bytes)
        if len(header) < 4 + size_bytes:
            return
        name, size = header[:4], int.from_bytes(header[4:], "big" if is_big else "little")
        start = position + len(header)
        if name == b"ds64":
            data_size = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data" and size == _UNKNOWN_32 and not is_big and data_size:
            size = data_size
        yield Chunk(name, start, size)
        position = start + size + (0 if is_caf else size % 2)
        if position >= n_bytes:
            return


def _is_wave(head: bytes) -> bool:
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def find_chunk(file: BinaryIO, name: bytes, *, n_bytes: int) -> bytes | None:
    """First `n_bytes` of the content of chunk `name`; None if there is no such chunk."""
    for chunk in chunks(file):
        if chunk.name == name:
            file.seek(chunk.start)
            return file.read(min(n_bytes, chunk.size))
    return None
