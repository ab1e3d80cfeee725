"""Streaming loudness meter (ITU-R BS.1770-4, EBU Tech 3342).

Memory is one number per 0.1 s, so files of any length can be measured.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import sosfilt

_HOP_S = 0.1
_MOMENTARY_HOPS, _SHORT_TERM_HOPS = 4, 30
_ABSOLUTE_GATE_LUFS = -70.0
_INTEGRATED_GATE_LU, _RANGE_GATE_LU = -10.0, -20.0
# BS.1770-4, table 3, in wav channel order; the LFE is left out, other layouts have weight 1.
_CHANNEL_WEIGHTS = {5: (1.0, 1.0, 1.0, 1.41, 1.41), 6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)}


class LoudnessMeter:
    """Loudness meter: add all blocks of a signal, then read the values."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._filter = k_weighting(sample_rate)
        self._state = np.zeros((len(self._filter), n_channels, 2))
        self._weights = np.array(_CHANNEL_WEIGHTS.get(n_channels, (1.0,) * n_channels))
        self._hop_samples = round(_HOP_S * sample_rate)
        self._waiting = np.zeros(0)
        self._powers: list[NDArray[np.float64]] = []

    def add(self, block: NDArray[np.float32]) -> None:
        """The next samples, [C, T]."""
        weighted, self._state = sosfilt(
            self._filter, block.astype(np.float64), axis=-1, zi=self._state
        )
        power = np.concatenate([self._waiting, self._weights @ np.square(weighted)])
        n_whole = len(power) // self._hop_samples * self._hop_samples
        self._powers.append(power[:n_whole].reshape(-1, self._hop_samples).mean(axis=1))
        self._waiting = power[n_whole:]

    def integrated_lufs(self) -> float | None:
        """Integrated gated loudness, LUFS; None below 0.4 s or below the gate (-70 LUFS)."""
        powers = self._gated(_MOMENTARY_HOPS, _INTEGRATED_GATE_LU)
        return float(_lufs(powers.mean())) if len(powers) else None

    def range_lu(self) -> float | None:
        """Loudness range, LU: 10 to 95 % spread of loudness in 3 s windows; None if shorter."""
        powers = self._gated(_SHORT_TERM_HOPS, _RANGE_GATE_LU)
        if not len(powers):
            return None
        low, high = np.percentile(_lufs(powers), (10, 95))
        return float(high - low)

    def _gated(self, n_hops: int, gate_lu: float) -> NDArray[np.float64]:
        """Mean powers of all windows of `n_hops` that pass both gates."""
        powers = np.concatenate([*self._powers, np.zeros(0)])
        if len(powers) < n_hops:
            return np.zeros(0)
        windows = np.convolve(powers, np.full(n_hops, 1 / n_hops), mode="valid")
        windows = windows[_lufs(windows) >= _ABSOLUTE_GATE_LUFS]
        if not len(windows):
            return windows
        return windows[_lufs(windows) >= _lufs(windows.mean()) + gate_lu]


def integrated_lufs(audio: NDArray[np.float32], sample_rate: int) -> float | None:
    """Integrated loudness of audio [C, T] in LUFS; see `LoudnessMeter`."""
    meter = LoudnessMeter(sample_rate, len(audio))
    meter.add(audio)
    return meter.integrated_lufs()


def k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """K-weighting filters of BS.1770-4 as second-order sections [2, 6] at any sample rate.

    The recommendation prints coefficients for 48 kHz only; these are the analogue prototypes that
    reproduce them (to 1e-6), with the bilinear transform.
    """
    # Shelf: +4 dB above 1.7 kHz, the head. High-pass at 38 Hz: "revised low-frequency B curve".
    gain, shelf_q = 10 ** (3.999843853973347 / 20), 0.7071752369554196
    edge = gain**0.4996667741545416
    k = math.tan(math.pi * 1681.974450955533 / sample_rate)
    shelf = np.array(
        [
            gain + edge * k / shelf_q + k * k,
            2 * (k * k - gain),
            gain - edge * k / shelf_q + k * k,
            1 + k / shelf_q + k * k,
            2 * (k * k - 1),
            1 - k / shelf_q + k * k,
        ]
    )
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    pass_q = 0.5003270373238773
    norm = 1 + k / pass_q + k * k
    high_pass = np.array([1, -2, 1, 1, 2 * (k * k - 1) / norm, (1 - k / pass_q + k * k) / norm])
    return np.stack([shelf / shelf[3], high_pass])


def _lufs(power: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-30))
