"""The checksum CRC-32C (Castagnoli) of bytes, which Python's own library lacks."""

import math

import numpy as np

_POLYNOMIAL = 0x82F63B78  # with the lowest bit first
_BITS = np.arange(32, dtype=np.uint32)


def _table() -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(_POLYNOMIAL), values >> 1)
    return values


_TABLE = _table()


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of `data`.

    The checksum is linear, so the bytes are cut into equal lanes that are summed in step, and one
    lane's sum is moved past the bytes of the next by a matrix of bits. The matrix comes out of the
    same loop, as 32 more lanes of zeros that start at one bit each.
    """
    values = np.frombuffer(data, np.uint8)
    n_lanes = max(1, math.isqrt(len(values)))
    length = len(values) // n_lanes
    lanes = np.zeros((length, n_lanes + 32), np.uint8)
    lanes[:, :n_lanes] = values[: n_lanes * length].reshape(n_lanes, length).T
    sums = np.concatenate([np.zeros(n_lanes, np.uint32), np.uint32(1) << _BITS])
    for column in lanes:
        sums = _TABLE[(sums ^ column) & 0xFF] ^ sums >> 8
    moved = sums[n_lanes:]
    total = np.uint32(0xFFFFFFFF)
    for each in sums[:n_lanes]:
        total = np.bitwise_xor.reduce(moved[(total >> _BITS & 1).astype(bool)]) ^ each
    for byte in values[n_lanes * length :]:
        total = _TABLE[(total ^ byte) & 0xFF] ^ total >> 8
    return int(total) ^ 0xFFFFFFFF
