"""Codecs from files of mssgen, the encodec and descript-audio-codec packages, and the hub.

Formats: mssgen's folders (config.json + model.safetensors), EnCodec's `.th` (a plain state dict),
the `.pth` of DAC and VampNet ({state_dict, metadata}), and transformers' folders and files. Options
that a file does not state are inferred from the shapes of its tensors; those that shapes do not
determine come from the config.json next to it, or from the published codec with the same shapes.
"""

import inspect
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from mssgen.checkpoints.blueprints import blueprint, misfit
from mssgen.checkpoints.folders import write_checkpoint
from mssgen.checkpoints.formats import (
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    check_promised_hash,
    checked_tensors,
    read_config,
    read_json,
    read_safetensors,
    wrong_stage,
)
from mssgen.checkpoints.pickles import read_pickle
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import resolve
from mssgen.codecs.base import Codec
from mssgen.codecs.layouts import infer_options, to_native
from mssgen.codecs.networks.dac import DAC_16KHZ, DAC_24KHZ, DAC_44KHZ, DacCodec
from mssgen.codecs.networks.seanet import ENCODEC_24KHZ, ENCODEC_48KHZ, SeanetCodec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.devices import choose_device
from mssgen.errors import CheckpointError, MssgenError, shown
from mssgen.files import reported, whole_folder
from mssgen.memory import tells_of_memory
from mssgen.recipes.schema import checked_options

_CLASSES: dict[str, type[Codec]] = {"seanet": SeanetCodec, "dac": DacCodec, "stem": StemCodec}
# Options that differ from the constructors' defaults.
_PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "encodec_24khz": ("seanet", ENCODEC_24KHZ),
    "encodec_48khz": ("seanet", ENCODEC_48KHZ),
    "dac_44khz": ("dac", DAC_44KHZ),
    "dac_24khz": ("dac", DAC_24KHZ),
    "dac_16khz": ("dac", DAC_16KHZ),
}
# Options in transformers' config.json of EnCodec that shapes do not determine: (key there, our
# option, default there).
_TRANSFORMERS_ENCODEC = (
    ("use_causal_conv", "causal", True),
    ("normalize", "normalize", False),
    ("chunk_length_s", "segment_s", None),
    ("overlap", "segment_overlap", None),
    ("dilation_growth_rate", "dilation_base", 2),
)
# Options that set the number of layers.
_COUNTS = (
    *("n_codebooks", "n_residual_layers", "n_lstm_layers", "ratios", "encoder_rates"),
    *("decoder_rates", "n_encoder_blocks", "n_decoder_blocks", "n_level_codebooks"),
    "n_level_blocks",
)


@tells_of_memory("loading the model")
def load_codec(
    name_or_path: str, *, device: str = "cpu", offline: bool = False, progress: bool = False
) -> Codec:
    """Load a codec, frozen and in eval mode.

    Args:
        name_or_path: name of a codec from `mssgen models list`, path of a file or folder, or
            address of a folder on the hub (hf://OWNER/NAME).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        offline: never access the hub.
        progress: show a progress bar on standard error while downloading.

    Raises:
        UsageError: unknown name or device, name of a separator, or a package is not installed.
        CheckpointError: the file cannot be reached, is damaged or untrusted, or is not a codec.
    """
    chosen = choose_device(device)
    resolved = resolve(name_or_path, offline=offline, progress=progress, stage="codec")
    if len(resolved.paths) != 1:
        raise CheckpointError(f"{name_or_path} {wrong_stage('separate', 'codec')}")
    path, bundle = resolved.paths[0], resolved.bundle
    codec = read_codec(path, name=bundle.name if bundle else None)
    if bundle is not None and codec.sample_rate != bundle.sample_rate:
        raise CheckpointError(
            f"{path} is not {bundle.name}: it works at {codec.sample_rate} Hz, not "
            f"{bundle.sample_rate}; run `mssgen models pull {bundle.name}` for the right file"
        )
    codec.to(chosen)
    return codec


def read_codec(path: Path | str, *, name: str | None = None) -> Codec:
    """Read a codec from a file or folder to the CPU, frozen and in eval mode.

    Nothing in the file is executed.

    Args:
        path: mssgen's or transformers' folder, or a single file of weights.
        name: name for messages; None: that in the file, or the file's own.

    Raises:
        CheckpointError: the file is missing, damaged, untrusted, or not a codec.
    """
    path = Path(path)
    metadata: dict[str, Any] = {}
    try:
        if path.is_dir():
            weights, config = path / WEIGHTS, path / CONFIG
        else:
            weights, config = path, path.parent / CONFIG
        with weights.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # eight bytes of header length (the first may be 0x80), then JSON
            state = _from_safetensors(weights)
        elif head[:2] == b"PK" or head[:1] == b"\x80":
            check_promised_hash(weights)
            state, metadata = _from_pickle(weights)
        else:
            raise CheckpointError(
                f"{weights} is neither a safetensors file nor one of torch.save: it may be damaged "
                "or of another kind"
            )
        about = read_json(config) if config.is_file() and "kwargs" not in metadata else {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if "format_version" in about:
        about = read_config(config, "codec")
        options = {"name": path.stem, **about["options"], **({"name": name} if name else {})}
        codec = _built(path, about["architecture"], options, to_native(state))
        _check_id(path, codec, about.get("codec_id"))
        return codec
    try:
        state = to_native(state)
        architecture, shapes = infer_options(state)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a known EnCodec or DAC: {error}") from None
    facts = _facts(path, architecture, shapes, metadata, about)
    own = {"name": name or facts.get("name") or path.stem or "codec"}
    return _built(path, architecture, {**shapes, **facts, **own}, state)


def save_codec(codec: Codec, folder: Path | str) -> None:
    """Write a folder for `read_codec`: config.json and model.safetensors in fp32.

    A new folder is created atomically. In an existing one each file is replaced atomically, and the
    codec id in config.json guards against a mix of old and new files.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    state = {key: value.float() for key, value in codec.state_dict().items()}
    vars(codec).pop("codec_id", None)  # cached, maybe from before the last training step
    description = {
        "architecture": codec.architecture,
        "options": codec.options,
        "codec_id": codec.codec_id,
        "sample_rate": codec.sample_rate,
    }
    with reported(folder, CheckpointError):
        if folder.exists():
            write_checkpoint(folder, state, description)
        else:
            with whole_folder(folder) as draft:
                write_checkpoint(draft, state, description)


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    """State dict in a safetensors file; CheckpointError if it holds a separator."""
    metadata, state = read_safetensors(path)
    if "klass" in metadata:
        raise CheckpointError(f"{path} {wrong_stage('separate', 'codec')}")
    return checked_tensors(path, state)


def _from_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, metadata) of a pickle that holds a state dict, with or without metadata."""
    package = read_pickle(path, "a codec")
    if not isinstance(package, dict):
        raise CheckpointError(f"{path} does not hold a state dict: get the file again")
    if "klass" in package:
        raise CheckpointError(f"{path} {wrong_stage('separate', 'codec')}")
    metadata = package.get("metadata")
    state = package.get("state_dict", package)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is damaged: its state_dict is not a dict of tensors")
    return checked_tensors(path, state), metadata if isinstance(metadata, dict) else {}


def _facts(
    path: Path,
    architecture: str,
    shapes: dict[str, Any],
    metadata: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Options that the shapes of the tensors do not determine.

    Args:
        path: the file, for messages.
        architecture: "seanet" or "dac".
        shapes: options inferred from shapes.
        metadata: that of a `.pth` of DAC or VampNet, else {}.
        about: contents of config.json, else {}.

    Raises:
        CheckpointError: they cannot be found, or contradict the shapes.
    """
    kwargs = metadata.get("kwargs")
    if isinstance(kwargs, dict) and architecture == "dac":
        _check_agreement(path, shapes, kwargs)
        return {"sample_rate": kwargs.get("sample_rate", 44_100)}
    if about.get("model_type") in ("encodec", "dac") and "sampling_rate" in about:
        facts: dict[str, Any] = {"sample_rate": about["sampling_rate"]}
        if architecture == "seanet":
            values = {ours: about.get(its, default) for its, ours, default in _TRANSFORMERS_ENCODEC}
            facts |= {key: value for key, value in values.items() if value is not None}
            if about.get("pad_mode", "reflect") != "reflect":
                raise CheckpointError(f"{path} does not pad by reflection: not supported")
        return facts
    for name, (kind, options) in _PUBLISHED.items():
        if kind == architecture and _has_shapes(_CLASSES[kind], options, shapes):
            return {**options, "name": name}
    raise CheckpointError(
        f"{path} does not state its sample rate: put a {CONFIG} next to it with format_version "
        f"{FORMAT_VERSION}, architecture {architecture} and options"
    )


def _check_agreement(path: Path, shapes: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Raise CheckpointError if a file's metadata contradict the shapes of its tensors."""
    for key, value in shapes.items():
        said = kwargs.get(key)
        said = list(said) if isinstance(said, tuple) else said
        if said is not None and said != value:
            raise CheckpointError(
                f"{path} says {key} {shown(said)} but its tensors have {shown(value)}: get the "
                "file again"
            )


def _has_shapes(kind: type[Codec], options: dict[str, Any], shapes: dict[str, Any]) -> bool:
    """Whether the published codec with `options` has the options inferred from shapes."""
    parameters = inspect.signature(kind.__init__).parameters
    for key, value in shapes.items():
        published = options.get(key, parameters[key].default)
        if isinstance(published, tuple):
            published = list(published)
        if published is not None and published != value:
            return False
    return True


def _built(
    path: Path, architecture: str, options: dict[str, Any], state: dict[str, Tensor]
) -> Codec:
    """Frozen codec with the weights `state`.

    Raises:
        CheckpointError: the options are invalid or do not fit the weights.
    """
    options = checked_options(_CLASSES[architecture], options, str(path))
    _check_counts(path, options, len(state))
    is_real = _has_these_shapes(architecture, options, state)
    try:
        with (
            nullcontext() if is_real else blueprint(),
            warnings.catch_warnings(action="ignore"),
        ):
            codec = _CLASSES[architecture](**options)
    except MssgenError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # of any kind: the options are untrusted
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} has options that do not define a codec: {reason}") from None
    if problem := misfit(codec, state):
        raise CheckpointError(f"{path} does not fit the codec {architecture}: {problem}")
    codec.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return codec.freeze()


def _has_these_shapes(architecture: str, options: dict[str, Any], state: dict[str, Tensor]) -> bool:
    """Whether to build the codec with allocated weights, as its options match the given shapes.

    Only for SEANet, for which a blueprint (on the meta device) takes ten times as long, since torch
    loads its compiler.
    """
    if architecture != "seanet":
        return False
    try:
        _, shapes = infer_options(state)
    except ValueError:
        return False
    return all(key in options and options[key] == value for key, value in shapes.items())


def _check_counts(path: Path, options: dict[str, Any], n_tensors: int) -> None:
    """Raise CheckpointError if the options have more layers than the file has tensors."""
    for key in _COUNTS:
        value = options.get(key, 0)
        count = len(value) if isinstance(value, list) else value
        if count > n_tensors:
            raise CheckpointError(
                f"{path} has {n_tensors} tensors, too few for its option {key} = {shown(value)}: "
                "get the file again"
            )


def is_codec_name(name: object) -> bool:
    """Whether a checkpoint may refer to its codec by `name`: one of the registry, not a path."""
    return isinstance(name, str) and name in REGISTRY and REGISTRY[name].stage == "codec"


def _check_id(path: Path, codec: Codec, expected: Any) -> None:
    """Raise CheckpointError if the codec does not have the id that config.json states."""
    if expected is not None and codec.codec_id != expected:
        raise CheckpointError(
            f"{path} is damaged or was changed: its weights are {codec.codec_id}, but {CONFIG} "
            f"says {shown(expected)}; get it again"
        )
