"""Inputs and outputs of commands: which files are read, and where and how others are written."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mssgen.cli import options as given
from mssgen.cli.streams import is_stdout_open
from mssgen.errors import UsageError
from mssgen.events import Written

if TYPE_CHECKING:
    from mssgen.events import Event, Hook
    from mssgen.inputs.tracks import Track
    from mssgen.jobs.batch import Group
    from mssgen.jobs.options import RunOptions, WriteOptions
    from mssgen.outputs import OutputPlan


def existing(
    inputs: list[str] | None, tracks: list["Track"], overwrite: bool, skip_existing: bool
) -> str:
    """What to do with existing outputs: a single track refuses, several skip complete ones."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; use one")
    is_single = [track.path for track in tracks] == (inputs or [])
    if overwrite or skip_existing:
        return "overwrite" if overwrite else "skip"
    return "refuse" if is_single and len(tracks) == 1 else "resume"


def new_folder(output: str) -> Path:
    """The folder of a command that writes nothing else; UsageError for no name, or -."""
    if output in ("", "-"):
        raise UsageError("--output takes a folder here; name one")
    return Path(output)


def check_folder(output: str) -> None:
    """Raise UsageError where the folder to write to has the name of an audio file."""
    from mssgen.inputs.tracks import EXTENSIONS

    suffix = Path(output).suffix.lower()
    if suffix in (*EXTENSIONS, ".raw") and not output.endswith("/") and not Path(output).is_dir():
        raise UsageError(
            f"--output {output} is named like an audio file, but must be a folder: use a folder's "
            f"name, such as --output {Path(output).with_suffix('')}"
        )


@dataclass(frozen=True)
class Inputs:
    """The inputs of `separate` and `enhance`."""

    PANEL: ClassVar = given.INPUT_PANEL
    inputs: given.Inputs = None
    list_file: given.ListFile = None


@dataclass(frozen=True)
class Writing:
    """How songs are read, and stems written."""

    PANEL: ClassVar = "Output files"
    strict: given.Strict = False
    downmix: Annotated[
        bool,
        typer.Option(
            "--downmix",
            help="Mix more than two channels down to stereo, instead of processing them pair by "
            "pair.",
            rich_help_panel=given.INPUT_PANEL,
        ),
    ] = False
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="Folder to write to, or - for standard output.", metavar="DIR"
        ),
    ] = "separated"
    template: Annotated[
        str,
        typer.Option(
            help="Path of each output below the folder, made of {track}, {stem}, {ext}, "
            "{trackext} (the input's extension), {parent} (the name of the input's folder) and "
            "{path} ({parent}/{track} where {track} has no folder).",
            metavar="PATH",
        ),
    ] = "{track}/{stem}.{ext}"
    overwrite: given.Overwrite = False
    skip_existing: given.SkipExisting = False
    container: Annotated[
        given.FormatName | None,
        typer.Option("--format", "-f", help="File format.", show_default="wav"),
    ] = None
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Write headerless little-endian samples; same as --format raw."),
    ] = False
    bit_depth: given.BitDepth = None
    sample_rate: given.SampleRate = None
    clip: given.Clip = "rescale"

    def check(self) -> None:
        """Raise UsageError for options that contradict each other, or a folder that is none."""
        if self.raw and self.container not in (None, "raw"):
            raise UsageError(f"--raw and --format {self.container} contradict each other; use one")
        if not self.output:
            raise UsageError("--output is empty; name a folder, or - for standard output")
        check_folder(self.output)

    def written(self, existing: str) -> "WriteOptions":
        """How to write; `existing` is one of `mssgen.jobs.decisions.EXISTING`."""
        from mssgen.jobs.options import WriteOptions

        return WriteOptions(
            template=self.template,
            container="raw" if self.raw else self.container,
            bit_depth=self.bit_depth,
            sample_rate=self.sample_rate,
            clip=self.clip,
            downmix=self.downmix,
            existing=existing,
        )


@dataclass(frozen=True)
class Files(Writing, Inputs):
    """Inputs and outputs of `separate` and `enhance`."""

    @property
    def to_stdout(self) -> bool:
        return self.output == "-"

    def tracks(self, *, skip_outputs: bool = True) -> list["Track"]:
        """The inputs; UsageError or AudioError where there are none or the options contradict.

        `skip_outputs` leaves out earlier outputs of mssgen in the given folders.
        """
        from mssgen.inputs.tracks import find_tracks

        folder = None if self.to_stdout else Path(self.output)
        tracks = find_tracks(
            self.inputs or [],
            list_file=self.list_file,
            output_dir=folder,
            skip_outputs=skip_outputs,
        )
        self.check()
        return tracks

    def write_options(self, tracks: list["Track"]) -> "WriteOptions":
        """How to write; UsageError where options contradict each other."""
        return self.written(existing(self.inputs, tracks, self.overwrite, self.skip_existing))

    def check_stdout(self, tracks: list["Track"], plan: "OutputPlan") -> None:
        """Raise UsageError for what standard output cannot take."""
        if not self.to_stdout:
            return
        if len(tracks) != 1 or len(plan.outputs) != 1:
            raise UsageError(
                f"-o - takes one input and one output, not {len(tracks)} and {len(plan.outputs)} "
                f"({', '.join(plan.names)}); choose one --stem, or name a folder"
            )
        if not is_stdout_open():
            raise UsageError("-o - writes to standard output, which is closed; name a folder")
        if sys.stdout.isatty():
            raise UsageError(
                "-o - would fill the terminal with binary data; pipe it, or name a folder"
            )

    def run(
        self,
        groups: Sequence["Group"],
        write: "WriteOptions",
        run: "RunOptions",
        hook: "Hook",
    ) -> int:
        """Process all tracks and return the exit code."""
        from mssgen.jobs.batch import separate_groups

        if not self.to_stdout:
            done = separate_groups(
                groups,
                output_dir=self.output,
                options=write,
                strict=self.strict,
                run=run,
                hook=hook,
            )
            return 1 if done.n_failed else 0

        # Through a temporary file, as the header and the gain are known only at the end.
        from mssgen.audio.writing import copy_to_stdout
        from mssgen.leftovers import scratch_folder

        with scratch_folder() as folder:
            write = replace(
                write, template="{stem}.{ext}", existing="overwrite", has_manifest=False
            )
            written: list[Path] = []

            def note(event: "Event") -> None:
                if isinstance(event, Written):
                    written.append(event.path)
                else:
                    hook(event)

            done = separate_groups(
                groups, output_dir=folder, options=write, strict=self.strict, run=run, hook=note
            )
            for path in written:
                copy_to_stdout(path, sys.stdout.buffer)
        return 1 if done.n_failed else 0
