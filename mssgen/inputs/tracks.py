"""From what the user names (files, folders, lists) to the songs to work on."""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mssgen.errors import AudioError, UsageError
from mssgen.inputs.folder_scan import SOUND_EXTENSIONS, VIDEO_EXTENSIONS, FolderScan, LeftOut
from mssgen.inputs.lists import read_list

# What is taken from folders; a file that is named outright may be called anything.
EXTENSIONS = (*SOUND_EXTENSIONS, *VIDEO_EXTENSIONS)
STDIN = "-"
_log = logging.getLogger(__name__)


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
    def is_folder(self) -> bool:
        """Whether this is a folder, which could not be read."""
        return self.path != STDIN and os.path.isdir(self.path)

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
    skip_outputs: bool = True,
    skip_own: bool = True,
) -> list[Track]:
    """Expand files, folders (recursively, in order of name) and what `list_file` names.

    The same file named twice is taken once. A folder that cannot be read is a track that cannot be
    opened: it fails in its turn, and the others do not. What is left out of folders although it
    looks like sound is logged as a warning.

    Args:
        inputs: paths; "-" is standard input.
        list_file: see `mssgen.inputs.lists.read_list`.
        output_dir: a folder to leave out: a second run over a folder does not separate the stems
            of the first one.
        extensions: of the files to take from folders.
        skip_outputs: leave out the outputs of `separate` and `enhance`, wherever they are.
        skip_own: leave out other folders that mssgen wrote: reports, training pairs, ...

    Raises:
        UsageError: nothing is named, or the list cannot be read.
        AudioError: a folder holds no sound files, or nothing but what cannot be read.
    """
    if list_file == STDIN and STDIN in inputs:
        raise UsageError(
            "'-' is standard input, which `list_file='-'` reads already; name files instead"
        )
    names = [*inputs, *(read_list(list_file) if list_file is not None else [])]
    if not names:
        raise UsageError("no input: name a sound file, a folder, '-' or a `list_file`")
    if "" in names:  # an empty shell variable, which must not mean this folder
        raise UsageError("an input is an empty word: name a sound file or a folder")
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


def _excluded(folder: Path, output_dir: Path | None) -> Path | None:
    excluded = output_dir.resolve() if output_dir is not None else None
    if excluded is not None and folder.resolve().is_relative_to(excluded):
        return None  # the user asks for the outputs' own folder
    return excluded


def _in_folder(scan: FolderScan) -> list[Track]:
    """The songs, and the folders that cannot be read; AudioError where there are no songs."""
    root = scan.root
    if scan.songs:
        songs = [Track(str(path), _name(path.relative_to(root))) for path in scan.songs]
        # Called differently from any song beside it.
        return songs + [
            Track(str(path), f"{path.relative_to(root).as_posix()} (folder)")
            for path in scan.unreadable
        ]
    if scan.unreadable:
        raise AudioError(
            f"{scan.unreadable[0]} may not be read by this user; change its permissions"
        )
    is_sound = scan.extensions is EXTENSIONS
    kind = "sound files" if is_sound else f"{' or '.join(scan.extensions)} files"
    left_out = f" ({scan.left_out.message})" if scan.left_out.message else ""
    raise AudioError(f"{root} holds no {kind}{left_out}; name a folder that does, or a file")


def _name(path: Path) -> str:
    return path.with_suffix("").as_posix()
