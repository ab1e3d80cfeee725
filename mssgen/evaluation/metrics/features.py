"""Differences of timbre, loudness, dynamics and stereo width between estimate and reference.

Timbre is compared frame by frame (2048 samples, hop 512, Hann) where the reference is above
-60 dBFS and the estimate above -80 dBFS. Channels are joined by mean power, so that nothing
cancels. The features are computed by librosa.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.audio.loudness import integrated_lufs
from mssgen.evaluation.metrics.base import Audio, Metric, Score, TrackAudio, metric, titled
from mssgen.evaluation.metrics.signals import (
    TOO_SHORT,
    absent,
    check_both,
    per_track,
)
from mssgen.evaluation.metrics.spectral import power, spectra
from mssgen.inspection.decibels import energy, rms_db

N_FFT, HOP_LENGTH = 2048, 512
_REFERENCE_GATE_DB, _ESTIMATE_GATE_DB = -60.0, -80.0
_NARROWEST_DB = -60.0
_FIRST_BAND_HZ, _MAX_BANDS = 200.0, 6  # librosa's


@per_track
@torch.inference_mode()
def _curves(track: TrackAudio, stem: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """By feature, values [..., N] of reference and estimate in the frames above both gates."""
    both = zip(
        spectra(track.references[stem], N_FFT, HOP_LENGTH, pad_mode="constant"),
        spectra(track.estimates[stem], N_FFT, HOP_LENGTH, pad_mode="constant"),
        strict=True,
    )
    # A full-scale sine has a power of about (n_fft / 4)^2 in two bins.
    unit = float(torch.hann_window(N_FFT).square().sum()) * N_FFT / 2
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for ours, theirs in both:
        spectrum = [power(part).mean(dim=0).sqrt().numpy() for part in (ours, theirs)]
        levels = [10 * np.log10(np.square(part).sum(axis=0) / unit + 1e-20) for part in spectrum]
        counts = (levels[0] > _REFERENCE_GATE_DB) & (levels[1] > _ESTIMATE_GATE_DB)
        for side, part in enumerate(spectrum):
            for name, values in _features(part[:, counts], track.sample_rate).items():
                found.setdefault(name, ([], []))[side].append(values)
    return {
        name: (np.concatenate(ours, axis=-1), np.concatenate(theirs, axis=-1))
        for name, (ours, theirs) in found.items()
    }


def _features(spectrum: NDArray[np.float32], sample_rate: int) -> dict[str, NDArray[Any]]:
    """Timbre features [..., N] of magnitudes [F, N]."""
    try:
        from librosa import feature
    except ModuleNotFoundError:
        raise absent("librosa") from None
    n_frames = spectrum.shape[1]
    highest = sample_rate / 2 / _FIRST_BAND_HZ
    n_bands = min(_MAX_BANDS, max(1, int(np.ceil(np.log2(highest)))))
    if not n_frames:
        empty = np.zeros(0)
        return {
            "centroid": empty,
            "flatness": empty,
            "contrast": np.zeros((n_bands + 1, 0)),
            "rolloff_85": empty,
            "rolloff_95": empty,
        }
    rate: Any = {"S": spectrum, "sr": sample_rate}
    return {
        "centroid": np.log2(np.maximum(feature.spectral_centroid(**rate)[0], 1.0)),
        "flatness": 10 * np.log10(feature.spectral_flatness(S=spectrum)[0]),
        "contrast": feature.spectral_contrast(**rate, fmin=_FIRST_BAND_HZ, n_bands=n_bands),
        "rolloff_85": _rolloff(feature, rate, 0.85),
        "rolloff_95": _rolloff(feature, rate, 0.95),
    }


def _rolloff(feature: Any, rate: dict[str, Any], share: float) -> NDArray[Any]:
    return np.log2(np.maximum(feature.spectral_rolloff(**rate, roll_percent=share)[0], 1.0))


def _median_difference(name: str) -> Any:
    def measure(track: TrackAudio, stem: str) -> Score:
        missing = check_both(track, stem)
        if missing is not None:
            return missing
        ours, theirs = _curves(track, stem)[name]
        if not ours.shape[-1]:
            return Score(None, 0, "no frame above the gate")
        return Score(float(np.median(theirs - ours)), ours.shape[-1])

    return measure


@metric("Spectral contrast", unit="dB", better="lower", group="features")
def contrast_diff(track: TrackAudio, stem: str) -> Score:
    """Mean absolute difference of spectral contrast over frames (2048, hop 512; reference above -60
    dBFS) and up to seven octave bands (Jiang et al. 2002, librosa). 0 for equal signals.
    """
    missing = check_both(track, stem)
    if missing is not None:
        return missing
    ours, theirs = _curves(track, stem)["contrast"]
    if not ours.shape[-1]:
        return Score(None, 0, "no frame above the gate")
    return Score(float(np.abs(theirs - ours).mean()), ours.shape[-1])


@metric("Loudness", unit="LU", better="zero", group="features")
def loudness_diff(track: TrackAudio, stem: str) -> Score:
    """Integrated loudness of the estimate minus that of the reference (ITU-R BS.1770-4)."""
    missing = check_both(track, stem)
    if missing is not None:
        return missing
    if track.references[stem].shape[1] < 0.4 * track.sample_rate:
        return TOO_SHORT
    ours, theirs = (
        integrated_lufs(audio, track.sample_rate)
        for audio in (track.references[stem], track.estimates[stem])
    )
    if ours is None or theirs is None:
        return Score(None, 0, "never above the gate of BS.1770")
    return Score(theirs - ours)


@metric("Crest factor", unit="dB", better="zero", group="features")
def crest_diff(track: TrackAudio, stem: str) -> Score:
    """Crest factor (sample peak over RMS, in dB) of the estimate minus that of the reference."""
    missing = check_both(track, stem)
    if missing is not None:
        return missing
    factors = [
        20 * float(np.log10(np.abs(audio).max())) - rms_db(audio)
        for audio in (track.references[stem], track.estimates[stem])
    ]
    return Score(factors[1] - factors[0])


@metric("Stereo width", unit="dB", better="zero", group="features")
def width_diff(track: TrackAudio, stem: str) -> Score:
    """RMS of side (L - R) over mid (L + R) in dB, limited to +-60, of the estimate minus that of
    the reference. Undefined for a mono reference.
    """
    missing = check_both(track, stem)
    if missing is not None:
        return missing
    if len(track.references[stem]) != 2:
        return Score(None, 0, "not stereo")
    widths = [_width_db(audio) for audio in (track.references[stem], track.estimates[stem])]
    if widths[0] <= _NARROWEST_DB:
        return Score(None, 0, "mono reference")
    return Score(widths[1] - widths[0])


def _width_db(audio: Audio) -> float:
    """Side over mid of [2, T] in dB, between -60 (mono) and 60."""
    side, middle = energy(audio[0] - audio[1]), energy(audio[0] + audio[1])
    ratio = 10 * np.log10(max(side, 1e-30) / max(middle, 1e-30))
    return float(np.clip(ratio, _NARROWEST_DB, -_NARROWEST_DB))


def _timbre(name: str, title: str, unit: str, feature: str) -> Metric:
    return Metric(
        name=f"{name}_diff",
        title=titled(title, unit),
        unit=unit,
        better="zero",
        definition=f"Median over frames (2048, hop 512; reference above -60 dBFS) of the {feature} "
        "of the estimate minus that of the reference, channels joined by mean power (librosa).",
        group="features",
        measure=_median_difference(name),
    )


FEATURE_METRICS = (
    _timbre("centroid", "Spectral centroid", "octaves", "spectral centroid in octaves"),
    _timbre("rolloff_85", "85 % roll-off", "octaves", "85 % roll-off frequency in octaves"),
    _timbre("rolloff_95", "95 % roll-off", "octaves", "95 % roll-off frequency in octaves"),
    _timbre("flatness", "Spectral flatness", "dB", "spectral flatness in dB"),
    contrast_diff,
    loudness_diff,
    crest_diff,
    width_diff,
)
