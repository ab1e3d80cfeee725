"""BSS Eval version 4 through museval: SDR, ISR, SIR and SAR, the median of windows of 1 s.

museval takes all stems of a song together, so the four are computed once a song and remembered.
What it cannot take is handled so that the other stems keep the numbers that it would give them.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Audio, Metric, Score, Song
from mssgen.evaluation.metrics.signals import absent, per_song

_NAMES = ("sdr", "isr", "sir", "sar")


@dataclass(frozen=True)
class Frames:
    """museval's numbers of a stem."""

    values: NDArray[np.float64]
    """[4, W] of SDR, ISR, SIR, SAR in W windows; NaN where museval gives none."""


@per_song
def bsseval_frames(song: Song) -> dict[str, Frames | Score]:
    """By stem with an estimate, the four ratios in windows of 1 s, or the reason for none.

    - Stems whose reference is all zeros are left out, as if the song had not had them: museval
      refuses them, and others are not measured against nothing.
    - A stem whose estimate is all zeros has no score. The others do: its reference still counts.
    - With one stem left, museval's two sources are that stem and the accompaniment: the mixture
      less the reference, and the mixture less the estimate. Where the song has no mixture, the sum
      of the references is taken for it.
    - In a window in which any reference or estimate is silent museval has no number for any stem.

    Raises UsageError where museval is not installed.
    """
    found: dict[str, Frames | Score] = {}
    stems = []
    for stem in song.estimates:
        if _is_zero(song.references[stem]):
            found[stem] = Score(None, 0, "silent reference")
        else:
            stems.append(stem)
            if _is_zero(song.estimates[stem]):
                found[stem] = Score(None, 0, "silent estimate")
    if len(found) == len(song.estimates):
        return found
    references = [song.references[stem] for stem in stems]
    # In place of a silent estimate any other does: estimates do not act upon each other.
    estimates = [song.references[stem] if stem in found else song.estimates[stem] for stem in stems]
    if len(stems) == 1:
        mixture = _mixture(song)
        rest = None if mixture is None else mixture - references[0]
        if mixture is None or rest is None or _is_zero(rest):
            return {**found, stems[0]: Score(None, 0, "one source only, and no mixture")}
        residual = mixture - estimates[0]
        references.append(rest)
        estimates.append(rest if _is_zero(residual) else residual)
    values = _museval(references, estimates, song.sample_rate)
    for index, stem in enumerate(stems):
        found.setdefault(stem, Frames(values[:, index]))
    return found


def _mixture(song: Song) -> Audio | None:
    if song.mixture is not None:
        return song.mixture
    if len(song.references) < 2:
        return None
    total = np.sum(list(song.references.values()), axis=0, dtype=np.float64)
    return np.asarray(total, np.float32)


def _is_zero(audio: Audio) -> bool:
    """As museval sees it: a channel and its inverse are silence too."""
    return not np.any(np.sum(audio, axis=0, dtype=np.float64))


def _museval(references: list[Audio], estimates: list[Audio], rate: int) -> NDArray[np.float64]:
    """[4, S, W] of S stems [C, T]."""
    try:
        import museval
    except ModuleNotFoundError:
        raise absent("museval") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values: Any = museval.evaluate(
            [signal.T.astype(np.float64) for signal in references],
            [signal.T.astype(np.float64) for signal in estimates],
            win=rate,
            hop=rate,
        )
    return np.array(values, np.float64)


def _measure(index: int) -> Any:
    def measure(song: Song, stem: str) -> Score:
        found = bsseval_frames(song)[stem]
        if isinstance(found, Score):
            return found
        # An infinite ratio is no number either, as in museval's own files.
        values = found.values[index][np.isfinite(found.values[index])]
        if not len(values):
            perfect = np.isposinf(found.values[index]).any()
            reason = "no error in any window" if perfect else "a silent source in every window"
            return Score(None, 0, reason)
        return Score(float(np.median(values)), len(values))

    return measure


_MEANINGS = {
    "sdr": "the energy of the reference over that of the whole error",
    "isr": "the energy of the reference over that of the spatial and filtering error",
    "sir": "the energy of the filtered reference over that of the interference of other stems",
    "sar": "the energy of all that filtered references explain over that of the rest",
}

BSSEVAL_METRICS = tuple(
    Metric(
        name,
        f"{'c' if name == 'sdr' else ''}{name.upper()} (dB, BSS Eval v4)",
        "dB",
        "higher",
        "median",
        f"BSS Eval v4 by museval: {_MEANINGS[name]}, filters of 512 taps fitted on the whole song, "
        "median of windows of 1 s (Liutkus, Stöter and Ito 2018); windows in which any source is "
        "silent do not count, nor does a last one that is not full.",
        "bsseval",
        _measure(index),
    )
    for index, name in enumerate(_NAMES)
)
