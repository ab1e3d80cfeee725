"""Models of other programs with one file per stem, joined into one checkpoint.

Conversions of Spleeter to torch and ONNX, and Open-Unmix. The stem is the first word of a file's
name, as published.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mssgen.checkpoints import onnx
from mssgen.checkpoints.families import unwrapped
from mssgen.checkpoints.formats import (
    Checkpoint,
    check_promised_hash,
    checked_tensors,
    read_safetensors,
)
from mssgen.checkpoints.pickles import read_pickle
from mssgen.errors import CheckpointError
from mssgen.separators.openunmix import conversion as openunmix
from mssgen.separators.spleeter import conversion as spleeter

States = Mapping[str, Mapping[str, Tensor]]
Converted = tuple[dict[str, Any], dict[str, Tensor]]
SUFFIXES = (".onnx", ".pt", ".pth", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class _Family:
    """A family with a file per stem: a tensor that only its files have, and their conversion."""

    sign: str
    convert: Callable[[States], Converted]


_FAMILIES = {
    "spleeter": _Family("up7.weight", spleeter.from_stems),
    "openunmix": _Family("fc1.weight", openunmix.from_stems),
}


def join(paths: Sequence[Path]) -> Checkpoint:
    """One checkpoint from files that hold one stem each; CheckpointError if they do not fit."""
    states: dict[str, Mapping[str, Tensor]] = {}
    for path in paths:
        stem = re.split(r"[.-]", path.name)[0]
        if stem in states:
            raise CheckpointError(f"{path.parent} holds {stem} twice: leave one of them there")
        states[stem] = _read_stem(path)
    folder = paths[0].parent
    first = states[next(iter(states))]
    name = next((name for name, family in _FAMILIES.items() if family.sign in first), None)
    if name is None:
        raise CheckpointError(
            f"{paths[0]} is neither of Spleeter nor of Open-Unmix: convert others"
        )
    try:
        options, state = _FAMILIES[name].convert(states)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} {error}") from None
    return Checkpoint(name, options, checked_tensors(folder, state), folder)


def _read_stem(path: Path) -> Mapping[str, Tensor]:
    """The state dict in one file."""
    if path.suffix == ".onnx":
        return onnx.read_weights(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[1]
    check_promised_hash(path)
    state = unwrapped(read_pickle(path, "the network of one stem"))
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a table of tensors: get the file again")
    return state
