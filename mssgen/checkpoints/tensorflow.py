"""Reads the variables of a TensorFlow checkpoint (`NAME.index`, `NAME.data-…`) without TensorFlow.

The index is a table of sorted keys in LevelDB's format, whose values are protocol buffers
(tensorflow/core/protobuf/tensor_bundle.proto); the data file holds the values. Nothing in them is
executed, every offset and size is checked before memory is used, and every block and variable is
checked against its checksum.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mssgen.checkpoints import protobuf
from mssgen.checkpoints.crc32c import crc32c
from mssgen.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = bytes.fromhex("57fb808b247547db")  # last 8 bytes of the index
_MAX_INDEX_BYTES, _MAX_VARIABLES, _MAX_AXES = 2**24, 20_000, 8
_FLOAT32 = 1  # TensorFlow's number of the type
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_DATA = ".data-00000-of-00001"


def find_index(path: Path) -> Path | None:
    """The index file that `path` means: itself, NAME for NAME.index, or the folder's only one."""
    if path.is_dir():
        found = [file for file in sorted(path.glob("*.index")) if not file.name.startswith(".")]
        return found[0] if len(found) == 1 else None
    named = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
    return named if named.is_file() else None


def data_of(files: Iterable[Path]) -> list[Path]:
    """The data files that belong to those of the files that are indices."""
    return [file.with_suffix(_DATA) for file in files if file.suffix == ".index"]


def read_variables(index: Path) -> dict[str, "Tensor"]:
    """The fp32 variables by name; others, such as the step count, are left out.

    Raises CheckpointError that names the file if one of the two is damaged or missing.
    """
    (data,) = data_of([index])
    shown = index
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        entries = dict(_entries(index.read_bytes()))
        shown = data
        content = memoryview(data.read_bytes())
        return {
            name: variable
            for name, entry in entries.items()
            if name and (variable := _variable(name, entry, content)) is not None
        }
    except OSError as error:
        raise CheckpointError(f"{shown} cannot be read: {error.strerror or error}") from None
    except (ValueError, struct.error) as error:
        raise CheckpointError(
            f"{shown} is damaged, or not part of a TensorFlow checkpoint ({error}): get it again"
        ) from None


def _entries(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Yield the (key, value) of a table in LevelDB's format."""
    table = memoryview(data)
    if len(table) < _FOOTER_BYTES or data[-8:] != _MAGIC:
        raise ValueError("it does not end as one")
    place = len(table) - _FOOTER_BYTES
    handle = []
    for _ in range(4):  # offset and size of an unused block, then of the index of blocks
        number, place = protobuf.varint(table, place)
        handle.append(number)
    n_entries = 0
    for _, where in _block(table, *handle[2:]):
        offset, after = protobuf.varint(where, 0)
        size, _ = protobuf.varint(where, after)
        for key, value in _block(table, offset, size):
            n_entries += 1
            if n_entries > _MAX_VARIABLES:
                raise ValueError(f"it names more than {_MAX_VARIABLES} variables")
            yield key.decode(), value


def _block(table: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the (key, value) of one block; a key repeats the start of the one before."""
    end = offset + size
    if end + _TRAILER_BYTES > len(table) or size < 8:
        raise ValueError("a block lies outside of it")
    if table[end]:
        raise ValueError("its blocks are compressed, which TensorFlow never does")
    _check(table[offset : end + 1], int.from_bytes(table[end + 1 : end + 5], "little"))
    (n_restarts,) = struct.unpack("<I", table[end - 4 : end])
    stop, place, key = end - 4 - 4 * n_restarts, offset, b""
    while place < stop:
        n_shared, place = protobuf.varint(table, place)
        n_new, place = protobuf.varint(table, place)
        n_value, place = protobuf.varint(table, place)
        if n_shared > len(key) or place + n_new + n_value > stop:
            raise ValueError("an entry lies outside of its block")
        key = key[:n_shared] + bytes(table[place : place + n_new])
        place += n_new
        yield key, table[place : place + n_value]
        place += n_value


def _variable(name: str, entry: memoryview, content: memoryview) -> "Tensor | None":
    """The variable that an entry (BundleEntryProto) describes; None if it is not fp32."""
    import torch

    known = dict(protobuf.fields(entry))
    kind, offset, size = (known.get(number, 0) for number in (1, 4, 5))
    shape_message = known.get(2, memoryview(b""))
    if kind != _FLOAT32:
        return None
    if known.get(3, 0) or 7 in known:
        raise ValueError(f"'{name:.60}' lies in several files")
    if not isinstance(offset, int) or not isinstance(size, int) or isinstance(shape_message, int):
        raise ValueError(f"'{name:.60}' has no place and size")
    shape = [
        int(dict(protobuf.fields(axis)).get(1, 0))
        for number, axis in protobuf.fields(shape_message)
        if number == 2 and not isinstance(axis, int)
    ]
    if len(shape) > _MAX_AXES or math.prod(shape) * 4 != size or offset + size > len(content):
        raise ValueError(f"'{name:.60}' lies outside of it")
    values = content[offset : offset + size]
    _check(values, int(known.get(6, 0)))
    if not size:
        return torch.zeros(shape)
    return torch.frombuffer(bytearray(values), dtype=torch.float32).view(shape)


def _check(data: memoryview, masked: int) -> None:
    """Raise ValueError unless `data` has the checksum that LevelDB stores as `masked`."""
    turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
    if crc32c(data) != (turned >> 17 | turned << 15) & 0xFFFFFFFF:
        raise ValueError("a checksum differs")
