"""Reads `torch.save` files, such as Demucs' `.th` packages, without running any code in them.

Such a file is a zip with one pickle and the raw tensors. A pickle is a program, so it is restricted
in three ways: every name it refers to must be on the list below, `torch.load(weights_only=True)`
interprets it, and those names are replaced by inert objects, never by the classes they denote.
"""

import pickletools
import struct
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from mssgen.errors import CheckpointError

ARCHITECTURES = {
    "demucs.htdemucs.HTDemucs": "htdemucs",
    "demucs.hdemucs.HDemucs": "hdemucs",
}
_MAX_PICKLE_BYTES = 2**26  # without the tensors; published ones have about 2**17
_MAX_VALUES = 2**20
_TENSOR_NAMES = frozenset(
    {"collections.OrderedDict", "_codecs.encode", "torch.nn.parameter.Parameter", "torch.Size"}
    | {f"torch._utils.{name}" for name in ("_rebuild_tensor_v2", "_rebuild_parameter")}
    | {f"torch.{kind}Storage" for kind in ("Half", "Float", "Double", "BFloat16", "Int", "Long")}
)


class _HTDemucs:
    """Inert replacement of the class of that name; identifies the architecture."""


class _HDemucs:
    """Inert replacement of the class of that name; identifies the architecture."""


class _NumpyDtype:
    """Replacement of numpy.dtype: keeps its type code, ignores the rest of its pickled state."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _numpy_scalar(dtype: _NumpyDtype, data: bytes) -> float | int:
    """A numpy scalar as a Python number; packages hold a few besides the weights."""
    formats = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}
    if not isinstance(dtype, _NumpyDtype) or dtype.code not in formats:
        raise ValueError("a numpy scalar of an unknown kind")
    number: float | int = struct.unpack(formats[dtype.code], data)[0]
    return number


def _fraction(*parts: object) -> Fraction:
    """A Fraction from integers or "39/5"; unlike the class, it refuses "1e999999999"."""
    if len(parts) == 1 and isinstance(parts[0], str) and len(parts[0]) < 20:
        parts = tuple(int(part) for part in parts[0].split("/"))
    numerator, denominator = parts if len(parts) == 2 else (*parts, 1)
    if not isinstance(numerator, int) or not isinstance(denominator, int):
        raise ValueError("a fraction whose parts are not integers")
    return Fraction(numerator, denominator)


_STAND_INS: dict[str, Any] = {
    "demucs.htdemucs.HTDemucs": _HTDemucs,
    "demucs.hdemucs.HDemucs": _HDemucs,
    "fractions.Fraction": _fraction,
    "numpy.dtype": _NumpyDtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
_KLASSES: dict[Any, str] = {
    _STAND_INS[name]: architecture for name, architecture in ARCHITECTURES.items()
}


def read_pickle(path: Path, kind: str) -> Any:
    """Read tensors and plain values from a `torch.save` file; nothing in it is executed.

    `kind` ("a codec") is used in the error message. Raises CheckpointError if the file is damaged,
    of another kind, or refers to a name that is not on the list.
    """
    import torch

    _refuse_foreign_names(path)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([(item, name) for name, item in _STAND_INS.items()]),
        ):
            package = torch.load(path, map_location="cpu", weights_only=True)
        _check_size(package)
        return package
    except Exception as error:  # a hostile or damaged pickle can make the reader raise anything
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read safely as {kind}: {reason[:200] or type(error).__name__}"
        ) from None


def _check_size(package: Any) -> None:
    """Raise ValueError if `package` unfolds to more values than any model has.

    Pickled containers can share parts, so a few bytes may unfold to more than memory holds. This
    walk stops at a fixed number of values.
    """
    waiting, n_values = [package], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        n_values += 1
        if n_values + len(waiting) > _MAX_VALUES:
            raise ValueError(f"it stands for more than {_MAX_VALUES} values")


def is_codec(package: Any) -> bool:
    """Whether a state dict, or a {state_dict, metadata} dict, contains codebooks."""
    if not isinstance(package, dict):
        return False
    state = package.get("state_dict", package)
    return isinstance(state, dict) and any(
        isinstance(key, str) and key.startswith("quantizer.") for key in state
    )


def is_package(value: Any) -> bool:
    """Whether `value`, from a pickle, is a Demucs package."""
    return isinstance(value, dict) and {"klass", "args", "kwargs", "state"} <= set(value)


def open_package(
    path: Path, package: Mapping[str, Any]
) -> tuple[str, list[Any], dict[str, Any], dict[str, Any]]:
    """(architecture, args, kwargs, state) of the Demucs package that was read from `path`.

    Raises CheckpointError if it is damaged or of another network.
    """
    klass, state = package["klass"], package["state"]
    architecture = _KLASSES.get(klass) if isinstance(klass, type) else None
    args, kwargs = package["args"], package["kwargs"]
    if architecture is None:
        raise CheckpointError(f"{path} holds a model that is neither HTDemucs nor HDemucs")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise CheckpointError(f"{path} is damaged: the constructor's arguments are not a list")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is damaged: the state is not a table of tensors")
    if state.get("__quantized"):
        raise CheckpointError(
            f"{path} is quantised with diffq, which is not supported: take the "
            "model without the suffix _q"
        )
    return architecture, list(args), kwargs, state


def _refuse_foreign_names(path: Path) -> None:
    """Raise CheckpointError unless `path` is an intact zip whose pickle uses listed names only."""
    allowed = _TENSOR_NAMES | _STAND_INS.keys()
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # torch decides by the start, zipfile by the end
            file.seek(0)
            foreign = [] if is_zip else [name for name in _names(file) if name not in allowed]
        if not is_zip:
            asks = f" that asks for {foreign[0]}" if foreign else ""
            raise CheckpointError(
                f"{path} is refused: it is a bare pickle{asks}, a program that runs when it is "
                "read; get the weights as .safetensors"
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(f"{path} is refused: torch packages are never compressed")
            if (damaged := archive.testzip()) is not None:
                raise CheckpointError(f"{path} is damaged (in {damaged}): download it again")
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path} is not what torch.save writes: get it again")
            with archive.open(pickles[0]) as program:
                foreign = [name for name in _names(program) if name not in allowed]
    except (zipfile.BadZipFile, struct.error, ValueError, LookupError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): download it again") from None
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or of another zip version
        raise CheckpointError(f"{path} is not what torch.save writes ({error})") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if foreign:
        raise CheckpointError(
            f"{path} is refused: its pickle asks for {', '.join(sorted(set(foreign))[:3])}, and "
            "only the tensors and settings of a model are allowed in; nothing of it was "
            "run; get the weights as .safetensors"
        )


def _names(program: BinaryIO | Any) -> Iterator[str]:
    """Yield the dotted names a pickle refers to, from its opcodes; nothing is imported or run."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                # Protocol 2 spells the standard library as Python 2 did.
                module, name = NAME_MAPPING.get((module, name), (module, name))
                yield f"{IMPORT_MAPPING.get(module, module)}.{name}"
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:]) or "a computed name"
            elif opcode.name in ("EXT1", "EXT2", "EXT4"):
                yield "an extension code"
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, IndexError, OverflowError, UnicodeError, MemoryError):
        return  # not a pickle, or a damaged one: torch.load will report it
