"""Failures that a user can act on.

Every message is one sentence that names the file or option and says the cure. The command line
prints it and exits with `exit_code`; anything that is not an `MssgenError` is a bug of ours.
"""


class MssgenError(Exception):
    """A failure of one file or checkpoint; the command line exits with 1."""

    exit_code = 1


class UsageError(MssgenError):
    """A wrong call: an unknown stem, a contradiction between options; exits with 2."""

    exit_code = 2


class AudioError(MssgenError):
    """A sound file that cannot be read or written."""


class CheckpointError(MssgenError):
    """A checkpoint that is missing, damaged, untrusted or does not fit."""


class OutOfMemoryError(MssgenError):
    """Memory ran out although the batch could not be made smaller."""
