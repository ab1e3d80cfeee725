"""Scans a folder for songs, and notes which files were left out and why."""

import os
import re
import shutil
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from mssgen.audio import ffmpeg
from mssgen.errors import UsageError
from mssgen.inputs.own_folders import is_own_folder, outputs_in

SOUND_EXTENSIONS = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf"),
    *(".w64", ".rf64", ".au", ".snd", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".alac"),
    *(".mp1", ".mp2", ".mpa", ".m4b", ".m4r", ".weba", ".spx", ".wv", ".tta", ".ape", ".tak"),
    *(".mpc", ".mp+", ".ofr", ".shn", ".dsf", ".dff", ".ac3", ".eac3", ".ec3", ".dts", ".thd"),
    *(".mlp", ".amr", ".ra", ".qcp", ".bwf", ".voc", ".ircam", ".sf", ".nist", ".sph", ".8svx"),
)
"""Suffixes of sound files."""
VIDEO_EXTENSIONS = (
    *(".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".vob", ".wmv", ".asf", ".flv", ".f4v"),
    *(".3gp", ".3g2", ".m2ts", ".mts", ".ogv", ".ogx", ".mxf", ".qt", ".rm", ".rmvb", ".divx"),
)
"""Suffixes of video files, which may hold no sound."""
_MAYBE_VIDEO = {*VIDEO_EXTENSIONS, ".mp4", ".webm"}
_MAX_EXAMPLES = 3
# First bytes of sound files, for files without a suffix.
_SOUND_START = re.compile(
    rb"(RIFF|RF64)....WAVE|fLaC|OggS|ID3|FORM....AIF[FC]|\.snd|caff|riff|....ftypM4A|wvpk|TTA1"
    rb"|MAC |MPCK|DSD ",
    re.DOTALL,
)


def is_hidden(name: str) -> bool:
    """Whether a name starts with exactly one dot; "...And Justice for All" is not hidden."""
    return name.startswith(".") and not name.startswith("..")


def leads_up(path: Path) -> bool:
    """Whether a folder is a link to one of its parents: following it would never end."""
    if not path.is_symlink():
        return False
    is_above = path.parent.resolve().is_relative_to(path.resolve())
    return is_above or any(path.samefile(parent) for parent in path.parents)


def listed(folder: Path, root: Path, unreadable: dict[str, str]) -> list[Path]:
    """Content of a folder at or below `root`, sorted by name, without hidden files and folders.

    A folder below `root` that cannot be read is added to `unreadable`, with the reason. Raises
    UsageError for `root` itself.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
        for entry in entries[:1]:
            entry.lstat()  # raises if the folder may be listed but not entered
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}); change its permissions"
        if folder == root:
            raise UsageError(f"{folder} {reason}") from error
        unreadable[str(folder)] = reason
        return []
    return entries


def suffix_of(name: str) -> str:
    """Suffix in lower case, with the dot and without trailing spaces."""
    return os.path.splitext(name)[1].strip().lower()


@dataclass
class LeftOut:
    """Paths that were left out although they look like input, by reason."""

    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Paths by (reason in the singular, reason in the plural)."""

    def add(self, path: Path, one: str, many: str) -> None:
        """Leave out a path; `one` and `many` are the reason in the singular and plural."""
        self.found.setdefault((one, many), []).append(str(path))

    @property
    def message(self) -> str:
        """Warning in one line; "" if nothing was left out."""
        parts = []
        for (one, many), paths in self.found.items():
            shown = [*paths[:_MAX_EXAMPLES], *(["..."] if len(paths) > _MAX_EXAMPLES else [])]
            parts.append(f"{len(paths)} {one if len(paths) == 1 else many} ({', '.join(shown)})")
        return f"left out: {'; '.join(parts)}" if parts else ""


@dataclass
class FolderScan:
    """Recursive scan of a folder.

    Links to folders are followed after all real folders, and no folder is entered twice. Folders
    that mssgen wrote are left out, except `root` itself.
    """

    root: Path
    extensions: Collection[str]
    excluded: Path | None = None
    """A folder to skip, links resolved."""
    with_outputs: bool = True
    """Whether the output folders of `separate` and `enhance` count as written by mssgen."""
    with_own: bool = False
    """Whether to enter folders that mssgen wrote."""
    is_output: bool = False
    """Whether `root` is the output folder of this call."""
    opens_files: bool = True
    """Whether to look into files: into videos for a sound track, which takes a moment for each, and
    into files without a suffix."""
    left_out: LeftOut = field(default_factory=LeftOut)
    songs: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    _links: list[Path] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def run(self) -> "FolderScan":
        """Scan, then sort `songs` and `unreadable`: by name, files before folders."""
        folders = [self.root]
        while folders or self._links:
            folder = folders.pop() if folders else self._links.pop(0)
            try:
                status = folder.stat()
                if (key := (status.st_dev, status.st_ino)) in self._seen:
                    continue
                self._seen.add(key)
                folders += self._enter(folder)
            except OSError:
                self.unreadable.append(folder)
        if self.with_outputs:
            self._leave_outputs()
        self.songs.sort(key=self._order)
        self.unreadable.sort(key=self._order)
        return self

    def _leave_outputs(self) -> None:
        """Leave out the recorded outputs of `root`, if it holds other songs too.

        A folder of outputs alone, that is not written to, was named to take them.
        """
        written = outputs_in(self.root)
        ours = {song for song in self.songs if os.path.realpath(song) in written}
        if len(ours) == len(self.songs) and not self.is_output:
            return
        for song in sorted(ours):
            one, many = "file that mssgen wrote", "files that mssgen wrote"
            self.left_out.add(song, f"{one}: name it to take it", f"{many}: name one to take it")
        self.songs = [song for song in self.songs if song not in ours]

    def _order(self, path: Path) -> list[tuple[bool, str]]:
        parts = path.relative_to(self.root).parts
        return [(index < len(parts) - 1, part) for index, part in enumerate(parts)]

    def _enter(self, folder: Path) -> list[Path]:
        """Take the files of a folder and return its subfolders; raises OSError."""
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
        is_own = not self.with_own and folder != self.root
        if is_own and is_own_folder(folder, names, with_outputs=self.with_outputs):
            one, many = "folder that mssgen wrote", "folders that mssgen wrote"
            self.left_out.add(folder, f"{one}: name it to take it", f"{many}: name one to take it")
            return []
        folders = []
        for name in sorted(names):
            path = folder / name
            kind = self._kind(path)
            if kind == stat.S_IFDIR:
                if path.is_symlink():
                    self._links += [path] if self._is_wanted(path) else []
                elif self._is_wanted(path):
                    folders.append(path)
            elif kind:
                self._take(path, kind)
        return folders

    def _kind(self, path: Path) -> int:
        """File type (`stat.S_IFMT`), links followed; 0 for broken links."""
        try:
            return stat.S_IFMT(path.stat().st_mode)
        except PermissionError:  # of a link's target: reading it later reports the error
            return stat.S_IFREG
        except OSError:
            if not is_hidden(path.name):
                self.left_out.add(path, "broken link", "broken links")
            return 0

    def _is_wanted(self, folder: Path) -> bool:
        if self.excluded is not None and folder.resolve().is_relative_to(self.excluded):
            self.left_out.add(folder, "output folder", "output folders")
            return False
        if not is_hidden(folder.name):
            return True
        try:
            names = os.listdir(folder)
        except OSError:
            return False
        if any(suffix_of(name) in self.extensions for name in names):
            self.left_out.add(folder, "hidden folder", "hidden folders")
        return False

    def _take(self, path: Path, kind: int) -> None:
        """Add a file to `songs` or `left_out`, or ignore it."""
        suffix = suffix_of(path.name)
        if suffix not in self.extensions:
            can_tell = self.opens_files and not suffix and ".wav" in self.extensions
            if can_tell and _starts_like_sound(path, kind):
                one, many = "sound file without a suffix", "sound files without a suffix"
                self.left_out.add(path, one, many)
        elif is_hidden(path.name):
            # macOS writes "._song.wav" beside "song.wav" on foreign disks.
            if not (path.name.startswith("._") and path.with_name(path.name[2:]).exists()):
                self.left_out.add(path, "hidden file", "hidden files")
        elif kind != stat.S_IFREG:  # a named pipe may never end
            self.left_out.add(path, "pipe or device", "pipes or devices")
        elif suffix in VIDEO_EXTENSIONS and shutil.which("ffmpeg") is None:
            one, many = "video, which needs ffmpeg", "videos, which need ffmpeg"
            self.left_out.add(path, one, many)
        elif self.opens_files and suffix in _MAYBE_VIDEO and ffmpeg.is_silent_film(path):
            self.left_out.add(path, "video without sound", "videos without sound")
        else:
            self.songs.append(path)


def _starts_like_sound(path: Path, kind: int) -> bool:
    if kind != stat.S_IFREG or is_hidden(path.name):
        return False
    try:
        with open(path, "rb") as file:
            return _SOUND_START.match(file.read(16)) is not None
    except OSError:
        return False
