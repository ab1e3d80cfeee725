"""Ratios of energies of waveforms: uSDR and the scale-invariant family.

Channels of a song make one long vector: there is one gain for all of them, and no mean is removed.
All sums are float64 over the whole song.
"""

import numpy as np
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Metric, Score, Song
from mssgen.evaluation.metrics.signals import (
    BLOCK_SAMPLES,
    MAX_RATIO_DB,
    NO_OTHERS,
    SILENT_ESTIMATE,
    check,
    energy,
    others,
    per_song,
    ratio_db,
    to_db,
)

_DELTA = 1e-7  # demucs' new_sdr
_GRAM_SAMPLES = 2**13
_DEPENDENCE = 1e-10
"""Share of the largest eigenvalue below which references count as linearly dependent."""


def usdr(song: Song, stem: str) -> Score:
    """10 log10((sum s^2 + d) / (sum (s - e)^2 + d)), d = 1e-7, over all channels and samples."""
    missing = check(song, stem)
    if missing is not None:
        return missing
    reference, estimate = song.references[stem], song.estimates[stem]
    starts = range(0, reference.shape[1], BLOCK_SAMPLES)
    blocks = (slice(start, start + BLOCK_SAMPLES) for start in starts)
    error = sum(energy(reference[:, at] - estimate[:, at]) for at in blocks)
    return Score(to_db((energy(reference) + _DELTA) / (error + _DELTA)))


def si_sdr(song: Song, stem: str) -> Score:
    """||a s||^2 / ||e - a s||^2 with a = <e, s> / ||s||^2 (Le Roux et al. 2019, eq. 4)."""
    parts = _decomposed(song, stem)
    if isinstance(parts, Score):
        return parts
    target, interference, artefacts = parts
    return Score(ratio_db(target, interference + artefacts))


def si_sir(song: Song, stem: str) -> Score:
    """||a s||^2 / ||e_interf||^2: what the other references explain beyond the target."""
    parts = _decomposed(song, stem)
    if isinstance(parts, Score) or not others(song, stem):
        return parts if isinstance(parts, Score) else NO_OTHERS
    return Score(ratio_db(parts[0], parts[1]))


def si_sar(song: Song, stem: str) -> Score:
    """||a s||^2 / ||e_artif||^2: what no gain of any reference explains."""
    parts = _decomposed(song, stem)
    if isinstance(parts, Score) or not others(song, stem):
        return parts if isinstance(parts, Score) else NO_OTHERS
    return Score(ratio_db(parts[0], parts[2]))


@per_song
def _decomposed(song: Song, stem: str) -> tuple[float, float, float] | Score:
    """Energies of the target, the interference and the artefacts in an estimate, or why not."""
    missing = check(song, stem)
    if missing is not None:
        return missing
    names, products = _products(song)
    rows = [
        names.index(name) for name in (f"r {stem}", *(f"r {name}" for name in others(song, stem)))
    ]
    last = names.index(f"e {stem}")
    among, across = products[np.ix_(rows, rows)], products[rows, last]
    total = float(products[last, last])
    if total <= 0:
        return SILENT_ESTIMATE
    target = float(across[0] ** 2 / among[0, 0])
    # References that were scaled to unit energy: a quiet one is no less of a direction.
    scale = 1 / np.sqrt(np.diag(among))
    unit = among * scale[:, None] * scale
    explained = across * scale
    projected = float(
        explained @ np.linalg.pinv(unit, rcond=_DEPENDENCE, hermitian=True) @ explained
    )
    projected = min(max(projected, target), total)
    # What is left of a subtraction of equal numbers is rounding.
    rounding = total * 10 ** (-MAX_RATIO_DB / 10) / 10
    interference, artefacts = projected - target, total - projected
    return (
        target,
        interference if interference > rounding else 0.0,
        artefacts if artefacts > rounding else 0.0,
    )


@per_song
def _products(song: Song) -> tuple[list[str], NDArray[np.float64]]:
    """Inner products of all references and estimates, once for all stems and metrics."""
    signals = {f"r {name}": audio for name, audio in song.references.items()}
    for stem in song.references:
        signals |= {f"r {name}": audio for name, audio in others(song, stem).items()}
    signals |= {f"e {name}": audio for name, audio in song.estimates.items()}
    return list(signals), gram(list(signals.values()))


def gram(signals: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Inner products [n, n] of n signals [C, T] in float64, block by block."""
    products = np.zeros((len(signals), len(signals)))
    # Blocks that stay in the processor's cache are twice as fast.
    for start in range(0, signals[0].shape[1], _GRAM_SAMPLES):
        rows = [signal[:, start : start + _GRAM_SAMPLES].reshape(-1) for signal in signals]
        block = np.array(rows, dtype=np.float64)
        products += block @ block.T
    return products


_LE_ROUX = "Le Roux et al. 2019, 'SDR - half-baked or well done?'"

WAVEFORM_METRICS = (
    Metric(
        "usdr",
        "uSDR (dB)",
        "dB",
        "higher",
        "mean",
        "10 log10 of the energy of the reference over that of the error, whole song and all "
        "channels at once, 1e-7 added to both (Mitsufuji et al. 2022, Music Demixing Challenge "
        "2021); silent references have none.",
        "waveform",
        usdr,
    ),
    Metric(
        "si_sdr",
        "SI-SDR (dB)",
        "dB",
        "higher",
        "mean",
        "Energy of the estimate's projection on the reference over that of the rest, one gain for "
        f"the whole song and all channels, means kept ({_LE_ROUX}); limited to 120 dB.",
        "waveform",
        si_sdr,
    ),
    Metric(
        "si_sir",
        "SI-SIR (dB)",
        "dB",
        "higher",
        "mean",
        "Energy of the projection on the reference over that of what the projection on all "
        f"references adds to it, one gain a reference ({_LE_ROUX}); where there is one reference, "
        "the mixture less it is the other.",
        "waveform",
        si_sir,
    ),
    Metric(
        "si_sar",
        "SI-SAR (dB)",
        "dB",
        "higher",
        "mean",
        "Energy of the projection on the reference over that of what gains of all references do "
        f"not explain ({_LE_ROUX}: the projection on the reference alone is above the line, unlike "
        "in BSS Eval).",
        "waveform",
        si_sar,
    ),
)
