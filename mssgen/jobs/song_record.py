"""Manifest entries of one song, written while it is processed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

from mssgen.errors import AudioError, MssgenError
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.claims import claim_file, claimed
from mssgen.jobs.decisions import Decision, Settled
from mssgen.jobs.manifest import Entry, InputFile, Manifest, State

SEPARATE, ENHANCE, ENCODE, DECODE = "separate", "enhance", "encode", "decode"
"""Names of jobs in the manifest (`Entry.about["job"]`)."""


class InputChanged(AudioError):
    """An input is not any more what was read at first."""


class SongRecord:
    """Writes the manifest entries of one song.

    Args:
        manifest: manifest of the output folder; None writes nothing.
        job: the name of the job, such as `SEPARATE`.
        track: the song.
        options: values that determine the samples of all its outputs.
        mixture: second input, of `ENHANCE`: what the track, a stem, was separated from.
    """

    def __init__(
        self,
        manifest: Manifest | None,
        job: str,
        track: Track,
        options: Mapping[str, Any],
        mixture: InputFile | None = None,
    ) -> None:
        self._manifest, self._track, self._mixture = manifest, track, mixture
        self._file = None if track.path == STDIN or manifest is None else InputFile(track.path)
        about = {"job": job, "input": track.label}
        self._entry = Entry("writing", None, dict(options), about=about)
        self._started = time.monotonic()

    def begin(self) -> None:
        """Note the state of the input; call it before the input is read."""
        if self._file is not None:
            _ = self._file.stamp

    def opened(self) -> str | None:
        """Hash the input; call once it is known to be readable. Raises AudioError.

        Returns the SHA-256; None without a manifest, and for what cannot be read twice.
        """
        source = None if self._file is None else self._file.record()
        self._entry = replace(self._entry, source=source)
        return None if source is None else source.sha256

    def renewed(self) -> "SongRecord":
        """A record for another attempt."""
        entry = self._entry
        job, options = entry.about["job"], entry.options
        return SongRecord(self._manifest, job, self._track, options, self._mixture)

    @contextmanager
    def claimed(self, decision: Decision) -> Iterator[Decision]:
        """Keep other runs from writing the song's outputs in the block; yields what is to be done.

        Raises Settled if another run is writing or has written them; AudioError, see `claimed`.
        """
        if self._manifest is None or decision.again is None:
            yield decision
            return
        folder = self._manifest.folder
        claim = claim_file(folder, next(iter(decision.targets.values()))).name
        self._entry = replace(self._entry, about={**self._entry.about, "claim": claim})
        with claimed(folder, decision.targets.values()) as is_ours:
            if not is_ours:
                raise Settled(Decision(left="another run of mssgen is writing its outputs"))
            again = decision.again()
            if not again.targets:
                raise Settled(again)
            yield again

    def started(self, about: Mapping[str, Any]) -> None:
        """Record that the song starts, with values for `Entry.about`; raises AudioError."""
        self._started = time.monotonic()
        about = {**self._entry.about, **about, "host": gethostname(), "started": time.time()}
        self._entry = replace(self._entry, about=about)
        if self._manifest is not None:
            self._manifest.append(replace(self._entry, state="running"))

    def check_input(self) -> None:
        """Raise InputChanged if an input has changed, or is out of reach, since it was hashed."""
        for name, file in ((self._track.label, self._file), ("the mixture", self._mixture)):
            if file is not None and file.has_changed():
                name = name if file is self._file else f"{name} {file.path}"
                raise InputChanged(
                    f"{name} was changed while it was read, and nothing was written; try again"
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
            if self._entry.source is None:  # it failed before it was opened
                with suppress(MssgenError):
                    self.opened()
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
