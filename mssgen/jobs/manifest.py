"""OUTPUT/manifest.jsonl: records the input and options of each file in an output folder.

One JSON object per line, appended and never rewritten; several processes may append. A song has a
line with the state "running" when it starts, and one with "done" or "failed" when it ends. Each
output file is recorded in a line "writing" before it gets its name, so files of a killed run can be
told from other files. An output counts as complete only if it was made from the same input with the
same options.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from mssgen import __version__
from mssgen.errors import AudioError, UsageError
from mssgen.files import sha256_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.jsonl"
FORMAT_VERSION = 1
_KEY = "mssgen_manifest"
_START = f'{{"{_KEY}":'.encode()
State = Literal["running", "writing", "done", "failed"]


@dataclass(frozen=True)
class Stamp:
    """Identity of a file in the file system; equal stamps mean equal content."""

    path: str
    """Absolute, links resolved."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Unlike the modification time, programs cannot set it."""
    inode: int


class InputFile:
    """An input file; its stamp is read once, and its content hashed at most once, when needed."""

    def __init__(self, path: str | Path) -> None:
        self.path = os.path.realpath(path)

    @cached_property
    def stamp(self) -> Stamp | None:
        """Stamp at first access; None for missing files and files that are not regular (pipes)."""
        return _stamp(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the content; raises AudioError if the file cannot be read."""
        try:
            return sha256_of(Path(self.path))
        except OSError as error:
            raise AudioError(
                f"{self.path} cannot be read ({error.strerror or error}); check the file"
            ) from None

    def record(self) -> "InputRecord | None":
        """Record for the manifest; None without a `stamp`. Raises AudioError."""
        return InputRecord(**asdict(self.stamp), sha256=self.sha256) if self.stamp else None

    def has_changed(self) -> bool:
        """Whether the file differs from its `stamp`."""
        return self.stamp is not None and _stamp(self.path) != self.stamp


def _stamp(path: str) -> Stamp | None:
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    return Stamp(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


@dataclass(frozen=True)
class InputRecord(Stamp):
    """Stamp and content hash of an input at the time it was used."""

    sha256: str

    def is_of(self, source: InputFile) -> bool:
        """Whether `source` has the same content; hashes it unless the stamps are equal."""
        stamp = source.stamp
        if stamp is None or stamp.size != self.size:
            return False
        untouched = all(getattr(self, name) == value for name, value in asdict(stamp).items())
        return untouched or source.sha256 == self.sha256


@dataclass(frozen=True)
class Output:
    """One output file."""

    path: str
    """Relative to the output folder, with forward slashes."""
    size: int
    """In bytes."""
    sha256: str
    made: dict[str, Any] = field(default_factory=dict)
    """Models and options that determine the samples of this output."""


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    state: State
    source: InputRecord | None
    """The input; None for standard input and pipes."""
    options: dict[str, Any]
    """Options that determine the samples of all outputs of the song."""
    outputs: tuple[Output, ...] = ()
    gain: float = 1.0
    """Factor of all outputs, so that they fit into full scale."""
    about: dict[str, Any] = field(default_factory=dict)
    """Values that are not compared: names, the device, ..."""
    seconds: float = 0.0
    """Processing time."""
    error: str = ""
    version: str = __version__
    """Version of mssgen."""


@dataclass(frozen=True)
class Made:
    """An output file with the manifest entry that records it."""

    entry: Entry
    output: Output


@dataclass(frozen=True)
class Attempts:
    """What a manifest says of an input that no run has completed."""

    last: Entry
    """"failed", or "running"."""
    n_unfinished: int
    """Number of runs that started it and did not record an end: killed, except one that goes on."""


class Manifest:
    """The manifest of one output folder, which may not exist yet.

    Raises UsageError if the file belongs to another program, AudioError if it cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / MANIFEST
        self._known: dict[str, list[Made]] = {}
        self._attempts: dict[tuple[str, str], Attempts] = {}  # by job and path of the input
        self._n_read = 0  # bytes
        self._reading = Lock()  # songs are opened in a thread
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that were appended since, by any process; raises as the constructor.

        A file that is shorter than before is another one, and is read from its start.
        """
        with self._reading:
            before = self._n_read
            entries, self._n_read = _read(self.path, before)
            if self._n_read < before:
                self._known.clear()
                self._attempts.clear()
            for entry in entries:
                self._learn(entry)

    def append(self, entry: Entry) -> None:
        """Append a line and force it to the disk; raises AudioError if that fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _append(self.path, _line(entry))
        except OSError as error:
            raise AudioError(
                f"{self.path} cannot be written: {error.strerror or error}; choose another "
                "`output_dir`"
            ) from error
        self.refresh()

    def output(self, target: Path, content: Path, made: Mapping[str, Any]) -> Output:
        """Record of the output `target`, whose content is in the file `content`; raises OSError."""
        return Output(self.name(target), content.stat().st_size, sha256_of(content), dict(made))

    def name(self, target: Path) -> str:
        """Path of an output relative to the folder, with forward slashes."""
        return target.relative_to(self.folder).as_posix()

    def made(self, target: Path) -> Made | None:
        """Record of the file that is now at `target`; None if there is none.

        If the latest line is not "done", an older file may still be there, so the content hash
        decides. Raises AudioError if the file cannot be read.
        """
        known = self._known.get(self.name(target), [])
        if not known or known[-1].entry.state == "done":
            return known[-1] if known else None
        found = InputFile(target).sha256 if target.is_file() else ""
        return next((made for made in reversed(known) if made.output.sha256 == found), None)

    def attempts(self, job: str, source: InputFile) -> Attempts | None:
        """Attempts at an input in its present state; None if there are none, or one completed it.

        `job` is that of the entries' `about`. An input with a new modification time is a new one.
        """
        known, stamp = self._attempts.get((job, source.path)), source.stamp
        is_same = known is not None and stamp is not None and _is_untouched(known.last, stamp)
        return known if is_same else None

    def objection(
        self, target: Path, source: InputFile, options: Mapping[str, Any], made: Mapping[str, Any]
    ) -> str:
        """Why the file at `target` may differ from an output of this input and options, or "".

        Raises AudioError if a file cannot be read.
        """
        known = self.made(target)
        if known is None:
            return "was not made by mssgen, or there is no record of it"
        entry, output = known.entry, known.output
        if target.stat().st_size != output.size:
            return "was changed after mssgen made it"
        if entry.source is None or source.stamp is None:
            return "was made from a pipe, or is to be: pipes cannot be compared"
        if not entry.source.is_of(source):
            changed = entry.source.path == source.path
            which = f"{source.path} has changed since" if changed else entry.source.path
            return f"was made from another file ({which})"
        differing = _differing(
            {**entry.options, **output.made}, json.loads(json.dumps({**options, **made}))
        )
        return f"was made with other options ({', '.join(differing)})" if differing else ""

    def _learn(self, entry: Entry) -> None:
        for output in entry.outputs:
            earlier = self._known.setdefault(output.path, [])
            if entry.state == "done":  # the file is this one, whatever was there before
                earlier.clear()
            earlier.append(Made(entry, output))
        if entry.source is None or entry.state == "writing":
            return
        key = str(entry.about.get("job")), entry.source.path
        known = self._attempts.pop(key, None)
        if entry.state != "done":
            is_same = known is not None and _is_untouched(known.last, entry.source)
            before = known.n_unfinished if known is not None and is_same else 0
            self._attempts[key] = Attempts(entry, before + 1 if entry.state == "running" else 0)


def _is_untouched(entry: Entry, stamp: Stamp) -> bool:
    source = entry.source
    return source is not None and (source.size, source.mtime_ns) == (stamp.size, stamp.mtime_ns)


def read_entries(path: Path) -> list[Entry]:
    """Read the lines of a manifest in order, skipping damaged ones; empty if there is no file.

    Raises UsageError for a link and for another program's file, AudioError if it cannot be read.
    """
    return _read(path, 0)[0]


def _read(path: Path, start: int) -> tuple[list[Entry], int]:
    """The entries from byte `start` on, and the byte after the last complete line.

    All entries if the file is shorter than `start`.
    """
    try:
        is_link = path.is_symlink()
        with path.open("rb") as file:
            start = start if start <= os.fstat(file.fileno()).st_size else 0
            file.seek(start)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        start, data, is_link = 0, b"", path.is_symlink()
    except OSError as error:
        raise AudioError(
            f"{path} cannot be read ({error.strerror or error}); move it away, or choose another "
            "`output_dir`"
        ) from error
    lines = [line for line in (part.strip(b"\0 \t\r") for part in data.split(b"\n")) if line]
    if is_link or (lines and start == 0 and not any(_may_be_ours(line) for line in lines)):
        raise UsageError(
            f"{path} is {'a link' if is_link else 'a file of another program'}, and mssgen writes "
            "its manifest under that name; choose another `output_dir`"
        )
    entries = [entry for entry in map(_parsed, lines) if entry is not None]
    return entries, start + data.rfind(b"\n") + 1


def _may_be_ours(line: bytes) -> bool:
    return line.startswith(_START) or _START.startswith(line)


def _line(entry: Entry) -> bytes:
    # ASCII only: file names that are not valid text survive as escapes.
    content = {_KEY: FORMAT_VERSION, **asdict(entry)}
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _parsed(line: bytes) -> Entry | None:
    try:
        content = json.loads(line)
        if content.pop(_KEY) != FORMAT_VERSION:
            return None
        source, outputs = content.pop("source"), content.pop("outputs")
        entry = Entry(
            source=None if source is None else InputRecord(**source),
            outputs=tuple(Output(**output) for output in outputs),
            **content,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry if _is_sound(entry) else None


def _is_sound(entry: Entry) -> bool:
    """Whether the values that are used have the right types."""
    return isinstance(entry.options, dict) and all(
        isinstance(output.path, str)
        and isinstance(output.made, dict)
        and isinstance(output.size, int)
        for output in entry.outputs
    )


def _append(path: Path, line: bytes) -> None:
    """Append a line with one locked write; an incomplete last line is terminated first."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    number = os.open(path, flags, 0o666)
    try:
        with _locked(number):
            size = os.lseek(number, 0, os.SEEK_END)
            is_torn = size > 0 and _last_byte(number, size) != b"\n"
            data = (b"\n" if is_torn else b"") + line + b"\n"
            if os.write(number, data) != len(data):
                raise OSError(None, "the disk is full")
            os.fsync(number)
    finally:
        os.close(number)


def _last_byte(number: int, size: int) -> bytes:
    os.lseek(number, size - 1, os.SEEK_SET)
    return os.read(number, 1)


@contextmanager
def _locked(number: int) -> Iterator[None]:
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(number, fcntl.LOCK_EX)
    yield  # closing the file unlocks it


def _differing(before: Any, now: Any, name: str = "") -> list[str]:
    """Names of the values that differ between two nested dicts, each once."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = [
            each
            for key in {**before, **now}
            for each in _differing(before.get(key), now.get(key), str(key))
        ]
        return list(dict.fromkeys(found))
    return [] if before == now else [name]
