"""The standard streams, made safe against closed files, encodings and chatty libraries.

* The descriptor of a closed stream is occupied, so that no other file gets its number.
* Characters that the terminal cannot show are escaped instead of ending the run.
* A failed write to standard output gives one sentence; one to standard error is ignored.
* Output of C libraries on standard error (libmpg123 on many MP3s) is held back, and shown only if
  the process ends without a message of ours: killed, crashed, or ended by a library.
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
_ENDED = b"mssgen: ended unexpectedly: killed, out of memory, or by a fault in a library\n"


class OutputError(MssgenError):
    """Standard output cannot be written to."""


class _Output(io.FileIO):
    """Standard output; raises OutputError, or BrokenPipeError if the reader has gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror or error
            raise OutputError(
                f"standard output cannot be written ({why}); redirect it to a file or program that "
                "can take it"
            ) from error


class _Errors(io.FileIO):
    """Standard error; text that cannot be written is dropped."""

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
    """Announce a regular end of the process: held-back output is not shown."""
    with contextlib.suppress(OSError):
        if _control is not None:
            os.write(_control, b".")


def drop_output() -> None:
    """Discard all further standard output, as its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_stdout_open() -> bool:
    """Whether standard output can be written to."""
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # replaced by an object that is not a file
        return True
    except OSError as error:
        return error.errno == errno.ENOSPC  # a full device is open; writing to it says why it fails
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
    """Redirect descriptor 2 to a separate process, which outlives a crash of this one.

    That process writes to descriptor `shown` if this one ends without calling `end`.
    """
    global _control
    if not hasattr(os, "fork"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        return
    noise, noise_in = os.pipe()
    control, control_in = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no more processes: library output is shown
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
