"""The standard streams as the program needs them, whatever its surroundings made of them.

* A stream that is closed does not turn up as somebody's file: its number is taken.
* Names that the terminal cannot show are escaped instead of ending the run.
* Standard output that cannot be written to is one sentence; standard error that cannot, is nothing.
* What C libraries write to standard error (libmpg123 on every odd MP3) is kept back, and shown only
  where the process ends without a word of ours: killed, crashed, or ended by a library.
"""

import contextlib
import errno
import io
import os
import select
import signal
import sys
from typing import Any

from mssgen.errors import MssgenError

_MAX_KEPT_BYTES = 2**13
_ENDED = b"mssgen: ended before its time: killed, out of memory, or by a fault in a library\n"


class OutputError(MssgenError):
    """Standard output that cannot be written."""


class _Output(io.FileIO):
    """Standard output; raises OutputError, but BrokenPipeError where the reader went away."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror or error
            raise OutputError(
                f"standard output cannot be written ({why}); send it to a file or program that "
                "takes it"
            ) from error


class _Errors(io.FileIO):
    """Standard error; what cannot be written there is dropped, as nobody could be told."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare(*, hush_libraries: bool) -> None:
    """Set up `sys.stdout` and `sys.stderr`; a closed standard input stays None."""
    _occupy(0, os.O_RDONLY)
    _occupy(1, os.O_RDONLY)  # so that writing to it fails
    _occupy(2, os.O_WRONLY)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    number = 2
    if hush_libraries:
        number = os.dup(2)
        _keep_back(number)
    sys.stderr = _text(_Errors(number, "w", closefd=False), sys.stderr, line_buffering=True)


def end() -> None:
    """Tell that the process ends in order: nothing that was kept back is shown."""
    with contextlib.suppress(OSError):
        if _control is not None:
            os.write(_control, b".")


def drop_output() -> None:
    """Let nothing more reach standard output, whose reader went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_stdout_open() -> bool:
    """Whether standard output takes anything at all."""
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # no file: a program took its place
        return True
    except OSError:
        return False
    return True


def _occupy(number: int, flags: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _text(
    raw: io.FileIO, old: io.TextIOBase | Any, *, line_buffering: bool = False
) -> io.TextIOWrapper:
    encoding = getattr(old, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        "backslashreplace",
        line_buffering=line_buffering or raw.isatty(),
    )


_control: int | None = None


def _keep_back(shown: int) -> None:
    """Send what is written to number 2 to a process of its own, which outlives a crash.

    It writes to `shown` when this process ends without having called `end`.
    """
    global _control
    if not hasattr(os, "fork"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        return
    noise, noise_in = os.pipe()
    control, control_in = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no more processes: libraries may talk
        for number in (noise, noise_in, control, control_in):
            os.close(number)
        return
    if child == 0:
        try:
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE"):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
            for number in (0, 1, 2, noise_in, control_in):
                os.close(number)
            _watch(noise, control, shown)
        finally:
            os._exit(0)
    os.dup2(noise_in, 2)
    for number in (noise, noise_in, control):
        os.close(number)
    _control = control_in


def _watch(noise: int, control: int, shown: int) -> None:
    kept, sources = b"", [noise, control]
    while True:
        ready = select.select(sources, [], [])[0]
        if noise in ready:  # first, so that nothing is lost at the end
            if data := os.read(noise, 2**16):
                kept = (kept + data)[-_MAX_KEPT_BYTES:]
            else:
                sources.remove(noise)
        elif os.read(control, 1):
            return
        else:
            os.write(shown, kept + _ENDED)
            return
