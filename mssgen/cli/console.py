"""From exceptions to sentences and exit codes: the only place that ends the program."""

import os
import sys
import traceback
from collections.abc import Callable

from mssgen.errors import MssgenError

INTERRUPTED = 130


def warn(message: str) -> None:
    """Print one line on standard error; standard output may be carrying audio or JSON."""
    sys.stderr.write(f"mssgen: {printable(message)}\n")


def printable(message: str) -> str:
    """The message on one line: a file's name may hold line breaks and the terminal's commands."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def hush_libraries() -> None:
    """Drop what C libraries write to standard error (libmpg123 on every odd MP3); ours stays."""
    if sys.stderr is None:
        return
    number, encoding = sys.stderr.fileno(), sys.stderr.encoding
    own = os.dup(number)
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.stderr = open(own, "w", 1, encoding, "backslashreplace")  # noqa: SIM115


def run(command: Callable[[], object], *, verbose: bool) -> int:
    """Run `command` and return the exit code, with one sentence on standard error if it failed.

    Wrong calls (typer's own errors and `UsageError`) give 2, failures 1, Ctrl-C 130. A traceback
    appears only with `verbose`.
    """
    try:
        result = command()
    except KeyboardInterrupt:
        result = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader went away (`| head`), which typer turns into an exit: that is no failure, and
        # nothing more may touch the dead pipe.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if isinstance(error, MssgenError):
            warn(str(error))
            return error.exit_code
        # Typer raises its vendored Click's usage errors; its own API names only some of them.
        if hasattr(error, "format_message"):
            message = error.format_message()
            if message.startswith("Usage:"):  # no command was given, and this is the help
                sys.stderr.write(f"{message}\n")
            else:
                warn(f"{message} (see `mssgen --help`)")
            return int(getattr(error, "exit_code", 2))
        if not verbose:
            warn(f"unexpected {type(error).__name__}: {error} (run with --verbose for details)")
        return 1
    if result == INTERRUPTED:  # typer gives this for Ctrl-C
        warn("interrupted; finished files are complete, unfinished ones were removed")
    return result if isinstance(result, int) else 0
