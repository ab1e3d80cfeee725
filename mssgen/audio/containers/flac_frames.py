"""FLAC frames: finds the true length of a file, and where audio resumes after damage (RFC 9639).

The number of samples in the first block of a FLAC file is written last: it is 0 in streams, and
wrong if a program stopped early.
"""

import re
from dataclasses import dataclass

from mssgen.audio.containers.byte_views import Piece
from mssgen.audio.containers.file_layout import Bytes, FileLayout, Part, cut_short

_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_JOIN = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_INFO_STOP = 42
# Tags that may follow the last frame, besides zeros.
_BEHIND = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")
_TAIL_BYTES = 2**18


def _table(polynomial: int, n_bits: int) -> tuple[int, ...]:
    top, mask = 1 << n_bits - 1, (1 << n_bits) - 1
    table = []
    for byte in range(256):
        value = byte << n_bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return tuple(table)


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


@dataclass(frozen=True)
class StreamInfo:
    """STREAMINFO, the first block of a FLAC file."""

    start: int
    """Position of the FLAC file in the data, in bytes."""
    min_block: int
    """Smallest frame, in samples."""
    max_block: int
    """Largest frame, in samples."""
    sample_rate: int
    n_channels: int
    n_samples: int
    """Length in samples; 0 if unknown."""
    data: bytes
    """Content of the block, 34 bytes."""

    @property
    def block_samples(self) -> int:
        """Samples per frame, except the last; 0 if frames differ in length."""
        return self.min_block if self.min_block == self.max_block else 0

    def head(self, n_samples: int) -> bytes:
        """Header of a FLAC file that has only this block, with the length `n_samples`."""
        packed = int.from_bytes(self.data[10:18], "big") >> 36 << 36 | n_samples
        return b"fLaC\x80\0\0\x22" + self.data[:10] + packed.to_bytes(8, "big") + self.data[18:]


@dataclass(frozen=True)
class Frame:
    """Place of a frame."""

    start: int
    """In bytes from the start of the data."""
    position: int
    """In samples from the start of the stream."""
    n_samples: int

    @property
    def end(self) -> int:
        """Position of the next frame, in samples."""
        return self.position + self.n_samples


def stream_info(data: Bytes, start: int = 0) -> StreamInfo | None:
    """Parse the first block of the FLAC file at byte `start`; None if there is none."""
    head = data[start : start + _INFO_STOP]
    if len(head) < _INFO_STOP or not _JOIN.match(head):
        return None
    block = head[8:]
    packed = int.from_bytes(block[10:18], "big")
    return StreamInfo(
        start,
        int.from_bytes(block[:2], "big"),
        int.from_bytes(block[2:4], "big"),
        packed >> 44,
        (packed >> 41 & 7) + 1,
        packed & 2**36 - 1,
        block,
    )


def parse_frame(data: Bytes, start: int, info: StreamInfo) -> Frame | None:
    """Parse the frame header at byte `start`; None if it is not valid."""
    head = data[start : start + 18]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code, channel_code = head[2] >> 4, head[2] & 15, head[3] >> 4
    if size_code == 0 or rate_code == 15 or channel_code > 10:
        return None
    if (channel_code + 1 if channel_code < 8 else 2) != info.n_channels:
        return None
    number, at = _coded_number(head)
    if number is None:
        return None
    extra = {6: 1, 7: 2}.get(size_code, 0)
    if extra:
        n_samples = int.from_bytes(head[at : at + extra], "big") + 1
    else:
        n_samples = 192 if size_code == 1 else 576 << size_code - 2
        n_samples = 256 << size_code - 8 if size_code >= 8 else n_samples
    at += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(head) or _crc(head[:at], _CRC8, 8) != head[at]:
        return None
    is_variable = head[1] & 1
    position = number if is_variable else number * (info.block_samples or n_samples)
    return Frame(start, position, n_samples)


def _coded_number(head: bytes) -> tuple[int | None, int]:
    """(number of the frame or sample, index after it), coded like a UTF-8 character from byte 4."""
    first = head[4]
    n_more = 0
    while first << n_more & 0x80:
        n_more += 1
    if n_more == 1 or n_more > 7:
        return None, 5
    n_more = max(0, n_more - 1)
    number = first & (0x7F if not n_more else (1 << 6 - n_more) - 1)
    for byte in head[5 : 5 + n_more]:
        if byte & 0xC0 != 0x80:
            return None, 5
        number = number << 6 | byte & 0x3F
    return number, 5 + n_more


def _crc(data: bytes, table: tuple[int, ...], n_bits: int) -> int:
    value, shift, mask = 0, n_bits - 8, (1 << n_bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> shift ^ byte]
    return value


def last_frame(data: Bytes, info: StreamInfo, stop: int) -> tuple[Frame, Frame | None] | None:
    """(last complete frame, incomplete frame after it or None) before byte `stop`."""
    size = _TAIL_BYTES
    while True:
        first = max(info.start + _INFO_STOP, stop - size)
        tail = data[first:stop]
        frames = [
            frame
            for match in _SYNC.finditer(tail)
            if (frame := parse_frame(data, first + match.start(), info)) is not None
        ]
        for index in range(len(frames) - 1, 0, -1):
            before, frame = frames[index - 1], frames[index]
            if before.end == frame.position:
                is_whole = _is_whole(data[frame.start : stop])
                return (frame, None) if is_whole else (before, frame)
        if first == info.start + _INFO_STOP:
            if len(frames) == 1 and _is_whole(data[frames[0].start : stop]):
                return frames[0], None
            return None
        size *= 8


def _is_whole(data: bytes) -> bool:
    """Whether the frame at the start of `data` ends in it: its CRC-16, checksum included, is 0."""
    value = 0
    for n_bytes, byte in enumerate(data, 1):
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
        if value == 0 and n_bytes > 8:
            rest = data[n_bytes : n_bytes + 2**12]
            if not any(rest) or rest.startswith(_BEHIND):
                return True
    return False


def scan(data: Bytes) -> FileLayout | None:
    """Layout of a FLAC file; None if its declared length is right or no frame is found."""
    info = stream_info(data)
    if info is None:
        return None
    last = last_frame(data, info, len(data))
    if last is None or info.n_samples in [frame.end for frame in last if frame is not None]:
        return None
    return layout(data)


def layout(data: Bytes) -> FileLayout | None:
    """Layout of a FLAC file, searching all of it for joined FLAC files; None as for `scan`."""
    starts = [match.start() for match in _JOIN.finditer(data)]  # type: ignore[call-overload]
    parts, losses = [], []
    is_plain = len(starts) == 1
    for start, stop in zip(starts, [*starts[1:], len(data)], strict=True):
        info = stream_info(data, start)
        last = None if info is None else last_frame(data, info, stop)
        if info is None or last is None:
            return None
        frame, broken = last
        if broken is not None and broken.end == info.n_samples:
            frame, broken = broken, None  # junk follows it, or it is cut: left to the decoder
        is_plain &= frame.end == info.n_samples
        if info.n_samples > frame.end:
            rate = info.sample_rate
            losses.append(cut_short(frame.end / rate, info.n_samples / rate))
        elif broken is not None:
            losses.append(
                f"ends within a frame after {frame.end / info.sample_rate:.2f} s: it may be cut "
                "short"
            )
        pieces: tuple[Piece, ...] = (
            range(start, start + 26 - 8),
            info.head(frame.end)[18:26],
            range(start + 26, broken.start if broken is not None else stop),
        )
        parts.append(Part(pieces))
    return None if is_plain else FileLayout(tuple(parts), tuple(losses))


def resume(data: Bytes, part: Part, n_samples: int) -> Part | None:
    """Find where audio resumes after damage behind the first `n_samples` samples of `part`.

    Returns the rest as a part of its own; None if no frame follows.
    """
    first = next((piece.start for piece in part.pieces if isinstance(piece, range)), 0)
    stop = part.pieces[-1].stop if isinstance(part.pieces[-1], range) else len(data)
    info = None
    for match in _JOIN.finditer(data, 0, first + 42):  # type: ignore[call-overload]
        info = stream_info(data, match.start()) or info
    if info is None:
        return None
    begin = 0
    if isinstance(part.pieces[0], bytes):
        opening = parse_frame(data, first, info)
        begin = opening.position if opening is not None else 0
    before: Frame | None = None
    for match in _SYNC.finditer(data, max(first, info.start + 42), stop):  # type: ignore[call-overload]
        frame = parse_frame(data, match.start(), info)
        if frame is None or frame.position <= begin + n_samples:
            continue
        # A frame counts if the next header confirms it, or if it is the last.
        if before is not None and (before.end == frame.position):
            break
        before = frame
    if before is None:
        return None
    end = last_frame(data, info, stop)
    n_total = end[0].end if end is not None else info.n_samples
    head = info.head(max(n_total, before.end) - before.position)
    pieces = (head, range(before.start, stop))
    return Part(pieces, before.position - begin - n_samples)
