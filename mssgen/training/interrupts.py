"""Ctrl-C and `kill` between two steps instead of within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StopRequest:
    """The signal that asked this process to stop; `number` is None if there was none."""

    number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record the first SIGINT, SIGTERM or SIGHUP instead of stopping; a second acts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in _NUMBERS}
    # Signals that were ignored from the start (`nohup`) stay ignored.
    before = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: Any) -> None:
        request.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
