"""The only place that gives a file its name: every output is complete and on the disk, or absent.

What is written is a hidden draft first, beside its target (see `leftovers`). Its content is forced
to the disk before the rename, or a power cut could leave the name without the content.
"""

import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mssgen.errors import MssgenError, UsageError
from mssgen.leftovers import OLD, hidden_name, new_draft, sweep_once

_TEMPLATE_NAMES = ("track", "trackext", "stem", "ext", "parent", "path")
_SEPARATORS = re.escape(os.sep + (os.altsep or ""))
_MAX_NAME_BYTES = 255


def safe_target(
    output_dir: Path,
    template: str,
    *,
    track: str,
    stem: str,
    ext: str,
    trackext: str = "",
    parent: str = "",
    path: str = "",
) -> Path:
    """Expand a template such as "{track}/{stem}.{ext}" to a path that lies inside `output_dir`.

    A "/" in `track` or `path` keeps its folders. Raises UsageError for names that the template may
    not use and for every path that would leave `output_dir`: absolute, through "..", through a
    link.
    """
    values = {"track": track, "trackext": trackext, "stem": stem, "ext": ext}
    values |= {"parent": parent, "path": path}
    expanded = ""
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            expanded += literal
            if name is not None:
                if spec or conversion:
                    raise KeyError(name)
                expanded += values[name]
    except (ValueError, KeyError) as error:
        names = ", ".join(f"{{{name}}}" for name in _TEMPLATE_NAMES)
        raise UsageError(
            f"`template` {template!r} is not understood; it can hold {names}"
        ) from error

    parts = re.split(f"[{_SEPARATORS}]", expanded)
    if "\0" in expanded or any(part in ("", ".", "..") for part in parts) or Path(expanded).anchor:
        raise UsageError(
            f"`template` {template!r} gives {expanded!r} for {track!r}, which is no path inside "
            "the output folder; use names without '..', empty parts and a leading '/'"
        )
    try:
        too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts)
        target = output_dir.joinpath(*parts)
        is_inside = not too_long and target.resolve().is_relative_to(output_dir.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"`template` {template!r} gives a name that no disk can hold") from error
    if too_long:
        raise UsageError(
            f"`template` {template!r} gives a name of more than {_MAX_NAME_BYTES} bytes for "
            f"{track!r}; use a shorter one"
        )
    if not is_inside:
        raise UsageError(
            f"{target} is not inside {output_dir}, since a link leads out of it: remove the link, "
            "or choose another `output_dir` or `template`"
        )
    return target


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Draft:
    """A hidden file beside its target that becomes the target once it is complete.

    The permissions are those of any new file: `mode` less the umask.
    """

    def __init__(self, target: Path, *, mode: int = 0o666) -> None:
        """Make the folder and an empty draft in it; raises OSError."""
        self._target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(target.parent)

        def create(path: Path) -> None:
            # Never into a file, or through a link, that someone else put there.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))

        self.path, self._lock = new_draft(target.parent, create)
        self._is_open = True

    def finish(self) -> None:
        """Force the content to the disk, then give it its name; raises OSError."""
        try:
            put(self.path, self._target)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not finished; a finished file stays. May be called again."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):
                self.path.unlink()
            self._lock.release()


@contextmanager
def whole_file(target: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """An empty draft beside `target`, which becomes `target` if nothing is raised, else it goes.

    Makes the folder. The system's errors pass; `reported` makes a sentence of them.
    """
    draft = Draft(target, mode=mode)
    try:
        yield draft.path
        draft.finish()
    finally:
        draft.discard()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` if nothing is raised, else it goes.

    The caller checks before whether an older `target` may be replaced. The system's errors pass.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    sweep_once(target.parent)
    draft, lock = new_draft(target.parent, os.mkdir)
    try:
        yield draft
        swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        lock.release()


def put(draft: Path, target: Path) -> None:
    """Force the file `draft` to the disk and give it the name `target`; raises OSError."""
    _sync(draft)
    os.replace(draft, target)
    _sync(target.parent)


def swap(draft: Path, target: Path) -> None:
    """Put the folder `draft` in the place of `target`, whose old content is removed.

    All files are on the disk before. Where the system can exchange two names at once there is a
    `target` at any time; elsewhere `recover` finds the old one. Raises OSError.
    """
    for place in (*draft.rglob("*"), draft):
        if not place.is_symlink():
            _sync(place)
    recover(target)
    if not target.exists():
        os.rename(draft, target)
    elif not _exchange(draft, target):
        old = target.with_name(OLD + target.name)
        os.rename(target, old)
        try:
            os.rename(draft, target)
        except OSError:
            os.rename(old, target)
            raise
        draft = old
    _sync(target.parent)
    shutil.rmtree(draft, ignore_errors=True)


def recover(target: Path) -> None:
    """Give back the folder `target` where a kill in the middle of `swap` has taken its name."""
    old = target.with_name(OLD + target.name)
    with suppress(OSError):
        if old.is_dir() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, which is never seen with a part of its files; raises OSError."""
    hidden = folder.with_name(hidden_name())
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def write_text(target: Path, text: str) -> Path:
    """Write UTF-8 text to a file that is complete or absent; raises MssgenError."""
    # Names of files need not be text.
    return write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_bytes(target: Path, data: bytes) -> Path:
    """Write a file that is complete or absent; raises MssgenError."""
    with reported(target), whole_file(target) as draft:
        draft.write_bytes(data)
    return target


def is_there(path: Path) -> bool:
    """Whether `path` is something else than an empty file, which is no output of ours."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size > 0 or not stat.S_ISREG(status.st_mode)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reported(target: Path | str, kind: type[MssgenError] = MssgenError) -> Iterator[None]:
    """Turn the system's errors into a `kind` of error that says why `target` was not written."""
    try:
        yield
    except OSError as error:
        raise kind(unwritable(target, error)) from error


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space, or choose another `output_dir`",
    errno.EDQUOT: "your disk quota is used up; free some space, or choose another `output_dir`",
    errno.EFBIG: "the file is too large here; choose another `output_dir` or `container='flac'`",
    errno.EACCES: "there is no permission to write there; choose another `output_dir`",
    errno.EPERM: "there is no permission to write there; choose another `output_dir`",
    errno.EROFS: "the disk is read-only; choose another `output_dir`",
    errno.EISDIR: "a folder has that name; choose another `output_dir` or `template`",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another `output_dir`",
    errno.EEXIST: "a file stands where a folder should; choose another `output_dir`",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter `output_dir` or `template`",
}


def unwritable(target: Path | str, error: OSError) -> str:
    """The sentence for a file or folder that cannot be written."""
    reason = _REASONS.get(error.errno or 0)
    return f"{target} cannot be written: " + (
        reason or f"{error.strerror or error}; choose another `output_dir`"
    )


def _sync(path: Path) -> None:
    """Have the system put a file's content, or a folder's list of names, on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some disks cannot do that, least of all for folders.
        if not is_folder and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system cannot. Raises OSError."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))
