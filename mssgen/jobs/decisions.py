"""Which songs are to be made: what exists is looked at before any model is loaded.

A song whose files were made from it in the same way is skipped; one whose files are in the way, or
that cannot have a place of its own, is refused, and the others are not.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mssgen.errors import MssgenError, UsageError
from mssgen.files import is_there, safe_target
from mssgen.inputs.tracks import STDIN, Track
from mssgen.jobs.manifest import Entry, InputFile, Manifest

EXISTING = ("refuse", "resume", "skip", "overwrite")
"""What to do with outputs that are there: "refuse" the song; "resume" skips what the manifest knows
to be the same, and refuses the rest; "skip" keeps whatever is there; "overwrite" replaces it."""
_OF_TRACK = ("track", "parent", "path")
Made = Mapping[str, Mapping[str, Any] | None]
"""By output: what decides how it sounds, see `manifest.Output.made`; None: that is not known."""


@dataclass(frozen=True)
class Places:
    """Where outputs go."""

    folder: Path
    template: str
    extension: str

    def target(self, track: Track, stem: str) -> Path:
        """Raises UsageError where the track's name gives no path inside the folder."""
        return self.expand(self.template, track, stem)

    def expand(self, template: str, track: Track, stem: str) -> Path:
        """The same for another template."""
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
    """What becomes of a song: its files to write, or why there are none."""

    targets: dict[str, Path] = field(default_factory=dict)
    """By output; empty where the song is complete, or refused."""
    kept: tuple[Entry, ...] = ()
    """What is known of its other files."""
    refusal: str = ""


def decide(
    songs: Sequence[tuple[Track, Made]],
    places: Places,
    *,
    existing: str,
    options: Mapping[str, Any],
    manifest: Manifest | None,
    cure: str = "",
) -> list[Decision]:
    """One decision per song; `options` is what all outputs have in common.

    `cure` says how songs that would share a file are told apart; "": by another template.

    Raises UsageError for what is wrong with the call as a whole: a template that gives no paths, or
    one file for all songs; an output in the place of an input.
    """
    # In a folder that does not exist no link leads anywhere.
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
        raise UsageError(refusals[0])  # no song has a place: that is the call's fault
    tracks = [track for track, _ in songs]
    _check_inputs(tracks, targets)
    shared = _shared(tracks, targets, places, cure)
    if shared and not any(f"{{{each}}}" in places.template for each in _OF_TRACK):
        raise UsageError(
            f"`template` {places.template!r} does not tell songs apart: files would be written "
            "twice; use {track}"
        )
    for index, refusal in shared.items():
        refusals[index] = refusal
    check = partial(_existing, existing=existing, options=options, manifest=manifest)
    return [
        Decision(refusal=refusal) if refusal else check(track, made, paths)
        for (track, made), paths, refusal in zip(songs, targets, refusals, strict=True)
    ]


def _existing(
    track: Track,
    made: Made,
    targets: dict[str, Path],
    *,
    existing: str,
    options: Mapping[str, Any],
    manifest: Manifest | None,
) -> Decision:
    there = {name: path for name, path in targets.items() if is_there(path)}
    if existing == "overwrite" or not there:
        return Decision(targets)
    missing = {name: path for name, path in targets.items() if name not in there}
    if existing == "skip":
        return Decision(missing)
    source = InputFile(track.path)
    entries = []
    for name, path in there.items():
        try:
            objection = _objection(path, track, source, made[name], options, manifest)
            known = manifest.made(path) if manifest is not None else None
        except MssgenError as error:
            return Decision(refusal=str(error))
        if existing == "refuse" or objection:
            why = (
                f"and {objection}"
                if objection
                else "and was made from this file with these options"
            )
            return Decision(
                refusal=f"{path} exists {why}: use `existing='overwrite'` to replace it, "
                "`existing='skip'` to keep it, or another `output_dir`"
            )
        entries += [known.entry] if known is not None else []
    return Decision(missing, tuple(entries))


def _objection(
    path: Path,
    track: Track,
    source: InputFile,
    made: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    manifest: Manifest | None,
) -> str:
    """Why the file at `path` is not known to be what would be made; "" if it is."""
    if manifest is None or made is None:
        return "there is no telling what made it"
    if track.path == STDIN:
        return "standard input cannot be compared with what it was made from"
    return manifest.objection(path, source, options, made)


def _check_inputs(tracks: Sequence[Track], targets: Sequence[dict[str, Path]]) -> None:
    """Raise UsageError for an output in the place of an input, and two of a song in one place."""
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
    """Why songs are refused, by their number, that would share a file with others."""
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
                index, f"{labels} would both be written to {path}; none was: {cure}"
            )
    return refusals


def _cure(tracks: Sequence[Track], targets: Sequence[dict[str, Path]], places: Places) -> str:
    """The first change to the template that gives each song a place of its own."""
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
