"""Recognises that memory ran out, which every library reports in its own way."""

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
    # oneDNN says only this when it cannot allocate its scratchpad.
    *("could not create a primitive", "could not create a memory"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out.

    CUDA raises its own type, the CPU allocator and other libraries a RuntimeError, loaders an
    OSError or ImportError.
    """
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # By name, because torch may not be loaded.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    said = str(error).lower()
    return any(sentence in said for sentence in _SENTENCES)


def told(error: Exception, doing: str) -> Exception:
    """Convert an error to OutOfMemoryError if memory ran out; `doing` is "loading", ..."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    return OutOfMemoryError(
        f"memory ran out while {doing}: close other programs, or use a smaller model"
    )


def tells_of_memory(doing: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: the function raises OutOfMemoryError if memory runs out; `doing` is for `told`."""

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
