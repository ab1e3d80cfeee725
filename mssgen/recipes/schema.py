"""Checks the options of a model from an untrusted file before anything is built.

The signature of the class or function to call is the schema: each parameter's annotation has its
type and range (`Annotated[int, Field(ge=1, le=64)]`). Nothing is converted: "3" is not a whole
number, and 1 is not true.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from mssgen.errors import CheckpointError, closest, shown

# Counts and sizes that cost layers or memory. Published models are far below these bounds.
Layers = Annotated[int, Field(ge=0, le=64)]
Width = Annotated[int, Field(ge=1, le=2**14)]
Codebooks = Annotated[int, Field(ge=1, le=256)]
CodebookSize = Annotated[int, Field(ge=1, le=2**16)]  # codes are stored in 16 bits
Strides = Annotated[
    Sequence[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=12)
]
Channels = Annotated[int, Field(ge=1, le=64)]
SampleRate = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Scale = Annotated[float, Field(ge=-1e6, le=1e6)]
StemName = Annotated[str, Field(pattern=r"^[\w-]{1,40}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "string_sub_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_str": "a list",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "missing": "a longer list",
    "string_pattern_mismatch": "a plain name",
    "is_instance_of": "a list",
    "none_required": "null",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or less",
    "string_too_short": "a string of {min_length} or more characters",
    "string_too_long": "a string of {max_length} or fewer characters",
    "literal_error": "{expected}",
}
_VAGUE = ("fraction_parsing", "is_instance_of", "too_short")


def checked_options(
    build: Callable[..., Any],
    options: Mapping[str, Any],
    place: str,
    *,
    cure: str = "get the file again",
) -> dict[str, Any]:
    """The given `options`, checked against the parameters of `build`.

    Args:
        build: a class or function with annotated parameters, see above.
        options: keys and values from JSON or a package.
        place: start of the error message: the file.
        cure: end of the error message for a wrong value.

    Raises CheckpointError for an unknown or missing key, and for a value of another type or out of
    range.
    """
    schema = schema_of(build)
    try:
        model = schema.model_validate(dict(options))
    except ValidationError as error:
        raise CheckpointError(f"{place} {_problem(error, schema, options, cure)}") from None
    return {key: getattr(model, key) for key in model.model_fields_set}


@cache
def schema_of(build: Any) -> type[BaseModel]:
    """A pydantic model of the signature of `build`."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(build).parameters.items()
    }
    config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )
    return create_model("Options", __config__=config, **fields)


def _problem(
    error: ValidationError, schema: type[BaseModel], options: Mapping[str, Any], cure: str
) -> str:
    """The message about the first wrong key, with the cure."""
    first = error.errors(include_url=False, include_input=False)[0]
    key, kind = str(first["loc"][0]) if first["loc"] else "options", first["type"]
    if kind == "extra_forbidden":
        return f"has an unknown option {shown(key)}{closest(key, schema.model_fields)}"
    if kind == "missing" and len(first["loc"]) == 1:
        return f"lacks the option {key}, which has no default: {cure}"
    _, path, value, words = wrong_value(error, options)
    return f"has the option {dotted(path)} = {shown(value)}, which must be {words}: {cure}"


def wrong_value(
    error: ValidationError, options: Any
) -> tuple[ErrorDetails, list[str | int], Any, str]:
    """(error, path, value, requirement) of the first wrong key: (..., ["ratios", 1], "x", "a
    number"). Of several members of a union, the one that fits furthest counts."""
    errors = error.errors(include_url=False, include_input=False)
    of_key = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    first = max(of_key, key=lambda each: len(_found(options, each["loc"])[0]))
    path, value = _found(options, first["loc"])
    alike = [each for each in of_key if _found(options, each["loc"])[0] == path]
    # Some members of a union have vaguer errors than others.
    clear = [each for each in alike if each["type"] not in _VAGUE] or alike
    return first, path, value, " or ".join(dict.fromkeys(map(_wanted, clear)))


def dotted(path: Sequence[str | int]) -> str:
    """A path as in Python: "inner.ratios[1]"."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path)[1:]


def _found(values: Any, location: Sequence[str | int]) -> tuple[list[str | int], Any]:
    """The part of an error's location that is in `values`, and the value there.

    pydantic also names the members of a union, and keys that are missing.
    """
    path: list[str | int] = []
    for step in location:
        if isinstance(values, Mapping):
            is_there = step in values
        else:
            is_there = isinstance(values, list | tuple) and step in range(len(values))
        if is_there:
            values = values[step]
            path.append(step)
    return path, values


def _wanted(error: ErrorDetails) -> str:
    """The requirement of a pydantic error in our words."""
    template = _WANTED.get(error["type"])
    words = template.format(**error.get("ctx", {})) if template else error["msg"].lower()
    return words.replace("True", "true").replace("False", "false")
