"""Temporary copies of what can be read only once, and the system's errors as sentences."""

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
    """Copy a stream to a temporary file that lives as long as the stack."""
    file = temporary_folder(stack) / "input"
    with reading(name), open(file, "wb") as spooled:
        read = getattr(stream, "read1", stream.read)
        while True:
            # A signal that another thread takes does not wake a read: look up now and then.
            while not is_ready(stream, timeout_s=0.5):
                pass
            if not (data := read(2**20)):
                return file
            spooled.write(data)


def is_ready(stream: BinaryIO, timeout_s: float) -> bool:
    """Whether a read would not wait; always true where that cannot be asked."""
    try:
        return bool(select.select([stream], [], [], timeout_s)[0])
    except (OSError, ValueError):  # no pipe, or none of Unix
        return True


def temporary_folder(stack: ExitStack) -> Path:
    """A folder that lives as long as the stack."""
    with reading("the temporary folder"):
        return stack.enter_context(scratch_folder())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the system's errors into sentences."""
    try:
        yield
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check its spelling") from error
    except PermissionError as error:
        raise AudioError(f"{name} may not be read by this user; change its permissions") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AudioError(
                f"{name} does not fit into the temporary folder {tempfile.gettempdir()}; free some "
                "space there, or set TMPDIR to another folder"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name} cannot be read ({reason}); copy it elsewhere first") from error
