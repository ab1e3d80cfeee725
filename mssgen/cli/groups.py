"""Commands whose options come in groups: a frozen dataclass per group, a panel of the help each.

A command takes the groups as parameters, and each of their fields becomes an option:

    @dataclass(frozen=True)
    class Speed:
        PANEL: ClassVar = "Speed"
        threads: Annotated[int | None, typer.Option(min=1)] = None

    @app.command()
    def separate(speed: Speed = Speed()) -> int: ...
"""

import copy
import functools
import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from mssgen.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

# How typer writes defaults and bounds in the help, and how people do; bounds from below go without
# saying.
_NATURAL = (
    (re.compile(r"; x>=[^\]]+|  \[x>=[^\]]+\]"), ""),
    (re.compile(r"\[default: \((.*?)\)(?=[;\]])"), r"[default: \1"),
    (re.compile(r"(\S+)<=x<=([^\s\]]+)"), r"range \1 to \2"),
)
_COLUMN = 27


class App(typer.Typer):
    """Commands that take option groups."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        """Register a function; it stays what it was, and takes its groups as instances."""
        register = super().command(name, cls=Command, **settings)

        def decorate(function: F) -> F:
            register(flat(function))
            return function

        return decorate


def flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same command with the fields of its groups as parameters.

    A group's default instance gives the defaults of its fields.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _parameters(hints[name], parameter.default)
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[name]))

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return function(**made, **values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameters(group: Any, default: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        kind, option = get_args(hints[field.name])
        if isinstance(option, OptionInfo):
            option = copy.copy(option)
            option.rich_help_panel = option.rich_help_panel or group.PANEL
        value = (
            field.default if default is inspect.Parameter.empty else getattr(default, field.name)
        )
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if value is MISSING else value,
                annotation=Annotated[kind, option],
            )
        )
    return found


class Command(TyperCommand):
    """A command with its help in panels, and with our sentences about wrong values."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            is_argument = param.param_type_name == "argument"
            panel = getattr(param, "rich_help_panel", None)
            panel = panel or ("Arguments" if is_argument else "Options")
            if (record := param.get_help_record(ctx)) is not None:
                name = record[0].partition(" <")[0] if is_argument else record[0]
                panels.setdefault(panel, []).append((name.ljust(_COLUMN), _natural(record[1])))
        last = panels.pop("Messages", [])
        for panel, records in {**panels, "Messages": last}.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records, col_max=_COLUMN)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """DIR for {DIR}, as typer writes a required argument."""
        return [re.sub(r"^{(.*?)}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            given, _, _ = self.make_parser(ctx).parse_args(args=words)
            value = given.get(str(error.param.name)) if error.param else None
            if not isinstance(value, str):  # an option that is missing
                raise
            message = refusal(error.param, value)
            if given.get("as_json"):  # as `reporters` writes it
                stream = sys.stderr if given.get("output") == "-" else sys.stdout
                stream.write(json.dumps({"event": "error", "track": "", "message": message}) + "\n")
            raise UsageError(message) from None


def _natural(text: str) -> str:
    for pattern, words in _NATURAL:
        text = pattern.sub(words, text)
    return text


def refusal(param: Any, value: str) -> str:
    """What is wrong with a value, and which values are right."""
    option = next((word for word in param.opts if word.startswith("--")), param.opts[0])
    if choices := param.type_descriptor.choices:
        known = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
        return f"{option} {value} is unknown; use {known}"
    is_whole = param.type_descriptor.annotation is int
    try:
        int(value) if is_whole else float(value)
    except ValueError:
        return f"{option} {value} is not a {'whole ' * is_whole}number"
    bounds = f"{param.min} or more" if param.max is None else f"{param.min} to {param.max}"
    return f"{option} {value} is out of range; use {bounds}"
