"""Recipes of training: one experiment in one small TOML file that says why it exists.

why = "one line: why this run exists"
inherits = "base"           # a file beside this one, else a shipped recipe
[model] [loss] [data]       # options of the task and of its data
[train]                     # `TrainOptions`
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mssgen.errors import UsageError
from mssgen.recipes.inheritance import Family, load_merged, shipped_names
from mssgen.recipes.schema import Count, NonNegative, PositiveCount
from mssgen.recipes.sections import check_fields, from_section

Kind = Literal["encoder", "codec", "refiner"]
KINDS: tuple[Kind, ...] = ("encoder", "codec", "refiner")
_FAMILY = Family[Kind](
    KINDS, ("model", "loss", "data", "train"), listing="; `mssgen train recipes` lists them"
)


@dataclass(frozen=True)
class TrainOptions:
    """Section [train]: number of steps, batches, precision, and how often to validate and save."""

    steps: PositiveCount = 100_000
    """Number of optimizer steps."""
    batch_size: PositiveCount = 8
    """Segments per device and micro-batch."""
    accumulate: PositiveCount = 1
    """Micro-batches per step; their gradients are averaged."""
    max_grad_norm: NonNegative = 0.0
    """The gradient of each optimizer is scaled down to this L2 norm if larger; 0 disables it."""
    warmup_steps: Count = 0
    """Steps over which learning rates rise linearly from 0."""
    schedule: Literal["constant", "cosine", "noam"] = "constant"
    """Learning rate after the warm-up: "cosine" falls to 0 at the last step; "noam" falls with the
    inverse square root of the step (Vaswani et al. 2017, arXiv 1706.03762, section 5.3)."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    validate_every: Count = 1000
    """Steps between validations; 0 disables them."""
    n_valid_batches: Count = 16
    """Maximum number of batches per validation, over all devices."""
    save_every: PositiveCount = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: PositiveCount = 2
    """Number of most recent checkpoints to keep, besides the best one."""
    listen_every: Count = 5000
    """Steps between sounds and spectrograms in the log; 0 disables them."""
    n_workers: Count = 2
    """Processes per device that prepare batches; 0 prepares them in the training process."""
    seed: Count = 0
    """Seed of all random numbers."""
    log_every: PositiveCount = 50
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        check_fields(self, "train")


@dataclass(frozen=True)
class Recipe:
    """One experiment, merged with everything its recipe inherits."""

    name: str
    why: str
    kind: Kind
    model: dict[str, Any]
    loss: dict[str, Any]
    data: dict[str, Any]
    train: TrainOptions

    def as_dict(self) -> dict[str, Any]:
        """As a dictionary of JSON types; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Recipe":
        """From the result of `as_dict`; raises UsageError if another version of mssgen wrote it."""
        try:
            known = {key: record[key] for key in record if key != "train"}
            train = from_section(TrainOptions, record.get("train", {}), "train")
            recipe = cls(**known, train=train)
            sections = (recipe.model, recipe.loss, recipe.data)
            if recipe.kind not in KINDS or not all(isinstance(each, dict) for each in sections):
                raise TypeError("a section is missing")
            return recipe
        except (TypeError, AttributeError, LookupError) as error:
            raise UsageError(
                f"this record of a recipe does not fit this version of mssgen ({error}); use the "
                "version that wrote it"
            ) from None


def recipe_names(kind: Kind) -> list[str]:
    """Names of the shipped recipes of a kind."""
    return shipped_names(kind)


def load_recipe(
    path_or_name: str | Path, overrides: Iterable[str] = (), *, kind: Kind | None = None
) -> Recipe:
    """Read a recipe, merge it over what it inherits, and check [train]; see `load_merged`."""
    merged = load_merged(path_or_name, _FAMILY, overrides, kind=kind)
    train = from_section(TrainOptions, merged.sections.pop("train"), "train")
    return Recipe(merged.name, merged.why, merged.kind, train=train, **merged.sections)
