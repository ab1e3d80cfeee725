"""Events of a running job: the library passes them to a hook and draws nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """Processing of a song begins."""

    track: str
    """Name of the song in messages."""
    duration_s: float
    sample_rate: int
    n_channels: int
    device: str
    precision: str


@dataclass(frozen=True)
class Progress:
    """Part of a song that is done, in seconds."""

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
    """A song was skipped, because its outputs are complete."""

    track: str


@dataclass(frozen=True)
class Warned:
    """A warning; processing continues. `track` is "" if it is about no single song."""

    track: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A song failed; processing continues with the next one."""

    track: str
    message: str


@dataclass(frozen=True)
class Done:
    """The job is finished; numbers of songs done, skipped and failed."""

    n_done: int
    n_skipped: int
    n_failed: int
    elapsed_s: float


Event = Start | Progress | Written | Skipped | Warned | Failed | Done
Hook = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Hook that ignores all events."""
