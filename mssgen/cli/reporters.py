"""How events look: bars on a terminal, lines elsewhere, JSON for programs, or nearly nothing."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mssgen.cli.console import printable, warn
from mssgen.cli.signals import check
from mssgen.cli.words import as_options
from mssgen.events import (
    Began,
    Done,
    Enhanced,
    Event,
    Failed,
    Finished,
    Logged,
    Progress,
    Saved,
    Skipped,
    Start,
    Stepped,
    TrainingEvent,
    Warned,
    Written,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

AnyEvent = Event | TrainingEvent
AnyHook = Callable[[AnyEvent], None]

_LEAST_TAKEN_DB, _LEAST_ADDED_DB = 0.05, -90.0
# Other events go by the names of their classes.
_JSON_NAMES = {Warned: "warning", Failed: "error"}
# A training loop ends by itself after a signal: it finishes the step, and saves.
_OF_TRAINING = (Began, Stepped, Logged, Saved, Finished, Warned)


@contextmanager
def reporter(
    *, as_json: bool, quiet: bool, verbose: bool, json_stream: TextIO | None = None
) -> Iterator[AnyHook]:
    """The hook for this call; warnings that the library logs go the same way.

    Everything for people goes to standard error. JSON goes to `json_stream` (standard output), one
    object per line; with `verbose`, debug messages and tracebacks are logged to standard error.
    """
    with (
        _choose(as_json, quiet, json_stream or sys.stdout) as chosen,
        _logging_to(chosen, verbose=verbose),
    ):

        def hook(event: AnyEvent) -> None:
            if not isinstance(event, _OF_TRAINING):
                check()  # a signal that a library swallowed ends the run here
            chosen(event)

        yield hook


@contextmanager
def _logging_to(hook: AnyHook, *, verbose: bool) -> Iterator[None]:
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
def _choose(as_json: bool, quiet: bool, json_stream: TextIO) -> Iterator[AnyHook]:
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
    def __init__(self, hook: AnyHook) -> None:
        super().__init__(logging.WARNING)
        self._hook = hook

    def emit(self, record: logging.LogRecord) -> None:
        self._hook(Warned("", record.getMessage()))


def _write_json(event: AnyEvent, stream: TextIO) -> None:
    if isinstance(event, Stepped):  # every Logged says as much
        return
    name = _JSON_NAMES.get(type(event), type(event).__name__.lower())
    fields = {key: _plain(key, value) for key, value in vars(event).items()}
    stream.write(json.dumps({"event": name, **fields}) + "\n")
    stream.flush()


def _plain(key: str, value: Any) -> Any:
    """A field of an event as JSON holds it: null for scalars that are not finite."""
    if isinstance(value, Mapping):
        return {k: v if math.isfinite(v) else None for k, v in value.items()}
    if isinstance(value, float):
        return round(value, 3)
    if key == "message":
        return as_options(value)
    return str(value) if isinstance(value, Path) else value


def _problems(event: AnyEvent) -> None:
    """Print errors only."""
    if isinstance(event, Failed):
        warn(event.message if event.track in event.message else f"{event.track}: {event.message}")


def _common(event: AnyEvent, failures: list[str]) -> str | None:
    """The line for events that look the same on a terminal and off it."""
    match event:
        case Enhanced():
            return f"{event.stem}: {_changes(event)}"
        case Written():
            return f"wrote {event.path}"
        case Skipped():
            return f"{event.track}: already complete, skipped (use --overwrite to redo)"
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
        case Began():
            many = f" × {event.n_devices}" if event.n_devices > 1 else ""
            return (
                f"{event.output}: training from step {event.step} to {event.n_steps} on "
                f"{event.device}{many} in {event.precision}"
            )
        case Logged():
            kind = "" if event.kind == "train" else f" {event.kind}"
            return f"step {event.step}{kind}: {_summary(event.scalars)}"
        case Saved():
            return f"saved {event.path}"
        case Finished():
            return f"done after {event.elapsed_s:.0f} s; the last checkpoint is {event.path}"
    return None


def _changes(event: Enhanced) -> str:
    """ "1.2 dB taken away, −28 dB added"; nothing is less than 0.05 dB, and -90 dB."""
    taken, added = event.taken_away_db, event.added_db
    less = f"{taken:.1f} dB" if taken >= _LEAST_TAKEN_DB else "nothing"
    more = f"{added:.0f} dB".replace("-", "−") if added >= _LEAST_ADDED_DB else "nothing"
    return f"{less} taken away, {more} added"


def _summary(scalars: Mapping[str, float]) -> str:
    """Losses, mean accuracy and speed; metrics.jsonl has the rest."""
    shown = [
        f"{name} {value:.4g}"
        for name, value in scalars.items()
        if name in ("loss", "accuracy") or name.startswith("loss/")
    ]
    if (speed := scalars.get("audio_seconds_per_second")) is not None:
        shown.append(f"{speed:.1f} s of audio per second")
    return ", ".join(shown)


class _LineReporter:
    """A few lines per track, for logs."""

    def __init__(self) -> None:
        self._failures: list[str] = []
        self._started = time.monotonic()

    def __call__(self, event: AnyEvent) -> None:
        if isinstance(event, Start):
            self._started = time.monotonic()
            warn(f"{event.track}: {event.duration_s:.1f} s, on {event.device} in {event.precision}")
        # Another sample rate rounds the end to a sample.
        if isinstance(event, Progress) and event.done_s > event.duration_s - 1e-3:
            speed = event.duration_s / max(1e-9, time.monotonic() - self._started)
            warn(f"{event.track}: done at {speed:.1f} × real time")
        if line := _common(event, self._failures):
            warn(line)


class _BarReporter:
    """A bar per track or training run, with speed and time left; all other lines stay above it."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._failures: list[str] = []
        self._task: TaskID | None = None

    def __call__(self, event: AnyEvent) -> None:
        match event:
            case Start():
                self._begin(Path(event.track).name, event.duration_s)
            case Progress():
                self._update(completed=event.done_s)
            case Failed() | Done() | Finished():
                self._remove()
            case Began():
                self._begin("training", event.n_steps, completed=event.step)
            case Stepped():
                self._update(completed=event.step, amount=f"{event.step}/{event.n_steps}")
            case Logged() if event.kind == "train":
                loss, speed = (event.scalars[key] for key in ("loss", "audio_seconds_per_second"))
                self._update(speed=f"loss {loss:.4g}, {speed:.1f} s/s")
                return
        if line := _common(event, self._failures):
            self._bars.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _begin(self, name: str, total: float, completed: int = 0) -> None:
        self._remove()
        self._task = self._bars.add_task(printable(name), total=total, completed=completed)

    def _update(self, **values: Any) -> None:
        if self._task is not None:
            self._bars.update(self._task, **values)

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

    class Amount(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(task.fields.get("amount") or f"{task.percentage:3.0f} %")

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = f"{task.speed:.1f} × real time" if task.speed else ""
            return Text(task.fields.get("speed") or ("" if "amount" in task.fields else speed))

    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Amount(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Estimate over minutes: first segments are slow, and validation interrupts training.
        speed_estimate_period=300,
    )
    with bars:
        yield bars
