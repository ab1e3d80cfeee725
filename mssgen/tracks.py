"""From what the user names (files, folders, lists) to the songs to work on."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mssgen.errors import AudioError, UsageError

# What is taken from folders; a file that is named outright may be called anything.
EXTENSIONS = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf"),
    *(".w64", ".rf64", ".au", ".snd", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".alac"),
)
STDIN = "-"


@dataclass(frozen=True)
class Track:
    """A song: where it is, and its name in output paths."""

    path: str
    """As the user gave it; "-" is standard input."""
    name: str
    """Without suffix; folders below a named folder are kept, divided by "/"."""

    @property
    def label(self) -> str:
        """As it is shown to the user."""
        return "standard input" if self.path == STDIN else self.path

    @property
    def real_path(self) -> str:
        """The same for every way to write the path of one file."""
        return STDIN if self.path == STDIN else os.path.realpath(self.path)

    @property
    def suffix(self) -> str:
        """Without the dot."""
        return Path(self.path).suffix.lstrip(".")

    @property
    def parent(self) -> str:
        """The name of the folder that holds it."""
        return "stdin" if self.path == STDIN else Path(os.path.abspath(self.path)).parent.name

    @property
    def in_parent(self) -> str:
        """Its name below `parent`, unless it has a folder already or lies in the current one."""
        is_here = self.path == STDIN or Path(os.path.abspath(self.path)).parent == Path.cwd()
        return self.name if is_here or "/" in self.name else f"{self.parent}/{self.name}"


def find_tracks(
    inputs: Sequence[str],
    *,
    list_file: str | None = None,
    output_dir: Path | None = None,
    extensions: Collection[str] = EXTENSIONS,
) -> list[Track]:
    """Expand files, folders (recursively, in order of name) and the lines of `list_file`.

    What lies in `output_dir` is left out: a second run over a folder does not separate the stems of
    the first one. The same file named twice is taken once. `extensions` are those of the files to
    take from folders.

    Raises:
        UsageError: nothing is named, or the list cannot be read.
        AudioError: a folder holds no sound files.
    """
    names = [*inputs, *(_lines(list_file) if list_file is not None else [])]
    if not names:
        raise UsageError("no input: name a sound file, a folder, '-' or --list FILE")
    if "" in names:  # an empty shell variable, which must not mean this folder
        raise UsageError("an input is an empty word: name a sound file or a folder")
    tracks: dict[str, Track] = {}
    for name in names:
        if name == STDIN:
            found: Iterable[Track] = [Track(STDIN, "stdin")]
        elif os.path.isdir(name):  # Path.is_dir raises where a name is too long
            found = _in_folder(Path(name), output_dir, extensions)
        else:
            found = [Track(name, Path(name).stem or Path(name).name)]
        for track in found:
            tracks.setdefault(track.real_path, track)
    return list(tracks.values())


def _lines(list_file: str) -> list[str]:
    try:
        text = Path(list_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"--list {list_file} cannot be read: {reason}") from None
    lines = [line.strip() for line in text.splitlines()]
    if names := [line for line in lines if line and not line.startswith("#")]:
        return names
    raise UsageError(f"--list {list_file} names no files: give one path a line")


def _in_folder(folder: Path, output_dir: Path | None, extensions: Collection[str]) -> list[Track]:
    excluded = output_dir.resolve() if output_dir is not None else None
    if excluded is not None and folder.resolve().is_relative_to(excluded):
        excluded = None  # the user asks for the outputs' own folder
    found = []

    def refuse(error: OSError) -> None:
        raise AudioError(
            f"{error.filename} may not be read by this user ({error.strerror}); change its "
            "permissions"
        )

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (Path(parent) / name).resolve() != excluded
        )
        for name in sorted(files):
            path = Path(parent) / name
            is_hidden = name.startswith(".")
            # Neither named pipes, which may never end, nor links to nowhere.
            if path.suffix.lower() in extensions and not is_hidden and path.is_file():
                found.append(Track(str(path), path.relative_to(folder).with_suffix("").as_posix()))
    if not found:
        kind = "sound files" if extensions is EXTENSIONS else f"{' or '.join(extensions)} files"
        raise AudioError(f"{folder} holds no {kind}; name a folder that does, or a file")
    return found
