"""Tells passing causes of a failure, after which a song is worth another attempt, from others."""

import errno

from mssgen.jobs.song_record import InputChanged
from mssgen.memory import is_out_of_memory

# Disks and networks that do not answer; not a full disk, which needs its owner.
_NAMES = (
    *("EIO", "EREMOTEIO", "ENXIO", "ESTALE", "ENOLCK", "EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
    *("ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "EMFILE", "ENFILE"),
)
_NUMBERS = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}


def is_passing(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, has a passing cause."""
    while error is not None:
        if isinstance(error, InputChanged) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return True
        error = error.__cause__ or error.__context__
    return False
