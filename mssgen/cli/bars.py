"""Events on a terminal: one bar with the place in the run, speed and time left of all."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mssgen.cli.console import printable
from mssgen.events import (
    Began,
    Done,
    Event,
    Failed,
    Finished,
    Loading,
    Logged,
    Progress,
    Start,
    Stepped,
    TrainingEvent,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_NARROW = 70
"""Columns of a terminal on which the bar itself has no place."""


class Speed:
    """Finished seconds of audio per elapsed second, over all songs of a run."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._done_s = self._song_s = 0.0

    def start(self) -> None:
        """The next song starts."""
        self._started = self._started or time.monotonic()
        self._done_s += self._song_s
        self._song_s = 0.0

    def at(self, song_s: float) -> float:
        """The speed, now that `song_s` seconds of the current song are done; 0 if unknown."""
        self._song_s = song_s
        elapsed_s = time.monotonic() - (self._started or time.monotonic())
        return (self._done_s + song_s) / elapsed_s if elapsed_s > 0 else 0.0


def place(event: Start | Progress) -> str:
    """ "[12/120] " in a run of several songs, else ""."""
    return f"[{event.index}/{event.total}] " if event.total > 1 else ""


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    return str(timedelta(seconds=round(seconds)))


class BarReporter:
    """A bar per song or training run; the lines of `line_of` stay above it.

    It appears with the first event that it shows, so that nothing else on the terminal is in its
    way before, such as the bar of a download.
    """

    def __init__(self, line_of: Callable[[Event | TrainingEvent], str | None]) -> None:
        self._line_of, self._speed = line_of, Speed()
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def close(self) -> None:
        """Remove the bar."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event | TrainingEvent) -> None:
        match event:
            case Loading():
                self._begin(f"loading {event.model}", None)
            case Start():
                self._speed.start()
                self._begin(f"{place(event)}{Path(event.track).name}", event.duration_s)
            case Progress():
                speed = f"{self._speed.at(event.done_s):.1f} × real time"
                end = None if event.left_s is None else time.monotonic() + event.left_s
                self._update(completed=event.done_s, speed=speed, end=end)
            case Failed() | Done() | Finished():
                self._remove()
            case Began():
                self._begin("training", event.n_steps, completed=event.step)
            case Stepped():
                self._update(completed=event.step, amount=f"{event.step}/{event.n_steps}")
            case Logged() if event.kind == "train":
                loss, pace = (event.scalars[key] for key in ("loss", "audio_seconds_per_second"))
                self._update(speed=f"loss {loss:.4g}, {pace:.1f} s/s")
                return
        if line := self._line_of(event):
            self._print(printable(line))

    def _print(self, line: str) -> None:
        if self._bars is None:
            self._bars = _bars()
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _begin(self, name: str, total: float | None, completed: int = 0) -> None:
        self._remove()
        if self._bars is None:
            self._bars = _bars()
        self._bars.start()
        self._task = self._bars.add_task(printable(name), total=total, completed=completed)

    def _update(self, **values: Any) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, **values)

    def _remove(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Any) -> Text:
            share = "" if task.total is None else f"{task.percentage:3.0f} %"
            return Text(task.fields.get("amount") or share)

    class Left(TimeRemainingColumn):
        max_refresh = 0.5

        def render(self, task: Any) -> Text:
            if "amount" in task.fields:  # training
                return super().render(task)
            end = task.fields.get("end")
            left = "" if end is None else f"{clock(max(0, end - time.monotonic()))} left"
            return Text(left, style="progress.remaining")

    class Fields(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(task.fields.get("speed", ""))

    console = Console(stderr=True)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(12, console.width // 3))
    bar = () if console.width < _NARROW else (BarColumn(max(10, console.width // 4)),)
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=name),
        *bar,
        Amount(),
        Fields(Column(no_wrap=True)),
        Left(table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        # Estimate over minutes: first segments are slow, and validation interrupts training.
        speed_estimate_period=300,
    )
