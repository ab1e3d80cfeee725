"""Decides per song which outputs to write, before any model is loaded.

A song is skipped if its outputs exist and were made from the same input with the same options. It
is refused if other files exist at its targets, or if it shares a target with another song.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mssgen.errors import MssgenError, UsageError
from mssgen.files import is_there, safe_target
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.manifest import Entry, InputFile, Manifest

EXISTING = ("refuse", "resume", "skip", "update", "overwrite")
"""Handling of existing outputs: "refuse" refuses the song; "resume" keeps outputs that the manifest
records as made from the same input with the same options, and refuses others; "update" replaces
these others; "skip" keeps all; "overwrite" replaces all."""
_OF_TRACK = ("track", "parent", "path")
Made = Mapping[str, Mapping[str, Any] | None]
"""By output: all that determines its samples, see `manifest.Output.made`; None if unknown."""


@dataclass(frozen=True)
class Places:
    """Names of the output files."""

    folder: Path
    """Output folder."""
    template: str
    """Path below `folder`, such as "{track}/{stem}.{ext}"; see `mssgen.files.safe_target`."""
    extension: str
    """Suffix without the dot."""

    def target(self, track: Track, stem: str) -> Path:
        """Path of one output; UsageError if it is not inside the folder."""
        return self.expand(self.template, track, stem)

    def expand(self, template: str, track: Track, stem: str) -> Path:
        """Path of one output by another template; UsageError if it is not inside the folder."""
        return safe_target(
            self.folder,
            template,
            track=track.name,
            stem=stem,
            ext=self.extension,
            trackext=track.suffix,
            parent=track.parent,
            path=track.in_parent,
        )


@dataclass(frozen=True)
class Decision:
    """The files to write for one song, or the reason to refuse it."""

    targets: dict[str, Path] = field(default_factory=dict)
    """Files to write, by output; empty if the song is complete or refused."""
    kept: tuple[Entry, ...] = ()
    """Manifest entries of its existing files that are kept."""
    refusal: str = ""
    """Error message; "" if the song is not refused."""
    left: str = ""
    """Why the song is left alone; "" if it is complete or there is work to do."""
    again: "Callable[[], Decision] | None" = None
    """Reads the manifest further and decides again: another run may have written files since."""


class Settled(Exception):
    """There is nothing to do for a song after all: a decision without targets."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.refusal or decision.left)
        self.decision = decision


@dataclass(frozen=True)
class Rule:
    """What is done about outputs that exist."""

    existing: str
    """One of `EXISTING`."""
    options: Mapping[str, Any]
    """Values that determine the samples of all outputs."""
    manifest: Manifest | None
    """Manifest of the output folder; None if there is none."""

    def decide(self, track: Track, made: Made, paths: dict[str, Path]) -> Decision:
        """Decide for one song; `paths` are its output files."""

        def again() -> Decision:
            if self.manifest is not None:
                self.manifest.refresh()
            return self.decide(track, made, paths)

        return replace(self._decide(track, made, paths), again=again)

    def _decide(self, track: Track, made: Made, paths: dict[str, Path]) -> Decision:
        there = {name: path for name, path in paths.items() if is_there(path)}
        if self.existing == "overwrite" or not there:
            return Decision(paths)
        missing = {name: path for name, path in paths.items() if name not in there}
        if self.existing == "skip":
            return Decision(missing)
        source = InputFile(track.path)
        entries = []
        for name, path in there.items():
            try:
                objection = self._objection(path, track, source, made[name])
                known = self.manifest.made(path) if self.manifest is not None else None
            except MssgenError as error:
                return Decision(refusal=str(error))
            if objection and self.existing == "update":
                missing[name] = path
                continue
            if self.existing == "refuse" or objection:
                why = objection or "was made from this file with these options"
                return Decision(
                    refusal=f"{path} exists and {why}: use `existing='overwrite'` to replace it, "
                    "`existing='skip'` to keep it, or another `output_dir`"
                )
            entries += [known.entry] if known is not None else []
        return Decision(missing, tuple(entries))

    def _objection(
        self, path: Path, track: Track, source: InputFile, made: Mapping[str, Any] | None
    ) -> str:
        """Why the file at `path` may differ from the output to write; "" if it does not."""
        if self.manifest is None or made is None:
            return "it is not known how it was made"
        if track.path == STDIN:
            return "standard input cannot be compared with the input that it was made from"
        return self.manifest.objection(path, source, self.options, made)


def decide(
    songs: Sequence[tuple[Track, Made]],
    places: Places,
    rule: Rule,
    *,
    mine: Sequence[int] | None = None,
    cure: str = "",
) -> list[Decision]:
    """Decide for every song, in order.

    Args:
        songs: tracks, each with its outputs.
        places: names of the output files.
        rule: what is done about outputs that exist.
        mine: indexes of the songs to decide for; None is all. The others are only kept from sharing
            files with these.
        cure: advice for songs that share a file; "" suggests another template.

    Raises:
        UsageError: the call as a whole is wrong: the template is invalid or the same for all songs,
            or an output would replace an input.
    """
    # A folder that does not exist, so no link can lead out of it.
    probe = Places(places.folder / ".mssgen-none", places.template, places.extension)
    probe.target(Track("a/b.wav", "b"), "stem")
    targets: list[dict[str, Path]] = []
    refusals: list[str] = []
    for track, made in songs:
        try:
            targets.append({name: places.target(track, name) for name in made})
            refusals.append("")
        except UsageError as error:
            targets.append({})
            refusals.append(str(error))
    if refusals and all(refusals):
        raise UsageError(refusals[0])  # no song has a valid path: the call is wrong
    tracks = [track for track, _ in songs]
    _check_inputs(tracks, targets)
    shared = _shared(tracks, targets, places, cure)
    if shared and not any(f"{{{each}}}" in places.template for each in _OF_TRACK):
        raise UsageError(
            f"`template` {places.template!r} gives several songs the same paths, so files "
            "would be written twice; use {track}"
        )
    for index, refusal in shared.items():
        refusals[index] = refusal
    return [
        Decision(refusal=refusals[index])
        if refusals[index]
        else rule.decide(*songs[index], targets[index])
        for index in (range(len(songs)) if mine is None else mine)
    ]


def _check_inputs(tracks: Sequence[Track], targets: Sequence[dict[str, Path]]) -> None:
    """Raise UsageError if an output is an input, or if two outputs of a song are the same file."""
    inputs = {track.real_path: track.label for track in tracks if track.path != STDIN}
    for track, paths in zip(tracks, targets, strict=True):
        if len(set(paths.values())) < len(paths):
            double = next(p for p in paths.values() if list(paths.values()).count(p) > 1)
            raise UsageError(
                f"{double} would be written twice, for {track.label}: use a `template` with "
                "{stem}"
            )
        for path in paths.values():
            if (song := inputs.get(os.path.realpath(path))) is not None:
                raise UsageError(
                    f"{path} would replace the input {song}: choose another `output_dir` or "
                    "`template`"
                )


def _shared(
    tracks: Sequence[Track], targets: Sequence[dict[str, Path]], places: Places, cure: str
) -> dict[int, str]:
    """Refusals of songs that share a file with another song, by index."""
    claims = defaultdict[str, dict[int, Path]](dict)
    for index, paths in enumerate(targets):
        for path in paths.values():
            claims[os.path.realpath(path)][index] = path
    refusals: dict[int, str] = {}
    for songs in claims.values():
        if len(songs) < 2:
            continue
        cure = cure or _cure(tracks, targets, places)
        labels = " and ".join(tracks[index].label for index in songs)
        for index, path in songs.items():
            refusals.setdefault(
                index, f"{labels} would both be written to {path}, so neither was: {cure}"
            )
    return refusals


def _cure(tracks: Sequence[Track], targets: Sequence[dict[str, Path]], places: Places) -> str:
    """Advice: the first change to the template that gives each song its own files."""
    template = places.template
    with_suffix = template
    for name in ("track", "path"):
        with_suffix = with_suffix.replace(f"{{{name}}}", f"{{{name}}}.{{trackext}}")
    for candidate in (f"{{parent}}/{template}", with_suffix, f"{{parent}}/{with_suffix}"):
        try:
            paths = [
                places.expand(candidate, track, stem)
                for track, outputs in zip(tracks, targets, strict=True)
                for stem in outputs
            ]
        except UsageError:
            continue
        if len(set(paths)) == len(paths):
            return f"use `template` {candidate!r}"
    return "name them in two calls, each with its own `output_dir`"
