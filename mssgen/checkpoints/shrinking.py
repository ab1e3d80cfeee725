"""Checkpoints in half the size: fp16 instead of fp32, or int8 (see `int8`) instead of fp16."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mssgen.checkpoints.bundles import Bundle
from mssgen.checkpoints.folders import new_folder, write_checkpoint
from mssgen.checkpoints.formats import CONFIG, WEIGHTS, fractions_to_json, read_checkpoint
from mssgen.checkpoints.int8 import dequantize_state, quantize_state
from mssgen.files import sha256_of

if TYPE_CHECKING:
    import torch

Storage = Literal["fp16", "int8"]
_MIN_VALUES_OF_OURS = 2**16  # frame-rate networks have few small layers


def store_smaller(folder: Path, storage: Storage) -> None:
    """Rewrite model.safetensors in `folder` as fp16 or int8, and its hash in config.json.

    Lossless if `round_to` rounded the weights before they were saved. `folder` must be a draft,
    because the two files do not change at the same instant.
    """
    from safetensors.torch import load_file

    stored = _stored(load_file(folder / WEIGHTS), storage)
    write_checkpoint(folder, stored, json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def round_to(module: "torch.nn.Module", storage: Storage) -> None:
    """Round every weight and buffer of `module`, in place, to values that `storage` can hold."""
    state = module.state_dict()
    for key, value in dequantize_state(_stored(state, storage)).items():
        state[key].copy_(value)


def _stored(state: Mapping[str, "torch.Tensor"], storage: Storage) -> dict[str, "torch.Tensor"]:
    if storage == "int8":
        return quantize_state(state, _MIN_VALUES_OF_OURS)
    return {key: value.half().contiguous() for key, value in state.items()}


def quantize_checkpoint(
    source: Path,
    target: Path,
    *,
    bundle: Bundle | None = None,
    config: Path | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Write an int8 copy of a separator's checkpoint; the same source gives the same bytes.

    Args:
        source: checkpoint folder or file.
        target: new folder, which appears complete or not at all.
        bundle: the named model that `source` is a copy of; its signature and licence are noted.
        config: config.json for a source that does not describe itself.
        overwrite: replace an existing checkpoint.

    Returns:
        For each tensor stored as int8, its signal-to-noise ratio in dB.

    Raises:
        CheckpointError: `source` cannot be read, or `target` exists and may not be replaced.
    """
    with new_folder(target, overwrite=overwrite) as draft:
        checkpoint = read_checkpoint(source, config=config)
        weights = source / WEIGHTS if source.is_dir() else source
        stored = quantize_state(checkpoint.state)
        description: dict[str, Any] = {
            "architecture": checkpoint.architecture,
            "options": fractions_to_json(checkpoint.options),
            "sample_rate": checkpoint.sample_rate,
            "stems": list(checkpoint.stems),
            "sha256": "",  # filled in
            "source": _source(weights, bundle),
            "licence": bundle.licence if bundle else "not known: see the source",
            "licence_note": bundle.licence_note if bundle else None,
        }
        write_checkpoint(draft, stored, description)
    return _noise(checkpoint.state, stored)


def _source(weights: Path, bundle: Bundle | None) -> dict[str, Any]:
    """The `source` entry of config.json: where the weights come from."""
    files = bundle.files if bundle else ()
    signatures = [
        file.signature for file in files if len(files) == 1 or file.signature in weights.name
    ]
    return {
        "model": bundle.name if bundle else None,
        "signature": signatures[0] if signatures else None,
        "file": weights.name,
        "sha256": sha256_of(weights),
    }


def _noise(
    state: Mapping[str, "torch.Tensor"], stored: Mapping[str, "torch.Tensor"]
) -> dict[str, float]:
    """SNR in dB of each tensor that is int8 in `stored`."""
    import torch

    restored = dequantize_state(stored)
    noise: dict[str, float] = {}
    for key, value in stored.items():
        if value.dtype == torch.int8:
            clean = state[key].double()
            error = (restored[key].double() - clean).square().sum().clamp(min=1e-300)
            noise[key] = 10 * float(torch.log10(clean.square().sum().clamp(min=1e-300) / error))
    return noise
