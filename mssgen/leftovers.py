"""What a killed process leaves behind: how it is recognised as ours, and when it may be removed.

Drafts are called `.mssgen-XXXXXXXXXXXX.part` and lie beside what they become; temporary files lie
in folders `mssgen-PID-XXXXXXXX` in TMPDIR. Both are locked for as long as their process lives: what
can be locked was left behind, and the next run that meets it removes it.
"""

import os
import re
import secrets
import shutil
import tempfile
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
"""Before the name of a folder: the one that is being replaced, see `files.recover`."""
_LEFTOVER = re.compile(r"\.mssgen-[0-9a-f]{12}(\.part)?")
_SCRATCH = re.compile(r"mssgen-([0-9]{1,9})-.+")


class Lock:
    """Keeps a file or folder from being swept until `release`, or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = None
        if fcntl is not None:
            self._descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            _locks.add(self)

    def take(self, *, where_unknown: bool) -> bool:
        """Whether it could be had, without waiting; `where_unknown`: on a disk without locks."""
        if self._descriptor is None:
            return where_unknown
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return where_unknown
        return True

    def release(self) -> None:
        """Let go; may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_locks: WeakSet[Lock] = WeakSet()


def _leave_to_parent() -> None:
    # A lock lasts as long as any copy of its descriptor: a child would keep it for a dead parent.
    for lock in list(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def hidden_name() -> str:
    """A name for a draft."""
    return f".mssgen-{secrets.token_hex(6)}.part"


def new_draft(folder: Path, create: Callable[[Path], object]) -> tuple[Path, Lock]:
    """Make a draft by `create`, and lock it; raises OSError."""
    while True:
        path = folder / hidden_name()
        create(path)
        with suppress(FileNotFoundError):  # swept before it was locked
            lock = Lock(path)
            if lock.take(where_unknown=True) and path.exists():
                return path, lock
            lock.release()


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a draft of ours."""
    return _LEFTOVER.fullmatch(name) is not None or name.startswith(OLD)


def holds_nothing(folder: Path) -> bool:
    """Whether nothing but drafts of ours is in a folder; raises OSError."""
    return all(is_leftover(entry.name) for entry in folder.iterdir())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files in TMPDIR, removed at the end, or by a later run of mssgen."""
    with tempfile.TemporaryDirectory(prefix=f"mssgen-{os.getpid()}-") as name:
        lock = Lock(Path(name))
        lock.take(where_unknown=True)
        sweep_scratch()
        try:
            yield Path(name)
        finally:
            lock.release()


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder whose processes are gone. Nothing is raised."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _LEFTOVER.fullmatch(entry.name):
                _remove_if_dead(Path(entry.path))


@cache
def sweep_scratch() -> None:
    """Remove this user's scratch folders whose processes are gone; once in a process."""
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
    """Sweep a folder that is about to be written to, and TMPDIR; once in a process."""
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
