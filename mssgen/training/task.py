"""The interface between the training loop and a task."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Batch:
    """A batch of inputs and targets, at the task's sample rate and number of channels."""

    input: Tensor
    """Input of the model, [B, C, T], or [B, 2 C, T] with the mixture as further channels; the same
    tensor as `target` if there is no other input."""
    target: Tensor
    """The clean stem, [B, C, T]."""
    keys: tuple[str, ...]
    """A key for each of the B segments, the same in all epochs, so that results can be cached; keys
    of augmented segments contain `AUGMENTED`."""


class Task(Protocol):
    """One kind of training: its modules, losses, optimizers and exported model."""

    sample_rate: int
    n_channels: int
    modules: dict[str, nn.Module]
    """Trained modules by name, saved in checkpoints and moved to the device. The loop may replace
    them by wrapped modules (for several devices), so the task must call the ones in here."""
    optimizers: dict[str, Optimizer]
    """Optimizers by the name of their module; a module without one updates itself (EMA)."""

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """Accumulate the gradients of one batch by `backward`; return scalars to log by name.

        Scalars named "loss" and "loss/..." are checked for NaN and infinity before the step.
        """
        ...

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a validation batch, without gradients; the loop averages them over batches."""
        ...

    def listen(self, batch: Batch) -> dict[str, Tensor]:
        """Audio [C, T] of the first item by name ("input", "target", "output", ...)."""
        ...

    def export(self, folder: Path) -> None:
        """Write a usable checkpoint, config.json and model.safetensors, to `folder`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Description of the task in JSON types, for the run's record and the model card."""
        ...


@runtime_checkable
class Starts(Protocol):
    """A task whose weights can be initialised from data instead of randomly."""

    @property
    def n_start_segments(self) -> int:
        """Number of segments for `start`; 0 to keep the current weights."""
        ...

    def start(self, segments: Iterable[Tensor]) -> None:
        """Initialise the weights from segments [C, T] of the training data, before step 0."""
        ...
