"""The training loop: the same for every task, on one device or many.

Runs can be resumed bit for bit: the samples and the random numbers of a step depend on its number
only (`batches`, `parallel.seed_step`), and all other state is in the task's `modules` (weights and
buffers) and `optimizers`, which checkpoints hold.
"""

import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mssgen.errors import MssgenError, OutOfMemoryError
from mssgen.events import (
    Began,
    Finished,
    Logged,
    Saved,
    Stepped,
    TrainingHook,
    Warned,
    ignore,
)
from mssgen.memory import is_out_of_memory
from mssgen.training.batches import Collate, Place, to_device, train_batches, valid_batches
from mssgen.training.interrupts import StopRequest, stop_requests
from mssgen.training.logs import RunLog
from mssgen.training.parallel import (
    autocast_forward,
    average,
    average_gradients,
    open_fabric,
    seed_step,
    share_state,
)
from mssgen.training.recipes import TrainOptions
from mssgen.training.run import (
    LoopState,
    RunFolder,
    load_modules,
    load_optimizers,
    read_state,
)
from mssgen.training.task import Task

_TRAIN, _VALID = 0, 1  # separate random numbers


class DivergedError(MssgenError):
    """A loss or a gradient became NaN or infinite."""


def train(
    task: Task,
    train_data: Dataset[Any],
    valid_data: Dataset[Any] | None,
    options: TrainOptions,
    output: Path,
    *,
    collate: Collate,
    record: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "auto",
    n_devices: int = 1,
    hook: TrainingHook = ignore,
) -> Path:
    """Train until `options.steps` steps are done; return the last checkpoint.

    On SIGINT, SIGTERM or SIGHUP the current step is finished and saved, then KeyboardInterrupt or
    SystemExit(143 or 129) is raised; a second signal acts at once. Afterwards `task.modules` and
    `task.optimizers` hold the trained weights.

    Args:
        task: the modules, losses and optimizers; must draw its random numbers from the global
            generators of torch, NumPy or Python, and keep its state in `modules` and `optimizers`.
        train_data: map-style and endless; item i depends on i only.
        valid_data: map-style with a length. None: no validation and no sounds.
        options: section [train].
        output: the run's folder, see `run`.
        collate: from a list of items to a `Batch`.
        record: further content of run.json, such as the recipe; must be the same when resuming.
        resume: continue from the last checkpoint, if there is one.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        n_devices: number of processes on this machine; ignored under torchrun, which sets it.
        hook: receives events, in the first process only.

    Raises:
        UsageError: a wrong device or folder, or another recipe than the one to resume.
        DivergedError: a loss or gradient became NaN or infinite; its step was not taken.
        CheckpointError: a checkpoint cannot be read or written.
        OutOfMemoryError: the device's memory ran out.
    """
    fabric = open_fabric(device, n_devices, options.precision)
    run = RunFolder(output)
    record = {**(record or {}), "task": task.describe()}
    run.check(record, resume=resume)
    fabric.barrier()
    tell = hook if fabric.is_global_zero else ignore
    try:
        if fabric.is_global_zero:
            if resume and run.latest() is None:
                tell(Warned(str(output), f"{output} has no checkpoint yet: starting at step 0"))
            run.open(record)
        fabric.barrier()
        with closing(_Loop(task, options, run, fabric, tell)) as loop, stop_requests() as stop:
            return loop.run(train_data, valid_data, collate, stop)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"memory ran out with train.batch_size = {options.batch_size}; halve it, and double "
            "train.accumulate to keep the number of segments per step"
        ) from error
    finally:
        run.close()


class _Loop:
    """One run in one process."""

    def __init__(
        self, task: Task, options: TrainOptions, run: RunFolder, fabric: Any, tell: TrainingHook
    ) -> None:
        self._task, self._options, self._run = task, options, run
        self._fabric, self._tell = fabric, tell
        self._sums: dict[str, tuple[float, int]] = {}
        self._step = 0
        self._seconds, self._clock = 0.0, time.monotonic()
        for module in task.modules.values():
            module.to(fabric.device)
            if options.precision != "32-true":
                autocast_forward(fabric, module)
        # From the recipe: optimizers of a checkpoint have the learning rates of their last step.
        self._rates = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in task.optimizers.items()
        }
        latest = run.latest()
        if latest is not None:
            load_modules(task.modules, latest)
            load_optimizers(task.optimizers, latest)
            state = read_state(latest)
            self._step, self._sums = state.step, dict(state.sums)
        for module in task.modules.values():
            share_state(module.state_dict().values())
        self._log = (
            RunLog(run.path, step=self._step, warn=self._warn) if fabric.is_global_zero else None
        )

    def run(
        self,
        train_data: Dataset[Any],
        valid_data: Dataset[Any] | None,
        collate: Collate,
        stop: StopRequest,
    ) -> Path:
        options, fabric = self._options, self._fabric
        place = Place(fabric.global_rank, fabric.world_size, fabric.device)
        began = time.monotonic()
        self._tell(
            Began(
                self._run.path,
                self._step,
                options.steps,
                fabric.world_size,
                str(fabric.device),
                options.precision,
            )
        )
        batches = iter(train_batches(train_data, options, collate, place, first_step=self._step))
        valid = None if valid_data is None else valid_batches(valid_data, options, collate, place)
        self._clock = time.monotonic()
        while self._step < options.steps:
            stops = self._advance(batches, stop)
            self._step += 1
            step, is_last = self._step, self._step >= options.steps
            self._tell(Stepped(step, options.steps))
            paused = time.monotonic()
            if step % options.log_every == 0 or is_last:
                self._write_means()
            valid_loss = None
            if valid is not None and (is_last or _is_due(step, options.validate_every)):
                valid_loss = self._validate(valid)
            if valid is not None and _is_due(step, options.listen_every):
                self._listen(valid)
            if is_last or stops or step % options.save_every == 0:
                self._save(valid_loss)
            self._clock += time.monotonic() - paused
            if stops:
                self._stop(stop)
        latest = self._run.latest()
        assert latest is not None
        self._tell(Finished(self._step, latest, time.monotonic() - began))
        return latest

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _advance(self, batches: Iterator[Any], stop: StopRequest) -> bool:
        """Do one optimizer step; returns whether a process was asked to stop."""
        task, options, fabric, step = self._task, self._options, self._fabric, self._step
        self._set_rates(step)
        seed_step(options.seed, _TRAIN, step, fabric.global_rank)
        for optimizer in task.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for _ in range(options.accumulate):
            batch = to_device(next(batches), fabric.device)
            for name, value in task.accumulate(batch, self._backward, step).items():
                share = value.detach().float() / options.accumulate
                totals[name] = totals[name] + share if name in totals else share
            self._seconds += _seconds(batch.target, task) * fabric.world_size
        for name, optimizer in task.optimizers.items():
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            average_gradients(parameters)
            limit = options.max_grad_norm or math.inf
            totals[f"grad_norm/{name}"] = nn.utils.clip_grad_norm_(parameters, limit)
        values, stops = self._gather(totals, stop)
        self._check(values)
        for optimizer in task.optimizers.values():
            optimizer.step()
        for module in task.modules.values():
            share_state(module.buffers())
        for name, number in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + number, count + 1)
        return stops

    def _backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss / self._options.accumulate)

    def _set_rates(self, step: int) -> None:
        factor = rate_factor(step, self._options)
        for name, optimizer in self._task.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self._rates[name], strict=True):
                group["lr"] = rate * factor

    def _gather(
        self, totals: Mapping[str, Tensor], stop: StopRequest
    ) -> tuple[dict[str, float], bool]:
        """Means over processes, and whether any was asked to stop, in one message."""
        device = self._fabric.device
        asked = torch.tensor(float(stop.number is not None), device=device)
        flat = torch.stack([each.to(device, torch.float32) for each in [*totals.values(), asked]])
        *values, asks = average(flat).tolist()
        return dict(zip(totals, values, strict=True)), asks > 0

    def _check(self, values: Mapping[str, float]) -> None:
        """Raise DivergedError if a loss or the norm of a gradient is NaN or infinite."""
        for name, value in values.items():
            is_checked = name == "loss" or name.startswith(("loss/", "grad_norm/"))
            if is_checked and not math.isfinite(value):
                latest = self._run.latest()
                kept = f"{latest} holds the last good weights" if latest else "nothing was saved"
                cure = "train again with a lower learning rate"
                if self._options.precision != "32-true":
                    cure += ', or continue with `resume=True` and `precision="32-true"`'
                raise DivergedError(
                    f"{name} became {value} at step {self._step + 1}, which was discarded: {kept}; "
                    f"{cure}"
                )

    def _write_means(self) -> None:
        means = {name: total / count for name, (total, count) in self._sums.items()}
        for name, optimizer in self._task.optimizers.items():
            means[f"learning_rate/{name}"] = optimizer.param_groups[0]["lr"]
        means["audio_seconds_per_second"] = self._seconds / max(
            1e-9, time.monotonic() - self._clock
        )
        self._write("train", means)
        self._sums.clear()
        self._seconds, self._clock = 0.0, time.monotonic()

    @torch.no_grad()
    def _validate(self, batches: Any) -> float | None:
        """Log the means over all validation batches; returns the mean "loss", or None if NaN."""
        totals: dict[str, list[Tensor]] = defaultdict(list)
        with self._evaluating():
            for index, batch in enumerate(batches):
                seed_step(self._options.seed, _VALID, index, self._fabric.global_rank)
                scalars = self._task.validate(to_device(batch, self._fabric.device))
                for name, value in scalars.items():
                    totals[name].append(value.detach().float())
        if not totals:
            return None
        means = average(torch.stack([torch.stack(v).mean() for v in totals.values()]))
        scalars_by_name = dict(zip(totals, means.tolist(), strict=True))
        self._write("valid", scalars_by_name)
        loss = scalars_by_name.get("loss", math.nan)
        return loss if math.isfinite(loss) else None

    @torch.no_grad()
    def _listen(self, batches: Any) -> None:
        if self._log is None:
            return
        seed_step(self._options.seed, _VALID, 0, 0)
        with self._evaluating():
            batch = to_device(next(iter(batches)), self._fabric.device)
            self._log.sounds(self._step, self._task.listen(batch), self._task.sample_rate)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """All modules in eval mode; restores the mode of each submodule afterwards."""
        parts = [part for module in self._task.modules.values() for part in module.modules()]
        modes = [part.training for part in parts]
        for part in parts:
            part.training = False
        try:
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode

    def _save(self, valid_loss: float | None) -> None:
        if self._fabric.is_global_zero:
            state = LoopState(self._step, dict(self._sums), valid_loss)
            path = self._run.save(self._task, state, keep=self._options.keep)
            self._tell(Saved(self._step, path))
        self._fabric.barrier()

    def _stop(self, stop: StopRequest) -> None:
        self._warn(f"stopped after step {self._step}, which is saved; continue with `resume=True`")
        if stop.number is not None and stop.number != signal.SIGINT:
            sys.exit(128 + stop.number)
        raise KeyboardInterrupt

    def _write(self, kind: str, scalars: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.scalars(self._step, kind, scalars)
        self._tell(Logged(self._step, kind, scalars))

    def _warn(self, message: str) -> None:
        self._tell(Warned("", message))


def rate_factor(step: int, options: TrainOptions) -> float:
    """Factor of every learning rate in the step after `step` steps, 0 to 1."""
    warmup = options.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "noam":
        return math.sqrt(max(1, warmup) / (step + 1))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, options.steps - warmup)))


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _seconds(target: Tensor, task: Task) -> float:
    return target.shape[0] * target.shape[-1] / task.sample_rate
