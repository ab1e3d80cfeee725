"""How events look: bars on a terminal, lines elsewhere, JSON for programs, or nearly nothing."""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mssgen.cli.bars import BarReporter, Speed, clock, place
from mssgen.cli.console import warn
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

_MAX_FAILURES = 20
AnyEvent = Event | TrainingEvent
AnyHook = Callable[[AnyEvent], None]

_LEAST_TAKEN_DB, _LEAST_ADDED_DB = 0.05, -90.0
# Other events go by the names of their classes.
_JSON_NAMES = {Warned: "warning", Failed: "error"}
# From `Began` on, a training loop ends by itself after a signal: it finishes the step, and saves.
# Signals before that, while data and networks load, count as anywhere else.
_OF_TRAINING = (Stepped, Logged, Saved, Finished, Warned)


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
        failures: list[str] = []
        bars = BarReporter(lambda event: _common(event, failures))
        try:
            yield bars
        finally:
            bars.close()
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
            why = event.reason or "already complete"
            cure = "" if event.reason else " (use --overwrite to redo)"
            return f"{event.track}: {why}, skipped{cure}"
        case Warned():
            where = f"{event.track}: " if event.track and event.track not in event.message else ""
            return f"warning: {where}{event.message}"
        case Failed():
            failures.append(event.track)
            _problems(event)
        case Done():
            return _summary_of_run(event, failures)
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


def _summary_of_run(done: Done, failures: list[str]) -> str | None:
    """Counts, device, precision, speed and seconds; None if one song failed or was skipped."""
    where = ""
    if done.audio_s:
        speed = done.audio_s / max(1e-9, done.elapsed_s)
        where = f", on {done.device} in {done.precision} at {speed:.1f} × real time"
    if done.n_done + done.n_skipped + done.n_failed + done.n_left <= 1 and not where:
        return None
    names = list(dict.fromkeys(failures))
    shown = [*names[:_MAX_FAILURES], *(["..."] if len(names) > _MAX_FAILURES else [])]
    failed = f": {', '.join(shown)}" if shown else ""
    left = f", {done.n_left} not tried" if done.n_left else ""
    counts = f"{done.n_done} done, {done.n_skipped} skipped, {done.n_failed} failed"
    return f"{counts}{failed}{left}{where} ({done.elapsed_s:.1f} s)"


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
        self._speed = Speed()

    def __call__(self, event: AnyEvent) -> None:
        if isinstance(event, Start):
            self._speed.start()
            length = f"{event.duration_s:.1f} s, on {event.device} in {event.precision}"
            warn(f"{place(event)}{event.track}: {length}")
        if isinstance(event, Progress):
            speed = self._speed.at(event.done_s)
            # Another sample rate rounds the end to a sample.
            if event.done_s > event.duration_s - 1e-3:
                is_last = event.index == event.total or event.left_s is None
                left = "" if is_last else f", {clock(event.left_s or 0)} left"
                warn(f"{place(event)}{event.track}: done at {speed:.1f} × real time{left}")
        if line := _common(event, self._failures):
            warn(line)
