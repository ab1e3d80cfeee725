"""Refiners from files: mssgen's folders, and the `.pth` files of VampNet.

config.json   {"format_version": 1, "architecture": "masked_transformer", "options": {...},
               "codec": NAME, ADDRESS or "codec/", "codec_id": ..., "sha256": ...}

mssgen's folders contain the codec's codebooks, so that a refiner is loaded without its codec;
`codec_id` identifies the codec, and `refiner_codec` locates it, maybe in the subfolder codec/.
VampNet's files do not, and are loaded with its codec.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mssgen.checkpoints.blueprints import filled
from mssgen.checkpoints.folders import new_folder, write_checkpoint
from mssgen.checkpoints.formats import (
    CONFIG,
    EMBEDDED_CODEC,
    WEIGHTS,
    checked_tensors,
    read_config,
    read_safetensors,
)
from mssgen.checkpoints.pickles import read_pickle
from mssgen.checkpoints.resolving import SCHEME, parse_address
from mssgen.codecs.base import Codec
from mssgen.codecs.loading import is_codec_name, save_codec
from mssgen.devices import DTYPES, choose_device, choose_precision
from mssgen.errors import CheckpointError, MssgenError
from mssgen.recipes.schema import checked_options
from mssgen.refiners.layouts import LICENCE, infer_options, is_vampnet, merged, to_native
from mssgen.refiners.masked_transformer import (
    MaskedTransformer,
    MaskedTransformerOptions,
    codebook_vectors,
)

ARCHITECTURE = "masked_transformer"
_VAMPNET_DECODER = "mrf"  # used by no other codec


def load_refiner(
    path: Path | str,
    *,
    codec: Codec | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    lora: Path | str | None = None,
    with_lora: bool = True,
    warn: Callable[[str], None] = lambda message: None,
) -> MaskedTransformer:
    """Load a refiner, frozen and in eval mode.

    Args:
        path: mssgen's folder, or VampNet's `coarse.pth` or `c2f.pth`.
        codec: codec of the codes to be refined; required for VampNet's files.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16", for weights and arithmetic.
        lora: VampNet's separate file of low-rank updates (`lora.pth`), used instead of those in
            `path`.
        with_lora: False drops the low-rank updates in VampNet's file; the original applies them.
        warn: called with the licence of VampNet's weights.

    Raises:
        UsageError: unknown device or precision.
        CheckpointError: the file is missing, damaged, untrusted, not a refiner, or for another
            codec.
    """
    chosen, path = choose_device(device), Path(path)
    dtype = DTYPES[choose_precision(precision, chosen)]
    if path.is_dir():
        network = _read_folder(path)
    else:
        network = _read_vampnet(path, codec, lora=lora, with_lora=with_lora)
        warn(f"{path}: {LICENCE}")
    if codec is not None and network.codec_id != codec.codec_id:
        raise CheckpointError(
            f"{path} refines the codes of the codec {network.codec_id}, but {codec.name} is "
            f"{codec.codec_id}: use it with the codec that it was trained for"
        )
    return network.freeze().to(chosen, dtype)


def save_refiner(
    network: MaskedTransformer,
    folder: Path | str,
    *,
    codec: Codec | str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder for `load_refiner` atomically: config.json and model.safetensors in fp32.

    Args:
        network: on any device.
        folder: where to write.
        codec: the codec for `refiner_codec`: a name of the registry, an hf:// address, or the codec
            itself, which is saved in the subfolder codec/; None: the user has to give it.
        overwrite: replace a checkpoint that exists.

    Raises:
        CheckpointError: the folder cannot be written, contains anything else, or contains a
            checkpoint and `overwrite` is False.
    """
    state = {key: value.float() for key, value in network.state_dict().items()}
    config: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "options": asdict(network.options),
    }
    if codec is not None:
        config["codec"] = codec if isinstance(codec, str) else EMBEDDED_CODEC
    config["codec_id"] = network.codec_id
    with new_folder(Path(folder), overwrite=overwrite) as draft:
        if isinstance(codec, Codec):
            save_codec(codec, draft / EMBEDDED_CODEC)
        write_checkpoint(draft, state, config)


def refiner_codec(path: Path | str) -> str | None:
    """Name, address or path of a refiner's codec, for `load_codec`.

    None if the refiner does not state it: VampNet's files, and folders saved without one.
    `load_refiner` checks that it is the codec that the refiner was trained for.

    Raises:
        CheckpointError: the folder is damaged or not a refiner.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    place = _read_config(path).get("codec")
    if place is None:
        return None
    if place == EMBEDDED_CODEC:
        return str(path / EMBEDDED_CODEC)
    if isinstance(place, str) and place.startswith(SCHEME):
        parse_address(place)
        return place
    if not is_codec_name(place):
        raise CheckpointError(f"{path / CONFIG} does not name its codec: get the file again")
    return str(place)


def read_vampnet(
    path: Path | str,
    codebooks: Tensor,
    *,
    codec_id: str = "",
    lora: Path | str | None = None,
    with_lora: bool = True,
) -> MaskedTransformer:
    """Read VampNet's network from the file at `path` to the CPU.

    Args:
        path: `coarse.pth` or `c2f.pth`.
        codebooks: entries [K, V, E] of the codec, K at least that of the network.
        codec_id: id of the codec.
        lora: as in `load_refiner`.
        with_lora: as in `load_refiner`.

    Raises:
        CheckpointError: the file is missing, damaged, untrusted, not VampNet's, or for another
            codec.
    """
    path = Path(path)
    state, said = _read_pickled(path)
    changes = None if lora is None else _read_pickled(Path(lora))[0]
    if not is_vampnet(state):
        raise CheckpointError(f"{path} is not a refiner: give VampNet's coarse.pth or c2f.pth")
    try:
        state = merged(state, changes, with_lora=with_lora)
        options = infer_options(state, codebooks.shape[1], said)
        native = to_native(state, options)
        if len(codebooks) < options.n_codebooks or codebooks.shape[-1] != options.codebook_dim:
            shape = " x ".join(str(size) for size in codebooks.shape)
            raise ValueError(f"it was not trained for codebooks of {shape}")
        native["codebooks"] = codebooks[: options.n_codebooks].float()
        return _built(options, native, codec_id)
    except (MssgenError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a VampNet model for this codec: {error}") from None


def _read_vampnet(
    path: Path, codec: Codec | None, *, lora: Path | str | None, with_lora: bool
) -> MaskedTransformer:
    """`read_vampnet` with VampNet's codec only; by its shapes DAC 44.1 kHz would fit too.

    Raises:
        CheckpointError: also if `codec` is None or another codec.
    """
    if codec is None:
        raise CheckpointError(f"{path} contains no codebooks: give VampNet's codec.pth with it")
    if codec.options.get("decoder_kind") != _VAMPNET_DECODER:
        raise CheckpointError(
            f"{path} is not a folder, and VampNet's models take codes of VampNet's own codec.pth "
            f"only, not those of {codec.name}"
        )
    codebooks = codebook_vectors(codec, tuple(range(codec.n_codebooks)))
    return read_vampnet(path, codebooks, codec_id=codec.codec_id, lora=lora, with_lora=with_lora)


def _read_pickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, constructor arguments of the original) in a file of VampNet's trainer."""
    package = read_pickle(path, "a VampNet model")
    state = package.get("state_dict", package) if isinstance(package, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} does not hold a state dict: get the file again")
    metadata = package.get("metadata")
    said = metadata.get("kwargs") if isinstance(metadata, dict) else None
    return checked_tensors(path, state), said if isinstance(said, dict) else {}


def _read_folder(folder: Path) -> MaskedTransformer:
    """Refiner in mssgen's folder, on the CPU; CheckpointError if it is damaged or none."""
    config, path = _read_config(folder), folder / WEIGHTS
    state = checked_tensors(path, read_safetensors(path)[1])
    codec_id = config.get("codec_id")
    if not isinstance(codec_id, str):
        raise CheckpointError(f"{folder / CONFIG} does not name its codec: get the file again")
    try:
        given = checked_options(MaskedTransformerOptions, config["options"], str(folder / CONFIG))
        options = MaskedTransformerOptions(**given)
        return _built(options, state, codec_id)
    except CheckpointError:
        raise
    except (MssgenError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} does not fit its own {CONFIG} ({error}): get the checkpoint again"
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    """Contents of config.json; CheckpointError if it is missing, damaged or not a refiner's."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}, so it is not a refiner")
    return read_config(folder / CONFIG, "refine")


def _built(
    options: MaskedTransformerOptions, state: dict[str, Tensor], codec_id: str
) -> MaskedTransformer:
    """Network with the weights `state`; ValueError if they do not fit the options."""
    if options.n_layers > len(state):  # each has tensors; do not build what cannot fit
        raise ValueError(f"there are no {options.n_layers} layers")
    return filled(lambda: MaskedTransformer(options, codec_id), state)
