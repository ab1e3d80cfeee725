"""Atomic output files and folders: each is complete and on the disk, or absent.

Content is written to a hidden draft beside its target (see `leftovers`), forced to the disk and
then renamed. No other module renames files.
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
    """Expand a template such as "{track}/{stem}.{ext}" to a path inside `output_dir`.

    A "/" in `track` or `path` makes sub-folders. Raises UsageError for unknown names in the
    template and for paths that leave `output_dir`: absolute, through ".." or through a link.
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
            f"`template` {template!r} gives {expanded!r} for {track!r}, which is not a path inside "
            "the output folder; use names without '..', empty parts and a leading '/'"
        )
    try:
        too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts)
        target = output_dir.joinpath(*parts)
        is_inside = not too_long and target.resolve().is_relative_to(output_dir.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"`template` {template!r} gives an invalid file name") from error
    if too_long:
        raise UsageError(
            f"`template` {template!r} gives a name of more than {_MAX_NAME_BYTES} bytes for "
            f"{track!r}; use a shorter one"
        )
    if not is_inside:
        raise UsageError(
            f"{target} is not inside {output_dir}, because a link leads out of it: remove the "
            "link, or choose another `output_dir` or `template`"
        )
    return target


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Draft:
    """A hidden file beside its target, which it replaces once it is complete.

    Its permissions are those of any new file: `mode` without the bits of the umask.
    """

    def __init__(self, target: Path, *, mode: int = 0o666) -> None:
        """Create the folder and an empty draft in it; raises OSError."""
        self._target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(target.parent)

        def create(path: Path) -> None:
            # Never into a file, or through a link, that someone else put there.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))

        self.path, self._lock = new_draft(target.parent, create)
        self._is_open = True

    def finish(self) -> None:
        """Force the content to the disk and rename the draft to the target; raises OSError."""
        try:
            put(self.path, self._target)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove an unfinished draft; a finished file stays. May be called again."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):
                self.path.unlink()
            self._lock.release()


@contextmanager
def whole_file(target: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """An empty draft that becomes `target` at the end of the block, or is removed on an exception.

    Creates the folder. Raises OSError; `reported` turns it into a message.
    """
    draft = Draft(target, mode=mode)
    try:
        yield draft.path
        draft.finish()
    finally:
        draft.discard()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder that replaces `target` at the end of the block; removed on an exception.

    The caller must check whether an existing `target` may be replaced. Raises OSError.
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
    """Force the file `draft` to the disk and rename it to `target`; raises OSError."""
    _sync(draft)
    os.replace(draft, target)
    _sync(target.parent)


def swap(draft: Path, target: Path) -> None:
    """Replace the folder `target` with `draft`, after forcing all files of `draft` to the disk.

    If the system can exchange two names atomically, `target` exists at all times; otherwise
    `recover` restores the old folder after a kill. Raises OSError.
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
    """Restore the folder `target` if a kill during `swap` left it under a hidden name."""
    old = target.with_name(OLD + target.name)
    with suppress(OSError):
        if old.is_dir() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Rename a folder, so that it never seems incomplete, then remove it; raises OSError."""
    hidden = folder.with_name(hidden_name())
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def write_text(target: Path, text: str) -> Path:
    """Write UTF-8 text to a file that is complete or absent; raises MssgenError."""
    # File names in the text need not be valid Unicode.
    return write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_bytes(target: Path, data: bytes) -> Path:
    """Write a file that is complete or absent; raises MssgenError."""
    with reported(target), whole_file(target) as draft:
        draft.write_bytes(data)
    return target


def is_there(path: Path) -> bool:
    """Whether `path` exists and is not an empty file, which is never an output of mssgen."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size > 0 or not stat.S_ISREG(status.st_mode)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 digest of a file; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reported(target: Path | str, kind: type[MssgenError] = MssgenError) -> Iterator[None]:
    """Raise OSError in the block as a `kind` of error that says why `target` was not written."""
    try:
        yield
    except OSError as error:
        raise kind(unwritable(target, error)) from error


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space, or choose another `output_dir`",
    errno.EDQUOT: "your disk quota is used up; free some space, or choose another `output_dir`",
    errno.EFBIG: "the file would be too large here; choose another `output_dir` or "
    "`container='flac'`",
    errno.EACCES: "there is no permission to write there; choose another `output_dir`",
    errno.EPERM: "there is no permission to write there; choose another `output_dir`",
    errno.EROFS: "the disk is read-only; choose another `output_dir`",
    errno.EISDIR: "a folder has that name; choose another `output_dir` or `template`",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another `output_dir`",
    errno.EEXIST: "a file stands where a folder should; choose another `output_dir`",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter `output_dir` or `template`",
}


def unwritable(target: Path | str, error: OSError) -> str:
    """Error message for a file or folder that cannot be written."""
    reason = _REASONS.get(error.errno or 0)
    return f"{target} cannot be written: " + (
        reason or f"{error.strerror or error}; choose another `output_dir`"
    )


def _sync(path: Path) -> None:
    """Force the content of a file, or the list of names in a folder, to the disk."""
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
        # Some file systems cannot do that, most often for folders.
        if not is_folder and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system cannot. Raises OSError."""
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
