"""Drafts and temporary folders, and their removal after a process was killed.

Drafts are named `.mssgen-XXXXXXXXXXXX.part`, beside their targets; temporary files are in folders
`mssgen-PID-XXXXXXXX` in TMPDIR. Both are locked while their process lives: if one can be locked, it
was left behind, and the next run that finds it removes it.
"""

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from weakref import WeakSet

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing is swept
    fcntl = None  # type: ignore[assignment]

OLD = ".mssgen-old-"
"""Prefix of the name of a folder while it is replaced, see `files.recover`."""
_LEFTOVER = re.compile(r"\.mssgen-[0-9a-f]{12}(\.part)?")
_N_TRIES, _RETRY_S = 4, 0.01
_SCRATCH = re.compile(r"mssgen-([0-9]{1,9})-.+")


class Lock:
    """Protects a file or folder from `sweep` until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = None
        if fcntl is not None:
            self._descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            _locks.add(self)

    def take(self, *, where_unknown: bool) -> bool:
        """Try to lock without waiting; file systems without locks return `where_unknown`."""
        if self._descriptor is None:
            return where_unknown
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return where_unknown
        return True

    def is_at(self, path: Path) -> bool:
        """Whether `path` is still the locked file; raises OSError."""
        if self._descriptor is None:
            return True
        return os.path.samestat(os.fstat(self._descriptor), path.stat())

    def release(self) -> None:
        """Unlock; may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_locks: WeakSet[Lock] = WeakSet()


def _leave_to_parent() -> None:
    # A lock lasts as long as any copy of its descriptor: a child would hold it for a dead parent.
    for lock in list(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def hidden_name() -> str:
    """A new name for a draft."""
    return f".mssgen-{secrets.token_hex(6)}.part"


def new_draft(folder: Path, create: Callable[[Path], object]) -> tuple[Path, Lock]:
    """Create a draft with `create` and lock it; raises OSError."""
    while True:
        path = folder / hidden_name()
        create(path)
        with suppress(FileNotFoundError):  # swept before it was locked
            lock = Lock(path)
            if lock.take(where_unknown=True) and path.exists():
                return path, lock
            lock.release()


def claim(path: Path) -> Lock | None:
    """Create a file that is locked while it exists; None if another process has locked it.

    The name must be one of a draft, so that a later run removes what a killed process leaves. On a
    file system without locks everybody succeeds. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(_N_TRIES):
        os.close(os.open(path, flags, 0o666))
        with suppress(FileNotFoundError):  # its owner has just removed it
            lock = Lock(path)
            if not lock.take(where_unknown=True):
                lock.release()
                time.sleep(_RETRY_S)  # perhaps a sweep, which takes no longer
            elif lock.is_at(path):
                return lock
            else:
                lock.release()
    return None


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a draft of mssgen."""
    return _LEFTOVER.fullmatch(name) is not None or name.startswith(OLD)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty except for drafts; raises OSError."""
    return all(is_leftover(entry.name) for entry in folder.iterdir())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder in TMPDIR, removed at the end of the block, or by a later run."""
    with tempfile.TemporaryDirectory(prefix=f"mssgen-{os.getpid()}-") as name:
        lock = Lock(Path(name))
        lock.take(where_unknown=True)
        sweep_scratch()
        try:
            yield Path(name)
        finally:
            lock.release()


def sweep(folder: Path) -> None:
    """Remove drafts of dead processes from a folder. Never raises."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _LEFTOVER.fullmatch(entry.name):
                _remove_if_dead(Path(entry.path))


@cache
def sweep_scratch() -> None:
    """Remove this user's temporary folders of dead processes; once per process."""
    if fcntl is None:
        return
    with suppress(OSError):
        for entry in list(os.scandir(tempfile.gettempdir())):
            found = _SCRATCH.fullmatch(entry.name)
            if found is None or _is_running(int(found[1])):
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove_if_dead(Path(entry.path))


@cache
def sweep_once(folder: Path) -> None:
    """Sweep a folder before writing to it, and TMPDIR; once per process."""
    sweep(folder)
    sweep_scratch()


def _remove_if_dead(path: Path) -> None:
    with suppress(OSError):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return
        lock = Lock(path)
        try:
            if lock.take(where_unknown=False):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        finally:
            lock.release()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
