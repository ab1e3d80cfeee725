"""Names in tables: of files, systems and stems, which anyone may have chosen."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """A table with a head; empty without rows.

    Spreadsheets compute cells that begin with one of = + - @, which may send the others away: such
    a cell gets an apostrophe in front unless it is a number.
    """
    if not rows:
        return ""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _disarmed(value) for key, value in row.items()} for row in rows)
    return lines.getvalue()


def md_text(words: str) -> str:
    """On one line, without what would end a cell of Markdown or begin an element of HTML."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def _disarmed(value: object) -> object:
    # Some skip spaces and line breaks first.
    if isinstance(value, str) and value.strip()[:1] in ("=", "+", "-", "@"):
        return value if _NUMBER.fullmatch(value) else f"'{value}"
    return value
