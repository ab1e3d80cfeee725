"""Checkpoint folders of ours: which files are theirs, and how one appears whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mssgen.checkpoints.formats import CONFIG, EMBEDDED_CODEC, WEIGHTS, read_json
from mssgen.errors import CheckpointError
from mssgen.files import recover, reported, whole_folder
from mssgen.leftovers import holds_nothing, is_leftover

TRAINING = "training.json"
CARD = "README.md"
# The embedded codec is a folder of the same form; nothing else has a place in a checkpoint.
_FILES = (CONFIG, WEIGHTS, EMBEDDED_CODEC + CONFIG, EMBEDDED_CODEC + WEIGHTS, TRAINING, CARD)


def checkpoint_files(folder: Path) -> list[str]:
    """The files of a checkpoint that `folder` has, as paths below it with forward slashes."""
    return [name for name in _FILES if (folder / name).is_file()]


def other_files(folder: Path) -> list[str]:
    """What else lies in `folder`, sorted: files of any kind, and folders as a whole.

    Drafts of ours that a killed process left do not count.
    """
    inner = folder / EMBEDDED_CODEC
    places = [*folder.iterdir(), *(inner.iterdir() if inner.is_dir() else ())]
    names = {
        place.relative_to(folder).as_posix() for place in places if not is_leftover(place.name)
    }
    return sorted(names - {*_FILES, EMBEDDED_CODEC.rstrip("/")})


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to write a checkpoint to; it becomes `target` if nothing is raised.

    With `overwrite` an older checkpoint is replaced, but never a folder that holds anything else.
    Raises CheckpointError for such a folder, for a checkpoint without `overwrite`, and where the
    disk cannot be written.
    """
    place = Path(os.path.realpath(target))  # through a link, which stays
    recover(place)
    _check_replaceable(target, overwrite=overwrite)
    with reported(target, CheckpointError), whole_folder(place) as draft:
        yield draft


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
