"""WAV and CAF headers that declare less audio than the file holds.

A recorder that crashed leaves the size 0, one that passed 4 GiB the size modulo 2^32, and a program
that writes to a pipe -1. The samples are there nevertheless.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise

from mssgen.audio.containers.byte_views import patched
from mssgen.audio.containers.file_layout import Bytes, FileLayout, Part, cut_short

_UNKNOWN = 0xFFFFFFFF
# More bytes than this after the data are not a list of tags.
_MAX_EXTRA_BYTES = 2**25
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def scan_wav(data: Bytes) -> FileLayout | None:
    """Layout of joined WAV files, or of one that is longer than declared; None if all is right."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    starts = _riff_starts(data)
    if len(starts) > 1:
        parts = (Part((range(*ends),)) for ends in pairwise([*starts, len(data)]))
        return FileLayout(tuple(parts))
    for name, start, size in _chunks(data):
        if name != b"data":
            continue
        n_held = len(data) - start
        if size == 0 and n_held > 8 and not _is_chunk(data, start):
            loss = "declares 0 samples, as after a recording that was interrupted"
            return FileLayout((_whole(data, start),), (f"{loss}: its end may be missing",))
        n_beyond = n_held - size
        if n_beyond >= 2**32 and n_beyond % 2**32 <= _MAX_EXTRA_BYTES:
            n_bytes = size + n_beyond // 2**32 * 2**32
            return FileLayout((_whole(data, start, n_bytes),))
        if size == _UNKNOWN:
            return FileLayout((_whole(data, start),)) if n_held > _UNKNOWN else None
        after = start + size + size % 2
        rest = data[after : after + 64]
        is_sound = n_beyond > 4096 and not _is_chunk(data, after) and not rest.startswith(_TAGS)
        if is_sound and any(data[after : after + 2**16]):
            return FileLayout(
                (Part((range(len(data)),)),),
                (f"holds {n_beyond} bytes after the audio that its header declares; not read",),
            )
        return None
    return None


def _riff_starts(data: Bytes) -> list[int]:
    """Where each of several joined WAV files starts."""
    starts, position = list[int](), 0
    while (
        data[position : position + 4] == b"RIFF" and data[position + 8 : position + 12] == b"WAVE"
    ):
        starts.append(position)
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return starts


def _whole(data: Bytes, start: int, n_bytes: int | None = None) -> Part:
    """The file with a data chunk of `n_bytes` from byte `start`; None is up to the end.

    Above 4 GiB the header becomes RF64 (EBU Tech 3306).
    """
    n_bytes = len(data) - start if n_bytes is None else n_bytes
    stop = start + n_bytes
    if n_bytes < _UNKNOWN - start:
        riff, size = (struct.pack("<I", n) for n in (stop - 8, n_bytes))
        return Part((b"RIFF", riff, range(8, start - 4), size, range(start, stop)))
    unknown = struct.pack("<I", _UNKNOWN)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, stop + 28, n_bytes, 0, 0)
    head = b"RF64" + unknown + b"WAVE" + sizes
    return Part((head, range(12, start - 4), unknown, range(start, stop)))


def _chunks(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, position of the content, declared size) of each chunk."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position : position + 8])
        yield name, position + 8, size
        position += 8 + size + size % 2


def _is_chunk(data: Bytes, position: int) -> bool:
    """Whether a chunk that fits into the file starts at `position`, or the file ends there."""
    head = data[position : position + 8]
    if len(head) < 8:
        return True
    name, size = struct.unpack("<4sI", head)
    return all(32 <= byte < 127 for byte in name) and position + 8 + size <= len(data) + 1


def scan_caf(data: Bytes) -> FileLayout | None:
    """Layout of a CAF file whose declared data size is wrong; None if it is right."""
    position, bytes_per_s = 8, 0.0
    while data[:4] == b"caff" and position + 12 <= len(data):
        name, size = struct.unpack(">4sq", data[position : position + 12])
        n_held = len(data) - position - 12
        if name == b"desc" and n_held >= 32:
            rate, _, _, n_bytes, n_samples = struct.unpack(
                ">d4sIII", data[position + 12 : position + 36]
            )
            bytes_per_s = n_bytes / max(1, n_samples) * rate
        if name == b"data" and (size == -1 or (size > n_held and bytes_per_s)):
            part = Part(patched((range(len(data)),), position + 4, struct.pack(">q", n_held)))
            if size == -1:
                return FileLayout((part,))
            return FileLayout((part,), (cut_short(n_held / bytes_per_s, size / bytes_per_s),))
        if size < 0:
            return None
        position += 12 + size
    return None
