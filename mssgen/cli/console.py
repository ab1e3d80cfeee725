"""From exceptions to sentences and exit codes: the only place that ends the program."""

import sys
import traceback
from collections.abc import Callable

from mssgen.cli import signals
from mssgen.cli.streams import OutputError, drop_output
from mssgen.cli.words import as_options
from mssgen.errors import MssgenError
from mssgen.memory import told

INTERRUPTED = 130


def warn(message: str) -> None:
    """Print one line on standard error, as standard output may carry audio or JSON."""
    sys.stderr.write(f"mssgen: {printable(message)}\n")


def printable(message: str) -> str:
    """The message on one line, with parameters written as options.

    Line breaks and control sequences, which file names may contain, are escaped.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_options(message))


def run(command: Callable[[], object], *, verbose: bool) -> int:
    """Run `command` and return the exit code, with one sentence on standard error if it failed.

    Wrong usage (typer's own errors and `UsageError`) gives 2, failures 1, Ctrl-C 130, other signals
    128 plus their number. A traceback is printed only with `verbose`.
    """
    try:
        code = _run(command, verbose)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return 0
    except MssgenError as error:  # from the flush
        warn(str(error))
        drop_output()
        return error.exit_code
    return code


def _run(command: Callable[[], object], verbose: bool) -> int:
    try:
        result = command()
    except KeyboardInterrupt:
        result = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader closed the pipe (`| head`), which typer turns into an exit. This is not a
        # failure, and nothing more may be written to the pipe.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            if signals.exit_code() is None:
                raise
            result = signals.exit_code()
        else:
            drop_output()
            return 0
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if signals.exit_code() is None:
            return _told(error, verbose)
        result = signals.exit_code()  # a library turned the signal into its own error
    if (ended := signals.exit_code()) is not None or result == INTERRUPTED:
        if ended in (
            None,
            INTERRUPTED,
        ):  # typer returns this for Ctrl-C; other signals end silently
            warn("interrupted; finished files are complete, unfinished ones were removed")
        return INTERRUPTED if ended is None else ended
    return result if isinstance(result, int) else 0


def _told(error: Exception, verbose: bool) -> int:
    """Print the error, and return the exit code."""
    error = told(error, "loading or computing")
    if isinstance(error, MssgenError):
        warn(str(error))
        if isinstance(error, OutputError):
            drop_output()
        return error.exit_code
    # Usage errors of typer's own copy of Click, whose classes are only partly public.
    if hasattr(error, "format_message"):
        message = error.format_message()
        if message.startswith("Usage:"):  # no command was given: the message is the help
            sys.stderr.write(f"{message}\n")
        else:
            warn(f"{message} (see `mssgen --help`)")
        return int(getattr(error, "exit_code", 2))
    if not verbose:
        warn(f"unexpected {type(error).__name__}: {error} (run with --verbose for details)")
    return 1
