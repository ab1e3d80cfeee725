"""How events look: bars on a terminal, lines elsewhere, JSON for programs, or nearly nothing."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mssgen.cli.console import printable, warn
from mssgen.cli.signals import check
from mssgen.cli.words import as_options
from mssgen.events import Done, Event, Failed, Hook, Progress, Skipped, Start, Warned, Written

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_JSON_NAMES = {
    Start: "start",
    Progress: "progress",
    Written: "written",
    Skipped: "skipped",
    Warned: "warning",
    Failed: "error",
    Done: "done",
}


@contextmanager
def reporter(
    *, as_json: bool, quiet: bool, verbose: bool, json_stream: TextIO | None = None
) -> Iterator[Hook]:
    """The hook for this call; warnings that the library logs go the same way.

    Everything for people goes to standard error. JSON goes to `json_stream` (standard output), one
    object a line; with `verbose` debug messages and tracebacks are logged to standard error.
    """
    with (
        _choose(as_json, quiet, json_stream or sys.stdout) as chosen,
        logging_to(chosen, verbose=verbose),
    ):

        def hook(event: Event) -> None:
            check()  # a signal that a library swallowed ends the run here
            chosen(event)

        yield hook


@contextmanager
def logging_to(hook: Callable[[Warned], None], *, verbose: bool) -> Iterator[None]:
    """Send the library's warnings to the hook, and with `verbose` its debug messages to stderr."""
    handler = _ToHook(hook)
    logger = logging.getLogger("mssgen")
    debug = logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    if verbose:
        logger.addHandler(debug)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        logger.removeHandler(debug)


@contextmanager
def _choose(as_json: bool, quiet: bool, json_stream: TextIO) -> Iterator[Hook]:
    if as_json:
        yield lambda event: _write_json(event, json_stream)
    elif quiet:
        yield _problems
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _BarReporter(bars)
    else:
        yield _LineReporter()


class _ToHook(logging.Handler):
    def __init__(self, hook: Callable[[Warned], None]) -> None:
        super().__init__(logging.WARNING)
        self._hook = hook

    def emit(self, record: logging.LogRecord) -> None:
        self._hook(Warned("", record.getMessage()))


def _write_json(event: Event, stream: TextIO) -> None:
    fields: dict[str, Any] = {
        name: str(value)
        if isinstance(value, Path)
        else round(value, 3)
        if isinstance(value, float)
        else as_options(value)
        if name == "message"
        else value
        for name, value in asdict(event).items()
    }
    stream.write(json.dumps({"event": _JSON_NAMES[type(event)], **fields}) + "\n")
    stream.flush()


def _problems(event: Event) -> None:
    """Errors only."""
    if isinstance(event, Failed):
        warn(event.message if event.track in event.message else f"{event.track}: {event.message}")


def _common(event: Event, failures: list[str]) -> str | None:
    """The line for what looks the same on a terminal and off it."""
    match event:
        case Written():
            return f"wrote {event.path}"
        case Skipped():
            return f"{event.track}: already complete, skipped (use --overwrite to redo it)"
        case Warned():
            where = f"{event.track}: " if event.track and event.track not in event.message else ""
            return f"warning: {where}{event.message}"
        case Failed():
            failures.append(event.track)
            _problems(event)
        case Done():
            if event.n_done + event.n_skipped + event.n_failed > 1:
                failed = f": {', '.join(dict.fromkeys(failures))}" if failures else ""
                return (
                    f"{event.n_done} done, {event.n_skipped} skipped, {event.n_failed} failed"
                    f"{failed} ({event.elapsed_s:.1f} s)"
                )
    return None


class _LineReporter:
    """A few lines a song, for logs."""

    def __init__(self) -> None:
        self._failures: list[str] = []
        self._started = time.monotonic()
        self._duration_s = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Start):
            self._started, self._duration_s = time.monotonic(), event.duration_s
            warn(f"{event.track}: {event.duration_s:.1f} s, on {event.device} in {event.precision}")
        # Another sample rate rounds the end to a sample.
        if isinstance(event, Progress) and event.done_s > event.duration_s - 1e-3:
            speed = event.duration_s / max(1e-9, time.monotonic() - self._started)
            warn(f"{event.track}: done at {speed:.1f} × real time")
        if line := _common(event, self._failures):
            warn(line)


class _BarReporter:
    """A bar a song, with speed and time left; finished songs leave their lines behind."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._failures: list[str] = []
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Start):
            self._remove()
            self._task = self._bars.add_task(
                printable(Path(event.track).name), total=event.duration_s
            )
        elif isinstance(event, Progress) and self._task is not None:
            self._bars.update(self._task, completed=event.done_s)
        elif isinstance(event, Failed | Done):
            self._remove()
        if line := _common(event, self._failures):
            self._bars.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _remove(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


@contextmanager
def _bars() -> Iterator["Bars"]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f} × real time" if task.speed else "")

    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Estimate over the last minutes: the first segments are slower than the rest.
        speed_estimate_period=120,
    )
    with bars:
        yield bars
