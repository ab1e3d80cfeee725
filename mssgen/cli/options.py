"""Options that several commands share: their words, their help, and what they mean for files."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli.reporters import reporter
from mssgen.cli.streams import is_stdout_open
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Failed, Written

if TYPE_CHECKING:
    from mssgen.enhancers.blend import Blend
    from mssgen.enhancers.loading import Refining
    from mssgen.events import Event, Hook
    from mssgen.inputs.tracks import Track
    from mssgen.jobs.batch import Group, WriteOptions
    from mssgen.outputs import OutputPlan

_MAX_THREADS = 1024

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Sound files, folders (searched recursively), or - for standard input."),
]
ListFile = Annotated[
    str | None,
    typer.Option(
        "--list",
        help="Read more inputs from FILE (- for standard input): a path per line, a playlist, or "
        "what find -print0 writes.",
        metavar="FILE",
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Folder to write to, or - for standard output.")
]
Template = Annotated[
    str,
    typer.Option(
        help="Path below the folder; knows {track} {stem} {ext} {trackext}, {parent} (the name of "
        "the input's folder) and {path} ({parent}/{track} where {track} has no folder)."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Keep outputs that exist, whatever made them, and write the missing ones.  [default "
        "for several inputs: skip what was made from the same input in the same way]",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="wav, flac, ogg, opus, mp3, aiff, caf, w64 or raw.  [default: wav]",
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Headerless little-endian samples (--format raw).")
]
BitDepth = Annotated[
    str | None, typer.Option(help="16, 24 or 32f.  [default: the input's, at least 16]")
]
SampleRate = Annotated[int | None, typer.Option(help="Hz.  [default: the input's]", metavar="HZ")]
Clip = Annotated[
    str,
    typer.Option(
        help="Peaks over full scale: rescale (all stems of the song alike), clamp or none."
    ),
]
Downmix = Annotated[
    bool,
    typer.Option(
        "--downmix", help="Mix more than two channels to stereo; otherwise each pair is separated."
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse damaged and incomplete files instead of warning about them."
    ),
]
BlendMode = Annotated[
    str | None,
    typer.Option(
        "--blend",
        help="full: what the codec made of the stem; fill: the stem without what leaked in, its "
        "holes filled up by the codec; auto: fill, as far as it is safe.  [default: auto]",
    ),
]
Mix = Annotated[
    float | None, typer.Option(help="0 (the stem) to 1 (the blend).  [default: 1]", metavar="SHARE")
]
Refine = Annotated[
    str | None,
    typer.Option(
        help="Make the encoder's codes anew: c2f all but the first few levels, coarse+c2f all but "
        "the very first.",
        metavar="c2f|coarse+c2f",
    ),
]
Refiner = Annotated[
    str | None,
    typer.Option(
        help="The c2f network: a name, a path (VampNet's c2f.pth, too), or hf://OWNER/NAME.  "
        "[default: what ships for the stem]",
        metavar="CHECKPOINT",
    ),
]
CoarseRefiner = Annotated[
    str | None, typer.Option(help="The coarse network, named likewise.", metavar="CHECKPOINT")
]
Steps = Annotated[
    int | None,
    typer.Option(help="Rounds of each refiner.  [default: 2 of c2f, 12 of coarse]", metavar="N"),
]
Temperature = Annotated[
    float | None,
    typer.Option(help="How boldly refiners draw; 0: the likeliest code.  [default: 1]"),
]
RefineSeed = Annotated[
    int | None, typer.Option("--seed", help="Of what refiners draw.  [default: 0]", metavar="N")
]
KeepCodebooks = Annotated[
    int | None,
    typer.Option(help="Levels that --refine leaves alone.  [default: the fewest]", metavar="N"),
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="How far refiners may go from what the encoder heard: nearly 0, not at all; 1, "
        "anywhere.  [default: 1]",
        metavar="SHARE",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub for a model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads.  [default: one a core]", metavar="N")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Debug messages and tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


@contextmanager
def session(
    *, as_json: bool, quiet: bool, verbose: bool, to_stdout: bool = False
) -> Iterator["Hook"]:
    """The hook of one command; failures before the first song reach programs through it too.

    Where standard output carries the sound, JSON goes to standard error.
    """
    stream = sys.stderr if to_stdout else sys.stdout
    with reporter(as_json=as_json, quiet=quiet, verbose=verbose, json_stream=stream) as hook:
        try:
            yield hook
        except MssgenError as error:
            if as_json:
                hook(Failed("", str(error)))
            raise


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; UsageError where it makes no sense."""
    if threads is None:
        return
    if not 1 <= threads <= _MAX_THREADS:
        raise UsageError(f"--threads {threads} is out of range; use 1 to {_MAX_THREADS}")
    import torch

    torch.set_num_threads(threads)


def blend_of(mode: str | None, mix: float | None) -> "Blend":
    """What --blend and --mix say; UsageError where they make no sense."""
    from mssgen.enhancers.blend import Blend

    return Blend(mode or "auto", 1.0 if mix is None else mix)


def refining_of(
    mode: str | None,
    c2f: str | None,
    coarse: str | None,
    *,
    steps: int | None,
    temperature: float | None,
    seed: int | None,
    keep_codebooks: int | None,
    strength: float | None,
) -> "Refining | None":
    """What --refine and the options about it say; UsageError where they make no sense."""
    if mode is None:
        said = {
            "--refiner": c2f,
            "--coarse-refiner": coarse,
            "--steps": steps,
            "--temperature": temperature,
            "--seed": seed,
            "--keep-codebooks": keep_codebooks,
            "--strength": strength,
        }
        for option, value in said.items():
            if value is not None:
                raise UsageError(f"{option} needs --refine: add --refine c2f, or coarse+c2f")
        return None
    from mssgen.enhancers.loading import Refining
    from mssgen.refiners.refine import Refinement

    options: dict[str, Any] = {
        "n_steps": steps,
        "temperature": temperature,
        "seed": seed,
        "keep_codebooks": keep_codebooks,
        "strength": strength,
    }
    stated = {key: value for key, value in options.items() if value is not None}
    return Refining(Refinement(**{"mode": mode, **stated}), c2f, coarse)


def existing(
    inputs: list[str] | None, tracks: list["Track"], overwrite: bool, skip_existing: bool
) -> str:
    """What to do with outputs that exist: several songs skip what is complete, one refuses."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; use one")
    is_single = [track.path for track in tracks] == (inputs or [])
    if overwrite or skip_existing:
        return "overwrite" if overwrite else "skip"
    return "refuse" if is_single and len(tracks) == 1 else "resume"


def check_folder(output: str) -> None:
    """Raise UsageError where the folder to write to is called like a sound file."""
    from mssgen.inputs.tracks import EXTENSIONS

    suffix = Path(output).suffix.lower()
    if suffix in (*EXTENSIONS, ".raw") and not output.endswith("/") and not Path(output).is_dir():
        raise UsageError(
            f"--output {output} is called like a sound file, and a folder is written: name one, "
            f"such as --output {Path(output).with_suffix('')}"
        )


@dataclass(frozen=True)
class Files:
    """What a command line says about inputs and outputs; see the options of the same names."""

    inputs: list[str] | None
    list_file: str | None
    output: str
    template: str
    overwrite: bool
    skip_existing: bool
    container: str | None
    raw: bool
    bit_depth: str | None
    sample_rate: int | None
    clip: str
    downmix: bool

    @property
    def to_stdout(self) -> bool:
        return self.output == "-"

    def tracks(self, *, skip_outputs: bool = True) -> list["Track"]:
        """The songs; UsageError or AudioError where there are none or the options contradict.

        `skip_outputs` leaves out earlier outputs of mssgen in the folders that are named.
        """
        from mssgen.inputs.tracks import find_tracks

        folder = None if self.to_stdout else Path(self.output)
        tracks = find_tracks(
            self.inputs or [],
            list_file=self.list_file,
            output_dir=folder,
            skip_outputs=skip_outputs,
        )
        if self.raw and self.container not in (None, "raw"):
            raise UsageError(f"--raw and --format {self.container} contradict each other; use one")
        if not self.output:
            raise UsageError("--output is an empty word; name a folder, or - for standard output")
        check_folder(self.output)
        return tracks

    def write_options(self, tracks: list["Track"]) -> "WriteOptions":
        """How to write; UsageError where options contradict each other."""
        from mssgen.jobs.batch import WriteOptions

        return WriteOptions(
            template=self.template,
            container="raw" if self.raw else self.container,
            bit_depth=self.bit_depth,
            sample_rate=self.sample_rate,
            clip=self.clip,
            downmix=self.downmix,
            existing=existing(self.inputs, tracks, self.overwrite, self.skip_existing),
        )

    def check_stdout(self, tracks: list["Track"], plan: "OutputPlan") -> None:
        """Raise UsageError for what standard output cannot take."""
        if not self.to_stdout:
            return
        if len(tracks) != 1 or len(plan.outputs) != 1:
            raise UsageError(
                f"-o - takes one input and one output, not {len(tracks)} and {len(plan.outputs)} "
                f"({', '.join(plan.names)}); name one --stem, or a folder"
            )
        if not is_stdout_open():
            raise UsageError("-o - writes to standard output, which is closed; name a folder")
        if sys.stdout.isatty():
            raise UsageError("-o - would fill the terminal with samples; pipe it, or name a folder")

    def run(
        self,
        groups: Sequence["Group"],
        write: "WriteOptions",
        hook: "Hook",
        *,
        strict: bool = False,
    ) -> int:
        """Separate all tracks and return the exit code; `strict` refuses damaged files."""
        from mssgen.jobs.batch import separate_groups

        if not self.to_stdout:
            done = separate_groups(
                groups, output_dir=self.output, options=write, strict=strict, hook=hook
            )
            return 1 if done.n_failed else 0

        # A temporary file, because its header and gain come last.
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
                groups, output_dir=folder, options=write, strict=strict, hook=note
            )
            for path in written:
                copy_to_stdout(path, sys.stdout.buffer)
        return 1 if done.n_failed else 0
