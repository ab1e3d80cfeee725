"""From a run's folder to a usable checkpoint, with the facts for its model card.

DIR/config.json, model.safetensors, perhaps codec/     the exported model
DIR/training.json                                      recipe, data, metrics of this step
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mssgen import __version__
from mssgen.checkpoints.folders import TRAINING, new_folder
from mssgen.checkpoints.resolving import SCHEME
from mssgen.checkpoints.shrinking import Storage, round_to, store_smaller
from mssgen.errors import CheckpointError, UsageError
from mssgen.library.stems import PAIRS_MANIFEST
from mssgen.training.logs import METRICS
from mssgen.training.recipes import Recipe
from mssgen.training.run import (
    RUN,
    RunFolder,
    as_json,
    best_checkpoint,
    latest_checkpoint,
    load_modules,
    step_of,
)
from mssgen.training.task import Task
from mssgen.training.tasks import build_task

STORAGES: dict[str, Storage | None] = {"fp32": None, "fp16": "fp16", "int8": "int8"}


def export_run(
    run: Path,
    target: Path,
    *,
    checkpoint: str = "best",
    storage: Storage | None = None,
    overwrite: bool = False,
    offline: bool = False,
) -> Path:
    """Write a checkpoint of the run to the folder `target`; return the folder of that checkpoint.

    Args:
        run: the folder of a run.
        target: appears complete or not at all.
        checkpoint: "best" by validation, "last", or "step-N".
        storage: format of the weights; None: fp32.
        overwrite: replace an older checkpoint in `target`; nothing else is ever replaced.
        offline: never download the codec.

    Raises:
        UsageError: `run` is not a run, or has no such checkpoint.
        CheckpointError: the checkpoint or its codec is damaged or unavailable, or `target` exists.
    """
    chosen = find_checkpoint(run, checkpoint)
    record = RunFolder(run).record
    try:
        recipe = Recipe.from_dict(record["recipe"])
        about = _about(run, chosen, record, recipe)
    except (UsageError, LookupError, TypeError, AttributeError):
        raise CheckpointError(
            f"{run / RUN} is damaged or of another version of mssgen: use the version that wrote it"
        ) from None
    with new_folder(target, overwrite=overwrite) as draft:
        task = build_task(recipe, offline=offline)
        _check_codec(run, task, record)
        load_modules(task.modules, chosen)
        if storage:  # first: a codec's id is derived from its weights as they are stored
            for module in task.modules.values():
                round_to(module, storage)
        task.export(draft)
        if storage:
            store_smaller(draft, storage)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (draft / TRAINING).write_text(text, encoding="utf-8")
    return chosen


def find_checkpoint(run: Path, which: str) -> Path:
    """The folder of a run's checkpoint: "best", "last" or "step-N"; raises UsageError."""
    if not (run / RUN).is_file():
        raise UsageError(f"{run} is not a run of mssgen: give the `output` of a training")
    if which == "best":
        return best_checkpoint(run)
    if which == "last":
        return latest_checkpoint(run)
    found = RunFolder(run).checkpoints()
    step = re.fullmatch(r"step-(\d{1,12})", which)
    for path in found:
        if step and step_of(path) == int(step[1]):
            return path
    steps = [f"step-{step_of(path)}" for path in found]
    raise UsageError(
        f'`checkpoint="{which}"` is not in {run}: use one of {", ".join(["best", "last", *steps])}'
    )


def _check_codec(run: Path, task: Task, record: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the recipe now loads another codec than the run was trained for."""
    expected, found = (each.get("codec_id") for each in (record["task"], task.describe()))
    if expected != found:
        raise CheckpointError(
            f"{run} was trained for the codec {expected}, but its recipe now loads {found}: "
            "restore the original codec"
        )


def _about(
    run: Path, checkpoint: Path, record: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """The content of training.json, without paths of this machine."""
    task, step = record["task"], step_of(checkpoint)
    identity = {key: task[key] for key in ("stem", "input", "codec", "codec_id") if key in task}
    sections = recipe.as_dict()
    about = {
        "mssgen_version": __version__,
        "kind": recipe.kind,
        "recipe": recipe.name,
        "why": recipe.why,
        "step": step,
        **identity,
        "data": _data(record.get("data") or {}),
        "metrics": _metrics(run / METRICS, step),
        **{key: sections[key] for key in ("model", "loss", "train")},
        "segments": sections["data"],
    }
    without_paths: dict[str, Any] = _without_paths(as_json(about))
    return without_paths


def _data(used: Mapping[str, Any]) -> dict[str, Any]:
    """Name of the library, numbers of tracks, and the model that separated them."""
    about: dict[str, Any] = {"name": _last_part(str(used.get("folder") or ""))}
    for key in ("train_tracks", "valid_tracks"):
        if isinstance(used.get(key), list):
            about[f"n_{key}"] = len(used[key])
    if pairs := used.get("pairs"):
        try:
            manifest = json.loads((Path(pairs) / PAIRS_MANIFEST).read_bytes())
            about["separated_by"] = str(manifest["model"])
        except (OSError, ValueError, KeyError, TypeError):
            about["separated_by"] = "an unknown separator"
    return about


def _metrics(path: Path, step: int) -> dict[str, float]:
    """Means over the validation batches at `step`; empty if it was not validated."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if (line["step"], line["kind"]) == (step, "valid")]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    metrics = found[-1] if found else {}
    return {key: value for key, value in metrics.items() if isinstance(value, float)}


def _without_paths(value: Any) -> Any:
    """`value` with every path in it reduced to its last part."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    is_path = isinstance(value, str) and (
        Path(value).expanduser().is_absolute() or PureWindowsPath(value).is_absolute()
    )
    is_relative = isinstance(value, str) and value.startswith(("./", "../", ".\\", "..\\"))
    return _last_part(value) if is_path or is_relative else value


def _last_part(path: str) -> str:
    if path.startswith(SCHEME):
        return path
    return PurePosixPath(path).name if "\\" not in path else PureWindowsPath(path).name
