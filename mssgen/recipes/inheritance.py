"""Recipe files: find one by path or name, read it, and merge it over the recipes it inherits.

why = "one line: why this recipe exists"
inherits = "base"           # a file beside this one, else a shipped recipe
kind = "encoder"            # only for families of several kinds
[section]                   # options, merged key by key
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mssgen.errors import UsageError, closest, shown

SHIPPED = Path(__file__).parent
_MAX_BYTES, _MAX_DEPTH = 2**20, 16

K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class Family(Generic[K]):
    """Recipes that are loaded alike."""

    kinds: tuple[K, ...]
    """Each is a folder of shipped recipes beside this module."""
    sections: tuple[str, ...]
    """Sections that a file may have."""
    listing: str = ""
    """Appended to the message about an unknown name."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Outermost keys that a file may have."""
        return (*self.sections, "why", "inherits", *(["kind"] if len(self.kinds) > 1 else []))


@dataclass(frozen=True)
class Merged(Generic[K]):
    """A recipe with everything it inherits."""

    name: str
    why: str
    kind: K
    sections: dict[str, dict[str, Any]]
    """Every section of the family; empty where no file has it."""


def shipped_names(kind: str) -> list[str]:
    """Names of the shipped recipes of a kind."""
    return sorted(path.stem for path in (SHIPPED / kind).glob("*.toml"))


def load_merged(
    path_or_name: str | Path,
    family: Family[K],
    overrides: Iterable[str] = (),
    *,
    kind: K | None = None,
) -> Merged[K]:
    """Read a recipe and merge it over what it inherits, then apply `overrides`.

    Args:
        path_or_name: a TOML file, or the name of a shipped recipe: "base", or "encoder/base" where
            several kinds have one.
        family: the sections and kinds that are allowed.
        overrides: "section.key=value", the value in TOML; a bare word counts as a string.
        kind: the kind that the recipe must have; None accepts any.

    Raises UsageError for a recipe that is missing, unknown, damaged, of another kind, or that
    inherits itself.
    """
    path: Path | None = _find(str(path_or_name), family, kind)
    chain: list[Path] = []
    tables: list[dict[str, Any]] = []
    while path is not None:
        if path in chain:
            circle = " -> ".join(each.stem for each in [*chain, path])
            raise UsageError(f"recipe {chain[0]} inherits in a circle ({circle}); break it")
        chain.append(path)
        tables.append(_read(path, family))
        kind = _agreed(kind, _kind_of(path, tables[-1], family), path)
        path = _parent(path, tables[-1].get("inherits"), family, kind)
    if kind is None:
        example = family.kinds[0]
        raise UsageError(f'recipe {chain[0]} does not say what it trains; add kind = "{example}"')
    merged: dict[str, Any] = {section: {} for section in family.sections}
    for table in reversed(tables):
        merged = _merge(merged, {key: table[key] for key in table if key in family.sections})
    for override in overrides:
        merged = _merge(merged, _parse(override, family.sections))
    return Merged(chain[0].stem, tables[0]["why"], kind, merged)


def _find(path_or_name: str, family: Family[K], kind: K | None) -> Path:
    """The file of a recipe given by path, by name, or by kind/name."""
    path = Path(path_or_name).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"recipe {path} does not exist; check its spelling")
        return path.resolve()
    return _shipped(path_or_name, family, kind)


def _shipped(path_or_name: str, family: Family[K], kind: K | None) -> Path:
    """The file of a shipped recipe given by name or by kind/name."""
    folder, _, name = path_or_name.rpartition("/")
    kinds = [each for each in family.kinds if folder in ("", each) and kind in (None, each)]
    found = [file for each in kinds if (file := SHIPPED / each / f"{name}.toml").is_file()]
    if len(found) > 1:
        choices = ", ".join(f"{file.parent.name}/{name}" for file in found)
        raise UsageError(f"recipe {name} is of several kinds; use one of {choices}")
    if not found:
        names = [name for each in kinds for name in shipped_names(each)]
        raise UsageError(
            f"recipe {path_or_name} is neither a file nor the name of one{closest(name, names)}"
            f"{family.listing}"
        )
    return found[0].resolve()


def _parent(path: Path, inherits: str | None, family: Family[K], kind: K | None) -> Path | None:
    """The recipe that `path` inherits: a file beside it, else a shipped recipe."""
    if inherits is None:
        return None
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", inherits):
        raise UsageError(
            f"{path} inherits {shown(inherits)}, which is not a name; use the name of a recipe "
            "beside it or of a shipped one"
        )
    beside = (path.parent / f"{inherits}.toml").resolve()
    # A file may bear the name of the shipped recipe that it inherits.
    is_other = beside != path or SHIPPED in path.parents
    if beside.is_relative_to(path.parent) and beside.is_file() and is_other:
        return beside
    try:
        return _shipped(inherits, family, kind)
    except UsageError as error:
        raise UsageError(f"{path} inherits {inherits!r}, but {error}") from None


def _read(path: Path, family: Family[K]) -> dict[str, Any]:
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
        if key not in family.keys:
            hint = closest(key, family.keys)
            raise UsageError(f"recipe {path} has an unknown section '{key}'{hint}")
        is_section = key in family.sections
        if not isinstance(value, dict if is_section else str):
            wanted = "[section]" if is_section else "string"
            raise UsageError(f"recipe {path}: {key} must be a {wanted}")
    why = table.get("why", "").strip()
    if not why or "\n" in why:
        raise UsageError(f'recipe {path} does not say why it exists; add one line: why = "..."')
    return {**table, "why": why}


def _is_deep(table: dict[str, Any]) -> bool:
    """Whether tables or arrays are nested deeper than a recipe needs."""
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


def _kind_of(path: Path, table: Mapping[str, Any], family: Family[K]) -> K | None:
    """The kind that a file states, by key or by the folder in which it ships."""
    stated = table.get("kind") or (path.parent.name if SHIPPED in path.parents else None)
    for kind in family.kinds:
        if stated == kind:
            return kind
    if stated is not None:
        known = ", ".join(family.kinds)
        raise UsageError(f'recipe {path}: kind = "{stated}" is unknown; use {known}')
    return None


def _agreed(wanted: K | None, found: K | None, path: Path) -> K | None:
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


def _parse(override: str, sections: tuple[str, ...]) -> dict[str, Any]:
    """ "section.key=value" as nested tables."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise UsageError(f"`overrides`: {override} is not understood; use section.key=value")
    if keys[0] not in sections:
        hint = closest(keys[0], sections)
        raise UsageError(f"`overrides`: {override}: there is no section '{keys[0]}'{hint}")
    value: Any
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        # The shell has eaten the quotes of a string.
        if not re.fullmatch(r"[\w./:+~-]+", value := text.strip()):
            raise UsageError(
                f"`overrides`: {override}: {text!r} is not a TOML value; quote a string"
            ) from None
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
