"""Ratios of energies of waveforms: uSDR and the scale-invariant family.

The channels of a track form one long vector: one gain for all of them, and no mean is removed.
All sums are float64 over the whole track.
"""

import numpy as np
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Score, TrackAudio, Undefined, metric
from mssgen.evaluation.metrics.signals import others, pair, per_track, sources
from mssgen.inspection.decibels import BLOCK_SAMPLES, MAX_RATIO_DB, energy, power_db, ratio_db

_DELTA = 1e-7  # demucs' new_sdr
_GRAM_SAMPLES = 2**13
_DEPENDENCE = 1e-10
"""Eigenvalues below this share of the largest one: linearly dependent references."""


@metric("uSDR", unit="dB", better="higher", group="waveform")
def usdr(track: TrackAudio, stem: str) -> Score:
    """10 log10((sum s^2 + d) / (sum (s - e)^2 + d)) of reference s and estimate e, d = 1e-7, over
    all channels and the whole track (Mitsufuji et al. 2022, Music Demixing Challenge 2021).
    Undefined for a silent reference.
    """
    reference, estimate = pair(track, stem)
    starts = range(0, reference.shape[1], BLOCK_SAMPLES)
    blocks = (slice(start, start + BLOCK_SAMPLES) for start in starts)
    error = sum(energy(reference[:, at] - estimate[:, at]) for at in blocks)
    ratio = (energy(reference) + _DELTA) / (error + _DELTA)
    return Score(power_db(ratio, floor_db=-MAX_RATIO_DB))


@metric("SI-SDR", unit="dB", better="higher", group="waveform")
def si_sdr(track: TrackAudio, stem: str) -> Score:
    """10 log10(||a s||^2 / ||e - a s||^2) of reference s and estimate e, a = <e, s> / ||s||^2: one
    gain for the whole track and all channels, means not removed (Le Roux et al. 2019, "SDR -
    half-baked or well done?", eq. 4). Limited to +-120 dB.
    """
    target, interference, artefacts = _decomposed(track, stem)
    return Score(ratio_db(target, interference + artefacts))


@metric("SI-SIR", unit="dB", better="higher", group="waveform")
def si_sir(track: TrackAudio, stem: str) -> Score:
    """10 log10(||a s||^2 / ||p - a s||^2): p is the projection of the estimate on all references,
    a s its projection on its own reference (Le Roux et al. 2019). If there is only one reference,
    the mixture minus that reference serves as the other. Limited to +-120 dB.
    """
    target, interference, _ = _decomposed(track, stem)
    if not others(track, stem):
        raise Undefined("no other reference")
    return Score(ratio_db(target, interference))


@metric("SI-SAR", unit="dB", better="higher", group="waveform")
def si_sar(track: TrackAudio, stem: str) -> Score:
    """10 log10(||a s||^2 / ||e - p||^2): e is the estimate, p its projection on all references,
    a s its projection on its own reference (Le Roux et al. 2019; BSS Eval has p in the numerator).
    Limited to +-120 dB.
    """
    target, _, artefacts = _decomposed(track, stem)
    if not others(track, stem):
        raise Undefined("no other reference")
    return Score(ratio_db(target, artefacts))


@per_track
def _decomposed(track: TrackAudio, stem: str) -> tuple[float, float, float]:
    """Energies of target, interference and artefacts in an estimate."""
    pair(track, stem)
    names, products = _products(track)
    rows = [names.index(f"r {name}") for name in (stem, *others(track, stem))]
    last = names.index(f"e {stem}")
    among, across = products[np.ix_(rows, rows)], products[rows, last]
    total = float(products[last, last])
    if total <= 0:
        raise Undefined("silent estimate")
    target = float(across[0] ** 2 / among[0, 0])
    # References scaled to unit energy: a quiet one counts as a direction all the same.
    scale = 1 / np.sqrt(np.diag(among))
    unit = among * scale[:, None] * scale
    explained = across * scale
    projected = float(
        explained @ np.linalg.pinv(unit, rcond=_DEPENDENCE, hermitian=True) @ explained
    )
    projected = min(max(projected, target), total)
    # Differences of nearly equal numbers are rounding errors.
    rounding = total * 10 ** (-MAX_RATIO_DB / 10) / 10
    interference, artefacts = projected - target, total - projected
    return (
        target,
        interference if interference > rounding else 0.0,
        artefacts if artefacts > rounding else 0.0,
    )


@per_track
def _products(track: TrackAudio) -> tuple[list[str], NDArray[np.float64]]:
    """Inner products of all references and estimates, once for all stems and metrics."""
    signals = sources(track)
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


WAVEFORM_METRICS = (usdr, si_sdr, si_sir, si_sar)
