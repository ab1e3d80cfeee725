"""Bleed from other stems, leakage in silence, and energy that the mixture does not have."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mssgen.evaluation.metrics.base import Score, TrackAudio, Undefined, metric
from mssgen.evaluation.metrics.signals import audible_pair, others, per_track, sources
from mssgen.evaluation.metrics.spectral import FULLNESS_METRICS, mel_filters, power, spectra
from mssgen.inspection.decibels import power_db

_N_FFT, _HOP = 4096, 2048
_BAND_EDGES_HZ = (0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000, np.inf)
_DEPENDENCE = 1e-8
_FLOOR_DB = -80.0
_GATE_DB = -60.0
_FRAME_S = 0.1
_N_BANDS, _REGION_FRAMES = 64, 4
_MARGIN_DB = 3.0


@metric("Bleed", unit="dB", better="lower", group="bleed")
@torch.inference_mode()
def bleed(track: TrackAudio, stem: str) -> Score:
    """Energy of the other references in the estimate, relative to the energy of the estimate: their
    part of a least-squares fit of the STFT (4096, hop 2048) by all references, one complex gain
    per reference in each second, octave band and channel. Not below -80 dB.

    The gains allow for phases that differ between bands. What other references have in common with
    the target counts as target. A few thousandths of uncorrelated noise are explained by chance.
    """
    audible_pair(track, stem)
    rest = others(track, stem)
    if not rest:
        raise Undefined("no other reference")
    names, products = _products(track)
    rows = [names.index(f"r {name}") for name in (stem, *rest)]
    last = names.index(f"e {stem}")
    among = products[..., np.ix_(rows, rows)[0], np.ix_(rows, rows)[1]]
    across = products[..., rows, last]
    gains = np.linalg.pinv(among, rcond=_DEPENDENCE, hermitian=True) @ across[..., None]
    of_others = gains[..., 1:, :]
    explained = of_others.conj().swapaxes(-1, -2) @ among[..., 1:, 1:] @ of_others
    total = float(products[..., last, last].real.sum())
    return Score(power_db(float(explained.real.sum()) / total, floor_db=_FLOOR_DB), len(products))


@per_track
def _products(track: TrackAudio) -> tuple[list[str], NDArray[np.complex128]]:
    """Names of n references and estimates, and their inner products [W, G, C, n, n] in W windows
    and G bands: once for all stems of a track."""
    signals = sources(track)
    edges_hz = np.array(_BAND_EDGES_HZ)
    edges_hz = edges_hz[edges_hz < track.sample_rate / 2]
    edges = [*np.ceil(edges_hz * _N_FFT / track.sample_rate).astype(int), _N_FFT // 2 + 1]
    step = max(1, round(track.sample_rate / _HOP))
    found: list[NDArray[np.complex64]] = []
    waiting = torch.zeros(0)
    streams = [spectra(audio, _N_FFT, _HOP, pad_mode="constant") for audio in signals.values()]
    for blocks in zip(*streams, strict=True):
        frames = torch.stack([block.permute(2, 1, 0) for block in blocks])  # [n, N', F, C]
        waiting = torch.cat([waiting, frames], dim=1) if waiting.numel() else frames
        while waiting.shape[1] >= step:
            found.append(_of_window(waiting[:, :step], edges))
            waiting = waiting[:, step:]
    if waiting.numel():
        found.append(_of_window(waiting, edges))
    return list(signals), np.array(found, np.complex128)


def _of_window(frames: torch.Tensor, edges: list[int]) -> NDArray[np.complex64]:
    """Inner products [G, C, n, n] in G bands of frames [n, N, F, C]."""
    by_channel = frames.permute(3, 0, 2, 1).contiguous()  # [C, n, F, N]
    products = []
    for first, last in pairwise(edges):
        band = by_channel[:, :, first:last].flatten(2)
        # The conjugate stands on the left: `among @ gains = across` are the normal equations.
        products.append(band.conj() @ band.transpose(1, 2))
    return torch.stack(products).numpy()


@metric("Leakage", unit="dBFS", better="lower", group="bleed")
def leakage(track: TrackAudio, stem: str) -> Score:
    """Mean power of the estimate in frames of 0.1 s in which the reference is below -60 dBFS, if
    they add up to at least 1 s. Not below -100 dBFS.
    """
    if not track.estimates[stem].size:
        raise Undefined("too short")
    length = max(1, round(_FRAME_S * track.sample_rate))
    is_quiet = _frame_power(track.references[stem], length) < 10 ** (_GATE_DB / 10)
    n_quiet = int(is_quiet.sum())
    if n_quiet * _FRAME_S < 1:
        raise Undefined("the reference is never silent for long")
    power = _frame_power(track.estimates[stem], length)[is_quiet].mean()
    return Score(power_db(float(power), floor_db=-100.0), n_quiet)


@metric("Energy beyond the mixture", unit="dB", better="lower", group="bleed")
@torch.inference_mode()
def excess(track: TrackAudio, stem: str) -> Score:
    """Share of the energy of the estimate in regions (a channel, one of 64 mel bands, four frames
    of an STFT of 2048, hop 512) in which it is over 3 dB louder than the mixture: sound added
    where there was none. Not below -80 dB.

    A stem may be slightly louder than its mixture where another stem cancels it; far louder means
    that it never sounded, such as a generated cymbal on a bass.
    """
    _, estimate = audible_pair(track, stem)
    if track.mixture is None:
        raise Undefined("no mixture")
    ours, whole = (_regions(audio, track) for audio in (estimate, track.mixture))
    is_more = ours > 10 ** (_MARGIN_DB / 10) * whole
    share = float(ours[is_more].sum() / ours.sum())
    return Score(power_db(share, floor_db=_FLOOR_DB), ours.numel())


def _regions(audio: NDArray[np.float32], track: TrackAudio) -> torch.Tensor:
    """Energy [C, bands, regions] of audio [C, T], up to a constant factor."""
    filters = mel_filters(track.sample_rate, 2048, _N_BANDS)
    # librosa gives narrow filters more weight; here each bin has a total weight of 1.
    filters = filters / filters.amax(dim=1, keepdim=True).clamp_min(1e-12)
    filters = filters / filters.sum(dim=0).clamp_min(1e-12)
    parts = [filters @ power(block) for block in spectra(audio, 2048, 512, pad_mode="constant")]
    return F.avg_pool1d(torch.cat(parts, dim=-1).double(), _REGION_FRAMES, ceil_mode=True)


def _frame_power(audio: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    """Mean power [N] of the full frames of [C, T]."""
    n_frames = audio.shape[1] // length
    frames = audio[:, : n_frames * length].reshape(len(audio), n_frames, length)
    return np.square(frames, dtype=np.float64).mean(axis=(0, 2))


BLEED_METRICS = (bleed, leakage, excess, *FULLNESS_METRICS)
