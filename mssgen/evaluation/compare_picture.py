"""The spectrograms of two files and their difference, as a PNG."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np

from mssgen.errors import AudioError, UsageError
from mssgen.evaluation.spectrograms import SpectrogramPair, mel_ticks

_RANGE_DB = 80.0
_DIFFERENCE_DB = 24.0


def check_packages() -> None:
    """Raise UsageError unless what draws is installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "matplotlib is not installed: run `pip install 'mssgen[evaluate]'`"
        ) from None


def draw_comparison(spectrograms: SpectrogramPair, name_a: str, name_b: str, path: Path) -> Path:
    """Three panels on one axis of time: A, B (delay taken out), and B's level over A's.

    Raises UsageError without matplotlib, AudioError where the file cannot be written.
    """
    check_packages()
    import matplotlib
    from matplotlib.figure import Figure

    levels, centres = spectrograms.mel_levels()
    top = float(np.percentile(levels, 99.9))
    bottom = top - _RANGE_DB
    # Where both are as good as silent a ratio says nothing.
    difference = np.ma.masked_where(levels.max(axis=0) < bottom, levels[1] - levels[0])
    extent = (0.0, spectrograms.duration_s, -0.5, len(centres) - 0.5)
    # Names of files are no formulas.
    with matplotlib.rc_context({"font.size": 9.5, "text.parse_math": False}):
        figure = Figure(figsize=(9.6, 8.4), dpi=120, layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
        shown = (
            (f"A: {name_a}", levels[0], "magma", bottom, top, "dB of full scale"),
            (f"B: {name_b}", levels[1], "magma", bottom, top, "dB of full scale"),
            (
                "B over A (red: more in B, blue: less, grey: silent in both)",
                difference,
                "RdBu_r",
                -_DIFFERENCE_DB,
                _DIFFERENCE_DB,
                "dB",
            ),
        )
        rows, labels = mel_ticks(centres)
        for axes, (title, values, colours, low, high, unit) in zip(panels, shown, strict=True):
            axes.set_facecolor("#d8d8d8")
            image = axes.imshow(
                values,
                origin="lower",
                aspect="auto",
                extent=extent,
                cmap=colours,
                vmin=low,
                vmax=high,
                interpolation="nearest",
            )
            axes.set_title(_shortened(title), loc="left", fontsize=10)
            axes.set_yticks(rows, labels)
            axes.set_ylabel("Hz")
            figure.colorbar(image, ax=axes, label=unit, pad=0.01, aspect=14, extend="both")
        panels[-1].set_xlabel("seconds in A")
        part = path.parent / f".mssgen-{secrets.token_hex(6)}.part"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(part, format="png")
            os.replace(part, path)
        except OSError as error:
            raise AudioError(
                f"{path} cannot be written ({error.strerror or error}): choose another --output"
            ) from error
        finally:
            with suppress(OSError):
                part.unlink()
    return path


def _shortened(title: str, n_letters: int = 90) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in title)
    return printable if len(printable) <= n_letters else f"{printable[: n_letters - 1]}…"
