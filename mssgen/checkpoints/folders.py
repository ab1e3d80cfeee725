"""mssgen's checkpoint folders: which files they have, how they are written and replaced."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mssgen.checkpoints.formats import CONFIG, EMBEDDED_CODEC, FORMAT_VERSION, WEIGHTS, read_json
from mssgen.checkpoints.tensor_files import save_tensors
from mssgen.errors import CheckpointError
from mssgen.files import recover, reported, sha256_of, whole_file, whole_folder
from mssgen.leftovers import holds_nothing, is_leftover

if TYPE_CHECKING:
    from torch import Tensor

TRAINING = "training.json"
CARD = "README.md"
# The embedded codec is a folder of the same form; no other file belongs to a checkpoint.
_FILES = (CONFIG, WEIGHTS, EMBEDDED_CODEC + CONFIG, EMBEDDED_CODEC + WEIGHTS, TRAINING, CARD)


def checkpoint_files(folder: Path) -> list[str]:
    """Those files in `folder` that belong to a checkpoint: relative paths with forward slashes."""
    return [name for name in _FILES if (folder / name).is_file()]


def other_files(folder: Path) -> list[str]:
    """Files and folders in `folder` that do not belong to a checkpoint, sorted.

    Drafts that a killed mssgen process left behind are not listed.
    """
    inner = folder / EMBEDDED_CODEC
    places = [*folder.iterdir(), *(inner.iterdir() if inner.is_dir() else ())]
    names = {
        place.relative_to(folder).as_posix() for place in places if not is_leftover(place.name)
    }
    return sorted(names - {*_FILES, EMBEDDED_CODEC.rstrip("/")})


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty draft folder, which becomes `target` unless an exception is raised.

    With `overwrite`, an older checkpoint is replaced, but never a folder that holds other files.
    Raises CheckpointError for such a folder, for an existing checkpoint without `overwrite`, and
    if the disk cannot be written.
    """
    place = Path(os.path.realpath(target))  # keeps a symbolic link and replaces what it points to
    recover(place)
    _check_replaceable(target, overwrite=overwrite)
    with reported(target, CheckpointError), whole_folder(place) as draft:
        yield draft


def write_checkpoint(
    folder: Path, tensors: Mapping[str, "Tensor"], config: Mapping[str, Any]
) -> None:
    """Write model.safetensors and then config.json to an existing folder; each appears whole.

    config.json holds `config`, the format version and the sha256 of the weights. Raises OSError.
    """
    with whole_file(folder / CONFIG) as about, whole_file(folder / WEIGHTS) as weights:
        save_tensors(tensors, weights, {"format": "pt"})
        content = {"format_version": FORMAT_VERSION, **config, "sha256": sha256_of(weights)}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        about.write_text(text, encoding="utf-8")


def _check_replaceable(target: Path, *, overwrite: bool) -> None:
    try:
        if not target.exists() or (target.is_dir() and holds_nothing(target)):
            return
        if not target.is_dir():
            found = "is a file"
        elif others := other_files(target):
            found = f"holds {others[0]}"
        else:
            found = "" if _is_ours(target / CONFIG) else f"holds no {CONFIG} of mssgen's"
    except OSError as error:
        raise CheckpointError(f"{target} cannot be read: {error.strerror or error}") from None
    if found:
        raise CheckpointError(
            f"{target} {found}: only a checkpoint is ever replaced; choose another folder"
        )
    if not overwrite:
        raise CheckpointError(
            f"{target} exists: choose another folder, or add `overwrite=True` to replace it"
        )


def _is_ours(config: Path) -> bool:
    try:
        return "format_version" in read_json(config)
    except CheckpointError:
        return False
