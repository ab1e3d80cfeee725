"""Plots of an analysis, narrow enough for a phone, in colour-blind safe colours."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mssgen.analysis.codec import CodecAnalysis, StemAnalysis
from mssgen.analysis.statistics import dead_share, perplexity, project
from mssgen.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, without the yellow, which is faint on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
_MARKERS = "os^DvPX*<>hdp8"
_WIDTH_IN = 6.2
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    # Stem names are not formulas.
    "text.parse_math": False,
}


def draw(analysis: CodecAnalysis) -> dict[str, "Figure"]:
    """All plots by name; UsageError if matplotlib or scikit-learn is not installed."""
    matplotlib = require("matplotlib", "analysis", "the analysis")
    with matplotlib.rc_context(_STYLE):
        return {
            "sdr": _sdr(analysis),
            "usage": _usage(analysis),
            "perplexity": _perplexity(analysis),
            "pca": _projection(analysis, "pca"),
            "mds": _projection(analysis, "mds"),
        }


def _usage(analysis: CodecAnalysis) -> "Figure":
    """Heat maps of code usage: one row per codebook, one panel per stem."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    shares = {stem.stem: stem.counts.numpy() / max(1, stem.n_frames) for stem in analysis.heard}
    rarest = min(float(share[share > 0].min()) for share in shares.values())
    norm = LogNorm(rarest, 1.0)
    figure = _new_figure(0.9 + (0.75 + 0.03 * analysis.codec.n_codebooks) * len(shares))
    panels = _panels(figure, len(shares), 1, sharex=True)
    n_codebooks, codebook_size = analysis.codec.n_codebooks, analysis.codec.codebook_size
    for axes, (name, share) in zip(panels, shares.items(), strict=True):
        axes.grid(False)
        axes.set_facecolor("#dcdcdc")
        image = axes.imshow(
            np.ma.masked_equal(share, 0),
            norm=norm,
            cmap="viridis",
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, codebook_size - 0.5, n_codebooks + 0.5, 0.5),
        )
        axes.set_title(name, loc="left")
        axes.set_ylabel("codebook")
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panels[-1].set_xlabel("code")
    bar = figure.colorbar(image, ax=list(panels), orientation="horizontal", aspect=40, pad=0.02)
    bar.set_label("share of frames (grey: never used)")
    return figure


def _perplexity(analysis: CodecAnalysis) -> "Figure":
    """Perplexity and share of dead codes per codebook, one line per stem."""
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(6.0)
    above, below = _panels(figure, 2, 1, sharex=True)
    codebooks = np.arange(1, analysis.codec.n_codebooks + 1)
    for index, stem in enumerate(analysis.heard):
        style = _line(index, stem.stem)
        above.plot(codebooks, perplexity(stem.counts), **style)
        below.plot(codebooks, 100 * dead_share(stem.counts), **style)
    above.set_ylabel("perplexity (codes)")
    above.set_ylim(0, None)
    below.set_ylabel("codes never used (%)")
    below.set_ylim(-3, 103)
    below.set_xlabel("codebook")
    below.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    _mark_band_energies(above, analysis)
    _legend(figure, analysis.heard)
    return figure


def _sdr(analysis: CodecAnalysis) -> "Figure":
    """SDR against the number of codebooks: mean as a line, interquartile range as a band."""
    figure = _new_figure(4.6)
    (axes,) = _panels(figure, 1, 1)
    numbers = analysis.n_codebooks
    for index, stem in enumerate(analysis.heard):
        values = np.array([stem.sdr_db(n) for n in numbers])  # [numbers, files]
        style = _line(index, stem.stem)
        axes.plot(numbers, values.mean(axis=1), **style)
        if len(stem.files) > 1:
            low, high = np.percentile(values, (25, 75), axis=1)
            axes.fill_between(numbers, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    kbps = [analysis.codec.bandwidth_kbps(n) for n in numbers]
    axes.set_xticks(numbers, [f"{n}\n{rate:.3g}" for n, rate in zip(numbers, kbps, strict=True)])
    axes.minorticks_off()
    axes.set_xlabel("number of codebooks, and kbit/s per coded channel")
    axes.set_ylabel("SDR of the reconstruction (dB)")
    _mark_band_energies(axes, analysis)
    _legend(figure, analysis.heard)
    return figure


def _mark_band_energies(axes: "Axes", analysis: CodecAnalysis) -> None:
    """Shade the band-energy codebooks, whose SDR is about 0 dB."""
    n_band_energies = analysis.codec.n_level_codebooks
    if n_band_energies:
        low, high = axes.get_xlim()
        axes.axvspan(low, n_band_energies + 0.5, color="0.5", alpha=0.12, linewidth=0)
        axes.set_xlim(low, high)
        axes.text(
            0.01, 0.97, "band energies only", transform=axes.transAxes, va="top", color="0.35"
        )


def _projection(analysis: CodecAnalysis, method: str) -> "Figure":
    """Quantised latents in two dimensions by "pca" or "mds", for 1, 2, 4 and all codebooks."""
    figure = _new_figure(6.6)
    n_all = analysis.codec.n_codebooks
    numbers = sorted({n for n in (1, 2, 4, n_all) if n <= n_all})
    n_columns = min(2, len(numbers))
    panels = _panels(figure, -(-len(numbers) // n_columns), n_columns)
    for axes, n_codebooks in zip(panels, numbers, strict=False):
        latents = analysis.sampled_latents(n_codebooks)
        plane, names = project(
            np.concatenate(list(latents.values())), method, seed=analysis.options.seed
        )
        ends = np.cumsum([len(part) for part in latents.values()])[:-1]
        for index, points in enumerate(np.split(plane, ends)):
            # Frames with the same codes coincide: they are one larger mark.
            places, counts = np.unique(points.round(6), axis=0, return_counts=True)
            axes.scatter(
                places[:, 0],
                places[:, 1],
                s=8 * counts**0.5,
                color=_COLOURS[index % len(_COLOURS)],
                marker=_MARKERS[index],
                alpha=0.5,
                linewidths=0,
            )
        which = "all" if n_codebooks == n_all else "first" if n_codebooks > 1 else "the first"
        plural = "codebooks" if n_codebooks > 1 else "codebook"
        number = f"{n_codebooks} " if n_codebooks > 1 else ""
        axes.set_title(f"{which} {number}{plural}", loc="left")
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.set_aspect("equal", adjustable="datalim")
    for axes in panels[len(numbers) :]:
        axes.remove()
    _legend(figure, analysis.heard, marks_only=True)
    return figure


def _new_figure(height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_IN, height_in), dpi=200, layout="constrained")


def _panels(figure: "Figure", n_rows: int, n_columns: int, **options: Any) -> list["Axes"]:
    return list(figure.subplots(n_rows, n_columns, squeeze=False, **options).flat)


def _line(index: int, stem: str) -> dict[str, Any]:
    """Line style of a stem; stems with the same colour differ in marks and dashes."""
    return {
        "label": stem,
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index],
        "markersize": 4.5,
        "linewidth": 1.4,
        "linestyle": "-" if index < len(_COLOURS) else "--",
    }


def _legend(figure: "Figure", stems: list[StemAnalysis], *, marks_only: bool = False) -> None:
    """One legend for all panels, below them."""
    from matplotlib.lines import Line2D

    handles = []
    for index, stem in enumerate(stems):
        style = _line(index, stem.stem)
        handles.append(Line2D([], [], **{**style, **({"linestyle": ""} if marks_only else {})}))
    # Names are passed here: matplotlib skips labels that begin with an underscore.
    names = [stem.stem for stem in stems]
    n_columns = 5 if max(map(len, names)) <= 8 else 3
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(n_columns, len(stems)),
        handlelength=1.6,
        columnspacing=1.4,
    )
