"""A picture of what enhancement changed in a stem, written beside the stem."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.reading import AudioSource, open_source
from mssgen.audio.resampling import fit_length, resample
from mssgen.errors import UsageError
from mssgen.events import Event, Hook, Written
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.inspection.pictures import Panels, check_packages, new_picture, shown_levels
from mssgen.inspection.spectrograms import SpectrogramPair
from mssgen.streams import align

SUFFIX = ".explain.png"
PICTURE = "explain"
"""Name in place of a stem in events about the picture."""
_FLOOR_DB = -80.0
_COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito 2008


def explaining(hook: Hook, tracks: Sequence[Track]) -> Hook:
    """A hook that passes on events and draws OUTPUT.explain.png beside every written output.

    Each track has one output stem. Raises UsageError without matplotlib, and for standard input,
    which cannot be read twice.
    """
    check_packages()
    inputs = {track.label: track.path for track in tracks}
    if STDIN in inputs.values():
        raise UsageError("`explain` reads the input twice: name a file instead of standard input")

    def explained(event: Event) -> None:
        hook(event)
        if isinstance(event, Written) and event.track in inputs:
            picture = explain(inputs[event.track], event.path, event.path.with_suffix(SUFFIX))
            hook(Written(event.track, PICTURE, picture))

    return explained


def explain(path_in: Path | str, path_out: Path | str, picture: Path) -> Path:
    """Draw spectrograms of a stem before and after, their difference, and both levels over time.

    Both files are streamed. The output is compared at the sample rate and over the length of the
    input; if the numbers of channels differ, their means are compared.

    Raises:
        UsageError: matplotlib is not installed.
        AudioError: a file cannot be read, or the picture cannot be written.
    """
    with open_source(path_in) as before, open_source(path_out) as after:
        spectrograms = _spectrograms(before, after)
    levels, centres = spectrograms.mel_levels()
    limits = shown_levels(levels)
    # Levels below the colour scale count as equal silence.
    quiet, loud = levels.clip(limits[0]), levels.max(axis=0)
    change = np.ma.masked_where(loud < limits[0], quiet[1] - quiet[0])
    powers = spectrograms.powers().sum(axis=2)  # [2, columns]
    before_db, after_db = _decibels(powers.mean(axis=1))
    with new_picture(picture, height_in=10.2) as figure:
        axes = figure.subplots(4, 1, sharex=True, height_ratios=[3, 3, 3, 2])
        panels = Panels(axes, centres, spectrograms.duration_s)
        panels.draw_level(0, f"input: {Path(path_in).name}", levels[0], limits)
        panels.draw_level(1, f"output: {Path(path_out).name}", levels[1], limits)
        panels.draw_change(2, "added (red) and removed (blue); grey: silent in both", change)
        curves = panels.axes[3]
        seconds = (np.arange(len(powers[0])) + 0.5) * spectrograms.duration_s / len(powers[0])
        for name, power, colour in zip(("input", "output"), powers, _COLOURS, strict=True):
            curves.plot(seconds, _decibels(power), color=colour, linewidth=1, label=name)
        title = f"level: {before_db:.1f} dBFS before, {after_db:.1f} dBFS after"
        curves.set_title(title.replace("-", "−"), loc="left", fontsize=10)
        curves.set_ylim(bottom=_FLOOR_DB)
        curves.set_ylabel("dBFS")
        curves.set_xlabel("seconds")
        curves.grid(color="#e6e6e6")
        curves.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0
        )
    return picture


def _spectrograms(before: AudioSource, after: AudioSource) -> SpectrogramPair:
    info, n_samples = before.info, before.n_samples
    n_after = after.info.n_channels
    at_rate = resample(after.blocks(), n_after, after.info.sample_rate, info.sample_rate)
    pair = SpectrogramPair(info.sample_rate, n_samples)
    both = align([before.blocks(), fit_length(at_rate, n_after, n_samples)])
    for block in both if info.n_channels == n_after else _means(both):
        pair.add(*block)
    return pair


def _means(
    blocks: Iterator[tuple[NDArray[np.float32], ...]],
) -> Iterator[tuple[NDArray[np.float32], ...]]:
    for block in blocks:
        yield tuple(part.mean(axis=0, keepdims=True) for part in block)


def _decibels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(power.clip(10 ** (_FLOOR_DB / 10))))
