"""A run's folder: its record, its log, and its checkpoints, each complete or absent.

    run.json                    task, merged recipe, versions, resumptions
    metrics.jsonl  tensorboard/  audio/
    checkpoints/step-00001000/  config.json, NAME.safetensors of each module, optimizer.pt,
                                state.json

`latest_checkpoint` and `best_checkpoint` find a checkpoint of a run, `load_modules` loads it into a
task, whose `export` writes a usable model.
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mssgen import __version__
from mssgen.checkpoints.pickles import read_pickle
from mssgen.checkpoints.tensor_files import save_pickle, save_tensors
from mssgen.errors import CheckpointError, UsageError
from mssgen.files import remove_folder, reported, whole_file, whole_folder
from mssgen.leftovers import Lock, holds_nothing, is_leftover
from mssgen.training.task import Task

RUN = "run.json"
CONFIG, STATE, OPTIMIZERS = "config.json", "state.json", "optimizer.pt"
FORMAT_VERSION = 1
# Keys that may differ when a run is resumed: none of them affects the steps already done.
_MAY_CHANGE = {
    f"recipe.train.{key}"
    for key in (
        "precision",
        "validate_every",
        "n_valid_batches",
        "save_every",
        "keep",
        "listen_every",
        "n_workers",
        "log_every",
    )
}
_NAMES = ("recipe.name", "recipe.why", "task.recipe", "data.folder", "data.pairs")


@dataclass(frozen=True)
class LoopState:
    """State of the loop between two steps besides weights and optimizers."""

    step: int
    """Number of steps done."""
    sums: Mapping[str, tuple[float, int]]
    """Total and count of each scalar since the last line of the log."""
    valid_loss: float | None = None
    """Validation "loss" of exactly these weights; None if they were not validated."""


class RunFolder:
    """The folder of one run; only the first process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = path / "checkpoints"
        self._lock: Lock | None = None

    def check_place(self, *, resume: bool) -> None:
        """Raise UsageError unless a run may start, or be resumed, in this folder."""
        has_run = (self.path / RUN).is_file()
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; choose another `output`")
        if not has_run:
            if self.path.is_dir() and not self._is_new():
                raise UsageError(
                    f"{self.path} is not empty and not a run of mssgen; choose another `output`"
                )
        elif not resume:
            raise UsageError(
                f"{self.path} already holds a run; add `resume=True` to continue it, or choose "
                "another `output`"
            )

    def check(self, record: Mapping[str, Any], *, resume: bool) -> None:
        """Raise UsageError unless a run with this record may start, or be resumed, here.

        Writes nothing, so that all processes can call it.
        """
        self.check_place(resume=resume)
        if not (self.path / RUN).is_file():
            return
        if changed := [key for key in self._changed(record) if not _may_change(key, record)]:
            what = _shown(changed, self.record, record)
            raise UsageError(
                f"{self.path} was trained with another recipe ({what}); use the recipe that it "
                "started with, or choose another `output`"
            )

    def open(self, record: Mapping[str, Any]) -> None:
        """Write run.json, or add the resumption to it; remove remains of a killed process.

        Locks the folder until `close`. Raises UsageError if another process has locked it.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with reported(self.path, CheckpointError):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path)
            if not self._lock.take(where_unknown=True):
                raise UsageError(
                    f"{self.path} is in use by another training; wait for its end, or choose "
                    "another `output`"
                )
            for path in self._checkpoints.glob(".*"):
                shutil.rmtree(path)
            whole: dict[str, Any]
            if (self.path / RUN).is_file():
                latest = self.latest()
                changed = self._changed(record)
                resumed = {
                    "at": now,
                    "step": step_of(latest) if latest else 0,
                    "versions": _versions(),
                    "changed": changed,
                }
                old = self.record
                whole = {**old, **as_json(record), "resumed": [*old["resumed"], resumed]}
            else:
                head = {"format_version": FORMAT_VERSION, "began": now, "versions": _versions()}
                whole = {**head, **as_json(record), "resumed": []}
            _write_json(self.path / RUN, whole)  # first: it marks the folder as ours
            self._checkpoints.mkdir(exist_ok=True)

    def close(self) -> None:
        """Unlock the folder; may be called more than once."""
        if self._lock is not None:
            self._lock.release()

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json; raises CheckpointError if it is missing or damaged."""
        return _read_json(self.path / RUN)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self._checkpoints.glob("step-*"))

    def latest(self) -> Path | None:
        """The last checkpoint; None if there is none yet."""
        return found[-1] if (found := self.checkpoints()) else None

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation "loss"; the last one if none was validated."""
        losses = {path: read_state(path).valid_loss for path in self.checkpoints()}
        validated = {path: loss for path, loss in losses.items() if loss is not None}
        return min(validated, key=validated.__getitem__) if validated else self.latest()

    def save(self, task: Task, state: LoopState, *, keep: int) -> Path:
        """Write a checkpoint, complete or not at all; then remove all but the last `keep` and the
        best one.

        Raises CheckpointError if it cannot be written.
        """
        target = self._checkpoints / f"step-{state.step:08d}"
        if target.exists():
            return target
        with reported(target, CheckpointError), whole_folder(target) as part:
            for name, module in task.modules.items():
                save_tensors(module.state_dict(), part / f"{name}.safetensors")
            states = {name: each.state_dict() for name, each in task.optimizers.items()}
            save_pickle(states, part / OPTIMIZERS)
            _write_json(part / STATE, vars(state))
            record = {key: self.record.get(key) for key in ("task", "recipe")}
            config = {"format_version": FORMAT_VERSION, "step": state.step, **record}
            _write_json(part / CONFIG, config)
        with reported(self._checkpoints, CheckpointError):
            self._prune(keep)
        return target

    def _is_new(self) -> bool:
        """Whether the folder is empty but for remains of a run killed before it wrote run.json."""
        others = [entry for entry in self.path.iterdir() if not is_leftover(entry.name)]
        if others == [self._checkpoints] and self._checkpoints.is_dir():
            return holds_nothing(self._checkpoints)
        return not others

    def _prune(self, keep: int) -> None:
        kept = {*self.checkpoints()[-keep:], self.best()}
        for path in self.checkpoints():
            if path not in kept:
                remove_folder(path)

    def _changed(self, record: Mapping[str, Any]) -> list[str]:
        """Dotted keys of `record` that differ from run.json."""
        old = self.record
        return sorted(
            name
            for key in as_json(record)
            for name in _differences(old.get(key), as_json(record)[key], key)
        )


def latest_checkpoint(run: Path) -> Path:
    """The last checkpoint of a run's folder; raises UsageError if there is none."""
    return _found(RunFolder(run).latest(), run)


def best_checkpoint(run: Path) -> Path:
    """The checkpoint with the lowest validation loss; raises UsageError if there is none."""
    return _found(RunFolder(run).best(), run)


def step_of(checkpoint: Path) -> int:
    """Number of training steps of a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def read_state(checkpoint: Path) -> LoopState:
    """The loop's state in a checkpoint; raises CheckpointError if it is damaged."""
    try:
        return LoopState(**_read_json(checkpoint / STATE))
    except TypeError:
        raise CheckpointError(_damage(checkpoint / STATE, "it has other fields")) from None


def load_modules(modules: Mapping[str, nn.Module], checkpoint: Path) -> None:
    """Load every module's weights and buffers; raises CheckpointError if they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name, module in modules.items():
        path = checkpoint / f"{name}.safetensors"
        try:
            module.load_state_dict(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(_damage(path, reason)) from error


def load_optimizers(optimizers: Mapping[str, Optimizer], checkpoint: Path) -> None:
    """Load every optimizer's state; raises CheckpointError if it does not fit."""
    path = checkpoint / OPTIMIZERS
    states = read_pickle(path, "the optimizers of a run")
    try:
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(states[name])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(_damage(path, str(error))) from error


def _found(checkpoint: Path | None, run: Path) -> Path:
    if checkpoint is None:
        raise UsageError(f"{run} holds no checkpoint of a run; give the `output` of a training")
    return checkpoint


def _may_change(name: str, record: Mapping[str, Any]) -> bool:
    # A run may be made longer or shorter, unless its learning rate depends on the last step.
    schedule = record.get("recipe", {}).get("train", {}).get("schedule")
    is_length = name == "recipe.train.steps" and schedule in ("constant", "noam")
    return name in _MAY_CHANGE or name in _NAMES or is_length


def _differences(old: Any, new: Any, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield name


def _shown(names: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Up to three differences with both values."""

    def value(record: Any, name: str) -> str:
        for key in name.split("."):
            record = record.get(key) if isinstance(record, Mapping) else None
        return f"{json.dumps(record):.40}"

    shown = [f"{each} was {value(old, each)} and is {value(new, each)}" for each in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _versions() -> dict[str, str]:
    return {"mssgen": __version__, "torch": torch.__version__, "python": platform.python_version()}


def as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` as JSON returns it: tuples become lists, paths strings."""
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as draft:
        draft.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_damage(path, f"{error!s:.100}")) from None
    if not isinstance(value, dict):
        raise CheckpointError(_damage(path, "it is not a table"))
    return value


def _damage(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged or of another run ({reason}); remove its folder to continue from the "
        "checkpoint before it"
    )
