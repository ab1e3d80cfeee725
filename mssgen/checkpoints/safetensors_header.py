"""The header of a safetensors file, bounded before a library takes the file at its word."""

import json
from pathlib import Path

# The largest published model in reach has 1,200 tensors and a header of 150 kB.
_MAX_TENSORS = 20_000
_MAX_HEADER_BYTES = 2**23


def check_header(path: Path, dtypes: frozenset[str] | None = None) -> None:
    """Raise ValueError unless the header of `path` is a table of a bounded number of tensors.

    `dtypes` are the only types that may be in it, by the format's names ("F32"); None takes any.
    Raises OSError where the file cannot be read. That offsets fit the file is left to the library.
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
        raise ValueError("its header is not a table")
    if len(header) > _MAX_TENSORS:
        raise ValueError(f"its header names {len(header)} tensors")
    for key, entry in header.items():
        if key == "__metadata__" or dtypes is None:
            continue
        if not isinstance(entry, dict) or entry.get("dtype") not in dtypes:
            raise ValueError(f"its tensor '{key:.40}' is of another type")
