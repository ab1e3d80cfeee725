"""`mssgen evaluate`: numbers for separated and enhanced stems, and what may be said of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.events import Hook


def evaluate(
    estimates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[A [B ...]]", help="Folders of estimates, one a system; or one file each."
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option("--references", "-r", help="Folder of references, or a file.", metavar="DIR"),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(help="Mixtures.  [default: those beside the references]", metavar="DIR"),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")
    ] = "evaluation",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            help="fast, all, groups or names; repeatable, or divided by commas.  [default: fast]",
            metavar="NAMES",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Processes.  [default: one a core, 8 at most]"),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="What to call a system, instead of its folder's name; repeatable.",
            metavar="A=LABEL",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="The model that made a system's estimates, to note its hash; repeatable.",
            metavar="A=MODEL",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            help="Add what this codec alone does to the references and to each system; a name "
            "from `mssgen models list`, or a path.",
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Also write a table in the form of the thesis: thesis-1, thesis-3 or thesis-4 "
            "(with --codec)."
        ),
    ] = None,
    ratings: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: read the ratings of a listening test, screen listeners, and average.",
            metavar="FILE ...",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite/--resume", help="Measure anew what is known already, or keep it."
        ),
    ] = False,
    offline: given.Offline = False,
    device: Annotated[
        str, typer.Option(help="Of the codec: auto, cpu, cuda, cuda:N, mps.")
    ] = "auto",
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Compare stems with their references, and systems with each other.

    Writes evaluation/summary.md, summary.csv, comparisons.csv, scores.jsonl and evaluation.json;
    run again, it goes on where it stopped. Exit codes: 0 done, 1 a track failed, 2 wrong call, 130
    interrupted.
    """
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose) as hook:
        if ratings:
            if references is not None:
                raise UsageError("--ratings goes without --references; call mssgen twice")
            # `--ratings *.json` gives the files after the first one as arguments.
            text = _rated([*ratings, *(estimates or ())], output, seed, hook)
            if not quiet and not as_json:
                typer.echo(text)
            return 0

        from mssgen.evaluation.run import EvaluationOptions, evaluate_systems

        if references is None:
            raise UsageError("--references is missing: name the folder of the true stems")
        done, text = evaluate_systems(
            EvaluationOptions(
                estimates=tuple(estimates or ()),
                references=references,
                output=output,
                mixture=mixture,
                metrics=tuple(w for words in metrics or () for w in words.split(",") if w),
                names=_pairs("--name", name),
                checkpoints=_pairs("--checkpoint", checkpoint),
                codec=codec,
                table=table,
                n_jobs=jobs,
                seed=seed,
                overwrite=overwrite,
                device=device,
                offline=offline,
            ),
            progress=not quiet and sys.stderr.isatty(),
            hook=hook,
        )
    if not quiet and not as_json:
        typer.echo(text)
    return 1 if done.n_failed else 0


def _rated(files: list[str], output: str, seed: int, hook: "Hook") -> str:
    """Write what listeners said, and return the table."""
    from mssgen.evaluation.listening.ratings import (
        read_ratings,
        screen_listeners,
        summarise,
        write_ratings,
    )
    from mssgen.events import Written

    found = read_ratings(files)
    screening = screen_listeners(found)
    paths = write_ratings(Path(output), found, screening, summarise(found, screening, seed=seed))
    for path in paths:
        hook(Written("", "", path))
    return paths[-1].read_text(encoding="utf-8")


def _pairs(option: str, words: list[str] | None) -> dict[str, str]:
    """A=B as {A: B}; the last "=" divides, since folders may hold one."""
    found = {}
    for word in words or ():
        left, divider, right = word.rpartition("=")
        if not (left and divider and right):
            raise UsageError(f"{option} {word} has another form than A={option[2:].upper()}")
        found[left] = right
    return found
