"""Finds the mixture of a stem in the manifest that `separate` left beside it."""

import os
from pathlib import Path

from mssgen.errors import AudioError, MssgenError
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.manifest import MANIFEST, InputFile, Made, Manifest
from mssgen.jobs.song_record import SEPARATE


class MixtureFinder:
    """Looks up mixtures; reads each manifest, and hashes each mixture, at most once.

    `problems` holds one sentence per mixture that a manifest names but that cannot be used.

    Args:
        given: path of the mixture of all stems; None looks into manifests. Raises AudioError if it
            is not a file.
    """

    def __init__(self, given: str | None = None) -> None:
        self.problems: list[str] = []
        self._given = None if given is None else InputFile(given)
        if self._given is not None and self._given.stamp is None:
            raise AudioError(f"`mixture` {given} is not a file; name a sound file")
        self._manifests: dict[Path, Manifest | None] = {}
        self._mixtures: dict[str, InputFile | None] = {}

    def find(self, track: Track) -> InputFile | None:
        """The mixture that a stem was separated from; None if unknown, changed or gone."""
        if self._given is not None:
            return self._given
        stem = Path(track.real_path)
        known = None if track.path == STDIN else self._made(stem)
        if known is None or known.entry.about.get("job") != SEPARATE:
            return None
        if stem.stat().st_size != known.output.size:
            self._say(f"{track.label} was changed after it was separated")
            return None
        source = known.entry.source
        if source is None:
            self._say(f"the mixture of {track.label} was read from a pipe")
            return None
        if source.path not in self._mixtures:
            mixture = InputFile(source.path)
            try:
                is_same = source.is_of(mixture)
            except MssgenError:
                is_same = False
            if is_same:
                mixture.sha256 = source.sha256  # without reading an untouched file
            else:
                what = "has changed since its stems were made" if mixture.stamp else "is not there"
                self._say(f"the mixture {source.path} {what}")
            self._mixtures[source.path] = mixture if is_same else None
        return self._mixtures[source.path]

    def _say(self, problem: str) -> None:
        message = f"{problem}, so it is not used: name the mixture with `mixture`"
        if message not in self.problems:
            self.problems.append(message)

    def _made(self, stem: Path) -> Made | None:
        """What the nearest manifest that lists the file says about it."""
        for folder in stem.parents:
            if folder not in self._manifests:
                self._manifests[folder] = _manifest(folder)
            manifest = self._manifests[folder]
            if manifest is not None and (known := manifest.made(stem)) is not None:
                return known
        return None


def _manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if there is none that can be read."""
    try:
        return Manifest(folder) if os.path.lexists(folder / MANIFEST) else None
    except MssgenError:
        return None
