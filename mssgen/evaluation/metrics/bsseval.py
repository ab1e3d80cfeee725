"""BSS Eval version 4 through museval: SDR, ISR, SIR and SAR, median over windows of 1 s.

museval evaluates all stems of a track together, so the four are computed once per track and
remembered. Stems that it refuses are handled so that the other stems keep their scores.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Audio, Metric, Score, TrackAudio, Undefined
from mssgen.evaluation.metrics.signals import package, per_track

_NAMES = ("sdr", "isr", "sir", "sar")


@per_track
def bsseval_frames(track: TrackAudio) -> dict[str, NDArray[np.float64] | str]:
    """By stem with an estimate: SDR, ISR, SIR and SAR in dB [4, W] in windows of 1 s, NaN where
    museval has none; or the reason why there are none.

    - Stems whose reference is all zeros are left out, as if the track did not have them: museval
      refuses them.
    - A stem whose estimate is all zeros has no score. The others do: its reference still counts.
    - If only one stem is left, the two sources of museval are that stem and its accompaniment: the
      mixture minus the reference, and the mixture minus the estimate. Without a mixture, the sum
      of the references stands for it.
    - In windows in which any reference or estimate is silent, museval has no value for any stem.

    Raises UsageError where museval is not installed.
    """
    found: dict[str, NDArray[np.float64] | str] = {}
    stems = []
    for stem in track.estimates:
        if _is_zero(track.references[stem]):
            found[stem] = "silent reference"
        else:
            stems.append(stem)
            if _is_zero(track.estimates[stem]):
                found[stem] = "silent estimate"
    if len(found) == len(track.estimates):
        return found
    references = [track.references[stem] for stem in stems]
    # Any signal can replace a silent estimate: estimates do not affect each other.
    estimates = [
        track.references[stem] if stem in found else track.estimates[stem] for stem in stems
    ]
    if len(stems) == 1:
        mixture = _mixture(track)
        rest = None if mixture is None else mixture - references[0]
        if mixture is None or rest is None or _is_zero(rest):
            return {**found, stems[0]: "one source only, and no mixture"}
        residual = mixture - estimates[0]
        references.append(rest)
        estimates.append(rest if _is_zero(residual) else residual)
    values = _museval(references, estimates, track.sample_rate)
    for index, stem in enumerate(stems):
        found.setdefault(stem, values[:, index])
    return found


def _mixture(track: TrackAudio) -> Audio | None:
    if track.mixture is not None:
        return track.mixture
    if len(track.references) < 2:
        return None
    total = np.sum(list(track.references.values()), axis=0, dtype=np.float64)
    return np.asarray(total, np.float32)


def _is_zero(audio: Audio) -> bool:
    """Whether museval takes [C, T] for silence: the sum of its channels is all zeros."""
    return not np.any(np.sum(audio, axis=0, dtype=np.float64))


def _museval(references: list[Audio], estimates: list[Audio], rate: int) -> NDArray[np.float64]:
    """SDR, ISR, SIR and SAR [4, S, W] of S stems [C, T]."""
    museval = package("museval")
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
    def measure(track: TrackAudio, stem: str) -> Score:
        found = bsseval_frames(track)[stem]
        if isinstance(found, str):
            raise Undefined(found)
        # Infinite ratios count as missing, as in museval's own files.
        values = found[index][np.isfinite(found[index])]
        if not len(values):
            perfect = np.isposinf(found[index]).any()
            raise Undefined(
                "no error in any window" if perfect else "a silent source in every window"
            )
        return Score(float(np.median(values)), len(values))

    return measure


_MEANINGS = {
    "sdr": "energy of the reference over that of the whole error",
    "isr": "energy of the reference over that of the spatial and filtering error",
    "sir": "energy of the filtered reference over that of the interference of other stems",
    "sar": "energy of all that filtered references explain over that of the rest",
}

BSSEVAL_METRICS = tuple(
    Metric(
        name=name,
        title=f"{'c' if name == 'sdr' else ''}{name.upper()} (dB, BSS Eval v4)",
        unit="dB",
        better="higher",
        aggregate="median",
        definition=f"{_MEANINGS[name].capitalize()}, distortion filters of 512 taps fitted on the "
        "whole track, median over windows of 1 s: BSS Eval v4 by museval (Liutkus, Stöter and Ito "
        "2018). Windows with a silent source, and an incomplete last window, do not count.",
        group="bsseval",
        function=_measure(index),
    )
    for index, name in enumerate(_NAMES)
)
