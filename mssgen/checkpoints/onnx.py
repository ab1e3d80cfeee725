"""Reads the weights of an ONNX model (onnx.proto) without the onnx package; skips the graph."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mssgen.checkpoints import protobuf
from mssgen.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_MAX_BYTES, _MAX_TENSORS, _MAX_AXES = 2**31, 20_000, 8
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _FLOATS, _HALVES, _NAME, _RAW, _ELSEWHERE = 1, 2, 4, 5, 8, 9, 14
_FLOAT32, _FLOAT16 = 1, 10  # ONNX's numbers of the types


def read_weights(path: Path) -> dict[str, "Tensor"]:
    """The fp32 and fp16 initialisers of the graph by name; CheckpointError if it is damaged."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        weights: dict[str, Tensor] = {}
        for number, graph in protobuf.fields(memoryview(path.read_bytes())):
            if number != _GRAPH or isinstance(graph, int):
                continue
            for kind, tensor in protobuf.fields(graph):
                if kind == _INITIALIZER and not isinstance(tensor, int):
                    weights |= _tensor(tensor)
                    if len(weights) > _MAX_TENSORS:
                        raise ValueError(f"it has more than {_MAX_TENSORS} tensors")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged, or not an ONNX model ({error}): get it again"
        ) from None
    if not weights:
        raise CheckpointError(f"{path} is an ONNX model without weights: get it again")
    return weights


def _tensor(message: memoryview) -> dict[str, "Tensor"]:
    """{name: tensor} of a TensorProto; empty for other types than fp32 and fp16."""
    import torch

    dims: list[int] = []
    known: dict[int, int | memoryview] = {}
    for number, value in protobuf.fields(message):
        if number == _DIMS:
            dims += protobuf.numbers(value)
        else:
            known[number] = value
    name = bytes(_part(known, _NAME)).decode()
    if known.get(_ELSEWHERE):
        raise ValueError(f"'{name:.60}' lies in another file")
    if known.get(_TYPE) not in (_FLOAT32, _FLOAT16):
        return {}
    is_half = known[_TYPE] == _FLOAT16
    dtype = torch.float16 if is_half else torch.float32
    values = _part(known, _RAW)
    if not len(values) and is_half:  # 16 bits in each of a list of integers
        halves = protobuf.numbers(_part(known, _HALVES))
        values = memoryview(b"".join((each & 0xFFFF).to_bytes(2, "little") for each in halves))
    elif not len(values):
        values = _part(known, _FLOATS)
    if len(dims) > _MAX_AXES or math.prod(dims) * dtype.itemsize != len(values):
        raise ValueError(f"'{name:.60}' has not as many values as its shape says")
    if not len(values):
        return {name: torch.zeros(dims, dtype=dtype)}
    return {name: torch.frombuffer(bytearray(values), dtype=dtype).view(dims)}


def _part(known: dict[int, int | memoryview], number: int) -> memoryview:
    value = known.get(number, memoryview(b""))
    if isinstance(value, int):
        raise ValueError("a tensor has an unknown layout")
    return value
