"""Checkpoints at half the size of fp16: int8 weights with one fp16 scale per output channel.

Stored form: a tensor `X` in int8 has `X.scale` in fp16 beside it, of the same number of axes with
length 1 on all but the output-channel axis, so that `weight = X.float() * X.scale.float()`. That
axis is 0, and 1 for transposed convolutions. Tensors that are small, or have one axis, stay fp16.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mssgen.checkpoints.folders import new_folder
from mssgen.checkpoints.formats import (
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    fractions_to_json,
    read_checkpoint,
)
from mssgen.checkpoints.int8 import dequantize_state, quantize_state
from mssgen.checkpoints.registry import Bundle
from mssgen.checkpoints.tensor_files import save_tensors
from mssgen.files import sha256_of, whole_file

if TYPE_CHECKING:
    import torch

Storage = Literal["fp16", "int8"]
_MIN_VALUES_OF_OURS = 2**16  # of frame-rate networks, whose small layers are few


def store_smaller(folder: Path, storage: Storage) -> None:
    """Rewrite model.safetensors in `folder` in another form, and its hash in config.json.

    Lossless where the weights were rounded by `round_to` before they were saved. The folder must be
    a draft: the two files do not change at once.
    """
    from safetensors.torch import load_file

    stored = _stored(load_file(folder / WEIGHTS), storage)
    with whole_file(folder / WEIGHTS) as draft:  # not in place: `stored` may be a map of that file
        save_tensors(stored, draft, {"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["sha256"] = sha256_of(folder / WEIGHTS)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def round_to(module: "torch.nn.Module", storage: Storage) -> None:
    """Round every weight and buffer of `module` to what its stored form holds."""
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
    """Write the folder `target` (config.json, model.safetensors) from the checkpoint `source`.

    `bundle` is the registry's model that `source` is a copy of; its signature and licence go into
    config.json. `config` describes a source that does not describe itself. The same source gives
    the same bytes. The folder appears complete or not at all. Returns the signal-to-noise ratio in
    dB of every tensor that became int8. Raises CheckpointError when the source cannot be read, and
    when the target exists: without `overwrite`, or because it is more than a checkpoint.
    """
    with new_folder(target, overwrite=overwrite) as draft:
        checkpoint = read_checkpoint(source, config=config)
        weights = source / WEIGHTS if source.is_dir() else source
        stored = quantize_state(checkpoint.state)
        save_tensors(stored, draft / WEIGHTS, {"format": "pt"})
        description: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "architecture": checkpoint.architecture,
            "options": fractions_to_json(checkpoint.options),
            "sample_rate": checkpoint.sample_rate,
            "stems": list(checkpoint.stems),
            "sha256": sha256_of(draft / WEIGHTS),
            "source": _source(weights, bundle),
            "licence": bundle.licence if bundle else "not known: see the source",
            "licence_note": bundle.licence_note if bundle else None,
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (draft / CONFIG).write_text(text, encoding="utf-8")
    return _noise(checkpoint.state, stored)


def _source(weights: Path, bundle: Bundle | None) -> dict[str, Any]:
    """What config.json says about where the weights come from."""
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
