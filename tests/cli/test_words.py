"""Messages of the library, in the words of the command line."""

from typing import Any

import pytest
from typer.main import get_command

from mssgen.cli import app, words
from mssgen.cli.words import as_options


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('`clip` "x" is unknown', '--clip "x" is unknown'),
        ('use `clip="clamp"`', "use --clip clamp"),
        ("or `downmix=True`", "or --downmix"),
        ('add `existing="overwrite"`', "add --overwrite"),
        (
            "`bit_depth` 24 does not fit `container` opus",
            "--bit-depth 24 does not fit --format opus",
        ),
        ("`stems` names no stem", "--stem names no stem"),
        ("run `mssgen models list`", "run `mssgen models list`"),
        ("the key `n_fft` is missing", "the key `n_fft` is missing"),
    ],
)
def test_parameters_become_options(message: str, said: str) -> None:
    assert as_options(message) == said


def options(command: Any) -> set[str]:
    found = {word for each in command.params for word in getattr(each, "opts", ())}
    return found.union(*(options(each) for each in getattr(command, "commands", {}).values()))


def test_every_option_that_is_said_exists() -> None:
    known = options(get_command(app))
    said = {word for word in words._RENAMED.values() if word.startswith("--")}
    said |= {f"--{name.replace('_', '-')}" for name in words._PLAIN}
    assert said <= known, said - known
