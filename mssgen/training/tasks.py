"""From a recipe to its task, and to a trained run."""

from pathlib import Path

from mssgen.events import TrainingHook, ignore
from mssgen.recipes.sections import from_section
from mssgen.training.data.datasets import DataOptions, collate, open_datasets
from mssgen.training.loop import train
from mssgen.training.parallel import seed_step
from mssgen.training.recipes import Recipe
from mssgen.training.run import RunFolder
from mssgen.training.task import Starts, Task


def train_recipe(
    recipe: Recipe,
    data: Path,
    output: Path,
    *,
    pairs: Path | None = None,
    target_cache: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    n_devices: int = 1,
    offline: bool = False,
    hook: TrainingHook = ignore,
) -> Path:
    """Train a recipe on a folder of tracks; return the last checkpoint.

    See `build_task`, `open_datasets` and `loop.train` for the arguments and exceptions.
    """
    folder = RunFolder(output)
    folder.check_place(resume=resume)
    options = from_section(DataOptions, recipe.data, "data")
    task = build_task(recipe, target_cache=target_cache, offline=offline)
    training, validation = open_datasets(
        data,
        options,
        sample_rate=task.sample_rate,
        n_channels=task.n_channels,
        seed=recipe.train.seed,
        pairs=pairs,
    )
    if isinstance(task, Starts) and folder.latest() is None:
        task.start(training[index].target for index in range(task.n_start_segments))
    used = {
        "folder": data.resolve(),
        "pairs": pairs and pairs.resolve(),
        "train_tracks": [track.key for track in training.tracks],
        "valid_tracks": [track.key for track in validation.tracks],
    }
    return train(
        task,
        training,
        validation,
        recipe.train,
        output,
        collate=collate,
        record={"recipe": recipe.as_dict(), "data": used},
        resume=resume,
        device=device,
        n_devices=n_devices,
        hook=hook,
    )


def build_task(recipe: Recipe, *, target_cache: Path | None = None, offline: bool = False) -> Task:
    """The task of a recipe, with random weights drawn from `train.seed`.

    `target_cache` is a folder to cache a stem encoder's targets, or a refiner's pairs of codes;
    `offline` prevents downloads. Raises UsageError for sections that do not fit together,
    CheckpointError for missing or damaged files.
    """
    seed_step(recipe.train.seed)
    if recipe.kind == "encoder":
        from mssgen.training.encoder.task import EncoderTask

        return EncoderTask.from_recipe(recipe, target_cache=target_cache, offline=offline)

    if recipe.kind == "refiner":
        from mssgen.training.refiner.task import RefinerTask

        return RefinerTask.from_recipe(recipe, cache=target_cache, offline=offline)

    from mssgen.training.codec.task import CodecTask

    return CodecTask.from_recipe(recipe, offline=offline)
