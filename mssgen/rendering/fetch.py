"""Debian packages by name, downloaded and unpacked into a cache folder; nothing is installed."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mssgen.errors import MssgenError, UsageError
from mssgen.files import sha256_of, whole_folder
from mssgen.leftovers import scratch_folder

_RECORD = "package.json"
_FILES = "files"
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+")


@dataclass(frozen=True)
class Package:
    """An unpacked package."""

    name: str
    version: str
    sha256: str
    """Digest of the package file."""
    licences: tuple[str, ...]
    """Short names from its copyright file; empty if that is not machine-readable."""
    folder: Path
    """Folder with the package's files, as it would install them below /."""

    @property
    def copyright(self) -> Path | None:
        """The file with its copyright and licence; None if it has none."""
        path = self.folder / "usr/share/doc" / self.name / "copyright"
        return path if path.is_file() else None

    def inside(self, path: Path) -> str:
        """The path of a file inside the package."""
        return path.relative_to(self.folder).as_posix()


def default_cache() -> Path:
    """The default folder for downloaded packages."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "mssgen" / "packages"


def fetch(name: str, cache: Path) -> Package:
    """The package of this name, from `cache` or downloaded into it.

    A cached package is used in whatever version it has, without network access.
    Raises UsageError if apt or dpkg is not installed or there is no such package, MssgenError if it
    cannot be unpacked.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a Debian package; correct the recipe")
    folder = cache / name
    if (folder / _RECORD).is_file():
        return _open(folder)
    for tool in ("apt-get", "dpkg-deb"):
        find_tool(tool, f"to get the package {name}")
    try:
        with whole_folder(folder) as draft, scratch_folder() as part:
            _unpack(name, part, draft)
    except OSError as error:
        raise UsageError(
            f"{cache} cannot be written: {error.strerror or error}; choose another `packages`"
        ) from error
    return _open(folder)


def find_tool(name: str, purpose: str) -> str:
    """The path of a program; raises UsageError if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise UsageError(
            f"the program {name} is needed {purpose} and is not installed; on Debian or Ubuntu "
            f"`apt-get install {_PACKAGES.get(name, name)}` installs it"
        )
    return path


_PACKAGES = {"apt-get": "apt", "dpkg-deb": "dpkg"}


def run_tool(
    command: Sequence[str],
    purpose: str,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program, return its standard output; a MssgenError quotes its last line on failure."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise MssgenError(f"{Path(command[0]).name} failed {purpose}: {last}")
    return done.stdout


def _unpack(name: str, part: Path, folder: Path) -> None:
    """Download into `part`, and unpack into `folder`."""
    # The download runs as another user where root asks for it: let that one write here.
    part.chmod(0o755)
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
    try:
        run_tool(download, f"to download {name}", folder=part)
    except MssgenError as error:
        raise MssgenError(
            f"the package {name} cannot be downloaded ({error}); check the name and the network, "
            "and run `apt-get update` once"
        ) from error
    archive = next(part.glob("*.deb"))
    version = run_tool(["dpkg-deb", "-f", archive.name, "Version"], f"on {name}", folder=part)
    files = folder / _FILES
    files.mkdir()
    run_tool(["dpkg-deb", "-x", archive.name, str(files)], f"on {name}", folder=part)
    found = Package(name, version.strip(), sha256_of(archive), (), files)
    record = {**asdict(found), "licences": _licences(found.copyright)}
    del record["folder"]
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _open(folder: Path) -> Package:
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        licences = tuple(record.pop("licences"))
        return Package(**record, licences=licences, folder=folder / _FILES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MssgenError(
            f"{folder} is a damaged package ({error}); delete the folder, and it is fetched again"
        ) from error


def _licences(path: Path | None) -> tuple[str, ...]:
    """The names in the fields "License:" of a machine-readable copyright file, each once."""
    if path is None:
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (
        line.partition(":")[2].strip() for line in lines if line.lower().startswith("license:")
    )
    return tuple(dict.fromkeys(name for name in named if name))
