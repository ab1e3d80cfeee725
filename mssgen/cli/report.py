"""`mssgen report`: an evaluation as a web page for listening, looking and comparing."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mssgen.cli import options as given
from mssgen.cli.files import new_folder
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.events import Hook


def report(
    folder: Annotated[
        str,
        typer.Argument(help="The --output of `mssgen evaluate`.", metavar="DIR"),
    ],
    output: given.FolderName = "report",
    max_tracks: Annotated[
        int | None,
        typer.Option(
            help="Audio and pictures for the first N tracks only.",
            metavar="N",
            show_default="all tracks",
        ),
    ] = None,
    container: Annotated[
        Literal["ogg", "mp3", "flac", "wav", "opus"],
        typer.Option(
            "--format",
            "-f",
            help="Audio format of the page; mp3 also plays in Safari before 18.4.",
        ),
    ] = "ogg",
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Length of the excerpts, taken where the reference is loudest; 0: whole songs.",
            metavar="SECONDS",
            show_default="30; 10 in a listening test",
        ),
    ] = None,
    listening_test: Annotated[
        Literal["mushra", "ab"] | None,
        typer.Option(
            help="Write a listening test instead, for webMUSHRA and as a stand-alone page."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Pages of the listening test.", metavar="N", show_default="12"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Tracks processed at a time.", metavar="N", show_default="one per core, at most 4"
        ),
    ] = None,
    overwrite: given.Overwrite = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Make a web page of an evaluation: synchronized players, pictures and numbers.

    Open report/index.html in a browser; it needs no server and no network. Exit codes: 0 done,
    1 a track failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session() as hook:
        to = new_folder(output)
        if listening_test is not None:
            _export_test(listening_test, Path(folder), to, seconds, trials, overwrite, hook)
            return 0
        if trials is not None:
            raise UsageError("--trials needs --listening-test; add it, or use --max-tracks")

        from mssgen.evaluation.report.page import ReportOptions, write_report
        from mssgen.evaluation.report.results import read_results

        n_workers = min(4, os.cpu_count() or 1) if jobs is None else jobs
        length_s = 30.0 if seconds is None else seconds
        options = ReportOptions(container, length_s, max_tracks, n_workers)
        results = read_results(Path(folder))
        done = write_report(results, to, options, overwrite=overwrite, hook=hook)
    return 1 if done.n_failed else 0


def _export_test(
    kind: str,
    folder: Path,
    output: Path,
    seconds: float | None,
    trials: int | None,
    overwrite: bool,
    hook: "Hook",
) -> None:
    from mssgen.evaluation.listening.export import export_ab, export_mushra
    from mssgen.evaluation.listening.trials import ListeningOptions

    default = ListeningOptions()
    options = ListeningOptions(
        seconds=default.seconds if seconds is None else seconds,
        n_trials=default.n_trials if trials is None else trials,
    )
    export = export_mushra if kind == "mushra" else export_ab
    export(folder, output, options, overwrite=overwrite, hook=hook)
