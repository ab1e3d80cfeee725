"""Text in tables and file names, made safe: users choose names of files, systems and stems."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """CSV with a header row; empty if there are no rows.

    Spreadsheets run cells that begin with one of = + - @ as formulas, which may leak other cells:
    such a cell gets a leading apostrophe unless it is a number.
    """
    if not rows:
        return ""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _disarmed(value) for key, value in row.items()} for row in rows)
    return lines.getvalue()


def md_text(words: str) -> str:
    """One line of text that neither ends a Markdown cell nor starts an HTML element."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def counted(n: int, noun: str) -> str:
    """A number and its noun: "1 track", "2 tracks"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def slug(name: str, separator: str, max_length: int) -> str:
    """A file name of ASCII letters, digits and separators; the caller keeps it unique."""
    kept = "" if separator == "-" else "-"
    return re.sub(f"[^A-Za-z0-9{kept}]+", separator, name).strip(separator)[:max_length] or "x"


def _disarmed(value: object) -> object:
    # Some spreadsheets skip leading spaces and line breaks.
    if isinstance(value, str) and value.strip()[:1] in ("=", "+", "-", "@"):
        return value if _NUMBER.fullmatch(value) else f"'{value}"
    return value
