"""Views of a file: byte ranges of it and other bytes, joined to a virtual file.

libsndfile trusts headers and stops at the first damaged frame. A view gives it a corrected header
and intact frames only, without changing the file.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

Piece = bytes | range
"""Literal bytes, or a range of byte positions in the file."""


class ByteView:
    """A read-only virtual file that joins `pieces`; close it, or use it as a context manager."""

    def __init__(self, path: Path, pieces: Sequence[Piece]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 (closed in close)
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0, *accumulate(map(len, self._pieces))]
        self._position = 0

    def __enter__(self) -> "ByteView":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._position, self._starts[-1])[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        n_left = self._starts[-1] - self._position
        n_left = n_left if size < 0 else min(size, n_left)
        found = []
        while n_left > 0:
            index = bisect_right(self._starts, self._position) - 1
            piece, skipped = self._pieces[index], self._position - self._starts[index]
            n_wanted = min(n_left, len(piece) - skipped)
            if isinstance(piece, bytes):
                data = piece[skipped : skipped + n_wanted]
            else:
                self._file.seek(piece.start + skipped)
                data = self._file.read(n_wanted)
            if not data:  # the file became shorter
                break
            found.append(data)
            self._position += len(data)
            n_left -= len(data)
        return b"".join(found)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def patched(pieces: Sequence[Piece], position: int, data: bytes) -> tuple[Piece, ...]:
    """Replace the bytes of the file from `position` on with `data`.

    The replaced bytes must be within one range of `pieces`.
    """
    changed: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, range) and piece.start <= position < piece.stop:
            end = position + len(data)
            changed += [range(piece.start, position), data, range(end, piece.stop)]
        else:
            changed.append(piece)
    return tuple(changed)
