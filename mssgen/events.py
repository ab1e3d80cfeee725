"""What the library tells while it works: it calls a hook with events, and draws nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """A song begins."""

    track: str
    duration_s: float
    sample_rate: int
    n_channels: int
    device: str
    precision: str


@dataclass(frozen=True)
class Progress:
    """Seconds of the song that are done."""

    track: str
    done_s: float
    duration_s: float


@dataclass(frozen=True)
class Written:
    """One output file is complete."""

    track: str
    stem: str
    path: Path


@dataclass(frozen=True)
class Skipped:
    """All outputs of a song are there already."""

    track: str


@dataclass(frozen=True)
class Warned:
    """Something the user should know; the work goes on."""

    track: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A song failed; the next ones are tried."""

    track: str
    message: str


@dataclass(frozen=True)
class Done:
    """All songs were tried."""

    n_done: int
    n_skipped: int
    n_failed: int
    elapsed_s: float


Event = Start | Progress | Written | Skipped | Warned | Failed | Done
Hook = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The hook that does nothing."""
