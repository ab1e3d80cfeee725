"""`mssgen evaluate`: scores of separated and enhanced stems, and statistics over them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.events import Hook


def evaluate(
    estimates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A",
            help="Folders of estimates, one per system; or a single file per system.",
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            "--references", "-r", help="Folder of reference stems, or a single file.", metavar="DIR"
        ),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            help="Folder of mixtures.", metavar="DIR", show_default="those beside the references"
        ),
    ] = None,
    output: given.FolderName = "evaluation",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            help="fast, all, or names of groups and metrics; repeatable, or separated by commas.",
            metavar="NAMES",
            show_default="fast",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            help="Number of processes.",
            metavar="N",
            show_default="one per core, at most 8",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a system, instead of its folder's name; repeatable.",
            metavar="A=LABEL",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Model that made a system's estimates, to record its hash; repeatable.",
            metavar="A=MODEL",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            help="Also score the references and each system after a round trip through this "
            "codec: a name from `mssgen models list`, or a path.",
            metavar="CODEC",
        ),
    ] = None,
    table: Annotated[
        Literal["thesis-1", "thesis-3", "thesis-4"] | None,
        typer.Option(help="Also write a table in the form of the thesis; thesis-4 needs --codec."),
    ] = None,
    ratings: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of scoring: read the ratings of a listening test, screen the listeners "
            "and average the ratings.",
            metavar="FILE ...",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Random seed for the confidence intervals.", metavar="N", min=0),
    ] = 0,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite/--resume", help="Recompute existing scores, or keep them."),
    ] = False,
    offline: given.Offline = False,
    device: Annotated[
        str,
        typer.Option(
            help="Device for the codec: auto, cpu, cuda, cuda:N or mps.", metavar="DEVICE"
        ),
    ] = "auto",
    messages: given.Messages = given.Messages(),
) -> int:
    """Score stems against their references, and compare systems with each other.

    Writes evaluation/summary.md, summary.csv, comparisons.csv, scores.jsonl and evaluation.json;
    run it again to resume. Exit codes: 0 done, 1 a track failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session() as hook:
        if ratings:
            if references is not None:
                raise UsageError("--ratings does not go with --references; run mssgen twice")
            # With `--ratings *.json`, all files but the first arrive as arguments.
            text = _rated([*ratings, *(estimates or ())], output, seed, hook)
            if not messages.quiet and not messages.as_json:
                typer.echo(text)
            return 0

        from mssgen.evaluation.run import EvaluationOptions, evaluate_systems

        if references is None:
            raise UsageError("--references is missing: name the folder of the reference stems")
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
            progress=messages.has_progress,
            hook=hook,
        )
    if not messages.quiet and not messages.as_json:
        typer.echo(text)
    return 1 if done.n_failed else 0


def _rated(files: list[str], output: str, seed: int, hook: "Hook") -> str:
    """Write the ratings of all listeners, and return the table."""
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
    """A=B as {A: B}, divided at the last "=", as names of folders may contain one."""
    found = {}
    for word in words or ():
        left, divider, right = word.rpartition("=")
        if not (left and divider and right):
            raise UsageError(f"{option} {word} does not have the form A={option[2:].upper()}")
        found[left] = right
    return found
