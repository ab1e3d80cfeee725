"""Proxy metrics of Make It Sound Good (Schaffer et al. 2022): roll-off and onsets.

At 16 kHz mono over the whole track. Reference and estimate are scaled to a peak of 1, because both
thresholds are absolute.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.resampling import at_rate
from mssgen.evaluation.metrics.base import (
    Audio,
    Metric,
    Score,
    TrackAudio,
    Undefined,
    metric,
    titled,
)
from mssgen.evaluation.metrics.signals import audible_pair, package, per_track

SAMPLE_RATE = 16_000
ROLL_PERCENT = 0.98
_N_FFT, _HOP_LENGTH = 2048, 512
_GATE_DB = -40.0
_ONSET_HOP_LENGTH = 256
_ONSET_THRESHOLD = 0.75


@per_track
def _pair(track: TrackAudio, stem: str) -> list[NDArray[np.float32]]:
    """Reference and estimate [T] at 16 kHz mono."""
    signals = zip(("reference", "estimate"), audible_pair(track, stem), strict=True)
    return [_prepared(audio, track.sample_rate, whose) for whose, audio in signals]


def _prepared(audio: Audio, sample_rate: int, whose: str) -> NDArray[np.float32]:
    mono = at_rate(audio.mean(axis=0, keepdims=True), sample_rate, SAMPLE_RATE)[0]
    mono = np.pad(mono, (0, max(0, _N_FFT - len(mono))))
    peak = float(np.abs(mono).max(initial=0))
    if peak <= 1e-5:
        raise Undefined(f"{whose} silent at 16 kHz mono")
    return np.asarray(mono / peak, np.float32)


def _rolloff(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """98 % roll-off [N] in Hz; NaN in frames whose RMS is below the gate."""
    feature = package("librosa.feature")
    rolloff = feature.spectral_rolloff(
        y=audio, sr=SAMPLE_RATE, roll_percent=ROLL_PERCENT, n_fft=_N_FFT, hop_length=_HOP_LENGTH
    )[0]
    rms = feature.rms(y=audio, frame_length=_N_FFT, hop_length=_HOP_LENGTH)[0]
    return np.where((rms >= 10 ** (_GATE_DB / 20)) & (rolloff > 0), rolloff, np.nan)


@per_track
def rolloff_differences(track: TrackAudio, stem: str) -> NDArray[np.float64]:
    """Roll-off of estimate minus reference, [2, N]: in Hz and octaves, frames above both gates.

    Concatenate these to pool frames over tracks, as the source does.
    """
    ours, theirs = map(_rolloff, _pair(track, stem))
    counts = np.isfinite(ours) & np.isfinite(theirs)
    if not counts.any():
        raise Undefined("no frame above the gate in both")
    ours, theirs = ours[counts], theirs[counts]
    return np.stack([theirs - ours, np.log2(theirs) - np.log2(ours)])


def _rolloff_measure(index: int) -> Any:
    def measure(track: TrackAudio, stem: str) -> Score:
        found = rolloff_differences(track, stem)
        return Score(float(np.median(found[index])), found.shape[1])

    return measure


@metric("Onset F1", better="higher", group="proxies")
def onset_f1(track: TrackAudio, stem: str) -> Score:
    """F1 score of the frames with an onset strength of 0.75 or more in estimate and reference,
    frame by frame without tolerance: 16 kHz mono, peak 1, librosa (hop 256) (Schaffer et al. 2022,
    Music Separation Enhancement with Generative Modeling). 0 to 1.
    """
    ours, theirs = map(_onsets, _pair(track, stem))
    if not ours.any():
        raise Undefined("no onset in the reference")
    n_common = int((ours & theirs).sum())
    return Score(2 * n_common / int(ours.sum() + theirs.sum()), int(ours.sum()))


def _onsets(audio: NDArray[np.float32]) -> NDArray[np.bool_]:
    strength = package("librosa.onset").onset_strength(
        y=audio, sr=SAMPLE_RATE, hop_length=_ONSET_HOP_LENGTH
    )
    return np.asarray(strength >= _ONSET_THRESHOLD)


def _rolloff_metric(name: str, unit: str, index: int) -> Metric:
    return Metric(
        name=name,
        title=titled("98 % roll-off", unit),
        unit=unit,
        better="zero",
        aggregate="median",
        definition=f"Median over frames of the 98 % roll-off of the estimate minus that of the "
        f"reference in {unit}; negative is duller. 16 kHz mono, peak 1, librosa (2048, hop 512), "
        "frames in which either is below -40 dBFS left out (Schaffer et al. 2022, Music Separation "
        "Enhancement with Generative Modeling).",
        group="proxies",
        function=_rolloff_measure(index),
    )


PROXY_METRICS = (
    _rolloff_metric("rolloff98_hz", "Hz", 0),
    _rolloff_metric("rolloff98_octaves", "octaves", 1),
    onset_f1,
)
