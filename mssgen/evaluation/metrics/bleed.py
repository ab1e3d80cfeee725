"""How much of the other stems is left in an estimate, and what sounds where the stem is silent, or
where nothing does."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mssgen.evaluation.metrics.base import Metric, Score, Song
from mssgen.evaluation.metrics.signals import NO_OTHERS, check_both, others, per_song, to_db
from mssgen.evaluation.metrics.spectral import FULLNESS_METRICS, mel_filters, power, spectra

_N_FFT, _HOP = 4096, 2048
_BAND_EDGES_HZ = (0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000, np.inf)
_DEPENDENCE = 1e-8
_FLOOR_DB = -80.0
_GATE_DB = -60.0
_FRAME_S = 0.1
_N_BANDS, _REGION_FRAMES = 64, 4
_MARGIN_DB = 3.0


@torch.inference_mode()
def bleed(song: Song, stem: str) -> Score:
    """Energy that the other references explain in the estimate over the estimate's own, in dB.

    In each window of about 1 s, octave band and channel the STFT of the estimate is fitted by all
    references at once, one complex gain each (least squares). The bleed is the part that the other
    references have in that fit. Gains, and phases that differ between bands, are allowed for;
    what a reference has in common with the target's own is the target's. Of noise, which nothing
    explains, a few thousandths are explained by chance.
    """
    missing = check_both(song, stem)
    rest = others(song, stem)
    if missing is not None or not rest:
        return missing or NO_OTHERS
    names, products = _products(song)
    rows = [names.index(f"r {name}") for name in (stem, *rest)]
    last = names.index(f"e {stem}")
    among = products[..., np.ix_(rows, rows)[0], np.ix_(rows, rows)[1]]
    across = products[..., rows, last]
    gains = np.linalg.pinv(among, rcond=_DEPENDENCE, hermitian=True) @ across[..., None]
    of_others = gains[..., 1:, :]
    explained = of_others.conj().swapaxes(-1, -2) @ among[..., 1:, 1:] @ of_others
    total = float(products[..., last, last].real.sum())
    return Score(to_db(float(explained.real.sum()) / total, floor_db=_FLOOR_DB), len(products))


@per_song
def _products(song: Song) -> tuple[list[str], NDArray[np.complex128]]:
    """Names of n references and estimates, and their inner products [W, G, C, n, n] in W windows
    and G bands: once for all stems of a song."""
    signals = {f"r {name}": audio for name, audio in song.references.items()}
    for stem in song.references:
        signals |= {f"r {name}": audio for name, audio in others(song, stem).items()}
    signals |= {f"e {name}": audio for name, audio in song.estimates.items()}
    edges_hz = np.array(_BAND_EDGES_HZ)
    edges_hz = edges_hz[edges_hz < song.sample_rate / 2]
    edges = [*np.ceil(edges_hz * _N_FFT / song.sample_rate).astype(int), _N_FFT // 2 + 1]
    step = max(1, round(song.sample_rate / _HOP))
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


def leakage(song: Song, stem: str) -> Score:
    """Level of the estimate in frames of 0.1 s in which the reference is below -60 dB."""
    if not song.estimates[stem].size:
        return Score(None, 0, "too short")
    length = max(1, round(_FRAME_S * song.sample_rate))
    is_quiet = _frame_power(song.references[stem], length) < 10 ** (_GATE_DB / 10)
    n_quiet = int(is_quiet.sum())
    if n_quiet * _FRAME_S < 1:
        return Score(None, 0, "the reference is never silent for long")
    power = _frame_power(song.estimates[stem], length)[is_quiet].mean()
    return Score(to_db(float(power), floor_db=-100.0), n_quiet)


@torch.inference_mode()
def excess(song: Song, stem: str) -> Score:
    """Share of the estimate's energy in regions where it is over 3 dB louder than the mixture.

    A region is a channel, one of 64 mel bands and four frames of an STFT (2048, hop 512). A stem
    may be a little louder than its mixture where another one cancels it; far louder is what
    never sounded: a generated cymbal on a bass.
    """
    missing = check_both(song, stem)
    if missing is not None or song.mixture is None:
        return missing or Score(None, 0, "no mixture")
    ours, whole = (_regions(audio, song) for audio in (song.estimates[stem], song.mixture))
    is_more = ours > 10 ** (_MARGIN_DB / 10) * whole
    share = float(ours[is_more].sum() / ours.sum())
    return Score(to_db(share, floor_db=_FLOOR_DB), ours.numel())


def _regions(audio: NDArray[np.float32], song: Song) -> torch.Tensor:
    """Energy [C, bands, regions] of [C, T], up to a factor."""
    filters = mel_filters(song.sample_rate, 2048, _N_BANDS)
    # librosa's filters weigh more the narrower they are; here every bin counts once in all.
    filters = filters / filters.amax(dim=1, keepdim=True).clamp_min(1e-12)
    filters = filters / filters.sum(dim=0).clamp_min(1e-12)
    parts = [filters @ power(block) for block in spectra(audio, 2048, 512, pad_mode="constant")]
    return F.avg_pool1d(torch.cat(parts, dim=-1).double(), _REGION_FRAMES, ceil_mode=True)


def _frame_power(audio: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    """Mean power [N] of the full frames of [C, T]."""
    n_frames = audio.shape[1] // length
    frames = audio[:, : n_frames * length].reshape(len(audio), n_frames, length)
    return np.square(frames, dtype=np.float64).mean(axis=(0, 2))


BLEED_METRICS = (
    Metric(
        "bleed",
        "Bleed (dB)",
        "dB",
        "lower",
        "mean",
        "Energy of the other references in the estimate over the estimate's: their part of a "
        "least-squares fit of the STFT (4096, hop 2048) by all references, one complex gain a "
        "reference in each second, octave band and channel; not below -80 dB.",
        "bleed",
        bleed,
    ),
    Metric(
        "leakage",
        "Leakage (dBFS)",
        "dBFS",
        "lower",
        "mean",
        "Mean power of the estimate in all frames of 0.1 s in which the reference is below "
        "-60 dBFS, where these make up 1 s at least; not below -100 dBFS.",
        "bleed",
        leakage,
    ),
    Metric(
        "excess",
        "Energy beyond the mixture (dB)",
        "dB",
        "lower",
        "mean",
        "Share of the estimate's energy in regions (a channel, one of 64 mel bands, four frames of "
        "an STFT of 2048, hop 512) in which it is over 3 dB louder than the mixture: what was "
        "added where nothing sounds; not below -80 dB.",
        "bleed",
        excess,
    ),
    *FULLNESS_METRICS,
)
