"""Lists of sound files: one path per line, output of `find -print0`, and playlists (m3u, pls)."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mssgen.errors import UsageError

STDIN = "-"
_PLS_FILE = re.compile(r"\s*File\d+\s*=(.*)", re.IGNORECASE)


def read_list(list_file: str) -> list[str]:
    """Read the paths in a list; "-" reads the list from standard input.

    Paths are relative to the current folder or, if there is no such file, to the folder of the
    list. Lines that start with "#" are comments, unless a file has that name. Names may have any
    encoding; UTF-8 is tried first. Raises UsageError if the list cannot be read or is empty.
    """
    data = _bytes_of(list_file)
    folder = "" if list_file == STDIN else os.path.dirname(list_file)
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        if b"\0\0" in data:  # no name is empty
            raise UsageError(
                f"`list_file` {list_file} cannot be read: it is not a list but binary data"
            )
        names = [_found(name, folder) for name in _text(data, list_file).split("\0") if name]
    else:
        names = list(_from_lines(_text(data, list_file), folder))
    if names:
        return names
    raise UsageError(f"`list_file` {list_file} names no files: give one path per line")


def _bytes_of(list_file: str) -> bytes:
    if list_file == STDIN:
        if sys.stdin is None:
            raise UsageError(
                "`list_file='-'` reads standard input, which is closed; pipe a list into it"
            )
        return sys.stdin.buffer.read()
    try:
        return Path(list_file).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"`list_file` {list_file} cannot be read: {reason}") from None


def _text(data: bytes, list_file: str) -> str:
    """Decode UTF-16 with a byte order mark, else UTF-8 with other bytes as surrogate escapes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            reason = "it is not UTF-8 text"
            raise UsageError(f"`list_file` {list_file} cannot be read: {reason}") from None
    return data.decode("utf-8-sig", "surrogateescape")


def _from_lines(text: str, folder: str) -> Iterator[str]:
    # Not `splitlines`, which also splits at characters that file names may contain.
    lines = re.split("\r?\n" if "\n" in text else "\r", text)
    is_pls = any(line.strip().lower() == "[playlist]" for line in lines[:10])
    for line in lines:
        if is_pls:
            match = _PLS_FILE.fullmatch(line)
            if match and match[1].strip():
                yield _found(match[1], folder)
        elif line.strip():
            name = _found(line, folder)
            if not line.lstrip().startswith("#") or os.path.lexists(name):
                yield name


def _found(name: str, folder: str) -> str:
    """Path of the first reading of a name that is an existing file; else the plainest reading."""
    ways = list(dict.fromkeys(way for way in _ways(name) if way))
    for way in ways:
        for path in (way, os.path.join(folder, way)):
            if path == STDIN or _exists(path):
                return path
    return _local(name.strip()) or name.strip()


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # not a valid file name
        return False


def _ways(name: str) -> Iterator[str]:
    """Readings of a line: as it is, stripped, a file:// address, a path of another system."""
    yield name
    stripped = name.strip()
    yield stripped
    yield _local(stripped)
    yield unquote(stripped, errors="surrogateescape")
    yield stripped.replace("\\", "/")
    # Old playlists are encoded in Windows-1252.
    for other in (name, stripped, stripped.replace("\\", "/")):
        try:
            yield other.encode("utf-8", "surrogateescape").decode("cp1252")
        except UnicodeDecodeError:
            continue


def _local(name: str) -> str:
    """Path of a file:// address; "" for anything else."""
    if not name.lower().startswith("file:"):
        return ""
    try:
        return unquote(urlsplit(name).path, errors="surrogateescape")
    except ValueError:
        return ""
