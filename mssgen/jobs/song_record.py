"""Manifest entries of one song, written while it is processed."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mssgen.errors import AudioError, MssgenError
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.manifest import Entry, InputFile, Manifest, State


class SongRecord:
    """Writes the manifest entries of one song.

    Args:
        manifest: manifest of the output folder; None writes nothing.
        track: the song.
        options: values that determine the samples of all its outputs.
    """

    def __init__(self, manifest: Manifest | None, track: Track, options: Mapping[str, Any]) -> None:
        self._manifest, self._track = manifest, track
        self._file = None if track.path == STDIN or manifest is None else InputFile(track.path)
        self._entry = Entry("writing", None, dict(options), about={"input": track.label})
        self._started = time.monotonic()
        if self._file is not None:
            _ = self._file.stamp  # before the file is read

    def opened(self) -> str | None:
        """Hash the input; call once it is known to be readable. Raises AudioError.

        Returns the SHA-256; None without a manifest, and for what cannot be read twice.
        """
        source = None if self._file is None else self._file.record()
        self._entry = replace(self._entry, source=source)
        return None if source is None else source.sha256

    def check_input(self) -> None:
        """Raise AudioError if the input has changed since it was hashed."""
        if self._file is not None and self._file.has_changed():
            raise AudioError(
                f"{self._track.label} was changed while it was read, and nothing was written; try "
                "again"
            )

    def finishing(self, gain: float, about: Mapping[str, Any]) -> None:
        """Note the gain of all outputs and values for `Entry.about`, before files are renamed."""
        self._entry = replace(self._entry, gain=gain, about={**self._entry.about, **about})

    def announcing(
        self, target: Path, made: Mapping[str, Any] | None
    ) -> Callable[[Path], None] | None:
        """Function that records an output before it gets its name; None without a manifest.

        It is called with the path of the complete file, and raises AudioError and OSError.
        """
        manifest = self._manifest
        if manifest is None:
            return None
        earlier = self._entry

        def announce(content: Path) -> None:
            output = manifest.output(target, content, made or {})
            manifest.append(replace(earlier, outputs=(output,)))
            self._entry = replace(self._entry, outputs=(*self._entry.outputs, output))

        return announce

    def done(self) -> None:
        """Record that all outputs are complete; raises AudioError."""
        self._close("done")

    def failed(self, message: str) -> None:
        """Record that the song failed, if the output folder exists."""
        if self._manifest is not None and self._manifest.folder.is_dir():
            with suppress(MssgenError):
                self._close("failed", message)

    def _close(self, state: State, error: str = "") -> None:
        if self._manifest is None:
            return
        entry = replace(self._entry, state=state, error=error, seconds=round(self._seconds(), 3))
        if state == "failed":
            entry = replace(entry, outputs=())
        self._manifest.append(entry)

    def _seconds(self) -> float:
        return time.monotonic() - self._started
