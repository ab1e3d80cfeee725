"""Recipes: one experiment in one small TOML file that says why it exists.

    why = "what this run is to show, in a line"
    inherits = "base"           # beside this file, else among the recipes that ship
    [model] [loss] [data]       # options of the task and of its data
    [train]                     # `TrainOptions`

A recipe is merged over what it inherits, key by key; overrides such as "train.steps=10" come last.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mssgen.errors import UsageError, closest, shown
from mssgen.recipes.sections import from_section

Kind = Literal["encoder", "codec", "refiner"]
KINDS: tuple[Kind, ...] = ("encoder", "codec", "refiner")
SECTIONS = ("model", "loss", "data", "train")
SHIPPED = Path(__file__).parents[1] / "recipes"
_MAX_BYTES, _MAX_DEPTH = 2**20, 16
_HEAD = ("why", "inherits", "kind")


@dataclass(frozen=True)
class TrainOptions:
    """Section [train]: how long, how fast, and how often to look."""

    steps: int = 100_000
    batch_size: int = 8
    """Segments a device and a micro-batch."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged to one step."""
    max_grad_norm: float = 0.0
    """Gradients of an optimizer longer than this (L2) are scaled down to it; 0 never does."""
    warmup_steps: int = 0
    """Steps over which every learning rate rises linearly to its own value."""
    schedule: Literal["constant", "cosine", "noam"] = "constant"
    """After the warm-up; "cosine" falls to 0 at the last step, "noam" as the inverse square root of
    the step, by whatever step the run ends (Vaswani et al. 2017, arXiv 1706.03762, section 5.3)."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    validate_every: int = 1000
    """Steps; 0 never."""
    n_valid_batches: int = 16
    """At most; over all devices."""
    save_every: int = 1000
    """Steps; the last step is always saved."""
    keep: int = 2
    """Checkpoints to keep: the last ones, and the best one besides."""
    listen_every: int = 5000
    """Steps between sounds and spectrograms in the log; 0 never."""
    n_workers: int = 2
    """Processes that prepare batches, a device; 0 prepares them in between."""
    seed: int = 0
    log_every: int = 50

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "accumulate", "save_every", "keep", "log_every")
        for name, value in asdict(self).items():
            least = int(name in at_least_one)
            if isinstance(value, int | float) and not value >= least:
                raise UsageError(f"train.{name} = {value} is out of range; use {least} or more")


@dataclass(frozen=True)
class Recipe:
    """One experiment, with all that it inherits."""

    name: str
    why: str
    kind: Kind
    model: dict[str, Any]
    loss: dict[str, Any]
    data: dict[str, Any]
    train: TrainOptions

    def as_dict(self) -> dict[str, Any]:
        """Plain enough for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Recipe":
        """What `as_dict` gave; raises UsageError where a newer or older mssgen wrote it."""
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
    """The recipes of a kind that ship with mssgen."""
    return sorted(path.stem for path in (SHIPPED / kind).glob("*.toml"))


def load_recipe(
    path_or_name: str | Path, overrides: Iterable[str] = (), *, kind: Kind | None = None
) -> Recipe:
    """Read a recipe, merge it over what it inherits, and check [train].

    Args:
        path_or_name: a TOML file, or a name that ships: "base", or "encoder/base" where several
            kinds have one.
        overrides: "section.key=value", the value in TOML; a bare word counts as a string.
        kind: what it must be for; None takes what the recipe says.

    Raises UsageError for what is missing, unknown, damaged, of another kind, or goes in circles.
    """
    path: Path | None = _find(str(path_or_name), kind)
    name = path.stem if path else ""
    chain: list[Path] = []
    tables: list[dict[str, Any]] = []
    while path is not None:
        if path in chain:
            circle = " -> ".join(each.stem for each in [*chain, path])
            raise UsageError(f"recipe {chain[0]} inherits in a circle ({circle}); break it")
        chain.append(path)
        tables.append(_read(path))
        kind = _agreed(kind, _kind_of(path, tables[-1]), path)
        path = _parent(path, tables[-1].get("inherits"), kind)
    if kind is None:
        raise UsageError(f'recipe {chain[0]} does not say what it trains; add kind = "encoder"')
    merged: dict[str, Any] = {section: {} for section in SECTIONS}
    for table in reversed(tables):
        merged = _merge(merged, {key: table[key] for key in table if key in SECTIONS})
    for override in overrides:
        merged = _merge(merged, _parse(override))
    train = from_section(TrainOptions, merged.pop("train"), "train")
    return Recipe(name, tables[0]["why"], kind, train=train, **merged)


def _find(path_or_name: str, kind: Kind | None) -> Path:
    """The file of a recipe given by path, by name, or by kind/name."""
    path = Path(path_or_name).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"recipe {path} does not exist; check its spelling")
        return path.resolve()
    return _shipped(path_or_name, kind)


def _shipped(path_or_name: str, kind: Kind | None) -> Path:
    """The file of a recipe that ships, given by name or by kind/name."""
    folder, _, name = path_or_name.rpartition("/")
    kinds = [each for each in KINDS if folder in ("", each) and kind in (None, each)]
    found = [file for each in kinds if (file := SHIPPED / each / f"{name}.toml").is_file()]
    if len(found) > 1:
        choices = ", ".join(f"{file.parent.name}/{name}" for file in found)
        raise UsageError(f"recipe {name} is of several kinds; use one of {choices}")
    if not found:
        names = [name for each in kinds for name in recipe_names(each)]
        raise UsageError(
            f"recipe {path_or_name} is neither a file nor the name of one{closest(name, names)}; "
            "`mssgen train recipes` lists them"
        )
    return found[0].resolve()


def _parent(path: Path, inherits: str | None, kind: Kind | None) -> Path | None:
    """What `path` inherits: a file beside it, else a recipe that ships."""
    if inherits is None:
        return None
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", inherits):
        raise UsageError(
            f"{path} inherits {shown(inherits)}, which is not a name; use that of a recipe beside "
            "it or of one that ships"
        )
    beside = (path.parent / f"{inherits}.toml").resolve()
    # A file may bear the name of the shipped recipe that it inherits.
    is_other = beside != path or SHIPPED in path.parents
    if beside.is_relative_to(path.parent) and beside.is_file() and is_other:
        return beside
    try:
        return _shipped(inherits, kind)
    except UsageError as error:
        raise UsageError(f"{path} inherits {inherits!r}, but {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """One file, its outermost keys checked."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"recipe {path} is larger than a recipe can be; check its name")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # int() limits the digits of a number
        raise UsageError(f"recipe {path} is not valid TOML: {error!s:.200}") from None
    if _is_deep(table):
        raise UsageError(f"recipe {path} has tables inside tables beyond {_MAX_DEPTH} levels")
    for key, value in table.items():
        if key not in SECTIONS + _HEAD:
            hint = closest(key, SECTIONS + _HEAD)
            raise UsageError(f"recipe {path} has an unknown section '{key}'{hint}")
        if not isinstance(value, dict if key in SECTIONS else str):
            raise UsageError(
                f"recipe {path}: {key} must be a {'[section]' if key in SECTIONS else 'string'}"
            )
    why = table.get("why", "").strip()
    if not why or "\n" in why:
        raise UsageError(f'recipe {path} does not say why it exists; add one line: why = "..."')
    return {**table, "why": why}


def _is_deep(table: dict[str, Any]) -> bool:
    """Whether tables or arrays stand in one another further than a recipe needs."""
    level: list[Any] = [table]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _kind_of(path: Path, table: Mapping[str, Any]) -> Kind | None:
    """What the file says that it trains, by key or by the folder in which it ships."""
    said = table.get("kind") or (path.parent.name if SHIPPED in path.parents else None)
    for kind in KINDS:
        if said == kind:
            return kind
    if said is not None:
        raise UsageError(f'recipe {path}: kind = "{said}" is unknown; use {", ".join(KINDS)}')
    return None


def _agreed(wanted: Kind | None, found: Kind | None, path: Path) -> Kind | None:
    if wanted and found and wanted != found:
        raise UsageError(
            f"recipe {path} is for `mssgen train {found}`; `mssgen train {wanted}` cannot use it"
        )
    return wanted or found


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both_tables = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def _parse(override: str) -> dict[str, Any]:
    """ "section.key=value" as nested tables."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise UsageError(f"--set {override} is not understood; use section.key=value")
    if keys[0] not in SECTIONS:
        raise UsageError(
            f"--set {override}: there is no section '{keys[0]}'{closest(keys[0], SECTIONS)}"
        )
    value: Any
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        # The shell has eaten the quotes of a string.
        if not re.fullmatch(r"[\w./:+~-]+", value := text.strip()):
            raise UsageError(f"--set {override}: {text!r} is no TOML value") from None
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
