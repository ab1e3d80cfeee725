"""Batches of a run: its samples are numbered, so the step is the only state."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mssgen.training.recipes import TrainOptions
from mssgen.training.task import Batch

Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True)
class Place:
    """Rank and device of one process of a run."""

    rank: int
    world_size: int
    device: torch.device


class StepSampler(Sampler[list[int]]):
    """Indices of the samples of each micro-batch, for one of `world_size` processes.

    Samples are numbered consecutively by step, micro-batch and process: a step has the same
    segments whether it is one batch of 8, 4 + 4, or 4 on each of two devices.
    """

    def __init__(self, steps: range, options: TrainOptions, place: Place) -> None:
        self._steps, self._place = steps, place
        self._n_micro, self._n_slots = options.accumulate, options.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            for micro in range(self._n_micro):
                first = (step * self._n_micro + micro) * self._place.world_size + self._place.rank
                yield list(range(first * self._n_slots, (first + 1) * self._n_slots))

    def __len__(self) -> int:
        return len(self._steps) * self._n_micro


def train_batches(
    data: Dataset[Any],
    options: TrainOptions,
    collate: Collate,
    place: Place,
    *,
    first_step: int,
) -> DataLoader[Batch]:
    """All micro-batches from step `first_step` on, in order, for this process."""
    sampler = StepSampler(range(first_step, options.steps), options, place)
    return _loader(data, options, collate, place, sampler)


def valid_batches(
    data: Dataset[Any], options: TrainOptions, collate: Collate, place: Place
) -> DataLoader[Batch]:
    """The validation batches of this process, always the same.

    At most `n_valid_batches` over all processes. Every process gets the same number of batches,
    with repetitions if needed, since some tasks synchronise in each batch.
    """
    n_segments, size = len(data), options.batch_size  # type: ignore[arg-type]
    starts = range(0, min(n_segments, options.n_valid_batches * size), size)
    batches = [list(range(start, min(start + size, n_segments))) for start in starts]
    n_mine = -(-len(batches) // place.world_size)
    numbers = [place.rank + k * place.world_size for k in range(n_mine)]
    mine = [batches[number % len(batches)] for number in numbers]
    return _loader(data, options, collate, place, mine)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    target = batch.target.to(device, non_blocking=True)
    is_one = batch.input is batch.target
    heard = target if is_one else batch.input.to(device, non_blocking=True)
    return replace(batch, input=heard, target=target)


def _loader(
    data: Dataset[Any],
    options: TrainOptions,
    collate: Collate,
    place: Place,
    batches: Sampler[list[int]] | Sequence[list[int]],
) -> DataLoader[Batch]:
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=options.n_workers,
        pin_memory=place.device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_loop,
    )


def _leave_interrupts_to_the_loop(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in workers: the current step still needs its batch."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
