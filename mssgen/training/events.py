"""What a training run tells its hook; warnings are `mssgen.events.Warned`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mssgen.events import Warned


@dataclass(frozen=True)
class Began:
    """Training begins, or goes on after `step` steps."""

    output: Path
    step: int
    n_steps: int
    n_devices: int
    device: str
    precision: str


@dataclass(frozen=True)
class Stepped:
    """One optimizer step is done, the `step`-th."""

    step: int
    n_steps: int


@dataclass(frozen=True)
class Logged:
    """Scalars by name: of "train" the means since the last line, of "valid" those of now."""

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


def ignore(event: TrainingEvent) -> None:
    """The hook that does nothing."""
