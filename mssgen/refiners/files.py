"""Refiners from files: our folders, and the `.pth` files of VampNet.

config.json   {"format_version": 1, "architecture": "masked_transformer", "options": {...},
               "codec": NAME, ADDRESS or "codec/", "codec_id": ..., "sha256": ...}

Our folder holds the codec's code vectors too: a refiner needs no codec to be loaded, and its
`codec_id` says whose codes it takes; `refiner_codec` says where that codec is, which may lie in the
folder codec/. VampNet's files hold none, and need its codec to be read.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mssgen.checkpoints.blueprints import blueprint, misfit
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
from mssgen.codecs.loading import save_codec
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
_VAMPNET_DECODER = "mrf"  # that of no other codec


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
    """The frozen refiner at `path`, in eval mode.

    Args:
        path: our folder, or VampNet's `coarse.pth` or `c2f.pth`.
        codec: whose codes will be refined; VampNet's files need it.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16" of weights and arithmetic.
        lora: VampNet's file of a fine-tuning alone (`lora.pth`), to play instead of the stored one.
        with_lora: False leaves the low-rank changes out that VampNet's file stores beside its
            matrices; the original plays with them.
        warn: told once the licence of VampNet's weights.

    Raises:
        UsageError: an unknown device or precision.
        CheckpointError: the file is missing, damaged, untrusted, no refiner, or for another codec.
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
            f"{path} refines the codes of the codec {network.codec_id}, and {codec.name} is "
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
    """Write the folder that `load_refiner` reads: config.json and model.safetensors in fp32.

    `codec` is what `refiner_codec` is to find: a name of the registry, an hf:// address, or the
    codec itself, which is put beside, in codec/; None leaves it to the user.

    The folder appears complete or not at all. Raises CheckpointError when it cannot be written,
    holds something else, or holds a checkpoint already without `overwrite`.
    """
    state = {
        key: value.detach().cpu().float().contiguous()
        for key, value in network.state_dict().items()
    }
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
    """What `load_codec` takes to load the codec of the refiner at `path`: a name, address or path.

    None where the refiner does not say: VampNet's files, folders that were saved without. Whether
    it still is the codec that the refiner was trained for, `load_refiner` tells.

    Raises CheckpointError where the folder is damaged or no refiner.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    place = _read_config(path).get("codec")
    if place is None:
        return None
    if place == EMBEDDED_CODEC:
        return str(path / EMBEDDED_CODEC)
    # A path in the file would lead out of the folder.
    if isinstance(place, str) and place.startswith(SCHEME):
        parse_address(place)
        return place
    if not isinstance(place, str) or not place.replace("-", "_").isidentifier():
        raise CheckpointError(f"{path / CONFIG} does not name its codec: get the file again")
    return place


def read_vampnet(
    path: Path | str,
    codebooks: Tensor,
    *,
    codec_id: str = "",
    lora: Path | str | None = None,
    with_lora: bool = True,
) -> MaskedTransformer:
    """VampNet's network in the file at `path`, on the CPU.

    `codebooks` [K, V, E], those of the codec, K at least the network's; the rest as `load_refiner`.
    """
    path = Path(path)
    state, said = _read_pickled(path)
    changes = None if lora is None else _read_pickled(Path(lora))[0]
    if not is_vampnet(state):
        raise CheckpointError(f"{path} is no refiner: VampNet's coarse.pth or c2f.pth is expected")
    try:
        state = merged(state, changes, with_lora=with_lora)
        options = infer_options(state, codebooks.shape[1], said)
        native = to_native(state, options)
        if len(codebooks) < options.n_codebooks or codebooks.shape[-1] != options.codebook_dim:
            shape = " x ".join(str(size) for size in codebooks.shape)
            raise ValueError(f"a codec with codebooks of {shape} is none that it could know")
        native["codebooks"] = codebooks[: options.n_codebooks].float()
        return _built(options, native, codec_id)
    except (MssgenError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no VampNet model for this codec: {error}") from None


def _read_vampnet(
    path: Path, codec: Codec | None, *, lora: Path | str | None, with_lora: bool
) -> MaskedTransformer:
    """As `read_vampnet`, for none but VampNet's codec: shapes alone fit DAC 44.1 kHz too."""
    if codec is None:
        raise CheckpointError(f"{path} holds no code vectors: give VampNet's codec.pth with it")
    if codec.options.get("decoder_kind") != _VAMPNET_DECODER:
        raise CheckpointError(
            f"{path} is no folder of ours, and VampNet's models take the codes of VampNet's own "
            f"codec.pth only, not those of {codec.name}"
        )
    codebooks = codebook_vectors(codec, tuple(range(codec.n_codebooks)))
    return read_vampnet(path, codebooks, codec_id=codec.codec_id, lora=lora, with_lora=with_lora)


def _read_pickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, the original's constructor arguments) of what VampNet's trainer wrote."""
    package = read_pickle(path, "a VampNet model")
    state = package.get("state_dict", package) if isinstance(package, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no table of tensors: get the file again")
    metadata = package.get("metadata")
    said = metadata.get("kwargs") if isinstance(metadata, dict) else None
    return checked_tensors(path, state), said if isinstance(said, dict) else {}


def _read_folder(folder: Path) -> MaskedTransformer:
    config, path = _read_config(folder), folder / WEIGHTS
    state = checked_tensors(path, read_safetensors(path)[1])
    codec_id = config.get("codec_id")
    if not isinstance(codec_id, str):
        raise CheckpointError(f"{folder / CONFIG} does not name its codec: get the file again")
    try:
        given = checked_options(MaskedTransformerOptions, config["options"], str(folder / CONFIG))
        options = MaskedTransformerOptions(**given)
        return _built(options, {key: value.float() for key, value in state.items()}, codec_id)
    except CheckpointError:
        raise
    except (MssgenError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} does not fit its own {CONFIG} ({error}): get the checkpoint again"
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}, so it is no checkpoint of a refiner")
    return read_config(folder / CONFIG, "refine")


def _built(
    options: MaskedTransformerOptions, state: dict[str, Tensor], codec_id: str
) -> MaskedTransformer:
    """The network with exactly these weights; ValueError if they do not fit its options."""
    if options.n_layers > len(state):  # each has tensors; nor build for ever what cannot fit
        raise ValueError(f"there are no {options.n_layers} layers")
    with blueprint():
        network = MaskedTransformer(options, codec_id)
    if problem := misfit(network, state):
        raise ValueError(problem)
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network
