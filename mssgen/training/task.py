"""What the training loop asks of a task, and nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Batch:
    """A batch of pairs at the rate and with the channels that the task asks for."""

    input: Tensor
    """[B, C, T], what the model hears; the target itself where there is no other input. With a song
    beside it [B, 2 C, T]."""
    target: Tensor
    """[B, C, T], the clean stem, as long as the input."""
    keys: tuple[str, ...]
    """[B], what each segment is: stable over epochs, so that work on it can be kept. A segment
    that was augmented has a key that says so."""


class Task(Protocol):
    """One kind of training: which modules learn, from what, and what comes out."""

    sample_rate: int
    n_channels: int
    modules: dict[str, nn.Module]
    """What learns, by name: saved in checkpoints, moved to the device. The loop may put wrapped
    modules (for several devices) in their places, and the task calls what it finds here."""
    optimizers: dict[str, Optimizer]
    """By the name of the module that each steps; a module without one learns by itself (EMA)."""

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """Add the gradients of one batch by calling `backward`; return scalars to log by name.

        The scalars named "loss" and "loss/..." are checked for NaN and infinity before the step.
        """
        ...

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch, without gradients; the loop averages them by batch."""
        ...

    def listen(self, batch: Batch) -> dict[str, Tensor]:
        """Sounds [C, T] of the first item by name ("input", "target", "output", ...)."""
        ...

    def export(self, folder: Path) -> None:
        """Write a checkpoint that can be used, config.json and model.safetensors, to `folder`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, plain enough for JSON: goes into the run's record and the model card."""
        ...


@runtime_checkable
class Starts(Protocol):
    """A task whose weights can start from data instead of chance."""

    @property
    def n_start_segments(self) -> int:
        """How many segments `start` wants; 0 where the weights are as they shall be."""
        ...

    def start(self, segments: Iterable[Tensor]) -> None:
        """Set the weights by the first segments [C, T] of the training data, before any step."""
        ...
