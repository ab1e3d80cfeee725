"""Finds the songs among the inputs of a command: files, folders and lists."""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mssgen.errors import AudioError, UsageError
from mssgen.inputs.folder_scan import SOUND_EXTENSIONS, VIDEO_EXTENSIONS, FolderScan, LeftOut
from mssgen.inputs.lists import STDIN, read_list

# Suffixes of files taken from folders; a file that is named itself may have any suffix.
EXTENSIONS = (*SOUND_EXTENSIONS, *VIDEO_EXTENSIONS)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """A song: its path, and its name in output paths."""

    path: str
    """Path as the user gave it; "-" is standard input."""
    name: str
    """Name without suffix; below a folder given as input, the path relative to it ("a/b")."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return "standard input" if self.path == STDIN else self.path

    @property
    def real_path(self) -> str:
        """Absolute path with links resolved, equal for every spelling of a path."""
        return STDIN if self.path == STDIN else os.path.realpath(self.path)

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder (one that could not be read)."""
        return self.path != STDIN and os.path.isdir(self.path)

    @property
    def suffix(self) -> str:
        """Suffix of the file, without the dot."""
        return Path(self.path).suffix.lstrip(".")

    @property
    def parent(self) -> str:
        """Name of the folder that holds the file; "stdin" for standard input."""
        return "stdin" if self.path == STDIN else Path(os.path.abspath(self.path)).parent.name

    @property
    def in_parent(self) -> str:
        """`name`, prefixed with `parent` unless it has a folder or lies in the current folder."""
        is_here = self.path == STDIN or Path(os.path.abspath(self.path)).parent == Path.cwd()
        return self.name if is_here or "/" in self.name else f"{self.parent}/{self.name}"


def find_tracks(
    inputs: Sequence[str],
    *,
    list_file: str | None = None,
    output_dir: Path | None = None,
    extensions: Collection[str] = EXTENSIONS,
    skip_outputs: bool = True,
    skip_own: bool = True,
) -> list[Track]:
    """Expand files, folders (recursively, sorted by name) and a list of files to tracks.

    A file that is named twice is taken once. An unreadable folder becomes a track that fails when
    it is opened, so that the others are processed. Files skipped in folders although they look like
    sound are logged as a warning.

    Args:
        inputs: paths; "-" is standard input.
        list_file: list of more inputs, see `mssgen.inputs.lists.read_list`.
        output_dir: folder to skip, so that a second run does not separate the stems of the first.
        extensions: suffixes of the files to take from folders, with the dot.
        skip_outputs: skip the output folders of `separate` and `enhance`, wherever they are.
        skip_own: skip other folders that mssgen wrote: reports, training pairs, ...

    Raises:
        UsageError: no input is given, or the list cannot be read.
        AudioError: a folder holds no sound files, or only unreadable folders.
    """
    if list_file == STDIN and STDIN in inputs:
        raise UsageError(
            "'-' is standard input, which `list_file='-'` reads already; name files instead"
        )
    names = [*inputs, *(read_list(list_file) if list_file is not None else [])]
    if not names:
        raise UsageError("no input: name a sound file, a folder, '-' or a `list_file`")
    if "" in names:  # an empty shell variable, which must not mean the current folder
        raise UsageError("an input is empty: name a sound file or a folder")
    left_out = LeftOut()
    tracks: dict[str, Track] = {}
    for name in names:
        if name == STDIN:
            found: Iterable[Track] = [Track(STDIN, "stdin")]
        elif os.path.isdir(name):  # Path.is_dir raises where a name is too long
            scan = FolderScan(
                Path(name),
                extensions,
                excluded=_excluded(Path(name), output_dir),
                with_outputs=skip_outputs,
                with_own=not skip_own,
                is_output=output_dir is not None and Path(name).resolve() == output_dir.resolve(),
                left_out=left_out,
            )
            found = _in_folder(scan.run())
        else:
            found = [Track(name, Path(name).stem or Path(name).name)]
        for track in found:
            tracks.setdefault(track.real_path, track)
    if message := left_out.message:
        _log.warning("%s", message)
    return list(tracks.values())


def tracks_in(folder: Path, output_dir: Path) -> list[Track]:
    """The songs in a folder as `find_tracks` finds them, without a warning; perhaps none.

    No file is opened, so that it can be called every few seconds. Raises AudioError if the folder
    cannot be read.
    """
    excluded = output_dir.resolve()
    scan = FolderScan(folder, EXTENSIONS, excluded=excluded, with_outputs=False, opens_files=False)
    if folder in scan.run().unreadable:
        raise AudioError(f"{folder} cannot be read; check that it exists, and its permissions")
    return _songs(scan)


def _excluded(folder: Path, output_dir: Path | None) -> Path | None:
    excluded = output_dir.resolve() if output_dir is not None else None
    if excluded is not None and folder.resolve().is_relative_to(excluded):
        return None  # the user asks for the output folder itself
    return excluded


def _in_folder(scan: FolderScan) -> list[Track]:
    """Tracks for the songs and the unreadable folders; AudioError if there are no songs."""
    root = scan.root
    if scan.songs:
        # A name that no song beside it has.
        return _songs(scan) + [
            Track(str(path), f"{path.relative_to(root).as_posix()} (folder)")
            for path in scan.unreadable
        ]
    if scan.unreadable:
        raise AudioError(
            f"{scan.unreadable[0]} cannot be read (permission denied); change its permissions"
        )
    is_sound = scan.extensions is EXTENSIONS
    kind = "sound files" if is_sound else f"{' or '.join(scan.extensions)} files"
    left_out = f" ({scan.left_out.message})" if scan.left_out.message else ""
    raise AudioError(f"{root} holds no {kind}{left_out}; name a folder that does, or a file")


def _songs(scan: FolderScan) -> list[Track]:
    names = (path.relative_to(scan.root).with_suffix("").as_posix() for path in scan.songs)
    return [Track(str(path), name) for path, name in zip(scan.songs, names, strict=True)]
