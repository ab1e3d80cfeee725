"""Separators whose released files hold tensors only: which family a state dict is of, and options.

Such a file is a state dict, alone or under the key `state` or `state_dict`, with a YAML file of the
program that trained it beside it (Music-Source-Separation-Training, MIT; layout read from its
configurations). Sizes of layers follow from the tensors; the YAML has the rest. A new family is a
row here, and a row in `separators.loading` with the folder that has its network.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mssgen.checkpoints.registry import known_file
from mssgen.checkpoints.yaml_files import read_yaml
from mssgen.errors import CheckpointError


@dataclass(frozen=True)
class Family:
    """How a family's files are recognised and described."""

    sign: str
    """A tensor that every state dict of the family has, and no other family's."""
    keys: Mapping[str, str]
    """Where the YAML file has an option of the network: {"hop_length": "model.hop_size"}."""


_ROFORMER_KEYS = {
    "n_fft": "model.stft_n_fft",
    "hop_length": "model.stft_hop_length",
    "zero_dc": "model.zero_dc",
    "skip_connection": "model.skip_connection",
}
FAMILIES: dict[str, Family] = {
    "bs_roformer": Family("final_norm.gamma", _ROFORMER_KEYS),
    "mel_roformer": Family("layers.0.0.norm.gamma", _ROFORMER_KEYS),
    "mdx23c": Family(
        "bottleneck_block.blocks.0.shortcut.weight",
        {
            "n_fft": "audio.n_fft",
            "hop_length": "audio.hop_length",
            "norm": "model.norm",
            "act": "model.act",
        },
    ),
    "scnet": Family(
        "separation_net.dp_modules.0.norm_layers.0.weight",
        {
            "n_fft": "model.nfft",
            "hop_length": "model.hop_size",
            "band_shares": "model.band_SR",
            "band_strides": "model.band_stride",
        },
    ),
    "spleeter": Family("stems.0.down.0.weight", {}),
    "openunmix": Family("stems.0.lstm.weight_ih_l0", {}),
}

_SHARED_KEYS = {
    "samplerate": "audio.sample_rate",
    "segment_samples": "audio.chunk_size",
    "is_normalised": "inference.normalize",
}
_WRAPPERS = ("state", "state_dict", "model_state_dict")


def unwrapped(package: Any) -> Any:
    """The state dict in a package that may hold it under one of the usual keys."""
    inner = [package[key] for key in _WRAPPERS if isinstance(package, dict) and key in package]
    return inner[0] if inner and isinstance(inner[0], dict) else package


def family_of(state: Iterable[Any]) -> str | None:
    """The family of a state dict with these tensor names, or None."""
    names = set(state)
    return next((name for name, family in FAMILIES.items() if family.sign in names), None)


def describe(path: Path, architecture: str) -> dict[str, Any]:
    """Options of the released checkpoint `path`: from its YAML file, or the registry by its hash.

    Raises CheckpointError if neither has them, or the YAML file is damaged.
    """
    named = yaml_beside(path, only_same_name=True)
    if named is None and (bundle := known_file(path)) is not None:
        return dict(bundle.options)
    if (config := named or yaml_beside(path)) is None:
        raise CheckpointError(
            f"{path} holds the tensors of a {architecture} without its options: put the YAML file "
            f"that was published with it beside it, as {path.stem}.yaml"
        )
    return _options(config, read_yaml(config), FAMILIES[architecture])


def yaml_beside(path: Path, *, only_same_name: bool = False) -> Path | None:
    """The YAML file that describes `path`: of the same name, else the only one in the folder."""
    for suffix in (".yaml", ".yml"):
        if (same := path.with_suffix(suffix)).is_file():
            return same
    found = [] if only_same_name else [*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")]
    return found[0] if len(found) == 1 else None


def _options(path: Path, table: dict[str, Any], family: Family) -> dict[str, Any]:
    """Options of a network from the sections of a YAML file."""
    keys = {**_SHARED_KEYS, **family.keys}
    found = {option: _at(table, key) for option, key in keys.items()}
    if (chunk := _at(table, "inference.chunk_size")) is not None:
        found["segment_samples"] = chunk
    stems, target = _at(table, "training.instruments"), _at(table, "training.target_instrument")
    if not isinstance(stems, list) or not all(isinstance(stem, str) for stem in stems):
        raise CheckpointError(f"{path} lists no stems (training.instruments): get the file again")
    if target is not None:  # the network outputs one stem, and the mixture minus it is the other
        rest = [stem for stem in stems if stem != target]
        other = rest[0] if len(rest) == 1 else "rest" if target == "other" else "other"
        stems = [str(target), other]
    found["sources"] = [re.sub(r"[^\w-]+", "_", stem).lower() for stem in stems]
    return {option: value for option, value in found.items() if value is not None}


def _at(table: Any, key: str) -> Any:
    """The value at "section.name", or None."""
    for name in key.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table
