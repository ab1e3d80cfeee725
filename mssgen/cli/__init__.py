"""The command line: a table of contents. Nothing here imports torch, numpy or audio libraries."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from mssgen import __version__
from mssgen.cli import signals, streams
from mssgen.cli.codec import app as codec_app
from mssgen.cli.compare import compare
from mssgen.cli.console import run, warn
from mssgen.cli.data import app as data_app
from mssgen.cli.enhance import enhance
from mssgen.cli.evaluate import evaluate
from mssgen.cli.groups import App
from mssgen.cli.info import info
from mssgen.cli.models import app as models_app
from mssgen.cli.report import report
from mssgen.cli.separate import separate
from mssgen.cli.status import status
from mssgen.cli.train import app as train_app
from mssgen.cli.worker import worker

app = App(name="mssgen", help="Separate a song into stems, then make the stems sound better.")
app.command("separate")(separate)
app.command("enhance")(enhance)
app.command("worker")(worker)
app.command("evaluate")(evaluate)
app.command("report")(report)
app.command("compare")(compare)
app.command("info")(info)
app.command("status")(status)
app.add_typer(codec_app, name="codec")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mssgen {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options before a command."""


def main() -> NoReturn:
    """The `mssgen` program."""
    verbose = "--verbose" in sys.argv or "-v" in sys.argv
    streams.prepare(hush_libraries=not verbose)
    signals.install()
    try:
        sys.exit(_run(verbose))
    finally:
        streams.end()


def _run(verbose: bool) -> int:
    try:
        os.getcwd()
    except OSError:  # libraries would end the process
        warn("the current folder no longer exists; change to another one (cd) first")
        return 2
    # Shells complete words through a protocol of their own: typer ends that call itself.
    standalone = "_MSSGEN_COMPLETE" in os.environ
    return run(lambda: app(standalone_mode=standalone), verbose=verbose)
