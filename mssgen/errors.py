"""Failures that a user can act on.

Every message is one sentence that names the file or option and says the cure. The command line
prints it and exits with `exit_code`; anything that is not an `MssgenError` is a bug of ours.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class MssgenError(Exception):
    """A failure of one file or checkpoint; the command line exits with 1."""

    exit_code = 1


class UsageError(MssgenError):
    """A wrong call: an unknown stem, a contradiction between options; exits with 2."""

    exit_code = 2


class AudioError(MssgenError):
    """A sound file that cannot be read or written."""


class CheckpointError(MssgenError):
    """A checkpoint that is missing, damaged, untrusted or does not fit."""


class OutOfMemoryError(MssgenError):
    """Memory ran out although the batch could not be made smaller."""


_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxlong = _REPR.maxstring = _REPR.maxother = 40
_SHOWN_CHARACTERS = 80


def shown(value: Any) -> str:
    """`value` as in Python, cut to a few dozen characters whatever it holds.

    Unlike `repr`, it takes no time or memory for what it does not show: a value of an untrusted
    file may stand for more than fits into any memory.
    """
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: what may have been meant, else all there is."""
    words = list(known)
    if near := difflib.get_close_matches(word[:100], words, n=3):
        return f"; did you mean {' or '.join(near)}?"
    return f"; it knows {', '.join(words)}" if words else "; it knows none"
