"""Limits on the header of a safetensors file, checked before the library reads the file."""

import json
from pathlib import Path

# The largest model of the registry has 1,200 tensors and a header of 150 kB.
_MAX_TENSORS = 20_000
_MAX_HEADER_BYTES = 2**23


def check_header(path: Path, dtypes: frozenset[str] | None = None) -> None:
    """Raise ValueError unless the header of `path` is valid JSON that lists a few tensors.

    `dtypes` are the allowed types by the format's names ("F32"); None allows all. The library
    checks that the offsets fit the file. Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > _MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {n_bytes} bytes")
        text = file.read(n_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    if len(header) > _MAX_TENSORS:
        raise ValueError(f"its header names {len(header)} tensors")
    for key, entry in header.items():
        if key == "__metadata__" or dtypes is None:
            continue
        if not isinstance(entry, dict) or entry.get("dtype") not in dtypes:
            raise ValueError(f"its tensor '{key:.40}' has a type that is not allowed")
