"""Powers, ratios of energies and levels in decibels."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RATIO_DB = 120.0
"""Ratios are limited to plus and minus this: float32 is no finer, and means stay finite."""
BLOCK_SAMPLES = 2**16


def power_db(power: float, *, floor_db: float = -200.0) -> float:
    """10 log10 of a power, not below `floor_db`; dBFS for a mean square of samples."""
    return max(floor_db, 10 * math.log10(max(power, 1e-30)))


def power_db_or_none(power: float) -> float | None:
    """10 log10 of a power, None for silence."""
    return 10 * math.log10(power) if power > 0 else None


def ratio_db(numerator: float, denominator: float) -> float:
    """10 log10 of a ratio of energies, within plus and minus MAX_RATIO_DB; 0 dB for 0 / 0.

    Of a reference and its error this is the SDR ("uSDR", Mitsufuji et al. 2022).
    """
    if denominator <= 0:
        return MAX_RATIO_DB if numerator > 0 else 0.0
    ratio = max(0.0, numerator) / denominator
    return min(MAX_RATIO_DB, power_db(ratio, floor_db=-MAX_RATIO_DB))


def energy(audio: NDArray[Any]) -> float:
    """Sum of squares in float64, without a float64 copy of the whole signal."""
    flat = np.ascontiguousarray(audio).reshape(-1)
    starts = range(0, flat.size, BLOCK_SAMPLES)
    parts = (flat[start : start + BLOCK_SAMPLES].astype(np.float64) for start in starts)
    return math.fsum(float(part @ part) for part in parts)


def rms_db(audio: NDArray[Any]) -> float:
    """RMS level of [C, T] or [T] in dBFS; -200 for silence."""
    return power_db(energy(audio) / max(1, audio.size))
