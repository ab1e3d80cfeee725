"""`mssgen report`: an evaluation as a page to listen, look and compare."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.events import Hook


def report(
    folder: Annotated[
        str,
        typer.Argument(help="What `mssgen evaluate --output` wrote.", metavar="DIR"),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write to.")] = "report",
    max_tracks: Annotated[
        int | None,
        typer.Option(
            help="Sounds and pictures for the first N tracks only.  [default: all]", metavar="N"
        ),
    ] = None,
    container: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="ogg, mp3, flac, wav or opus; mp3 also plays in Safari before 18.4.",
        ),
    ] = "ogg",
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Hear the N seconds in which the reference is loudest; 0: whole songs.  "
            "[default: 30; 10 in a test]",
            metavar="N",
        ),
    ] = None,
    listening_test: Annotated[
        str | None,
        typer.Option(
            help="Instead: a listening test, for webMUSHRA and as a page of its own.",
            metavar="mushra|ab",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Pages of the listening test.  [default: 12]", metavar="N"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Tracks at a time.  [default: one a core, at most 4]", metavar="N"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is there.")
    ] = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Make a page of an evaluation: players that switch in place, pictures and numbers.

    Open report/index.html in a browser; it needs no server and no network. Exit codes: 0 done,
    1 a track failed, 2 wrong call, 130 interrupted.
    """
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose) as hook:
        if output in ("", "-"):
            raise UsageError("--output takes a folder here; name one")

        if listening_test is not None:
            _export_test(listening_test, folder, output, seconds, trials, overwrite, hook)
            return 0
        if trials is not None:
            raise UsageError("--trials goes with --listening-test; add it, or use --max-tracks")

        from mssgen.evaluation.report.page import ReportOptions, write_report
        from mssgen.evaluation.report.results import read_results

        n_workers = min(4, os.cpu_count() or 1) if jobs is None else jobs
        length_s = 30.0 if seconds is None else seconds
        options = ReportOptions(container, length_s, max_tracks, n_workers)
        results = read_results(Path(folder))
        done = write_report(results, Path(output), options, overwrite=overwrite, hook=hook)
    return 1 if done.n_failed else 0


def _export_test(
    kind: str,
    folder: str,
    output: str,
    seconds: float | None,
    trials: int | None,
    overwrite: bool,
    hook: "Hook",
) -> None:
    from mssgen.evaluation.listening.export import export_ab, export_mushra
    from mssgen.evaluation.listening.trials import ListeningOptions

    exports = {"mushra": export_mushra, "ab": export_ab}
    if kind not in exports:
        raise UsageError(f"--listening-test {kind} is unknown; use one of {', '.join(exports)}")
    default = ListeningOptions()
    options = ListeningOptions(
        seconds=default.seconds if seconds is None else seconds,
        n_trials=default.n_trials if trials is None else trials,
    )
    exports[kind](Path(folder), Path(output), options, overwrite=overwrite, hook=hook)
