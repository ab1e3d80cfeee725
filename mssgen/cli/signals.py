"""Ctrl-C, `kill` and a closed terminal: an exception ends the program, so that it cleans up.

Such an exception can get lost: libraries in C swallow it, or turn it into an error of their own.
Therefore the signal is also recorded, and `check` raises the exception again.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_RETRY_S = 0.05
_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class _Received:
    """The first signal that asked this process to end."""

    number: int | None = None


_received = _Received()


def install() -> None:
    """Handle the signals that end a program, except those that are ignored already (`nohup`)."""
    _received.number = None
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def first_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM came; in the block only a second one ends the
    program."""
    has_come = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        if has_come:
            _handle(number, frame)
        has_come = True

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield lambda: has_come
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code() -> int | None:
    """Exit code after a signal, 128 plus its number; None if there was none."""
    return None if _received.number is None else 128 + _received.number


def check() -> None:
    """Raise the exception of a received signal again, in case a library swallowed it."""
    if _received.number is not None:
        _raise(_received.number)


def _handle(number: int, frame: FrameType | None) -> None:
    is_first = _received.number is None
    _received.number = _received.number or number
    # An exception during `import torch` aborts the process; a second signal does not wait.
    if is_first and hasattr(signal, "setitimer") and _is_importing(frame):
        signal.signal(signal.SIGALRM, _retry)
        signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
        return
    _raise(number)


def _retry(_: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
    else:
        check()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
