"""The program in this process: exit code, standard output and standard error of one call."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from mssgen.cli import app
from mssgen.cli.console import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Standard output of --json: every line must be an object."""
        return [json.loads(line) for line in self.out.splitlines()]


class Program:
    """Call it with the words of a command line, `mssgen` left out."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Result:
        arguments = [str(word) for word in words]
        code = run(lambda: app(arguments, standalone_mode=False), verbose="--verbose" in arguments)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)
