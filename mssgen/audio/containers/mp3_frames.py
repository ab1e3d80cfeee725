"""MPEG audio frames: finds intact frames, joined files and wrong frame counts.

Frame headers follow ISO/IEC 11172-3 and 13818-3; Xing (Info) and VBRI headers, which declare the
number of frames, are those of LAME and of Fraunhofer's encoder.
"""

import re
from dataclasses import dataclass

from mssgen.audio.containers.byte_views import Piece, patched
from mssgen.audio.containers.file_layout import (
    Bytes,
    FileLayout,
    Part,
    cut_short,
    damaged,
    first_losses,
)

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# kbit/s by (is MPEG 1, layer), from index 1 on.
_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# After damage, so many consecutive frames count as audio and not as a coincidence.
_N_TO_TRUST = 3
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_VBRI_OFFSET = 36
# Offset of LAME's two padding bytes from the frame count (142 and 8 bytes after the word Xing).
_PADDING_AFTER_COUNT = 142 - 8


@dataclass(frozen=True)
class Header:
    """A parsed frame header (4 bytes)."""

    version: int
    """Version bits: 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5."""
    layer: int
    sample_rate: int
    is_mono: bool
    n_bytes: int
    """Length of the frame, header included."""
    n_samples: int
    """Samples of the frame per channel."""

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """Fields that are constant within one stream."""
        return self.version, self.layer, self.sample_rate, self.is_mono

    @property
    def xing_offset(self) -> int:
        """Position of the Xing header in a frame of layer III: after the side information."""
        if self.version == 3:
            return 21 if self.is_mono else 36
        return 13 if self.is_mono else 21


def parse_header(data: bytes) -> Header | None:
    """Parse the header at the start of `data`; None if it is not valid or has a free bit rate."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    bit_rate, rate = data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or bit_rate in (0, 15):
        return None
    is_mpeg1, padding = version == 3, data[2] >> 1 & 1
    sample_rate = _RATES[version][rate]
    bits_per_s = 1000 * _KBPS[is_mpeg1, layer][bit_rate - 1]
    if layer == 1:
        n_samples, n_bytes = 384, (12 * bits_per_s // sample_rate + padding) * 4
    else:
        n_samples = 1152 if layer == 2 or is_mpeg1 else 576
        n_bytes = n_samples // 8 * bits_per_s // sample_rate + padding
    return Header(version, layer, sample_rate, data[3] >> 6 == 3, n_bytes, n_samples)


@dataclass
class _Run:
    """Consecutive frames of one kind; positions are in bytes."""

    start: int
    header: Header
    info_start: int | None = None
    """Start of the frame with the Xing or VBRI header, which holds no audio."""
    info_stop: int = 0
    count_at: int | None = None
    """Position of the declared number of frames."""
    has_size: bool = False
    """Whether the number of bytes follows the number of frames."""
    padding: bytes = b""
    """LAME's two bytes with the number of samples to trim from the end."""
    n_declared: int | None = None
    """Declared number of frames."""
    stop: int = 0
    n_frames: int = 0
    n_bytes_lost_before: int = 0
    """Damaged bytes before the run; 0 if the frames before it are intact."""

    @property
    def begins_a_file(self) -> bool:
        """Whether the run is the start of an MPEG file."""
        return self.info_start is not None or not self.n_bytes_lost_before


def scan(data: Bytes) -> FileLayout | None:
    """Layout of an MPEG audio file; None if it is intact or has a free bit rate.

    A new part begins after damage, where the format changes, and where another file was joined.
    """
    runs, has_rest = _find_runs(data)
    if not runs:
        return None
    files: list[list[_Run]] = []
    for run in runs:
        if run.begins_a_file or not files:
            files.append([])
        files[-1].append(run)
    parts, losses, n_s = [], [], 0.0
    for file in files:
        rate, frame = file[0].header.sample_rate, file[0].header.n_samples
        n_lost = _n_lost(file)
        begin_s = n_s
        for run in file:
            if run.n_bytes_lost_before:
                mean_bytes = (run.stop - run.start) / max(1, run.n_frames)
                by_bytes = run.n_bytes_lost_before / mean_bytes
                lost = n_lost if n_lost and len(file) == 2 else max(1.0, by_bytes)
                losses.append(damaged(n_s, lost * frame / rate))
            parts.append(Part(_pieces(run, is_last=run is file[-1] and n_lost <= 1)))
            n_s += run.n_frames * frame / rate
        if n_lost > 1 and len(file) == 1:
            losses.append(cut_short(n_s - begin_s, n_s - begin_s + n_lost * frame / rate))
    if has_rest and not losses:
        losses.append(f"ends within a frame after {n_s:.2f} s: it may be cut short")
    is_right = runs[0].n_declared == runs[0].n_frames and runs[0].count_at is not None
    is_plain = len(runs) == 1 and is_right and not losses
    return None if is_plain else FileLayout(tuple(parts), first_losses(losses))


def _n_lost(file: list[_Run]) -> int:
    """Number of declared frames that are missing."""
    declared = file[0].n_declared
    return max(0, (declared or 0) - sum(run.n_frames for run in file))


def _find_runs(data: Bytes) -> tuple[list[_Run], bool]:
    """All runs, and whether the file ends in an incomplete frame."""
    position, stop = _skip_tags(data, 0), _end_of_sound(data)
    runs: list[_Run] = []
    n_bytes_lost, has_rest = 0, False
    while position + 4 <= stop:
        header = parse_header(data[position : position + 4])
        is_whole = header is not None and position + header.n_bytes <= stop
        is_next = header is not None and runs and header.kind == runs[-1].header.kind
        if header is not None and is_whole and (is_next or _is_trusted(data, position, stop)):
            n_bytes_lost = _add(runs, data, position, header, n_bytes_lost)
            position += header.n_bytes
            continue
        after_tag = _skip_tags(data, position)
        if after_tag > position:
            position = after_tag
            continue
        has_rest = bool(is_next) and not is_whole
        found = _next_frame(data, position + 1, stop)
        if found is None:
            break
        n_bytes_lost += found - position if runs else 0
        position = found
    return runs, has_rest


def _add(runs: list[_Run], data: Bytes, position: int, header: Header, n_bytes_lost: int) -> int:
    """Append a frame to the last run or to a new one; returns the damaged bytes left to record."""
    frame = data[position : position + min(header.n_bytes, 256)]
    count = _count(frame, header)
    last = runs[-1] if runs else None
    if last is None or n_bytes_lost or count is not None or last.header.kind != header.kind:
        last = _Run(position, header, n_bytes_lost_before=n_bytes_lost)
        runs.append(last)
    if count is not None:
        last.info_start, last.info_stop = position, position + header.n_bytes
        last.n_declared = count[0]
        last.count_at = None if count[1] is None else position + count[1]
        last.has_size = bool(count[1]) and bool(frame[(count[1] or 0) - 1] & 2)
        last.padding = frame[(count[1] or len(frame)) + _PADDING_AFTER_COUNT :][:2]
        last.start = last.info_stop
    else:
        last.n_frames += 1
    last.stop = position + header.n_bytes
    return 0


def _count(frame: bytes, header: Header) -> tuple[int | None, int | None] | None:
    """(number of frames, its offset) in a Xing or VBRI header; None if the frame holds audio."""
    if header.layer != 3:
        return None
    at = header.xing_offset
    if frame[at : at + 4] in (b"Xing", b"Info"):
        if not frame[at + 7] & 1:
            return None, None
        return int.from_bytes(frame[at + 8 : at + 12], "big"), at + 8
    if frame[_VBRI_OFFSET : _VBRI_OFFSET + 4] == b"VBRI":
        # Without its place, an Info header replaces it: libmpg123 decodes a VBRI frame as audio.
        return int.from_bytes(frame[_VBRI_OFFSET + 14 : _VBRI_OFFSET + 18], "big"), None
    return None


def _pieces(run: _Run, *, is_last: bool) -> tuple[Piece, ...]:
    """Pieces of a virtual file with the frames of the run and a header that declares them."""
    sound = range(run.start, run.stop)
    if run.info_start is not None and run.count_at is not None:
        pieces: tuple[Piece, ...] = (range(run.info_start, run.stop),)
        if run.n_declared != run.n_frames:
            size = (run.stop - run.info_start).to_bytes(4, "big") if run.has_size else b""
            pieces = patched(pieces, run.count_at, run.n_frames.to_bytes(4, "big") + size)
        # Trim nothing unless this is the end of the song.
        if not is_last and len(run.padding) == 2:
            kept = bytes([run.padding[0] & 0xF0, 0])
            pieces = patched(pieces, run.count_at + _PADDING_AFTER_COUNT, kept)
        return pieces
    if run.header.layer != 3:
        return (sound,)
    return (_info_frame(run), sound)


def _info_frame(run: _Run) -> bytes:
    """A silent frame with an Info header: without it, libsndfile guesses the number of frames."""
    header = run.header
    first = _SILENT_HEADERS[header.kind]
    frame = bytearray(parsed.n_bytes if (parsed := parse_header(first)) else 0)
    frame[:4] = first
    at = header.xing_offset
    frame[at : at + 12] = b"Info" + (1).to_bytes(4, "big") + run.n_frames.to_bytes(4, "big")
    return bytes(frame)


def _silent_header(version: int, rate_index: int, *, is_mono: bool) -> bytes:
    """Frame header of layer III at 128 or 64 kbit/s: long enough for a Xing header."""
    bit_rate = 9 if version == 3 else 8
    mode = 0xC0 if is_mono else 0
    return bytes([0xFF, 0xE0 | version << 3 | 1 << 1 | 1, bit_rate << 4 | rate_index << 2, mode])


_SILENT_HEADERS = {
    (version, 3, rate, is_mono): _silent_header(version, index, is_mono=is_mono)
    for version, rates in _RATES.items()
    for index, rate in enumerate(rates)
    for is_mono in (False, True)
}


def _is_trusted(data: Bytes, position: int, stop: int) -> bool:
    """Whether consecutive frames of one kind start at `position`."""
    kind = None
    for _ in range(_N_TO_TRUST):
        header = parse_header(data[position : position + 4])
        if header is None or (kind is not None and header.kind != kind):
            return False
        kind = header.kind
        position += header.n_bytes
        if position >= stop:
            return position == stop
    return True


def _next_frame(data: Bytes, position: int, stop: int) -> int | None:
    for match in _SYNC.finditer(data, position, stop):  # type: ignore[call-overload]
        if _is_trusted(data, match.start(), stop):
            return int(match.start())
    return None


def _skip_tags(data: Bytes, position: int) -> int:
    """Position after any ID3v2, ID3v1 and APE tags at `position`."""
    while True:
        head = data[position : position + 32]
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG" and parse_header(data[position + 128 : position + 132]):
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            is_header = head[23] & 0x20
            position += 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
        else:
            return min(position, len(data))


def _end_of_sound(data: Bytes) -> int:
    """Position of the tags at the end, else the length of the data."""
    stop = len(data)
    while True:
        tail = data[max(0, stop - 160) : stop]
        if tail[-128:-125] == b"TAG":
            stop -= 128
        elif tail[-32:-24] == b"APETAGEX" and 32 <= int.from_bytes(tail[-20:-16], "little") <= stop:
            has_header = tail[-9] & 0x80
            stop -= int.from_bytes(tail[-20:-16], "little") + (32 if has_header else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            stop -= int(tail[-15:-9]) + 15
        else:
            return max(0, stop)
