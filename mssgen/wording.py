"""Words and values in messages: what was typed or read, short enough for one sentence."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

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
