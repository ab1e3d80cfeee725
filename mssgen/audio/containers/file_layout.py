"""What a sound file really holds: parts that libsndfile reads one after the other, and losses."""

from dataclasses import dataclass
from typing import Protocol

from mssgen.audio.containers.byte_views import Piece


class Bytes(Protocol):
    """What the scanners read: `bytes`, or a mapped file (`mmap`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> bytes: ...

    def find(self, wanted: bytes, start: int = ..., stop: int = ..., /) -> int: ...


@dataclass(frozen=True)
class Part:
    """A stretch of a sound file that is a whole file for libsndfile."""

    pieces: tuple[Piece, ...]
    n_lost_before: int = 0
    """Samples that are lost before it, at its own rate: silence keeps their place."""
    ends_at: int | None = None
    """The place of its last sample in the stream that began with an earlier part, where headers
    tell that: silence then takes the place of what is lost before it."""
    n_samples: int | None = None
    """How many of its samples are good; None: all."""


@dataclass(frozen=True)
class FileLayout:
    """How to read a file."""

    parts: tuple[Part, ...]
    losses: tuple[str, ...] = ()
    """What is missing and where: the end of a sentence that begins with the file's name."""


def cut_short(held_s: float, declared_s: float) -> str:
    """The loss of a file whose end is missing."""
    return f"is cut short: it holds {held_s:.3f} s of the {declared_s:.3f} s it declares"


def damaged(at_s: float, lost_s: float) -> str:
    """The loss of a file with a damaged place."""
    return f"is damaged at {at_s:.2f} s: about {lost_s:.2f} s of sound are missing"


MAX_TOLD = 8


def told(losses: list[str]) -> tuple[str, ...]:
    """At most `MAX_TOLD` losses, the others as a number."""
    if len(losses) <= MAX_TOLD:
        return tuple(losses)
    n_more = len(losses) - MAX_TOLD
    return (*losses[:MAX_TOLD], f"is damaged at {n_more} more places")
