"""Temporary copies of streams that can be read only once, and operating-system errors in words."""

import errno
import select
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from mssgen.errors import AudioError
from mssgen.leftovers import scratch_folder


def spool(stack: ExitStack, stream: BinaryIO, name: str) -> Path:
    """Copy a stream to a temporary file, removed when the stack closes.

    `name` is the stream in error messages. Raises AudioError.
    """
    file = temporary_folder(stack) / "input"
    with reading(name), open(file, "wb") as spooled:
        read = getattr(stream, "read1", stream.read)
        while True:
            # A signal handled by another thread does not interrupt a read: poll instead.
            while not is_ready(stream, timeout_s=0.5):
                pass
            if not (data := read(2**20)):
                return file
            spooled.write(data)


def is_ready(stream: BinaryIO, timeout_s: float) -> bool:
    """Whether a read returns without blocking; true if the system cannot tell."""
    try:
        return bool(select.select([stream], [], [], timeout_s)[0])
    except (OSError, ValueError):  # not a pipe, or not on Unix
        return True


def temporary_folder(stack: ExitStack) -> Path:
    """Create a temporary folder, removed when the stack closes; raises AudioError."""
    with reading("the temporary folder"):
        return stack.enter_context(scratch_folder())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise OSError and ValueError in the block as AudioError about the file `name`."""
    try:
        yield
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check its spelling") from error
    except PermissionError as error:
        raise AudioError(
            f"{name} cannot be read (permission denied); change its permissions"
        ) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AudioError(
                f"{name} does not fit into the temporary folder {tempfile.gettempdir()}; free some "
                "space there, or set TMPDIR to another folder"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name} cannot be read ({reason}); copy it elsewhere first") from error
