"""Layout of a damaged or joined sound file: parts for libsndfile to read in order, and losses."""

from dataclasses import dataclass
from typing import Protocol

from mssgen.audio.containers.byte_views import Piece


class Bytes(Protocol):
    """Content of a file for the scanners: `bytes`, or a mapped file (`mmap`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> bytes: ...

    def find(self, wanted: bytes, start: int = ..., stop: int = ..., /) -> int: ...


@dataclass(frozen=True)
class Part:
    """A stretch of a sound file that libsndfile can read as a file of its own."""

    pieces: tuple[Piece, ...]
    n_lost_before: int = 0
    """Samples lost before the part, at its own rate; replaced by silence."""
    ends_at: int | None = None
    """End of the part in samples since the start of its stream, if headers declare it; silence then
    replaces the samples lost before the part."""
    n_samples: int | None = None
    """Number of valid samples; None if all are."""


@dataclass(frozen=True)
class FileLayout:
    """How to read a file."""

    parts: tuple[Part, ...]
    losses: tuple[str, ...] = ()
    """Missing audio; each item continues a sentence that starts with the file's name."""


def cut_short(held_s: float, declared_s: float) -> str:
    """Description of a missing end."""
    return f"is cut short: it holds {held_s:.3f} s of the {declared_s:.3f} s it declares"


def damaged(at_s: float, lost_s: float) -> str:
    """Description of a damaged place."""
    return f"is damaged at {at_s:.2f} s: about {lost_s:.2f} s of audio are missing"


MAX_LOSSES = 8


def first_losses(losses: list[str]) -> tuple[str, ...]:
    """The first `MAX_LOSSES` losses, and the number of the others."""
    if len(losses) <= MAX_LOSSES:
        return tuple(losses)
    n_more = len(losses) - MAX_LOSSES
    return (*losses[:MAX_LOSSES], f"is damaged at {n_more} more places")
