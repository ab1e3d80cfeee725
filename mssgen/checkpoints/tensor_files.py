"""Writes tensors to files: reproducible bytes, and OSError on a full disk.

The safetensors and torch writers order metadata at random, make every file private to its owner,
and report a full disk in errors that name no file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The dtypes that mssgen writes, with safetensors' name and the bytes per value. Tensors are written
# in this order, as safetensors does: the widest type first, so that all are aligned.
_DTYPES = {
    "int64": ("I64", 8),
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "int32": ("I32", 4),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}


def save_tensors(
    tensors: Mapping[str, "Tensor"], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file directly to `path`, a draft. Raises OSError."""
    with open(path, "wb") as file:
        for part in _parts(tensors, metadata):
            file.write(part)


def pack_tensors(
    tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The content of a safetensors file with these tensors."""
    return b"".join(_parts(tensors, metadata))


def save_pickle(value: Any, path: Path) -> None:
    """`torch.save` directly to `path`, a draft. Raises OSError."""
    import torch

    try:
        with open(path, "wb") as file:
            torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # the cause, which torch hides
            raise error.__context__ from None
        raise


def _parts(
    tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None
) -> Iterator[bytes | memoryview]:
    """Yield the header, then each tensor (format: https://github.com/huggingface/safetensors)."""
    import torch

    kinds = {name: str(tensor.dtype).rpartition(".")[2] for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (list(_DTYPES).index(kinds[name]), name))
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    end = 0
    for name in names:
        dtype, width = _DTYPES[kinds[name]]
        start, end = end, end + tensors[name].numel() * width
        header[name] = {
            "dtype": dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        plain = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield plain.view(torch.uint8).numpy().data
