"""Reads and writes the speakers of channels in the headers of containers.

Names and sources are in `mssgen.audio.speakers`.
"""

import logging
from pathlib import Path
from typing import BinaryIO

from mssgen.audio.containers.chunks import chunks, find_chunk
from mssgen.audio.speakers import (
    NAMES,
    Layout,
    has_own_mask,
    layout_of_mask,
    mask_of_layout,
    usual_layout,
)

_log = logging.getLogger(__name__)

_EXTENSIBLE = 0xFFFE
_MASK_AT = 20  # offset in the content of `fmt `, bytes
_W64_FORMAT = bytes.fromhex("666d7420f3acd3118cd100c04f8edb8a")
_FLAC_MASK = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
# Core Audio: layout tag (without the number of channels in its lower half) to speakers in the
# file's order. A single pair of surrounds is named back, as in WAV.
_CORE_AUDIO = {
    113: "L R C",
    114: "C L R",
    115: "L R C Cb",
    116: "C L R Cb",
    117: "L R C Lb Rb",
    118: "L R Lb Rb C",
    119: "L C R Lb Rb",
    120: "C L R Lb Rb",
    121: "L R C LFE Lb Rb",
    122: "L R Lb Rb C LFE",
    123: "L C R Lb Rb LFE",
    124: "C L R Lb Rb LFE",
    125: "L R C LFE Lb Rb Cb",
    126: "L R C LFE Lb Rb Lc Rc",
    127: "C Lc Rc L R Lb Rb LFE",
    128: "L R C LFE Ls Rs Lb Rb",
    129: "L R Lb Rb C LFE Lc Rc",
    108: "L R Lb Rb",
    131: "L R Cb",
    132: "L R Lb Rb",
    133: "L R LFE",
    134: "L R LFE Cb",
    135: "L R LFE Lb Rb",
    136: "L R C LFE",
    137: "L R C LFE Cb",
    138: "L R Lb Rb LFE",
}
_USE_DESCRIPTIONS, _USE_BITMAP = 0, 1
# Labels 1 to 18 are the bits of a mask; 33 and 34 are back surrounds beside side surrounds.
_BEHIND = 33
_LABELS = dict(enumerate(NAMES, start=1)) | {_BEHIND: "Lb", _BEHIND + 1: "Rb"}
_AT_THE_SIDE = {5: "Ls", 6: "Rs"}


def read_layout(path: Path, container: str, subtype: str, n_channels: int) -> Layout:
    """Read the speakers of a file, in its own channel order; () if they are unknown.

    Args:
        path: the file.
        container, subtype: libsndfile's names, in lower and upper case.
        n_channels: number of channels; a header with another number is ignored.
    """
    container = "opus" if subtype == "OPUS" else container
    try:
        with open(path, "rb") as file:
            found = _READERS.get(container, _nothing)(file, n_channels)
    except (OSError, ValueError, IndexError) as error:
        _log.debug("no speakers from %s: %r", path, error)
        found = None
    if found is None:
        return usual_layout(n_channels, container)
    return found if len(found) == n_channels == len(set(found)) else ()


def write_layout(path: Path, layout: Layout, container: str) -> None:
    """Write the speakers into a finished file, if its format can hold them.

    A wav must have been written as WAVE_FORMAT_EXTENSIBLE. Raises OSError.
    """
    if container == "wav":
        _write_mask(path, mask_of_layout(layout))
    elif len(layout) > 2 and container in ("aiff", "caf"):
        _append_core_audio(path, layout, is_caf=container == "caf")
    elif container == "flac" and has_own_mask(layout) and len(layout) > 2:
        from mutagen.flac import FLAC

        file = FLAC(path)
        file[_FLAC_MASK] = f"0x{mask_of_layout(layout):04X}"
        file.save()


def _nothing(file: BinaryIO, n_channels: int) -> Layout | None:
    return None


def _of_mask(mask: int, n_channels: int) -> Layout | None:
    return layout_of_mask(mask, n_channels) if mask else None


def _of_format(content: bytes, n_channels: int) -> Layout | None:
    """Layout from the content of `fmt ` in a wav; None if it has no mask."""
    if int.from_bytes(content[:2], "little") != _EXTENSIBLE or len(content) < _MASK_AT + 4:
        return None
    return _of_mask(int.from_bytes(content[_MASK_AT : _MASK_AT + 4], "little"), n_channels)


def _wav(file: BinaryIO, n_channels: int) -> Layout | None:
    return _of_format(find_chunk(file, b"fmt ", n_bytes=40) or b"", n_channels)


def _w64(file: BinaryIO, n_channels: int) -> Layout | None:
    head = file.read(4096)
    at = head.find(_W64_FORMAT)
    return None if at < 0 else _of_format(head[at + 24 :], n_channels)


def _core_audio(name: bytes, file: BinaryIO, n_channels: int) -> Layout | None:
    content = find_chunk(file, name, n_bytes=12 + 20 * len(NAMES)) or b""
    if len(content) < 12:
        return None
    tag, bitmap, n_described = (
        int.from_bytes(content[at : at + 4], "big") for at in range(0, 12, 4)
    )
    kind = tag >> 16
    if kind == _USE_BITMAP:
        return _of_mask(bitmap, n_channels)
    if kind in _CORE_AUDIO:
        return tuple(_CORE_AUDIO[kind].split())
    if tag != _USE_DESCRIPTIONS or n_described != n_channels:
        return None
    labels = [
        int.from_bytes(content[at : at + 4], "big") for at in range(12, 12 + 20 * n_channels, 20)
    ]
    known = _LABELS | (_AT_THE_SIDE if _BEHIND in labels else {})
    names = [known.get(label, "") for label in labels]
    return tuple(names) if all(names) else ()


def _flac(file: BinaryIO, n_channels: int) -> Layout | None:
    if file.read(4) != b"fLaC":
        return None
    for _ in range(128):
        header = file.read(4)
        size = int.from_bytes(header[1:], "big")
        if len(header) < 4:
            return None
        if header[0] & 0x7F == 4:
            return _of_comments(file.read(size), n_channels)
        if header[0] & 0x80:
            return None
        file.seek(size, 1)
    return None


def _of_comments(block: bytes, n_channels: int) -> Layout | None:
    key = f"{_FLAC_MASK}=".encode()
    at = block.upper().find(key)
    if at < 4:
        return None
    size = int.from_bytes(block[at - 4 : at], "little")
    return _of_mask(int(block[at + len(key) : at + size].decode("ascii"), 0), n_channels)


def _opus(file: BinaryIO, n_channels: int) -> Layout | None:
    head = file.read(4096)
    at = head.find(b"OpusHead")
    # Mapping families above 1 have no speakers (ambisonics or undefined).
    return () if at >= 0 and n_channels > 2 and head[at + 18] > 1 else None


_READERS = {
    "wav": _wav,
    "w64": _w64,
    "aiff": lambda file, n_channels: _core_audio(b"CHAN", file, n_channels),
    "caf": lambda file, n_channels: _core_audio(b"chan", file, n_channels),
    "flac": _flac,
    "opus": _opus,
}


def _write_mask(path: Path, mask: int) -> None:
    with open(path, "r+b") as file:
        for chunk in chunks(file):
            if chunk.name == b"fmt ":
                file.seek(chunk.start)
                tag, n_channels = (int.from_bytes(file.read(2), "little") for _ in range(2))
                if tag == _EXTENSIBLE and (mask or n_channels > 2):
                    file.seek(chunk.start + _MASK_AT)
                    file.write(mask.to_bytes(4, "little"))
                return


def _append_core_audio(path: Path, layout: Layout, *, is_caf: bool) -> None:
    content = b"".join(
        number.to_bytes(4, "big") for number in (_USE_BITMAP << 16, mask_of_layout(layout), 0)
    )
    with open(path, "r+b") as file:
        n_bytes = file.seek(0, 2)
        if is_caf:
            file.write(b"chan" + len(content).to_bytes(8, "big") + content)
            return
        file.write(b"\0" * (n_bytes % 2) + b"CHAN" + len(content).to_bytes(4, "big") + content)
        n_bytes = file.tell()
        file.seek(4)
        file.write((n_bytes - 8).to_bytes(4, "big"))
