"""`mssgen worker`: separates songs as they come, into a folder or as lines of JSON."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli import options as given
from mssgen.cli.files import Writing
from mssgen.cli.separate import Networks, Speed, Stems, chosen
from mssgen.cli.signals import first_sigterm
from mssgen.cli.words import as_options
from mssgen.errors import UsageError
from mssgen.events import Done, Skipped

if TYPE_CHECKING:
    from mssgen.events import Event

_PANEL = "Songs"


def worker(
    watch: Annotated[
        Path | None,
        typer.Option(
            help="Separate the songs in this folder, and those that come into it.",
            metavar="DIR",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(
            help="Separate the songs named in FILE (- for standard input), one JSON object per "
            'line: {"path": "song.flac"}. One line of JSON per song answers.',
            metavar="FILE",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    interval: Annotated[
        float,
        typer.Option(
            help="With --watch: seconds between two looks. A song is taken when two looks find it "
            "unchanged.",
            metavar="SECONDS",
            min=0.1,
            rich_help_panel=_PANEL,
        ),
    ] = 5.0,
    files: Writing = Writing(),
    stems: Stems = Stems(),
    networks: Networks = Networks(),
    blending: given.Blending = given.Blending(),
    refinement: given.Refinement = given.Refinement(),
    speed: Speed = Speed(),
    running: given.Failures = given.Failures(retries=3),
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Separate songs as they come, with a model that stays loaded.

    SIGTERM ends it after the current song; a second one at once, and the song is left to the next
    worker. Exit codes: 0 no song failed, 1 a song failed, 2 wrong usage, 130 or 143 interrupted.
    """
    with messages.session() as hook, first_sigterm() as is_asked_to_end:
        if (watch is None) == (jobs is None):
            raise UsageError("name a folder with --watch, or a file of songs with --jobs")
        files.check()
        if files.output == "-":
            raise UsageError("a worker cannot write to standard output; name a folder")
        if files.overwrite and files.skip_existing:
            raise UsageError("--overwrite and --skip-existing contradict each other; use one")
        with messages.starting():
            from mssgen.jobs.orders import work_off
            from mssgen.jobs.watch import watch_folder
            from mssgen.jobs.worker import Worker

            existing = "skip" if files.skip_existing else "resume"
            write = files.written("update" if files.overwrite else existing)
            run = running.chosen()
        group = chosen(stems, networks, blending, refinement, speed, offline, messages)

        def shown(event: "Event") -> None:
            """What is complete is no news, and the counts come at the end."""
            if not isinstance(event, Done) and not (
                isinstance(event, Skipped) and not event.reason
            ):
                hook(event)

        worker = Worker(
            group,
            strict=files.strict,
            run=run,
            stop=is_asked_to_end,
            hook=running.metered(shown),
        )
        output = Path(files.output)
        if watch is not None:
            watch_folder(worker, watch, output, write, interval_s=interval, hook=hook)
        else:
            with _opened(str(jobs)) as descriptor:
                work_off(worker, descriptor, output, write, _answer)
        hook(worker.done)
        return 1 if worker.done.n_failed else 0


@contextmanager
def _opened(name: str) -> Iterator[int]:
    if name == "-":
        yield 0
        return
    try:
        descriptor = os.open(name, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"--jobs {name} cannot be read ({error.strerror}); name a file") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _answer(fields: dict[str, Any]) -> None:
    words = {key: as_options(fields[key]) for key in ("reason", "error")}
    sys.stdout.write(json.dumps({"event": "job", **fields, **words}) + "\n")
    sys.stdout.flush()
