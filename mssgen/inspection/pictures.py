"""The spectrograms of two files and their difference, as a PNG."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import AudioError
from mssgen.extras import require
from mssgen.files import reported, whole_file
from mssgen.inspection.spectrograms import SpectrogramPair, mel_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANGE_DB = 80.0
_DIFFERENCE_DB = 24.0


def check_packages() -> None:
    """Raise UsageError if matplotlib is not installed."""
    require("matplotlib", "evaluate", "drawing a comparison")


def draw_comparison(spectrograms: SpectrogramPair, name_a: str, name_b: str, path: Path) -> Path:
    """Three panels with a common time axis: A, B (delay corrected), and the level of B over A.

    Raises UsageError without matplotlib, AudioError if the file cannot be written.
    """
    levels, centres = spectrograms.mel_levels()
    limits = shown_levels(levels)
    # Where both are nearly silent, a ratio means nothing.
    difference = np.ma.masked_where(levels.max(axis=0) < limits[0], levels[1] - levels[0])
    with new_picture(path, height_in=8.4) as figure:
        panels = Panels(figure.subplots(3, 1, sharex=True), centres, spectrograms.duration_s)
        panels.draw_level(0, f"A: {name_a}", levels[0], limits)
        panels.draw_level(1, f"B: {name_b}", levels[1], limits)
        panels.draw_change(
            2, "B over A (red: more in B, blue: less, grey: silent in both)", difference
        )
        panels.axes[2].set_xlabel("seconds in A")
    return path


def shown_levels(levels: NDArray[np.float64]) -> tuple[float, float]:
    """Limits (low, high) of the colour scale for both spectrograms, dBFS."""
    top = float(np.percentile(levels, 99.9))
    return top - _RANGE_DB, top


class Panels:
    """Stacked panels over time (s) and frequency (Hz on a mel scale).

    Args:
        axes: matplotlib axes, top to bottom.
        centres: centre frequencies [rows], Hz.
        duration_s: length of the time axis.
    """

    def __init__(
        self, axes: "NDArray[np.object_]", centres: NDArray[np.float64], duration_s: float
    ) -> None:
        self.axes: list[Axes] = list(axes)
        self._extent = (0.0, duration_s, -0.5, len(centres) - 0.5)
        self._ticks = mel_ticks(centres)

    def draw_level(
        self,
        index: int,
        title: str,
        levels: NDArray[np.float64],
        limits: tuple[float, float],
    ) -> None:
        """Draw levels [rows, columns] in dBFS."""
        self._draw(index, title, levels, "magma", limits, "dB of full scale")

    def draw_change(self, index: int, title: str, difference: NDArray[np.float64]) -> None:
        """Draw differences [rows, columns] in dB; masked values are grey."""
        self._draw(index, title, difference, "RdBu_r", (-_DIFFERENCE_DB, _DIFFERENCE_DB), "dB")

    def _draw(
        self,
        index: int,
        title: str,
        values: NDArray[np.float64],
        colours: str,
        limits: tuple[float, float],
        unit: str,
    ) -> None:
        axes = self.axes[index]
        axes.set_facecolor("#d8d8d8")
        image = axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            extent=self._extent,
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
        )
        axes.set_title(_shortened(title), loc="left", fontsize=10)
        axes.set_yticks(*self._ticks)
        axes.set_ylabel("Hz")
        figure = axes.figure
        figure.colorbar(image, ax=axes, label=unit, pad=0.01, aspect=14, extend="both")


@contextmanager
def new_picture(path: Path, *, height_in: float) -> Iterator["Figure"]:
    """A figure that becomes the file `path`, complete or not at all.

    Raises UsageError without matplotlib, AudioError if the file cannot be written.
    """
    check_packages()
    import matplotlib
    from matplotlib.figure import Figure

    # File names are not formulas.
    with matplotlib.rc_context({"font.size": 9.5, "text.parse_math": False}):
        figure = Figure(figsize=(9.6, height_in), dpi=120, layout="constrained")
        yield figure
        with reported(path, AudioError), whole_file(path) as draft:
            figure.savefig(draft, format="png")


def _shortened(title: str, n_letters: int = 90) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in title)
    return printable if len(printable) <= n_letters else f"{printable[: n_letters - 1]}…"
