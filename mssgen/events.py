"""Events of all jobs: the library calls a hook with them and prints nothing itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loading:
    """A model is being loaded."""

    model: str


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
    index: int = 1
    """Place of the song in the run, from 1."""
    total: int = 1
    """Number of songs in the run."""


@dataclass(frozen=True)
class Progress:
    """Part of a song that is done, in seconds."""

    track: str
    done_s: float
    duration_s: float
    index: int = 1
    total: int = 1
    left_s: float | None = None
    """Estimated seconds until all songs of the run are done; None if unknown."""


@dataclass(frozen=True)
class Enhanced:
    """A stem of a song is enhanced; what that changed."""

    track: str
    stem: str
    taken_away_db: float
    """How much quieter the stem is without what was taken away, 0 or more."""
    added_db: float
    """Level of what was added, against the separated stem; -120 for nothing."""


@dataclass(frozen=True)
class Written:
    """One output file is complete."""

    track: str
    stem: str
    path: Path


@dataclass(frozen=True)
class Skipped:
    """A song was skipped."""

    track: str
    reason: str = ""
    """Why; "" if its outputs are complete."""


@dataclass(frozen=True)
class Warned:
    """A warning; processing continues. `track` is "" if it is about no single song."""

    track: str
    """The song or file; empty in training."""
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
    n_left: int = 0
    """Number of songs that were not tried, because the run was stopped, or stops at a failure."""
    audio_s: float = 0.0
    """Seconds of audio in the songs that are done."""
    device: str = ""
    """Where they were computed; several are separated by commas."""
    precision: str = ""


Event = Loading | Start | Progress | Enhanced | Written | Skipped | Warned | Failed | Done
Hook = Callable[[Event], None]


# Training.


@dataclass(frozen=True)
class Began:
    """Training starts, or resumes after `step` steps."""

    output: Path
    step: int
    n_steps: int
    n_devices: int
    device: str
    precision: str


@dataclass(frozen=True)
class Stepped:
    """An optimizer step is done."""

    step: int
    """Number of steps done."""
    n_steps: int


@dataclass(frozen=True)
class Logged:
    """Scalars by name: means since the last line ("train") or of one validation ("valid")."""

    step: int
    kind: str
    scalars: Mapping[str, float]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is complete."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """All steps are done; `path` is the last checkpoint."""

    step: int
    path: Path
    elapsed_s: float


TrainingEvent = Began | Stepped | Logged | Saved | Finished | Warned
TrainingHook = Callable[[TrainingEvent], None]


def ignore(event: Event | TrainingEvent) -> None:
    """Hook that ignores all events."""
