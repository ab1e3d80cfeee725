"""Reads the fields of a protocol buffer, whose layout the caller knows.

https://protobuf.dev/programming-guides/encoding: a message is a list of numbered fields. Bytes that
are not one raise ValueError, to which `checkpoints.tensorflow` and `checkpoints.onnx` add the file.
"""

from collections.abc import Iterator

_MAX_VARINT_BYTES = 10
_FIXED_BYTES = {1: 8, 5: 4}


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """(number, position after it) of the variable-length integer at `place`."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if place + index >= len(data):
            break
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number has no end")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field: an integer, or the bytes of a string or message."""
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = varint(data, place)
            yield number, value
            continue
        if kind == 2:
            n_bytes, place = varint(data, place)
        elif kind in _FIXED_BYTES:
            n_bytes = _FIXED_BYTES[kind]
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if place + n_bytes > len(data):
            raise ValueError("a field is longer than the file")
        part = data[place : place + n_bytes]
        yield number, part if kind == 2 else int.from_bytes(part, "little")
        place += n_bytes


def numbers(value: int | memoryview) -> list[int]:
    """The integers of a repeated field, packed or one by one."""
    if isinstance(value, int):
        return [value]
    found, place = [], 0
    while place < len(value):
        number, place = varint(value, place)
        found.append(number)
    return found
