"""Options, trials and conditions of a listening test."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import UsageError

Audio = NDArray[np.float32]
REFERENCE = "reference"
ANCHORS_HZ = {3500: "anchor35", 7000: "anchor70"}
"""Low and mid anchor of BS.1534-3, Hz, with their names in webMUSHRA."""
MIN_SECONDS, MAX_SECONDS = 2.0, 30.0
MIN_LISTEN_S = 3.0
_MAX_TRIALS = 500


@dataclass(frozen=True)
class ListeningOptions:
    """Content of a listening test."""

    seconds: float = 10.0
    """Length of excerpts; BS.1534-3 recommends about 10 s, at most 12 s."""
    n_trials: int = 12
    stems: tuple[str, ...] = ()
    """Empty: all."""
    systems: tuple[str, ...] = ()
    """Empty: all."""
    anchors_hz: tuple[int, ...] = (3500,)
    """Cut-offs of the low-pass anchors of MUSHRA: 3500 and 7000."""
    title: str = "Listening test"
    seed: int = 0
    """Random seed for the choice of trials; their order differs between listeners."""

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
    """One version of an excerpt in a trial."""

    name: str
    role: str
    """"system", "reference" (hidden) or "anchor"."""
    audio: Audio
    """[C, T], matched in loudness."""


@dataclass(frozen=True)
class Trial:
    """One page of a test."""

    id: str
    """Name in both forms of the test and in results: "t01.vocals.Song_name"."""
    track: str
    stem: str
    sample_rate: int
    start_s: float
    reference: Audio
    conditions: tuple[Condition, ...]
