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
    signals = audible_pair(track, stem)
    streams = [spectra(audio, N_FFT, HOP_LENGTH, pad_mode="constant") for audio in signals]
    # A full-scale sine has a power of about (n_fft / 4)^2 in two bins.
    unit = float(torch.hann_window(N_FFT).square().sum()) * N_FFT / 2
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for blocks in zip(*streams, strict=True):
        spectrum = [power(block).mean(dim=0).sqrt().numpy() for block in blocks]
        levels = [10 * np.log10(np.square(part).sum(axis=0) / unit + 1e-20) for part in spectrum]
        counts = (levels[0] > _REFERENCE_GATE_DB) & (levels[1] > _ESTIMATE_GATE_DB)
        for side, part in enumerate(spectrum):
            for name, values in _features(part[:, counts], track.sample_rate).items():
                found.setdefault(name, ([], []))[side].append(values)
    curves = {
        name: (np.concatenate(ours, axis=-1), np.concatenate(theirs, axis=-1))
        for name, (ours, theirs) in found.items()
    }
    if not curves["centroid"][0].size:
        raise Undefined("no frame above the gate")
    return curves


def _features(spectrum: NDArray[np.float32], sample_rate: int) -> dict[str, NDArray[Any]]:
    """Timbre features [..., N] of magnitudes [F, N]."""
    feature = package("librosa.feature")
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
        **{
            f"rolloff_{percent}": np.log2(
                np.maximum(feature.spectral_rolloff(**rate, roll_percent=percent / 100)[0], 1.0)
            )
            for percent in (85, 95)
        },
    }


def _median_difference(name: str) -> Any:
    def measure(track: TrackAudio, stem: str) -> Score:
        ours, theirs = _curves(track, stem)[name]
        return Score(float(np.median(theirs - ours)), ours.shape[-1])

    return measure


@metric("Spectral contrast", unit="dB", better="lower", group="features")
def contrast_diff(track: TrackAudio, stem: str) -> Score:
    """Mean absolute difference of spectral contrast over frames (2048, hop 512; reference above -60
    dBFS) and up to seven octave bands (Jiang et al. 2002, librosa). 0 for equal signals.
    """
    ours, theirs = _curves(track, stem)["contrast"]
    return Score(float(np.abs(theirs - ours).mean()), ours.shape[-1])


@metric("Loudness", unit="LU", better="zero", group="features")
def loudness_diff(track: TrackAudio, stem: str) -> Score:
    """Integrated loudness of the estimate minus that of the reference (ITU-R BS.1770-4)."""
    signals = audible_pair(track, stem)
    if signals[0].shape[1] < 0.4 * track.sample_rate:
        raise Undefined("too short")
    ours, theirs = (integrated_lufs(audio, track.sample_rate) for audio in signals)
    if ours is None or theirs is None:
        raise Undefined("never above the gate of BS.1770")
    return Score(theirs - ours)


@metric("Crest factor", unit="dB", better="zero", group="features")
def crest_diff(track: TrackAudio, stem: str) -> Score:
    """Crest factor (sample peak over RMS, in dB) of the estimate minus that of the reference."""
    ours, theirs = (
        20 * float(np.log10(np.abs(audio).max())) - rms_db(audio)
        for audio in audible_pair(track, stem)
    )
    return Score(theirs - ours)


@metric("Stereo width", unit="dB", better="zero", group="features")
def width_diff(track: TrackAudio, stem: str) -> Score:
    """RMS of side (L - R) over mid (L + R) in dB, limited to +-60, of the estimate minus that of
    the reference. Undefined for a mono reference.
    """
    signals = audible_pair(track, stem)
    if len(signals[0]) != 2:
        raise Undefined("not stereo")
    ours, theirs = map(_width_db, signals)
    if ours <= _NARROWEST_DB:
        raise Undefined("mono reference")
    return Score(theirs - ours)


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
        function=_median_difference(name),
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
