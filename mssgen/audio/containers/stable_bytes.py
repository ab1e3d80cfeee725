"""Takes out of a new sound file what differs from run to run: the time, and a random number."""

import zlib
from pathlib import Path
from typing import Literal

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_PAGE_HEADER_BYTES = 27
_PEAK_HEADER_BYTES = 16  # name, size, version, time
_MAX_CHUNKS = 64


def settle(path: Path, container: str, serial: int) -> None:
    """Rewrite a complete file in place: no time in a PEAK chunk, `serial` for an Ogg stream.

    Files of other containers have the same bytes every time. Raises OSError.
    """
    if container in ("wav", "aiff"):
        _zero_peak_time(path)
    elif container in ("ogg", "opus"):
        _set_serial(path, serial)


def _zero_peak_time(path: Path) -> None:
    """Of floats libsndfile notes the peak, and when it was found, in seconds since 1970."""
    with open(path, "r+b") as file:
        order: Literal["big", "little"] = "big" if file.read(4) == b"FORM" else "little"
        place = 12
        for _ in range(_MAX_CHUNKS):
            file.seek(place)
            head = file.read(_PEAK_HEADER_BYTES)
            if len(head) < _PEAK_HEADER_BYTES or head[:4] in (b"data", b"SSND"):
                return
            if head[:4] == b"PEAK":
                file.seek(place + 12)
                file.write(bytes(4))
                return
            n_bytes = int.from_bytes(head[4:8], order)
            place += 8 + n_bytes + n_bytes % 2


def _set_serial(path: Path, serial: int) -> None:
    """Give every page of an Ogg file this serial number (RFC 3533)."""
    with open(path, "r+b") as file:
        place = 0
        while True:
            file.seek(place)
            page = bytearray(file.read(_PAGE_HEADER_BYTES))
            if page[:4] != b"OggS" or len(page) < _PAGE_HEADER_BYTES:
                return
            lengths = file.read(page[26])
            page += lengths + file.read(sum(lengths))
            page[14:18] = serial.to_bytes(4, "little")
            page[22:26] = bytes(4)
            page[22:26] = _ogg_crc(page).to_bytes(4, "little")
            file.seek(place)
            file.write(page)
            place += len(page)


def _ogg_crc(page: bytes | bytearray) -> int:
    """Ogg's CRC is that of zlib with all bits the other way round, from 0 instead of ones."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
