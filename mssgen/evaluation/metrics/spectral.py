"""Distances between magnitude spectrograms, blind to phase.

Spectrograms are computed in blocks of frames, so memory does not grow with the length of a track.
auraloss, whose multi-resolution distance this reproduces, needs a gigabyte per track.
"""

import warnings
from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import oaconvolve
from torch import Tensor
from torch.nn import functional as F

from mssgen.evaluation.metrics.base import Audio, Score, TrackAudio, metric
from mssgen.evaluation.metrics.signals import package, pair, per_track

FFT_SIZES = (256, 512, 1024, 2048, 4096)
_EPSILON = 1e-8  # auraloss'
_BLOCK_SAMPLES = 2**17
_N_MELS = 128
_RANGE_DB = 80.0


def spectra(
    audio: Audio | Tensor,
    n_fft: int,
    hop_length: int,
    *,
    is_windowed: bool = True,
    pad_mode: str = "reflect",
) -> Iterator[Tensor]:
    """Complex STFT of [C, T] in blocks [C, F, N'], frames centred on multiples of the hop.

    Same values as `torch.stft` of the whole signal; signals too short for reflection are padded
    with zeros first.
    """
    signal = torch.as_tensor(audio, dtype=torch.float32)
    half = n_fft // 2
    signal = F.pad(signal, (0, max(0, half + 1 - signal.shape[-1])))
    signal = F.pad(signal[None], (half, half), mode=pad_mode)[0]
    window = torch.hann_window(n_fft) if is_windowed else torch.ones(n_fft)
    n_frames = 1 + (signal.shape[-1] - n_fft) // hop_length
    step = max(1, _BLOCK_SAMPLES // hop_length)
    for first in range(0, n_frames, step):
        last = min(first + step, n_frames) - 1
        part = signal[:, first * hop_length : last * hop_length + n_fft]
        yield torch.stft(part, n_fft, hop_length, window=window, center=False, return_complex=True)


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitudes; several times faster than `abs`, which guards against overflow."""
    return (spectrum * spectrum.conj()).real


def magnitudes(spectrum: Tensor) -> Tensor:
    """Same as `spectrum.abs()`, but faster."""
    return power(spectrum).sqrt()


@cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Slaney mel filters [M, F] of librosa, 0 Hz to half the rate; UsageError without librosa."""
    librosa = package("librosa")
    with warnings.catch_warnings():
        # Warns of bands narrower than a bin, which stay empty.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels))


def to_decibels(magnitudes: Tensor, *, range_db: float = _RANGE_DB) -> Tensor:
    """20 log10 of magnitudes, clamped at `range_db` below the maximum."""
    levels = 20 * magnitudes.clamp_min(1e-10).log10()
    return levels.clamp_min(float(levels.max()) - range_db)


@metric("MR-STFT", better="lower", group="spectral")
@torch.inference_mode()
def mr_stft(track: TrackAudio, stem: str) -> Score:
    """Spectral convergence plus mean absolute difference of log magnitudes, averaged over FFT sizes
    256 to 4096 at 75 % overlap, after A-weighting: the loss of auraloss (Steinmetz and Reiss 2020)
    with the settings of arXiv 2507.11427. 0 for equal signals.
    """
    reference, estimate = (_a_weighted(audio, track.sample_rate) for audio in pair(track, stem))
    total = sum(stft_distance(reference, estimate, n_fft) for n_fft in FFT_SIZES)
    return Score(total / len(FFT_SIZES))


def stft_distance(reference: Tensor, estimate: Tensor, n_fft: int) -> float:
    """||R - E|| / ||R|| + mean |log R - log E| of magnitudes R, E of [C, T] at 75 % overlap."""
    error = energy = logarithmic = 0.0
    n_values = 0
    stft = partial(spectra, n_fft=n_fft, hop_length=n_fft // 4)
    for ours, theirs in zip(stft(reference), stft(estimate), strict=True):
        r, e = (power(part).clamp_min(_EPSILON).sqrt_() for part in (ours, theirs))
        # float32 sums of a block are exact enough; float64 ones take longer than the transform.
        error += float((r - e).square_().sum())
        energy += float(r.square().sum())
        logarithmic += float(r.div_(e).log_().abs_().sum())
        n_values += r.numel()
    return float((error / energy) ** 0.5 + logarithmic / n_values)


def _a_weighted(audio: Audio, sample_rate: int) -> Tensor:
    taps = _a_weighting(sample_rate)
    return torch.from_numpy(oaconvolve(audio, taps[None], mode="same", axes=1).astype(np.float32))


@cache
def _a_weighting(sample_rate: int) -> NDArray[np.float32]:
    """A-weighting filter of auraloss (101 taps, symmetric); UsageError without auraloss."""
    filters = package("auraloss.perceptual").FIRFilter("aw", fs=sample_rate)
    return np.asarray(filters.fir.weight.detach().numpy().ravel())


@metric("Log-mel distance", unit="dB", better="lower", group="spectral")
@torch.inference_mode()
def log_mel(track: TrackAudio, stem: str) -> Score:
    """Mean absolute difference of 128 mel magnitudes in dB (FFT 2048, hop 512, Hann); values more
    than 80 dB below the maximum of the reference are set to that floor. 0 for equal signals.
    """
    n_fft, hop_length = 2048, 512
    filters = mel_filters(track.sample_rate, n_fft, _N_MELS)
    filters = filters[filters.any(dim=1)]
    levels = []
    for audio in pair(track, stem):
        parts = [filters @ magnitudes(block) for block in spectra(audio, n_fft, hop_length)]
        levels.append(torch.cat(parts, dim=-1))
    floor = float(levels[0].max()) * 10 ** (-_RANGE_DB / 20)
    ours, theirs = (20 * level.clamp_min(floor).log10() for level in levels)
    return Score(float((ours - theirs).abs().mean(dtype=torch.float64)), ours.shape[-1])


@metric("L1 freq", better="higher", group="spectral")
@torch.inference_mode()
def l1_freq(track: TrackAudio, stem: str) -> Score:
    """100 / (1 + 10 d), where d is the mean absolute difference of STFT magnitudes (FFT 2048, hop
    1024, no window), as in Music-Source-Separation-Training. 0 to 100.
    """
    stft = partial(spectra, n_fft=2048, hop_length=1024, is_windowed=False)
    total, n_values = 0.0, 0
    for ours, theirs in zip(*map(stft, pair(track, stem)), strict=True):
        total += float((magnitudes(ours) - magnitudes(theirs)).abs_().sum(dtype=torch.float64))
        n_values += ours.numel()
    return Score(100 / (1 + 10 * total / n_values))


@per_track
@torch.inference_mode()
def _mel_differences(track: TrackAudio, stem: str) -> tuple[float, float]:
    """(mean excess, mean deficit) of mel levels against the reference, both >= 0 dB."""
    n_fft, hop_length, n_mels = 4096, 1024, 512
    filters = mel_filters(track.sample_rate, n_fft, n_mels)
    levels = []
    for audio in pair(track, stem):
        blocks = spectra(audio, n_fft, hop_length, pad_mode="constant")
        levels.append(
            to_decibels(torch.cat([filters @ magnitudes(part) for part in blocks], dim=-1))
        )
    difference = levels[1].sub_(levels[0])
    means: list[float] = []
    for part in (difference[difference > 0], -difference[difference < 0]):
        means.append(float(part.mean(dtype=torch.float64)) if part.numel() else 0.0)
    return means[0], means[1]


@metric("Bleedless", better="higher", group="bleed")
def bleedless(track: TrackAudio, stem: str) -> Score:
    """100 / (1 + d), where d is the mean excess of 512 mel magnitudes in dB (FFT 4096, hop 1024)
    over the reference, as in Music-Source-Separation-Training. 0 to 100.
    """
    return Score(100 / (1 + _mel_differences(track, stem)[0]))


@metric("Fullness", better="higher", group="bleed")
def fullness(track: TrackAudio, stem: str) -> Score:
    """100 / (1 + d), where d is the mean deficit of 512 mel magnitudes in dB (FFT 4096, hop 1024)
    against the reference, as in Music-Source-Separation-Training. 0 to 100.
    """
    return Score(100 / (1 + _mel_differences(track, stem)[1]))


SPECTRAL_METRICS = (mr_stft, log_mel, l1_freq)
FULLNESS_METRICS = (bleedless, fullness)
