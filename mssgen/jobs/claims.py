"""Claims on outputs: only one process at a time writes a file, also on a shared file system.

A claim is a hidden, locked file in the output folder, named after the output. It ends with its
process, however that ends.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mssgen.errors import AudioError, UsageError
from mssgen.files import reported
from mssgen.leftovers import Lock, claim, is_leftover, new_draft, sweep_once


def claim_file(folder: Path, target: Path) -> Path:
    """Path of the claim on an output of a folder."""
    name = os.fsencode(target.relative_to(folder).as_posix())
    return folder / f".mssgen-{hashlib.sha256(name).hexdigest()[:12]}.part"


@contextmanager
def claimed(folder: Path, targets: Iterable[Path]) -> Iterator[bool]:
    """Claim outputs for the block; yields whether no other process has claimed one of them.

    Raises AudioError if the folder cannot be written to.
    """
    with ExitStack() as stack:
        is_ours = True
        for target in sorted(targets):
            path = claim_file(folder, target)
            with reported(target, AudioError):
                folder.mkdir(parents=True, exist_ok=True)
                sweep_once(folder)
                lock = claim(path)
            if lock is None:
                is_ours = False
                break
            stack.callback(_end, path, lock)
        yield is_ours


def is_claimed(folder: Path, name: str) -> bool:
    """Whether a process holds the claim of this name; False on file systems without locks."""
    path = folder / name
    try:
        if not is_leftover(name):
            return False
        lock = Lock(path)
    except OSError:
        return False
    try:
        return not lock.take(where_unknown=True)
    finally:
        lock.release()


def _end(path: Path, lock: Lock) -> None:
    with suppress(OSError):
        path.unlink()
    lock.release()


def check_sharing(folder: Path) -> None:
    """Raise UsageError unless processes that write to a folder can keep each other out."""
    with reported(folder, AudioError):
        folder.mkdir(parents=True, exist_ok=True)
        path, lock = new_draft(folder, Path.touch)
        try:
            has_locks = lock.take(where_unknown=False)
        finally:
            _end(path, lock)
    if not has_locks:
        raise UsageError(
            f"the file system of {folder} has no locks, so that several runs cannot share it: give "
            "each `shard` its own `output_dir`"
        )
