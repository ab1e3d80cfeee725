"""What a metric is given and what it gives; every table, page and plot is made of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Song:
    """One track of one system, aligned and at one rate: what metrics compare."""

    track: str
    sample_rate: int
    """Hz, of everything in it."""
    references: Mapping[str, Audio]
    """By stem, [C, T], all of one shape."""
    estimates: Mapping[str, Audio]
    """By stem, [C, T] of the same shape; a subset of the references' stems."""
    mixture: Audio | None = None
    """[C, T]; None where there is none."""
    notes: tuple[str, ...] = ()
    """What had to be done to make them fit: cut, padded, mono doubled, resampled."""


@dataclass(frozen=True)
class Score:
    """One number, or the reason why there is none."""

    value: float | None
    """None where the metric is not defined; never NaN or infinite."""
    n: int = 1
    """How many frames, windows or notes it stands for."""
    reason: str = ""
    """Of a missing value: "silent reference", "silent estimate", ..."""


@dataclass(frozen=True)
class Metric:
    """A metric and what a table has to say of it."""

    name: str
    """As in tables and files: "usdr", "sdr" (museval's, never mixed with usdr), ..."""
    title: str
    """For people: "uSDR (dB)"."""
    unit: str
    better: Literal["higher", "lower", "zero"]
    """"zero": a signed difference."""
    aggregate: Literal["mean", "median"]
    """Over tracks, as its literature does it."""
    definition: str
    """One sentence with the source."""
    group: str
    """"waveform", "bsseval", "spectral", "proxies", "features", "bleed", "tokens", "embedding"."""
    measure: Callable[[Song, str], Score] = field(repr=False)
    """Of one stem of a song."""
