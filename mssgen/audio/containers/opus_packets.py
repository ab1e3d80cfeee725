"""Framing of Opus packets (RFC 6716, section 3 and appendix B).

A decoder refuses a packet with invalid framing, and libsndfile then ends the file. Such a packet is
replaced by one of equal size with empty frames: a decoder conceals it, as it does a lost one.
"""

from dataclasses import dataclass

_MAX_FRAME_BYTES = 1275
_MAX_SAMPLES = 5760


@dataclass(frozen=True)
class Framing:
    """Number and length of the frames of a packet."""

    toc: int
    """First byte of the packet: mode, bandwidth, frame length, channels."""
    n_frames: int

    @property
    def n_samples(self) -> int:
        """Duration in samples at 48 kHz."""
        return self.n_frames * _frame_samples(self.toc)


def framing_of(packet: bytes, n_streams: int = 1) -> Framing | None:
    """Framing of a packet of `n_streams` multiplexed streams; None if a decoder would refuse it."""
    first, at = None, 0
    try:
        for index in range(n_streams):
            framing, at = _parse(packet, at, is_delimited=index < n_streams - 1)
            first = first or framing
            if framing.n_samples != first.n_samples:
                return None
    except (ValueError, IndexError):
        return None
    return first


def empty_packet(like: Framing, n_bytes: int, n_streams: int = 1) -> bytes | None:
    """Packet of `n_bytes` bytes with empty frames, framed as `like`; None if that is too short."""
    head = bytes((like.toc | 3, like.n_frames))
    before = (head + b"\0") * (n_streams - 1)
    n_left = n_bytes - len(before)
    if n_left == 1 and like.n_frames == 1:
        return before + bytes((like.toc & ~3,))
    if n_left < 2:
        return None
    if n_left == 2:
        return before + head
    n_full, n_rest = divmod(n_left - 3, 255)
    padding = b"\xff" * n_full + bytes((n_rest,)) + bytes(254 * n_full + n_rest)
    return before + bytes((like.toc | 3, like.n_frames | 0x40)) + padding


def _frame_samples(toc: int) -> int:
    config = toc >> 3
    if config < 12:  # SILK
        return (480, 960, 1920, 2880)[config & 3]
    if config < 16:  # hybrid
        return (480, 960)[config & 1]
    return (120, 240, 480, 960)[config & 3]  # CELT


def _parse(packet: bytes, at: int, *, is_delimited: bool) -> tuple[Framing, int]:
    """(framing, end) of the stream at byte `at`; raises ValueError and IndexError."""
    toc, at = packet[at], at + 1
    n_frames, n_padding, is_variable = (1, 2, 2, 0)[toc & 3], 0, toc & 3 == 2
    if toc & 3 == 3:
        count, at = packet[at], at + 1
        n_frames, is_variable = count & 0x3F, bool(count & 0x80)
        more = 255 if count & 0x40 else 0
        while more == 255:
            more, at = packet[at], at + 1
            n_padding += min(more, 254)
    framing = Framing(toc, n_frames)
    if not 0 < framing.n_samples <= _MAX_SAMPLES:
        raise ValueError("no frames, or too many")
    sizes = []
    for _ in range((n_frames - 1 if is_variable else 0) + is_delimited):
        size, at = packet[at], at + 1
        if size >= 252:
            size, at = size + 4 * packet[at], at + 1
        sizes.append(size)
    n_left = len(packet) - at - n_padding
    if is_delimited:
        n_bytes = sum(sizes) if is_variable else n_frames * sizes[0]
    elif is_variable:
        n_bytes = n_left
        sizes.append(n_left - sum(sizes))
    else:
        n_bytes = n_left
        sizes = [n_left // n_frames]
        if n_left % n_frames:
            raise ValueError("frames of equal size do not fit")
    if n_bytes > n_left or not all(0 <= size <= _MAX_FRAME_BYTES for size in sizes):
        raise ValueError("frames beyond the packet")
    return framing, at + n_bytes + n_padding
