"""Strict conversion of a recipe's section to a frozen dataclass."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from mssgen.errors import UsageError, closest, shown
from mssgen.recipes.schema import dotted, schema_of, wrong_value

T = TypeVar("T")

_BOUNDS = {
    "ge": "{:g} or more",
    "gt": "more than {:g}",
    "le": "{:g} or less",
    "lt": "less than {:g}",
}
_RANGE_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def from_section(cls: Callable[..., T], section: Mapping[str, Any], name: str) -> T:
    """An instance of the dataclass `cls` from a section of a recipe.

    Values must have the type of their field (a whole number also fits a float), and the range of
    its `Annotated[float, Field(ge=0)]`; arrays become lists or tuples, tables dataclasses or dicts.

    Args:
        cls: the dataclass; checks in its `__post_init__` apply too.
        section: keys and values from TOML or JSON.
        name: name of the section for messages: "model", "loss.mel".

    Raises UsageError for an unknown or missing key, and for a value of wrong type or range.
    """
    text = json.dumps(dict(section), default=str)  # dates, which no field accepts
    try:
        found = schema_of(cls).model_validate_json(text)
    except ValidationError as error:
        raise UsageError(_problem(error, cls, section, name)) from None
    return cls(**{key: getattr(found, key) for key in found.model_fields_set})


def check_fields(options: Any, section: str) -> None:
    """Raise UsageError for a field of a dataclass whose value its annotation does not allow.

    Call it in `__post_init__`, so that types, choices and ranges hold without a recipe too.

    Args:
        options: the dataclass.
        section: the section of the recipe, for messages: "train".
    """
    kind: Any = type(options)
    try:
        schema_of(kind).model_validate(vars(options))
    except ValidationError as error:
        raise UsageError(_problem(error, kind, vars(options), section)) from None


def _problem(error: ValidationError, cls: Any, values: Mapping[str, Any], name: str) -> str:
    """One sentence about the first wrong key of `values`, a section called `name`."""
    first, path, value, wanted = wrong_value(error, values)
    missing = first["loc"][-1]
    if first["type"] == "missing" and isinstance(missing, str):
        section = ".".join([name, *map(str, path)])
        return f"recipe section [{section}] lacks '{missing}', which has no default; add it"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *outer, key = map(str, path)
        known = [field.name for field in fields(_annotation(cls, outer)) if field.init]
        section = ".".join([name, *outer])
        return f"recipe section [{section}] has no '{key}'{closest(key, known)}"
    kind = _annotation(cls, path)
    wrong = f"{name}.{dotted(path)} = {shown(value)} is"
    if first["type"] in _RANGE_ERRORS:
        return f"{wrong} out of range; use {_range(kind)}"
    if get_origin(kind) is Literal:
        return f"{wrong} unknown; use one of {', '.join(map(str, get_args(kind)))}"
    return f"recipe section [{name}]: {dotted(path)} = {shown(value)} must be {wanted}"


def _annotation(kind: Any, path: Iterable[str | int]) -> Any:
    """The type at a path below a dataclass, with its bounds."""
    for step in path:
        if is_dataclass(kind):
            kind = get_type_hints(kind, include_extras=True)[str(step)]
        else:
            kind = get_args(kind)[-1]
        if get_origin(kind) in (Union, UnionType):
            kind = next((each for each in get_args(kind) if is_dataclass(each)), kind)
    return kind


def _range(annotation: Any) -> str:
    """The bounds of a number in words: "0 to 1", "1 or more"."""
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    bounds = {
        sign: getattr(bound, sign)
        for mark in marks
        for bound in mark.metadata
        for sign in _BOUNDS
        if hasattr(bound, sign)
    }
    if {"ge", "le"} <= bounds.keys():
        return f"{bounds['ge']:g} to {bounds['le']:g}"
    return ", ".join(
        words.format(bounds[sign]) for sign, words in _BOUNDS.items() if sign in bounds
    )
