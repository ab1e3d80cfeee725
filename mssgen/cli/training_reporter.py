"""How training looks: one bar with the time left, lines off a terminal, or JSON for programs."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mssgen.cli.console import printable, warn
from mssgen.cli.reporters import logging_to
from mssgen.cli.words import as_options
from mssgen.errors import MssgenError
from mssgen.events import Warned

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from mssgen.events import TrainingEvent, TrainingHook


@contextmanager
def training_reporter(*, as_json: bool, quiet: bool, verbose: bool) -> Iterator["TrainingHook"]:
    """The hook for this call; warnings and failures of the library go the same way.

    Everything for people goes to standard error, JSON to standard output, one object a line.
    """
    with _choose(as_json, quiet) as hook, logging_to(hook, verbose=verbose):
        try:
            yield hook
        except MssgenError as error:
            if as_json:
                _print_json({"event": "error", "message": as_options(str(error))})
            raise


@contextmanager
def _choose(as_json: bool, quiet: bool) -> Iterator["TrainingHook"]:
    if as_json:
        yield _json
    elif quiet:
        yield _nothing
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _BarReporter(bars)
    else:
        yield _lines


def _nothing(_: "TrainingEvent") -> None:
    """Errors are printed where the program ends."""


def _json(event: "TrainingEvent") -> None:
    from mssgen.events import Logged, Stepped

    if isinstance(event, Stepped):  # what counts comes with every Logged
        return
    fields = {
        name: as_options(value)
        if name == "message"
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in vars(event).items()
    }
    if isinstance(event, Logged):
        fields["scalars"] = {
            name: value if math.isfinite(value) else None for name, value in event.scalars.items()
        }
    name = "warning" if isinstance(event, Warned) else type(event).__name__.lower()
    _print_json({"event": name, **fields})


def _print_json(fields: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _line(event: "TrainingEvent") -> str | None:
    """What is worth a line, on a terminal and off it."""
    from mssgen.events import Began, Finished, Logged, Saved

    match event:
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
        case Warned():
            return f"warning: {event.message}"
    return None


def _lines(event: "TrainingEvent") -> None:
    if line := _line(event):
        warn(line)


def _summary(scalars: Mapping[str, float]) -> str:
    """Losses, mean accuracy and speed; the rest stands in metrics.jsonl."""
    shown = [
        f"{name} {value:.4g}"
        for name, value in scalars.items()
        if name in ("loss", "accuracy") or name.startswith("loss/")
    ]
    if (speed := scalars.get("audio_seconds_per_second")) is not None:
        shown.append(f"{speed:.1f} s of audio per second")
    return ", ".join(shown)


class _BarReporter:
    """The bar carries what the training lines say; the other lines stay above it."""

    def __init__(self, bars: "Bars") -> None:
        self._bars, self._task = bars, bars.add_task("training", total=None, summary="")

    def __call__(self, event: "TrainingEvent") -> None:
        from mssgen.events import Began, Logged, Stepped

        if isinstance(event, Began):
            self._bars.reset(self._task, total=event.n_steps, completed=event.step)
        if isinstance(event, Stepped):
            self._bars.update(self._task, completed=event.step)
        elif isinstance(event, Logged) and event.kind == "train":
            loss, speed = (event.scalars[name] for name in ("loss", "audio_seconds_per_second"))
            self._bars.update(self._task, summary=f"loss {loss:.4g}, {speed:.1f} s/s")
        elif line := _line(event):
            self._bars.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bars() -> Iterator["Bars"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[summary]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        # Estimate over the last minutes: validation and sounds take their time now and then.
        speed_estimate_period=600,
    )
    with bars:
        yield bars
