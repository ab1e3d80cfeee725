"""Reproducible bytes: removes the time stamp and the random serial number from new sound files."""

from pathlib import Path
from typing import Literal

from mssgen.audio.containers.ogg_pages import checksum

_PAGE_HEADER_BYTES = 27
_PEAK_HEADER_BYTES = 16  # name, size, version, time
_MAX_CHUNKS = 64


def settle(path: Path, container: str, serial: int) -> None:
    """Edit a complete file in place: zero the time of a PEAK chunk, set the Ogg serial number.

    Other containers hold nothing that varies. Raises OSError.
    """
    if container in ("wav", "aiff"):
        _zero_peak_time(path)
    elif container in ("ogg", "opus"):
        _set_serial(path, serial)


def _zero_peak_time(path: Path) -> None:
    """Zero the time (seconds since 1970) that libsndfile stores with the peak of float files."""
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
    """Set the serial number of every page of an Ogg file (RFC 3533)."""
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
            page[22:26] = checksum(bytes(page)).to_bytes(4, "little")
            file.seek(place)
            file.write(page)
            place += len(page)
