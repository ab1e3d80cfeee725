"""`mssgen separate`: from words on the command line to one call of `separate_files`."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli.reporters import reporter
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Failed, Written

if TYPE_CHECKING:
    from mssgen.batch import WriteOptions
    from mssgen.events import Done, Event, Hook
    from mssgen.outputs import OutputPlan
    from mssgen.separators.base import Separator
    from mssgen.tracks import Track

_MAX_THREADS = 1024


def separate(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sound files, folders (searched recursively), or - for standard input."
        ),
    ] = None,
    list_file: Annotated[
        str | None,
        typer.Option("--list", help="Read more inputs from FILE, one a line.", metavar="FILE"),
    ] = None,
    stem: Annotated[
        list[str] | None,
        typer.Option("--stem", "-s", help="Write this stem; repeatable.  [default: all]"),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(
            help="Write STEM and no_STEM, the rest (the mixture minus STEM).", metavar="STEM"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the mixture without STEM, to play along; repeatable.", metavar="STEM"
        ),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Write what the stems do not explain, too.")
    ] = False,
    mix_consistent: Annotated[
        bool,
        typer.Option("--mix-consistent", help="Share the residual out: stems sum to the mixture."),
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name from `mssgen models list`, or a path.")
    ] = "htdemucs",
    offline: Annotated[
        bool, typer.Option("--offline", help="Never ask the hub for a model.")
    ] = False,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Folder to write to, or - for standard output."),
    ] = "separated",
    template: Annotated[
        str, typer.Option(help="Path below the folder; knows {track} {stem} {ext} {trackext}.")
    ] = "{track}/{stem}.{ext}",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Keep outputs that exist and write the missing ones (as for several inputs).",
        ),
    ] = False,
    container: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="wav, flac, ogg, opus, mp3, aiff, caf, w64 or raw.  [default: wav]",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Headerless little-endian samples (--format raw).")
    ] = False,
    bit_depth: Annotated[
        str | None, typer.Option(help="16, 24 or 32f.  [default: the input's, at least 16]")
    ] = None,
    sample_rate: Annotated[
        int | None, typer.Option(help="Hz.  [default: the input's]", metavar="HZ")
    ] = None,
    clip: Annotated[
        str,
        typer.Option(
            help="Peaks over full scale: rescale (all stems of the song alike), clamp or none."
        ),
    ] = "rescale",
    downmix: Annotated[
        bool,
        typer.Option(
            "--downmix",
            help="Mix more than two channels to stereo; otherwise each pair is separated.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.  [default: one a core]", metavar="N")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Segments at once, or auto; halved when memory runs out.")
    ] = "auto",
    overlap: Annotated[
        float, typer.Option(help="Share of a segment that the next one repeats (0 to 0.99).")
    ] = 0.25,
    shifts: Annotated[
        int, typer.Option(help="Average over N random time shifts: better, N times slower.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the shifts.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Debug messages and tracebacks.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for programs.")
    ] = False,
) -> int:
    """Separate songs into stems: drums, bass, other and vocals.

    Outputs have the rate, channels, bit depth and length of their input and go to
    separated/TRACK/STEM.wav. Exit codes: 0 done, 1 a file failed, 2 wrong call, 130 interrupted.
    """
    to_stdout = output == "-"
    # Standard output carries the sound then; JSON keeps out of its way.
    json_stream = sys.stderr if to_stdout else sys.stdout
    with (
        reporter(as_json=as_json, quiet=quiet, verbose=verbose, json_stream=json_stream) as hook,
        _telling_programs(hook, as_json=as_json),
    ):
        from mssgen.tracks import find_tracks

        named = inputs or []
        folder = None if to_stdout else Path(output)
        tracks = find_tracks(named, list_file=list_file, output_dir=folder)
        if overwrite and skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other; use one")
        if raw and container not in (None, "raw"):
            raise UsageError(f"--raw and --format {container} contradict each other; use one")
        if not output:
            raise UsageError("--output is an empty word; name a folder, or - for standard output")
        if threads is not None and not 1 <= threads <= _MAX_THREADS:
            raise UsageError(f"--threads {threads} is out of range; use 1 to {_MAX_THREADS}")
        n_segments = _batch_size(batch_size)

        from mssgen.batch import WriteOptions, separate_files
        from mssgen.outputs import plan_outputs
        from mssgen.pipeline import load_separator
        from mssgen.registry import REGISTRY
        from mssgen.separators.demucs import SeparationOptions
        from mssgen.separators.devices import share_heaps

        share_heaps()
        is_single = [track.path for track in tracks] == named
        existing = "skip" if skip_existing or not is_single or len(tracks) > 1 else "refuse"
        write = WriteOptions(
            template=template,
            container="raw" if raw else container,
            bit_depth=bit_depth,
            sample_rate=sample_rate,
            clip=clip,
            downmix=downmix,
            existing="overwrite" if overwrite else existing,
        )
        cut = SeparationOptions(overlap, shifts, seed, n_segments)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

        plan_for = partial(
            plan_outputs,
            stems=stem or (),
            two_stems=two_stems,
            without=without or (),
            residual=residual,
            mix_consistent=mix_consistent,
        )
        # The registry knows the stems: a wrong one is found, and a bag thinned out, before loading.
        plan = plan_for(REGISTRY[model].stems) if model in REGISTRY else None
        if plan is not None and to_stdout:
            _check_stdout(tracks, plan)
        separator = load_separator(
            model,
            stems=plan.stems if plan else None,
            device=device,
            precision=precision,
            options=cut,
            offline=offline,
            progress=not quiet and sys.stderr.isatty(),
        )
        if plan is None:
            plan = plan_for(separator.sources)
            if to_stdout:
                _check_stdout(tracks, plan)
        if folder is None:
            done = _to_stdout(tracks, separator, plan, write, hook)
        else:
            done = separate_files(
                tracks, separator, plan, output_dir=folder, options=write, hook=hook
            )
    return 1 if done.n_failed else 0


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not understood; use auto, or 1 or more")
    return int(text)


def _check_stdout(tracks: list["Track"], plan: "OutputPlan") -> None:
    """Raise UsageError for what standard output cannot take."""
    if len(tracks) != 1 or len(plan.outputs) != 1:
        raise UsageError(
            f"-o - takes one input and one output, not {len(tracks)} and {len(plan.outputs)} "
            f"({', '.join(plan.names)}); name one --stem, or a folder"
        )
    if sys.stdout.isatty():
        raise UsageError("-o - would fill the terminal with samples; pipe it, or name a folder")


def _to_stdout(
    tracks: list["Track"],
    separator: "Separator",
    plan: "OutputPlan",
    write: "WriteOptions",
    hook: "Hook",
) -> "Done":
    """Write the one output to a temporary file, because its header and gain come last; copy it."""
    from mssgen.audio import copy_to_stdout
    from mssgen.batch import separate_files

    with tempfile.TemporaryDirectory(prefix="mssgen-") as folder:
        write = replace(write, template="{stem}.{ext}", existing="overwrite")
        written: list[Path] = []

        def note(event: "Event") -> None:
            if isinstance(event, Written):
                written.append(event.path)
            else:
                hook(event)

        done = separate_files(tracks, separator, plan, output_dir=folder, options=write, hook=note)
        for path in written:
            copy_to_stdout(path, sys.stdout.buffer)
    return done


@contextmanager
def _telling_programs(hook: "Hook", *, as_json: bool) -> Iterator[None]:
    """Failures before the first song reach programs too, not only standard error."""
    try:
        yield
    except MssgenError as error:
        if as_json:
            hook(Failed("", str(error)))
        raise
