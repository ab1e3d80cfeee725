"""What a listening test is made of, whichever program runs it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import UsageError

Audio = NDArray[np.float32]
REFERENCE = "reference"
ANCHORS_HZ = {3500: "anchor35", 7000: "anchor70"}
"""The low and the mid anchor of BS.1534-3 with webMUSHRA's names of them."""
MIN_SECONDS, MAX_SECONDS = 2.0, 30.0
MIN_LISTEN_S = 3.0
_MAX_TRIALS = 500


@dataclass(frozen=True)
class ListeningOptions:
    """What is in a test."""

    seconds: float = 10.0
    """Length of the excerpts; BS.1534-3 advises 10 s and not more than 12 s."""
    n_trials: int = 12
    stems: tuple[str, ...] = ()
    """Empty: all."""
    systems: tuple[str, ...] = ()
    """Empty: all."""
    anchors_hz: tuple[int, ...] = (3500,)
    """Low-passed references among the versions of MUSHRA: 3500 and 7000 are known."""
    title: str = "Listening test"
    seed: int = 0
    """Of the choice of trials; the order in which they come is each listener's own."""

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        if not MIN_SECONDS <= self.seconds <= MAX_SECONDS:
            raise UsageError(
                f"excerpts of {self.seconds:g} s are out of range; use {MIN_SECONDS:g} to "
                f"{MAX_SECONDS:g}, best 8 to 12"
            )
        if not 1 <= self.n_trials <= _MAX_TRIALS:
            raise UsageError(f"{self.n_trials} trials are out of range; use 1 to {_MAX_TRIALS}")
        if unknown := set(self.anchors_hz) - set(ANCHORS_HZ):
            raise UsageError(f"an anchor of {min(unknown)} Hz is unknown; use 3500 or 7000")


@dataclass(frozen=True)
class Condition:
    """One version of an excerpt."""

    name: str
    role: str
    """"system", "reference" (hidden) or "anchor"."""
    audio: Audio
    """[C, T], as it is heard."""


@dataclass(frozen=True)
class Trial:
    """One page of a test."""

    id: str
    """As both forms of the test and their results name it: "t01.vocals.Song_name"."""
    track: str
    stem: str
    sample_rate: int
    start_s: float
    reference: Audio
    conditions: tuple[Condition, ...]
