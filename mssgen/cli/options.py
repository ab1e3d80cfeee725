"""Options that several commands share, singly and in groups; those about files are in `files`.

The lists of choices are the library's; tests/cli/test_help.py compares them.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from mssgen.cli.reporters import reporter
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Failed

if TYPE_CHECKING:
    from mssgen.cli.reporters import AnyHook
    from mssgen.enhancers.blend import Blend
    from mssgen.enhancers.loading import Refining
    from mssgen.events import Hook
    from mssgen.jobs.options import RunOptions

FormatName = Literal["wav", "flac", "ogg", "opus", "mp3", "aiff", "caf", "w64", "raw"]
BitDepthName = Literal["16", "24", "32f"]
ClipMode = Literal["rescale", "clamp", "none"]
BlendMode = Literal["auto", "fill", "full"]
RefineMode = Literal["c2f", "coarse+c2f"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

INPUT_PANEL = "Input files"
_MODEL_HELP = "a name from `mssgen models list`, a path, or hf://OWNER/NAME"

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="Audio files, folders (searched recursively), or - for standard input.",
    ),
]
ListFile = Annotated[
    str | None,
    typer.Option(
        "--list",
        help="Read more inputs from FILE (- for standard input): one path per line, a playlist, "
        "or the output of find -print0.",
        metavar="FILE",
        rich_help_panel=INPUT_PANEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Keep existing outputs, however they were made, and write only the missing ones.",
        show_default="several inputs: skip those already done from the same input with the same "
        "options",
    ),
]
BitDepth = Annotated[
    BitDepthName | None,
    typer.Option(help="Bits per sample.", show_default="the input's, at least 16"),
]
SampleRate = Annotated[
    int | None,
    typer.Option(
        help="Sample rate of the outputs.",
        metavar="HZ",
        min=8_000,
        max=192_000,
        show_default="the input's",
    ),
]
Clip = Annotated[
    ClipMode,
    typer.Option(
        help="What to do about peaks above full scale: rescale (turn all stems of the song down "
        "by the same amount), clamp, or none."
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse damaged and incomplete files instead of warning about them.",
        rich_help_panel=INPUT_PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"The separation model: {_MODEL_HELP}.",
        metavar="MODEL",
        show_default="htdemucs",
        rich_help_panel="Model",
    ),
]
AcceptUnlicensed = Annotated[
    bool,
    typer.Option(
        "--accept-unlicensed",
        help="Load weights that are said to come out of a product, or that allow non-commercial "
        "use only; see `mssgen models info`.",
        rich_help_panel="Model",
    ),
]
Codec = Annotated[
    str, typer.Option("--codec", "-c", help=f"The codec: {_MODEL_HELP}.", metavar="CODEC")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line, for programs.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")]
FolderName = Annotated[
    str, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")
]


@dataclass(frozen=True)
class Messages:
    """How much a command says, and in which form."""

    PANEL: ClassVar = "Messages"
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print debug messages and tracebacks.")
    ] = False
    as_json: AsJson = False

    @property
    def has_progress(self) -> bool:
        """Whether a bar of a download has a place."""
        return not self.quiet and sys.stderr.isatty()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """A spinner on a terminal, while the block imports libraries, which takes seconds."""
        if not self.has_progress or self.as_json:
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status("starting"):
            yield

    @contextmanager
    def session(self, *, to_stdout: bool = False, is_quiet: bool = False) -> Iterator["AnyHook"]:
        """The hook of one command; failures before the first track reach programs through it too.

        Where standard output carries audio, JSON goes to standard error.
        """
        stream = sys.stderr if to_stdout else sys.stdout
        quiet = self.quiet or is_quiet
        with reporter(
            as_json=self.as_json, quiet=quiet, verbose=self.verbose, json_stream=stream
        ) as hook:
            try:
                yield hook
            except MssgenError as error:
                if self.as_json:
                    hook(Failed("", str(error)))
                raise


@dataclass(frozen=True)
class Failures:
    """What follows a failure, and who counts; see `mssgen.jobs.options.RunOptions`."""

    PANEL: ClassVar = "Long lists"
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first input that fails.")
    ] = False
    retries: Annotated[
        int,
        typer.Option(
            help="Try an input up to N times more, after all others, if a disk or network did not "
            "answer or memory ran out.",
            metavar="N",
            min=0,
        ),
    ] = 0
    metrics: Annotated[
        Path | None,
        typer.Option(help="Keep counts of the run in FILE, as Prometheus text.", metavar="FILE"),
    ] = None

    def metered(self, hook: "Hook") -> "Hook":
        """The hook, and beside it the file of --metrics."""
        if self.metrics is None:
            return hook
        from mssgen.jobs.metrics import Metered

        return Metered(hook, self.metrics)

    def chosen(self) -> "RunOptions":
        """These options for the library."""
        from mssgen.jobs.options import RunOptions

        return RunOptions(fail_fast=self.fail_fast, n_retries=self.retries)


@dataclass(frozen=True)
class Run(Failures):
    """How a list of inputs is worked through; see `mssgen.jobs.options.RunOptions`."""

    shard: Annotated[
        str | None,
        typer.Option(
            help="Work on part I of N of the inputs, about equal in bytes; one machine per part, "
            "all into one output folder.",
            metavar="I/N",
        ),
    ] = None

    def chosen(self) -> "RunOptions":
        """These options for the library; UsageError for a part that is none."""
        from mssgen.jobs.options import Shard

        shard = None if self.shard is None else Shard.parse(self.shard)
        return replace(super().chosen(), shard=shard)


@dataclass(frozen=True)
class Machine:
    """Where the networks run."""

    PANEL: ClassVar = "Speed"
    device: Annotated[
        str,
        typer.Option(
            help="Device to compute on: auto, cpu, cuda, cuda:N or mps.", metavar="DEVICE"
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            help="Number of CPU threads.",
            metavar="N",
            min=1,
            max=1024,
            show_default="one per core",
        ),
    ] = None

    def use_threads(self) -> None:
        """Set the number of CPU threads."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class SeparatorMachine(Machine):
    """Where a separator runs, and in which precision."""

    precision: Annotated[PrecisionName, typer.Option(help="Number format of the computation.")] = (
        "auto"
    )


@dataclass(frozen=True)
class Blending:
    """How much of an enhanced stem is heard; see `mssgen.enhancers.blend.Blend`."""

    PANEL: ClassVar = "Enhancement"
    blend: Annotated[
        BlendMode | None,
        typer.Option(
            "--blend",
            help="auto: remove bleed, and use the codec's output where the stem is unreliable; "
            "fill: remove bleed, and fill gaps from the codec; full: use the codec's output save "
            "where the stem is reliable.",
            show_default="auto; full with --refine, or an --encoder or --codec of your own",
        ),
    ] = None
    mix: Annotated[
        float | None,
        typer.Option(
            help="Dry/wet: 0 is the unprocessed stem, 1 the fully enhanced one.",
            metavar="SHARE",
            min=0,
            max=1,
            show_default="1",
        ),
    ] = None

    def chosen(self, refining: "Refining | None", models: "Iterable[str]") -> "Blend":
        """The blend of these options, with the refiners, encoders and codecs asked for."""
        from mssgen.enhancers.blend import Blend
        from mssgen.enhancers.loading import default_mode

        mode = self.blend or default_mode(refining, models)
        return Blend(mode, 1.0 if self.mix is None else self.mix)


@dataclass(frozen=True)
class Refinement:
    """Which networks rewrite codes, and how; see `mssgen.refiners.refine.Refinement`."""

    PANEL: ClassVar = "Refinement (experts)"
    refine: Annotated[
        RefineMode | None,
        typer.Option(
            help="Regenerate the encoder's codes: c2f keeps the first few codebooks, coarse+c2f "
            "only the very first.",
        ),
    ] = None
    refiner: Annotated[
        str | None,
        typer.Option(
            help="The c2f network: a name, a path (also VampNet's c2f.pth), or hf://OWNER/NAME.",
            metavar="CHECKPOINT",
            show_default="the built-in one for the stem",
        ),
    ] = None
    coarse_refiner: Annotated[
        str | None,
        typer.Option(help="The coarse network, given the same way.", metavar="CHECKPOINT"),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Sampling steps per network.", metavar="N", show_default="c2f: 2; coarse: 12"
        ),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Randomness of the sampling; 0 always takes the most likely code.",
            metavar="T",
            show_default="1",
        ),
    ] = None
    keep_codebooks: Annotated[
        int | None,
        typer.Option(
            help="Number of codebooks to leave unchanged, counted from the first.",
            metavar="N",
            show_default="as few as the networks allow",
        ),
    ] = None
    strength: Annotated[
        float | None,
        typer.Option(
            help="How far the refined codes may move from the encoder's: near 0, hardly at all; "
            "1, without limit.",
            metavar="SHARE",
            show_default="1",
        ),
    ] = None

    def chosen(self, seed: int | None) -> "Refining | None":
        """The refinement of these options and a random seed; UsageError where they contradict."""
        options: dict[str, Any] = {
            "temperature": self.temperature,
            "seed": seed,
            "keep_codebooks": self.keep_codebooks,
            "strength": self.strength,
        }
        if self.refine is None:
            networks = {"refiner": self.refiner, "coarse_refiner": self.coarse_refiner}
            for name, value in {**networks, "steps": self.steps, **options}.items():
                if value is not None:
                    raise UsageError(f"`{name}` needs `refine`: add --refine c2f, or coarse+c2f")
            return None
        from mssgen.enhancers.loading import Refining
        from mssgen.refiners.refine import Refinement

        options |= {"mode": self.refine, "n_steps": self.steps}
        stated = {key: value for key, value in options.items() if value is not None}
        return Refining(Refinement(**stated), self.refiner, self.coarse_refiner)
