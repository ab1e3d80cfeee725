"""Input and output of metrics; every table, page and plot is made of these."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class TrackAudio:
    """Audio of one track and one system, aligned and at one sample rate."""

    name: str
    sample_rate: int
    """Hz."""
    references: Mapping[str, Audio]
    """By stem, [C, T], all of the same shape."""
    estimates: Mapping[str, Audio]
    """By stem, [C, T], same shape; the stems are a subset of the references'."""
    mixture: Audio | None = None
    """[C, T]; None where there is none."""
    notes: tuple[str, ...] = ()
    """Changes made so that all fit: cut, padded, mono doubled, resampled."""


@dataclass(frozen=True)
class Score:
    """One number, or the reason why there is none."""

    value: float | None
    """None where the metric is not defined; never NaN or infinite."""
    n: int = 1
    """Number of frames, windows or notes measured."""
    reason: str = ""
    """Why `value` is None: "silent reference", "silent estimate", ..."""


class Undefined(Exception):
    """Raised where a metric has no value; the text is the reason: "silent reference"."""


Measure = Callable[[TrackAudio, str], Score]
"""Scores one stem of a track; raises Undefined."""
Better = Literal["higher", "lower", "zero"]
"""The better direction; "zero": a signed difference."""
Average = Literal["mean", "median"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and how tables describe it."""

    name: str
    """Key in tables and files: "usdr", "sdr" (museval's, never mixed with usdr), ..."""
    title: str
    """Heading with the unit: "uSDR (dB)"."""
    unit: str = ""
    better: Better
    aggregate: Average = "mean"
    """Average over tracks, as in the metric's literature."""
    definition: str
    """Formula, settings, range and source, as one paragraph."""
    group: str
    """"waveform", "bsseval", "spectral", "proxies", "features", "bleed", "tokens", "embedding"."""
    function: Measure = field(repr=False)

    def measure(self, track: TrackAudio, stem: str) -> Score:
        """Score one stem of a track."""
        try:
            return self.function(track, stem)
        except Undefined as reason:
            return Score(None, 0, str(reason))


def metric(
    title: str, *, group: str, better: Better, unit: str = "", aggregate: Average = "mean"
) -> Callable[[Measure], Metric]:
    """Decorator: a function (track, stem) -> Score becomes a `Metric`.

    Its name is the metric's, and the first paragraph of its docstring the definition.
    """

    def made(function: Measure) -> Metric:
        # The module has the metric under the function's name: pickle finds the function inside it.
        function.__qualname__ = f"{function.__qualname__}.function"
        paragraph = (inspect.getdoc(function) or "").partition("\n\n")[0]
        return Metric(
            name=function.__name__,
            title=titled(title, unit),
            unit=unit,
            better=better,
            aggregate=aggregate,
            definition=" ".join(paragraph.split()),
            group=group,
            function=function,
        )

    return made


def titled(title: str, unit: str) -> str:
    """The heading of a metric: "Crest factor (dB)"."""
    return f"{title} ({unit})" if unit else title
