"""Sizes in the headers of WAV and CAF files that say less than the file holds.

A recorder that crashed leaves 0; one that passed 4 GiB leaves the rest of a division by 2^32; what
was written to a pipe says -1. The samples are there all the same.
"""

import struct
from collections.abc import Iterator

from mssgen.byte_views import patched
from mssgen.sound_layout import Bytes, Layout, Part

_UNKNOWN = 0xFFFFFFFF
# More than this behind a wrapped size is not a list of tags.
_MAX_EXTRA_BYTES = 2**25
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def scan_wav(data: Bytes) -> Layout | None:
    """The whole of a WAV file whose data are longer than their size says; None: it is in order."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    for name, start, size in _chunks(data):
        if name != b"data":
            continue
        if size == _UNKNOWN:
            return None
        n_held = len(data) - start
        if size == 0 and n_held > 8 and not _is_chunk(data, start):
            loss = "has a header that says 0 samples, as a recorder leaves that was stopped early"
            # libsndfile takes no unknown size here, so this one is at most 4 GiB.
            return _with_size(data, start, n_held, f"{loss}: its end may be missing")
        n_beyond = n_held - size
        if n_beyond >= 2**32 and n_beyond % 2**32 <= _MAX_EXTRA_BYTES:
            return _with_size(data, start, _UNKNOWN, "")
        after = start + size + size % 2
        rest = data[after : after + 64]
        is_sound = n_beyond > 4096 and not _is_chunk(data, after) and not rest.startswith(_TAGS)
        if is_sound and any(data[after : after + 2**16]):
            return Layout(
                (Part((range(len(data)),)),),
                (f"holds {n_beyond} bytes behind the sound that its header declares, not read",),
            )
        return None
    return None


def _with_size(data: Bytes, start: int, size: int, loss: str) -> Layout:
    """The data chunk whose samples start at byte `start`, with another size."""
    field = struct.pack("<I", min(size, _UNKNOWN))
    pieces = patched((range(len(data)),), start - 4, field)
    pieces = patched(pieces, 4, struct.pack("<I", min(len(data) - 8, _UNKNOWN)))
    return Layout((Part(pieces),), (loss,) if loss else ())


def _chunks(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte of the content, size that is declared)."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position : position + 8])
        yield name, position + 8, size
        position += 8 + size + size % 2


def _is_chunk(data: Bytes, position: int) -> bool:
    """Whether a chunk that fits into the file begins here, or the file ends."""
    head = data[position : position + 8]
    if len(head) < 8:
        return True
    name, size = struct.unpack("<4sI", head)
    return all(32 <= byte < 127 for byte in name) and position + 8 + size <= len(data) + 1


def scan_caf(data: Bytes) -> Layout | None:
    """A CAF file whose data reach to its end, with that size; None: the size is there."""
    position = 8
    while data[:4] == b"caff" and position + 12 <= len(data):
        name, size = struct.unpack(">4sq", data[position : position + 12])
        if name == b"data" and size == -1:
            field = struct.pack(">q", len(data) - position - 12)
            return Layout((Part(patched((range(len(data)),), position + 4, field)),))
        if size < 0:
            return None
        position += 12 + size
    return None
