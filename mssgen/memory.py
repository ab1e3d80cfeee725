"""Memory that runs out: every library has its own words for it."""

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mssgen.errors import OutOfMemoryError

P = ParamSpec("P")
R = TypeVar("R")

_SENTENCES = (
    *("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory"),
    *("bad_alloc", "unable to mmap", "failed to map segment", "_status_alloc_failed"),
    # oneDNN says no more than this when it finds no room for its scratchpad.
    *("could not create a primitive", "could not create a memory"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out.

    CUDA raises a type of its own; the CPU's allocator and libraries below it only a RuntimeError
    with a sentence, loaders an OSError or ImportError.
    """
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # By name, as torch may not be loaded yet.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    said = str(error).lower()
    return any(sentence in said for sentence in _SENTENCES)


def told(error: Exception, doing: str) -> Exception:
    """The error itself, or an OutOfMemoryError where memory ran out while `doing` something."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    return OutOfMemoryError(
        f"memory ran out while {doing}: close other programs, or use a smaller model"
    )


def tells_of_memory(doing: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function raise OutOfMemoryError where memory runs out, whoever raises what in it."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if (ours := told(error, doing)) is error:
                    raise
                raise ours from error

        return wrapped

    return wrap
