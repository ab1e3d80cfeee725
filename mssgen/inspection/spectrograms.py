"""Two spectrograms on a common grid, small enough to draw whatever the duration."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 800
BAND_EDGES_HZ = (0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
"""Bands of the difference table; the last one ends at half the sample rate."""
FLOOR_DB = -100.0
"""Power in dBFS added to both sides of a ratio, so that silence gives 0 dB."""


class SpectrogramPair:
    """Mean power of A and B per frequency bin and time column, filled block by block."""

    def __init__(self, sample_rate: int, n_samples: int) -> None:
        self.sample_rate = sample_rate
        self.duration_s = n_samples / sample_rate
        self._n_fft = 2 ** round(math.log2(0.09 * sample_rate))
        hop = n_samples // MAX_COLUMNS
        self._hop = min(max(hop, self._n_fft // 8, 1), self._n_fft // 2)
        self._n_frames = max(1, -(-n_samples // self._hop))
        self.n_columns = min(MAX_COLUMNS, self._n_frames)
        shape = (2, self.n_columns, self._n_fft // 2 + 1)
        self._sums = np.zeros(shape, np.float32)
        self._counts = np.zeros(self.n_columns)
        self._index = 0
        self._waiting: NDArray[np.float32] | None = None
        self._window = np.hanning(self._n_fft + 1)[:-1].astype(np.float32)

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """The next samples of both, each [C, T]."""
        both = np.stack([a, b])
        if self._waiting is None:  # the first frame is centred on the first sample
            self._waiting = np.zeros((*both.shape[:2], self._n_fft // 2), np.float32)
        self._waiting = np.concatenate([self._waiting, both], axis=-1)
        self._add_frames()

    def powers(self) -> NDArray[np.float64]:
        """Mean square per bin of A and B, averaged over channels, [2, columns, bins]."""
        if self._waiting is not None and self._index < self._n_frames:
            n_needed = (self._n_frames - self._index - 1) * self._hop + self._n_fft
            n_missing = max(0, n_needed - self._waiting.shape[-1])
            self._waiting = np.pad(self._waiting, ((0, 0), (0, 0), (0, n_missing)))
            self._add_frames()
        return self._sums / np.maximum(self._counts, 1)[:, None]

    def difference_table(
        self, n_times: int = 8
    ) -> tuple[list[float], list[float], list[list[float | None]]]:
        """(upper band edges in Hz, ends of time spans in s, level [band][time] of B over A in dB).

        None where both are below -100 dBFS.
        """
        powers = self.powers()
        nyquist = self.sample_rate / 2
        edges = [edge for edge in BAND_EDGES_HZ if edge < nyquist] + [nyquist]
        frequencies = np.arange(powers.shape[2]) * self.sample_rate / self._n_fft
        bands = np.clip(np.searchsorted(edges, frequencies, side="right") - 1, 0, len(edges) - 2)
        times = np.array_split(np.arange(self.n_columns), min(n_times, self.n_columns))
        floor = 10 ** (FLOOR_DB / 10)
        rows: list[list[float | None]] = []
        for band in range(len(edges) - 1):
            in_band = powers[:, :, bands == band].sum(axis=2)
            row: list[float | None] = []
            for columns in times:
                level_a, level_b = in_band[:, columns].mean(axis=1)
                is_silent = max(level_a, level_b) < floor
                ratio = (level_b + floor) / (level_a + floor)
                row.append(None if is_silent else 10 * math.log10(ratio))
            rows.append(row)
        ends = [(part[-1] + 1) / self.n_columns * self.duration_s for part in times]
        return [float(edge) for edge in edges[1:]], ends, rows

    def mel_levels(self, n_rows: int = 240) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mel spectrograms: (levels [2, rows, columns] in dBFS, centres [rows] in Hz).

        Triangular filters, evenly spaced on the mel scale, none narrower than a bin.
        """
        powers = self.powers()
        nyquist = self.sample_rate / 2
        top = to_mel(nyquist)
        points = to_hz(np.linspace(0, top, n_rows + 2))
        frequencies = np.arange(powers.shape[2]) * self.sample_rate / self._n_fft
        bin_hz = self.sample_rate / self._n_fft
        centres = points[1:-1]
        half_widths = np.maximum(bin_hz, (points[2:] - points[:-2]) / 2)
        distance = np.abs(frequencies - centres[:, None]) / half_widths[:, None]
        weights = np.maximum(0, 1 - distance)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        levels = 10 * np.log10(np.einsum("rf,xcf->xrc", weights, powers) + 1e-14)
        return levels, centres

    def _add_frames(self) -> None:
        assert self._waiting is not None
        n_whole = (self._waiting.shape[-1] - self._n_fft) // self._hop + 1
        n_new = min(n_whole, self._n_frames - self._index)
        if n_new <= 0:
            return
        windows = np.lib.stride_tricks.sliding_window_view(self._waiting, self._n_fft, axis=-1)
        scale = 2 / (self._n_fft * float(np.square(self._window).sum()))
        for frame in range(n_new):
            spectrum = np.fft.rfft(windows[:, :, frame * self._hop] * self._window)
            power = np.square(np.abs(spectrum)).mean(axis=1) * scale
            column = min(self._index * self.n_columns // self._n_frames, self.n_columns - 1)
            self._sums[:, column] += power
            self._counts[column] += 1
            self._index += 1
        self._waiting = self._waiting[..., n_new * self._hop :]


def mel_ticks(centres: Sequence[float] | NDArray[np.float64]) -> tuple[list[float], list[str]]:
    """Rows (fractional) and labels of round frequencies on an axis of mel rows."""
    wanted = [100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000]
    inside = [hz for hz in wanted if centres[0] <= hz <= centres[-1]]
    rows = [float(np.interp(hz, centres, np.arange(len(centres)))) for hz in inside]
    return rows, [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in inside]


def to_mel(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Mel scale of frequencies in Hz (O'Shaughnessy 1987)."""
    return np.asarray(2595 * np.log10(1 + np.asarray(hz) / 700))


def to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies in Hz of values on the mel scale."""
    return 700 * (10 ** (mel / 2595) - 1)
