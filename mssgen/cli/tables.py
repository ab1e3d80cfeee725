"""How commands print results: as a table for people, as JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

import typer

_UNLIMITED = 2**16  # columns


def print_json(value: Any) -> None:
    """Print a value on one line of standard output, in ASCII; ValueError for NaN."""
    typer.echo(json.dumps(value, allow_nan=False))


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, is_numeric: bool = False
) -> None:
    """Print a borderless table on standard output; `header` may be empty.

    A terminal's width wraps cells, but never the names in the first column of a table with a
    header; a pipe or file gets one line per row. `is_numeric` aligns all columns but the first to
    the right.
    """
    from rich.console import Console
    from rich.table import Table

    from mssgen.cli.console import printable

    table = Table(box=None, show_header=bool(header), pad_edge=False)
    for index in range(len(rows[0]) if rows else len(header)):
        justify: Any = "right" if is_numeric and index else "left"
        is_name = bool(header) and index == 0
        table.add_column(
            header[index] if header else "", overflow="fold", justify=justify, no_wrap=is_name
        )
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=_UNLIMITED)
    console.print(table)
