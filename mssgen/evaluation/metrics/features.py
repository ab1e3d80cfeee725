"""How an estimate differs from its reference in timbre, level and width.

Timbre is compared frame by frame (2048 samples, hop 512, Hann) where the reference is above
-60 dBFS and the estimate above -80. Channels are joined by their mean power, so that nothing in
them cancels. The features are librosa's.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Audio, Metric, Score, Song
from mssgen.evaluation.metrics.signals import (
    TOO_SHORT,
    absent,
    check_both,
    energy,
    per_song,
    power_db,
)
from mssgen.evaluation.metrics.spectral import power, spectra
from mssgen.inspection.loudness import integrated_lufs

N_FFT, HOP_LENGTH = 2048, 512
_REFERENCE_GATE_DB, _ESTIMATE_GATE_DB = -60.0, -80.0
_NARROWEST_DB = -60.0
_FIRST_BAND_HZ, _MAX_BANDS = 200.0, 6  # librosa's


@per_song
@torch.inference_mode()
def _curves(song: Song, stem: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """By feature, its values [..., N] in the frames that count, of reference and estimate."""
    both = zip(
        spectra(song.references[stem], N_FFT, HOP_LENGTH, pad_mode="constant"),
        spectra(song.estimates[stem], N_FFT, HOP_LENGTH, pad_mode="constant"),
        strict=True,
    )
    # A sine of full scale gives a power of (n_fft / 4)^2 in two bins, more or less.
    unit = float(torch.hann_window(N_FFT).square().sum()) * N_FFT / 2
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for ours, theirs in both:
        spectrum = [power(part).mean(dim=0).sqrt().numpy() for part in (ours, theirs)]
        levels = [10 * np.log10(np.square(part).sum(axis=0) / unit + 1e-20) for part in spectrum]
        counts = (levels[0] > _REFERENCE_GATE_DB) & (levels[1] > _ESTIMATE_GATE_DB)
        for side, part in enumerate(spectrum):
            for name, values in _features(part[:, counts], song.sample_rate).items():
                found.setdefault(name, ([], []))[side].append(values)
    return {
        name: (np.concatenate(ours, axis=-1), np.concatenate(theirs, axis=-1))
        for name, (ours, theirs) in found.items()
    }


def _features(spectrum: NDArray[np.float32], sample_rate: int) -> dict[str, NDArray[Any]]:
    """Of magnitudes [F, N]."""
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
    def measure(song: Song, stem: str) -> Score:
        missing = check_both(song, stem)
        if missing is not None:
            return missing
        ours, theirs = _curves(song, stem)[name]
        if not ours.shape[-1]:
            return Score(None, 0, "no frame above the gate")
        return Score(float(np.median(theirs - ours)), ours.shape[-1])

    return measure


def contrast(song: Song, stem: str) -> Score:
    """Mean absolute difference of spectral contrast over frames and bands, dB."""
    missing = check_both(song, stem)
    if missing is not None:
        return missing
    ours, theirs = _curves(song, stem)["contrast"]
    if not ours.shape[-1]:
        return Score(None, 0, "no frame above the gate")
    return Score(float(np.abs(theirs - ours).mean()), ours.shape[-1])


def loudness(song: Song, stem: str) -> Score:
    """Integrated loudness (ITU-R BS.1770-4) of the estimate less that of the reference, LU."""
    missing = check_both(song, stem)
    if missing is not None:
        return missing
    if song.references[stem].shape[1] < 0.4 * song.sample_rate:
        return TOO_SHORT
    ours, theirs = (
        integrated_lufs(audio, song.sample_rate)
        for audio in (song.references[stem], song.estimates[stem])
    )
    if ours is None or theirs is None:
        return Score(None, 0, "never above the gate of BS.1770")
    return Score(theirs - ours)


def crest(song: Song, stem: str) -> Score:
    """Crest factor (peak over RMS) of the estimate less that of the reference, dB."""
    missing = check_both(song, stem)
    if missing is not None:
        return missing
    factors = [
        20 * float(np.log10(np.abs(audio).max())) - power_db(audio)
        for audio in (song.references[stem], song.estimates[stem])
    ]
    return Score(factors[1] - factors[0])


def width(song: Song, stem: str) -> Score:
    """Side over middle (RMS) of the estimate less that of the reference, dB."""
    missing = check_both(song, stem)
    if missing is not None:
        return missing
    if len(song.references[stem]) != 2:
        return Score(None, 0, "not stereo")
    widths = [_width_db(audio) for audio in (song.references[stem], song.estimates[stem])]
    if widths[0] <= _NARROWEST_DB:
        return Score(None, 0, "mono reference")
    return Score(widths[1] - widths[0])


def _width_db(audio: Audio) -> float:
    """Between -60 (mono) and 60."""
    side, middle = energy(audio[0] - audio[1]), energy(audio[0] + audio[1])
    ratio = 10 * np.log10(max(side, 1e-30) / max(middle, 1e-30))
    return float(np.clip(ratio, _NARROWEST_DB, -_NARROWEST_DB))


def _timbre(name: str, title: str, unit: str, what: str) -> Metric:
    return Metric(
        f"{name}_diff",
        f"{title} ({unit})",
        unit,
        "zero",
        "mean",
        f"Median over frames (2048, hop 512; reference above -60 dBFS) of the {what} of the "
        "estimate less that of the reference, channels joined by mean power (librosa).",
        "features",
        _median_difference(name),
    )


FEATURE_METRICS = (
    _timbre("centroid", "Spectral centroid", "octaves", "spectral centroid in octaves"),
    _timbre("rolloff_85", "85 % roll-off", "octaves", "frequency below which 85 % lie in octaves"),
    _timbre("rolloff_95", "95 % roll-off", "octaves", "frequency below which 95 % lie in octaves"),
    _timbre("flatness", "Spectral flatness", "dB", "spectral flatness in dB"),
    Metric(
        "contrast_diff",
        "Spectral contrast (dB)",
        "dB",
        "lower",
        "mean",
        "Mean over frames (as above) and up to seven octave bands of the absolute difference of "
        "spectral contrast (Jiang et al. 2002, librosa).",
        "features",
        contrast,
    ),
    Metric(
        "loudness_diff",
        "Loudness (LU)",
        "LU",
        "zero",
        "mean",
        "Integrated loudness of the estimate less that of the reference, ITU-R BS.1770-4 / EBU "
        "R128.",
        "features",
        loudness,
    ),
    Metric(
        "crest_diff",
        "Crest factor (dB)",
        "dB",
        "zero",
        "mean",
        "Sample peak over RMS of the estimate in dB, less that of the reference.",
        "features",
        crest,
    ),
    Metric(
        "width_diff",
        "Stereo width (dB)",
        "dB",
        "zero",
        "mean",
        "RMS of left minus right over that of left plus right of the estimate in dB (between -60 "
        "and 60), less that of the reference; mono references have none.",
        "features",
        width,
    ),
)
