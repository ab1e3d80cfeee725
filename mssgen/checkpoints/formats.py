"""Reads separator checkpoints of every format into one `Checkpoint`.

Formats are recognised by content, and no file is trusted:

* our folder: `config.json` + `model.safetensors` (fp16, fp32, or int8 as in `quantization`);
* Demucs' hub files: safetensors whose metadata names class, args and kwargs;
* Demucs' `.th` packages (see `pickles`);
* bare safetensors without metadata: a `config.json` beside it, or a layout of the registry;
* a state dict of a family of `families`, as safetensors or pickle.

No name that a file contains is ever imported, or used as a path outside the file's folder.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mssgen.checkpoints.families import FAMILIES, describe, family_of, unwrapped
from mssgen.checkpoints.pickles import (
    ARCHITECTURES,
    is_codec,
    is_package,
    open_package,
    read_pickle,
)
from mssgen.checkpoints.registry import LAYOUTS, STAGES
from mssgen.checkpoints.safetensors_header import check_header
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of
from mssgen.memory import is_out_of_memory, told

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
EMBEDDED_CODEC = "codec/"  # in a stem encoder's folder: its codec, a folder of the same form
# The architectures of config.json, and the stage of the registry that each is for.
STAGE_OF = {
    "htdemucs": "separate",
    "hdemucs": "separate",
    **dict.fromkeys(FAMILIES, "separate"),
    "seanet": "codec",
    "dac": "codec",
    "stem": "codec",
    "stem_encoder": "enhance",
    "masked_transformer": "refine",
}
_MAX_CONFIG_BYTES = 2**20
_MAX_RATE = 1_000_000  # Hz


@dataclass(frozen=True)
class Checkpoint:
    """One network in memory, ready to be built."""

    architecture: str
    """"htdemucs", "hdemucs", or a family of `families`."""
    options: dict[str, Any]
    """Keyword arguments of the constructor: numbers, strings, lists, Fractions."""
    state: dict[str, "torch.Tensor"]
    """State dict of float16 or float32 tensors on the CPU, already dequantised."""
    path: Path
    """Folder or file that it was read from."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Stem names in the order of the network's output."""
        return tuple(self.options["sources"])

    @property
    def sample_rate(self) -> int:
        """Sample rate of the network's input and output in Hz."""
        return int(self.options.get("samplerate", 44_100))


def read_checkpoint(path: Path, *, config: Path | None = None) -> Checkpoint:
    """Read a separator's checkpoint folder or file; nothing in it is executed.

    `config` is the config.json for a file without options of its own (default: the one beside it).
    Raises CheckpointError that says what is wrong and what to do.
    """
    path = Path(path)
    try:
        if path.is_dir():
            if not (path / CONFIG).is_file():
                raise CheckpointError(f"{path} has no {CONFIG}, so it is not a checkpoint folder")
            return _read_safetensors(path / WEIGHTS, path / CONFIG, path)
        with path.open("rb") as file:
            head = file.read(9)
        if not head:
            raise CheckpointError(f"{path} is empty: get the file again")
        if head[8:] == b"{":  # eight bytes of header length, then JSON
            return _read_safetensors(path, config or path.parent / CONFIG, path)
        if head[:2] == b"PK" or head[0] == 0x80:
            check_promised_hash(path)
            return _checked(path, *_from_pickle(path))
    except OSError as error:
        if is_out_of_memory(error):
            raise told(error, f"reading {path}") from None
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    raise CheckpointError(f"{path} is neither safetensors nor a torch package: it may be damaged")


def read_config(path: Path, stage: str = "separate") -> dict[str, Any]:
    """A checkpoint folder's config.json, type-checked, with Fractions restored in `options`.

    Raises CheckpointError if it is invalid or describes a model for another `stage`.
    """
    config = read_json(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has no format_version {FORMAT_VERSION}, the only one this mssgen reads"
        )
    found = STAGE_OF.get(str(config.get("architecture")))
    if found is None:
        known = ", ".join(name for name in STAGE_OF if STAGE_OF[name] == stage)
        raise CheckpointError(f"{path} names no known architecture ({known})")
    if found != stage:
        raise CheckpointError(f"{path} {wrong_stage(found, stage)}")
    if not isinstance(config.get("options"), dict):
        raise CheckpointError(f"{path} has no options for the model's constructor")
    config["options"] = _plain_options(path, config["options"])
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a config.json of any program; CheckpointError for anything else."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is too large to be a config.json")
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0][:100]
        raise CheckpointError(f"{path} is not valid JSON ({reason}): get the file again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object: get the file again")
    return config


def wrong_stage(found: str, wanted: str) -> str:
    """End of an error message about a file with a model for another stage: "holds a codec, …"."""
    what, command = STAGES[found]
    return f"holds {what}, not {STAGES[wanted][0]}: give it to {command}"


def fractions_to_json(value: Any) -> Any:
    """Options as JSON values: a Fraction becomes {"fraction": [39, 5]}, others stay as they are."""
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Mapping):
        return {key: fractions_to_json(item) for key, item in value.items()}
    return [fractions_to_json(item) for item in value] if isinstance(value, list) else value


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Hash of a state dict's tensor names and shapes: 16 hex digits."""
    lines = "\n".join(f"{key} {list(shapes[key])}" for key in sorted(shapes))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, "torch.Tensor"]]:
    """(metadata, tensors) of a safetensors file; int8 tensors are dequantised to fp32.

    Other tensors are not checked. Raises CheckpointError if the file cannot be read, is damaged, or
    differs from the hash in the config.json beside it.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    from mssgen.checkpoints.int8 import dequantize_state

    check_stated_hash(path)
    try:
        check_header(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged or incomplete ({error}): get the file again"
        ) from None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError) as error:  # AttributeError: an exotic type
        raise CheckpointError(
            f"{path} is damaged or incomplete ({error}): get the file again"
        ) from None
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):  # the file is not to blame
            raise told(error, f"reading {path}") from None
        # The library also turns interruptions, such as a signal, into these errors.
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} could not be read completely ({reason}): try again"
        ) from None
    if any(tensor.dtype == torch.int8 for tensor in state.values()):
        state = dequantize_state(state, path)
    return metadata, state


def _read_safetensors(path: Path, config_path: Path, shown: Path) -> Checkpoint:
    """Takes the options from the metadata, else from `config_path`, else from a known layout."""
    metadata, state = read_safetensors(path)
    if is_codec(state):
        raise CheckpointError(f"{path} {wrong_stage('codec', 'separate')}")
    if "klass" in metadata:
        return _checked(shown, *_from_metadata(path, metadata), state)
    if config_path.is_file():
        config = read_config(config_path)
        return _checked(shown, config["architecture"], config["options"], state)
    if (family := family_of(state)) is not None:
        return _checked(shown, family, describe(path, family), state)
    layout = LAYOUTS.get(fingerprint({key: tuple(value.shape) for key, value in state.items()}))
    if layout is None:
        raise CheckpointError(
            f"{path} does not say which model it is: put a {CONFIG} beside it with "
            "format_version, architecture and options (see weights/README.md)"
        )
    return _checked(shown, layout.architecture, layout.options, state)


def _from_metadata(path: Path, metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """(architecture, options) from the metadata of a Demucs hub file."""
    architecture = ARCHITECTURES.get(metadata["klass"])
    if architecture is None:
        raise CheckpointError(
            f"{path} holds a {metadata['klass']:.80}; only {' and '.join(ARCHITECTURES)} are known"
        )
    if "structure" in metadata:
        raise CheckpointError(
            f"{path} is quantised with diffq, which is not supported: take the model without _q"
        )
    try:
        args, kwargs = json.loads(metadata["args"]), json.loads(metadata["kwargs"])
    except (KeyError, ValueError, RecursionError):
        raise CheckpointError(f"{path} has damaged metadata: get the file again") from None
    return architecture, _options(path, args, kwargs)


def _from_pickle(path: Path) -> tuple[str, dict[str, Any], dict[Any, Any]]:
    """(architecture, options, state) from a `.th` package or a pickled state dict."""
    package = read_pickle(path, "a separator")
    if is_codec(package):
        raise CheckpointError(f"{path} {wrong_stage('codec', 'separate')}")
    if is_package(package):
        architecture, args, kwargs, state = open_package(path, package)
        return architecture, _options(path, args, kwargs), state
    state = unwrapped(package)
    family = family_of(state) if isinstance(state, dict) else None
    if family is None:
        raise CheckpointError(
            f"{path} is neither a Demucs package nor a state dict of a known separator "
            f"({', '.join(FAMILIES)}): convert it to safetensors with a {CONFIG} beside it"
        )
    return family, describe(path, family), state


def _options(path: Path, args: Any, kwargs: Any) -> dict[str, Any]:
    """Keyword arguments of the constructor, whose first arguments may be positional in `args`."""
    names = ("sources", "audio_channels", "channels")
    if not isinstance(args, list) or not isinstance(kwargs, dict) or len(args) > len(names):
        raise CheckpointError(f"{path} has damaged constructor arguments: get the file again")
    return _plain_options(path, {**dict(zip(names, args, strict=False)), **kwargs})


def _plain_options(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Options with plain values; together they are no fraction, whatever they are called."""
    values = _plain(path, list(options.values()))
    if not all(isinstance(name, str) for name in options):
        raise CheckpointError(f"{path} has an option without a name: get the file again")
    return dict(zip(options, values, strict=True))


def _plain(path: Path, value: Any, depth: int = 0) -> Any:
    """`value`, which must be plain data, with both notations of a fraction as Fraction."""
    if value is None or isinstance(value, str | int | float | Fraction):
        return value
    if depth < 8 and isinstance(value, list | tuple):
        return [_plain(path, item, depth + 1) for item in value]
    if depth < 8 and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        parts = value.get("fraction")
        if value.get("_type") == "fraction":
            parts = [value.get("numerator"), value.get("denominator")]
        if parts is None:
            return {key: _plain(path, item, depth + 1) for key, item in value.items()}
        if (
            isinstance(parts, list)
            and [type(part) for part in parts] == [int, int]
            and parts[1] != 0
        ):
            return Fraction(*parts)
    raise CheckpointError(f"{path} has an option that is not a plain value: get the file again")


def _checked(
    path: Path, architecture: str, options: dict[str, Any], state: Mapping[Any, Any]
) -> Checkpoint:
    """The Checkpoint, after its stem names, sample rate and tensors are checked."""
    sources = options.get("sources")
    if (
        not isinstance(sources, list)
        or not sources
        or not all(isinstance(stem, str) and re.fullmatch(r"[\w-]{1,40}", stem) for stem in sources)
        or len(set(sources)) != len(sources)
    ):
        raise CheckpointError(f"{path} has no valid names of stems (option sources)")
    rate = options.get("samplerate", 1)
    if type(rate) is not int or not 1 <= rate <= _MAX_RATE:
        raise CheckpointError(f"{path} has no valid sample rate (option samplerate)")
    return Checkpoint(architecture, options, checked_tensors(path, state), path)


def checked_tensors(path: Path, state: Mapping[Any, Any]) -> dict[str, "torch.Tensor"]:
    """`state` as float16 or float32 tensors on the CPU; CheckpointError for other values."""
    import torch

    if not state:
        raise CheckpointError(f"{path} holds no tensors: get the file again")
    tensors: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        # A strided view can claim any size over a few bytes: the storage must be as large.
        if (
            not isinstance(key, str)
            or not isinstance(value, torch.Tensor)
            or value.device.type != "cpu"
            or value.layout != torch.strided
            or not value.is_floating_point()
            or value.numel() * value.element_size() > value.untyped_storage().nbytes()
        ):
            raise CheckpointError(f"{path} has '{key}', which is not a tensor of weights")
        keeps = value.dtype in (torch.float16, torch.float32)
        tensors[key] = value.detach() if keeps else value.detach().float()
    return tensors


def check_stated_hash(path: Path) -> None:
    """Raise CheckpointError if a model.safetensors differs from the hash in its config.json."""
    config = path.parent / CONFIG
    if path.name != WEIGHTS or not config.is_file() or not path.is_file():
        return
    about = read_json(config)
    stated = about.get("sha256") if "format_version" in about else None
    if stated is not None and (got := sha256_of(path)) != stated:
        raise CheckpointError(
            f"{path} is damaged: {CONFIG} beside it states sha256 {stated!s:.12}… but it is "
            f"{got[:12]}…: get the folder again"
        )


def check_promised_hash(path: Path) -> None:
    """Raise CheckpointError if a file differs from the hash in its name.

    Demucs, EnCodec and Open-Unmix name files <NAME>-<first 8 hex digits of sha256>.th or .pth.
    """
    promise = re.fullmatch(
        r"(?:[0-9a-f]{8}|encodec_\w+|vocals|drums|bass|other)-([0-9a-f]{8})\.p?th", path.name
    )
    if promise and not (got := sha256_of(path)).startswith(promise[1]):
        raise CheckpointError(
            f"{path} is damaged: its name promises sha256 {promise[1]}… but it is {got[:8]}…; "
            "download it again"
        )
