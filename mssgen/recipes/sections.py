"""Strict conversion of a recipe's section to a frozen dataclass."""

import operator
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mssgen.errors import CheckpointError, UsageError, closest, shown
from mssgen.recipes.schema import checked_options

T = TypeVar("T")


def from_section(cls: type[T], section: Mapping[str, Any], name: str) -> T:
    """An instance of the dataclass `cls` from a section of a recipe.

    Values must have the type of their field: bool, int, float (also from a whole number), str,
    Literal, `X | None`, tuples and lists (both from an array), dicts with string keys, dataclasses.

    Args:
        cls: the dataclass; checks in its `__post_init__` apply too.
        section: keys and values from TOML or JSON.
        name: name of the section for messages: "model", "loss.mel".

    Raises UsageError for an unknown or missing key, and for a value of wrong type or range.
    """
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values = {}
    for key, value in section.items():
        if key not in known:
            raise UsageError(f"recipe section [{name}] has no '{key}'{closest(key, known)}")
        values[key] = _converted(hints[key], value, f"{name}.{key}")
    for key, field in known.items():
        if key not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"recipe section [{name}] lacks '{key}', which has no default; add it")
    _check_values(cls, values, name)
    _check_patterns(cls, values, name)
    return cls(**values)


def check_fields(options: Any, section: str) -> None:
    """Raise UsageError for a field of a dataclass that its annotation does not allow.

    Checks the choices of `Literal["a", "b"]` and the bounds of `Annotated[float, Field(ge=0)]`.
    Call it first in `__post_init__`, so that it applies without a recipe too.

    Args:
        options: the dataclass.
        section: the section of the recipe, for messages: "train".
    """
    _check_values(type(options), vars(options), section)


def _check_values(cls: type[Any], values: Mapping[str, Any], section: str) -> None:
    hints = get_type_hints(cls, include_extras=True)
    for name, value in values.items():
        hint = hints[name]
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise UsageError(f"{section}.{name} = {shown(value)} is unknown; use one of {choices}")
        bounds = _bounds(hint)
        if not all(_HOLDS[sign](value, bound) for sign, bound in bounds.items()):
            raise UsageError(
                f"{section}.{name} = {shown(value)} is out of range; use {_range(bounds)}"
            )


_HOLDS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


def _bounds(hint: Any) -> dict[str, float]:
    """Bounds of a number by pydantic's names ("ge", "lt", ...); empty for other annotations."""
    if get_origin(hint) is not Annotated or get_args(hint)[0] not in (int, float):
        return {}
    metadata = [bound for field in get_args(hint)[1:] for bound in field.metadata]
    return {
        sign: getattr(bound, sign) for bound in metadata for sign in _HOLDS if hasattr(bound, sign)
    }


def _range(bounds: Mapping[str, float]) -> str:
    """Bounds in words: "0 to 1", "1 or more"."""
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    words = {"ge": "{:g} or more", "gt": "more than {:g}", "le": "{:g} or less"}
    words["lt"] = "less than {:g}"
    return ", ".join(words[sign].format(bound) for sign, bound in bounds.items())


def _check_patterns(cls: type[Any], values: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for a value that does not fit its field's annotation in another way."""
    hints = get_type_hints(cls, include_extras=True).values()
    if any(get_origin(hint) is Annotated for hint in hints):
        try:
            checked_options(cls, values, f"recipe section [{name}]", cure="change it")
        except CheckpointError as error:
            raise UsageError(str(error)) from None


def _converted(kind: Any, value: Any, name: str) -> Any:
    """`value` converted to the annotation `kind`; raises UsageError for another type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, kind, value, name)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _refusal(name, value, f"one of {', '.join(map(repr, arguments))}")
    if is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, Mapping):
            return from_section(kind, value, name)
        raise _refusal(name, value, "a table")
    if kind in (list, tuple) or origin in (list, tuple):
        return _sequence(kind, origin or kind, arguments, value, name)
    if kind is dict or origin is dict:
        if not isinstance(value, Mapping):
            raise _refusal(name, value, "a table")
        inner = arguments[1] if arguments else Any
        return {key: _converted(inner, item, f"{name}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _refusal(name, value, _NAMES.get(kind, getattr(kind, "__name__", str(kind))))
    return value


def _one_of(arguments: tuple[Any, ...], kind: Any, value: Any, name: str) -> Any:
    """`value` converted to the first member of a union that accepts it."""
    if value is None and type(None) in arguments:
        return None
    members = [each for each in arguments if each is not type(None)]
    if len(members) == 1:
        return _converted(members[0], value, name)
    # 3 is an int where `float | int` would make it 3.0.
    for member in sorted(members, key=lambda each: type(value) is not each):
        try:
            return _converted(member, value, name)
        except UsageError:
            continue
    raise _refusal(name, value, str(kind))


def _sequence(
    kind: Any, origin: type, arguments: tuple[Any, ...], value: Any, name: str
) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, value, "an array")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _refusal(name, value, f"an array of {len(arguments)}")
        inner = list(arguments)
    else:
        inner = [arguments[0] if arguments else Any] * len(value)
    items = [
        _converted(each, item, f"{name}[{index}]")
        for index, (each, item) in enumerate(zip(inner, value, strict=True))
    ]
    return tuple(items) if origin is tuple else items


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _refusal(name: str, value: Any, wanted: str) -> UsageError:
    section, _, key = name.partition(".")
    return UsageError(f"recipe section [{section}]: {key} = {shown(value)} must be {wanted}")
