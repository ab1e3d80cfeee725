"""Errors that a user can fix.

Every message is one sentence that names the file or parameter and the cure. Parameters are in
backticks; the command line shows them as its options, prints the message and exits with
`exit_code`. Any exception other than `MssgenError` is a bug in mssgen.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class MssgenError(Exception):
    """An error with one file or checkpoint; the command line exits with 1."""

    exit_code = 1


class UsageError(MssgenError):
    """A wrong call: an unknown stem, contradicting options; the command line exits with 2."""

    exit_code = 2


class AudioError(MssgenError):
    """A sound file that cannot be read or written."""


class CheckpointError(MssgenError):
    """A checkpoint that is missing, damaged, untrusted or does not fit."""


class OutOfMemoryError(MssgenError):
    """Memory ran out and the batch could not be made smaller."""


_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxlong = _REPR.maxstring = _REPR.maxother = 40
_SHOWN_CHARACTERS = 80


def shown(value: Any) -> str:
    """`repr(value)`, shortened to a few dozen characters.

    Unlike `repr`, it never formats more than it shows: a value from an untrusted file can be larger
    than memory when written out.
    """
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def closest(word: str, known: Iterable[str]) -> str:
    """End of a sentence about an unknown word: similar words of `known`, else all of them."""
    words = list(known)
    if near := difflib.get_close_matches(word[:100], words, n=3):
        return f"; did you mean {' or '.join(near)}?"
    return f"; it knows {', '.join(words)}" if words else "; it knows none"
