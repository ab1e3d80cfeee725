"""Block sizes of Vorbis packets (Vorbis I specification, 4.2 and 4.3).

libsndfile passes over a packet that is not audio, and so shortens the time line. Such a packet is
replaced by one of equal size that decodes to silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_MODE_BITS = 41


@dataclass(frozen=True)
class Blocks:
    """The two block sizes of a stream, in samples; mode 0 is short, mode 1 is long."""

    short: int
    long: int

    def n_samples(self, before: bytes, packet: bytes) -> int:
        """Samples that `packet` adds after the packet `before`."""
        return (self._size(before) + self._size(packet)) // 4

    def _size(self, packet: bytes) -> int:
        return self.long if is_long(packet) else self.short


def is_damaged(before: bytes, packet: bytes, after: bytes, *, is_off: bool) -> bool:
    """Whether a packet is not audio, or has another size than its neighbours say.

    `is_off`: the packets of the page add up to another length than it declares.
    """
    if not packet:
        return False
    expected = is_long_between(before, after)
    return bool(packet[0] & 1) or (is_off and expected not in (None, is_long(packet)))


def is_long_between(before: bytes, after: bytes) -> bool | None:
    """Whether the packet between two others has the long block size; None if neither says so.

    Long blocks state the sizes of their neighbours.
    """
    if is_long(before):
        return bool(before[0] >> 3 & 1)
    return bool(after[0] >> 2 & 1) if is_long(after) else None


def is_long(packet: bytes) -> bool:
    """Whether an audio packet has the long block size."""
    return bool(packet[:1] and packet[0] >> 1 & 1)


def blocks_of(headers: Sequence[bytes]) -> Blocks | None:
    """Block sizes from the three header packets; None unless it has one short and one long mode."""
    if len(headers) != 3 or len(headers[0]) < 29:
        return None
    # The modes are the end of the setup header, before the framing bit: it is read backwards.
    setup = int.from_bytes(headers[2], "little")
    end = setup.bit_length() - 1
    modes = [setup >> max(0, end - n * _MODE_BITS) & (2**_MODE_BITS - 1) for n in (2, 1)]
    n_modes = (setup >> max(0, end - 2 * _MODE_BITS - 6) & 63) + 1
    # Each mode: 1 bit of block size, 32 bits of zero, 8 bits of mapping.
    if n_modes != 2 or [mode & (2**33 - 1) for mode in modes] != [0, 1]:
        return None
    return Blocks(1 << (headers[0][28] & 15), 1 << (headers[0][28] >> 4))


def silent_packet(before: bytes, n_bytes: int, after: bytes) -> bytes:
    """Packet of `n_bytes` bytes that decodes to silence, between two others."""
    flags = 0
    if is_long_between(before, after):
        flags = 2 | is_long(before) << 2 | is_long(after) << 3
    return bytes((flags,)) + bytes(n_bytes - 1)
