"""Waveforms and spectrograms as small pictures of equal size and scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.extras import require
from mssgen.inspection.spectrograms import to_hz, to_mel

Image = NDArray[np.float32]

N_COLUMNS, N_ROWS = 900, 150
RANGE_DB = 75.0
"""Dynamic range of a spectrogram, below its loudest point."""
DIFFERENCE_DB = 30.0
"""Range of a difference picture, up and down."""
_N_PEAKS = 450
_LOWEST_HZ, _HIGHEST_HZ = 40.0, 18_000.0
_TICKS_HZ = (300, 1000, 3000, 10_000)
_FRAME_S = 0.08
_MAX_HOP_S = 0.025
_FRAMES_AT_ONCE = 512
_QUALITY = 80
# From dark to light, with even steps of lightness; after matplotlib's "magma" (CC0).
_LEVELS = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf"
# Blue: missing, orange: added; distinguishable for colour-blind readers.
_SIGNS = "a6e3ff 4aa8e8 1f5f9e 123454 101216 5a2a0c a8521a ee8a3c ffd9a8"


def mel_spectrogram_db(audio: NDArray[np.float32], sample_rate: int) -> Image:
    """Mel spectrogram [rows, columns] of [C, T] in dB, low frequencies first, channels averaged."""
    n_fft = 2 ** round(np.log2(_FRAME_S * sample_rate))
    n_samples = audio.shape[1]
    n_per_column = max(1, round(n_samples / (N_COLUMNS * _MAX_HOP_S * sample_rate)))
    n_frames = N_COLUMNS * n_per_column
    starts = ((np.arange(n_frames) + 0.5) * n_samples / n_frames).astype(int)
    padded = np.pad(audio, ((0, 0), (n_fft // 2, n_fft)))
    window = np.hanning(n_fft).astype(np.float32)
    window *= 2 / window.sum()  # a sine at full scale comes near 0 dB
    bands = _bands(n_fft, sample_rate)
    rows = np.empty((N_ROWS, n_frames), np.float32)
    for first in range(0, n_frames, _FRAMES_AT_ONCE):
        places = starts[first : first + _FRAMES_AT_ONCE, None] + np.arange(n_fft)
        spectra = np.fft.rfft(padded[:, places] * window)
        power = np.square(np.abs(spectra)).mean(axis=0)
        rows[:, first : first + _FRAMES_AT_ONCE] = bands @ power.T
    columns = rows.reshape(N_ROWS, N_COLUMNS, n_per_column).mean(axis=2)
    return np.asarray(10 * np.log10(columns + 1e-12), np.float32)


def ticks(sample_rate: int) -> list[tuple[str, float]]:
    """Labels of the frequency axis and their positions: 0 is the lower edge, 1 the upper."""
    low, high = to_mel(np.array(_edges(sample_rate)))
    places = (to_mel(np.array(_TICKS_HZ, float)) - low) / (high - low)
    return [
        (f"{hz // 1000}k" if hz >= 1000 else str(hz), round(float(place), 4))
        for hz, place in zip(_TICKS_HZ, places, strict=True)
        if place < 0.97
    ]


def top_db(spectrograms: Sequence[Image]) -> float:
    """Upper end of a common scale: the loudest point of all, dB."""
    return max(float(image.max()) for image in spectrograms)


def draw_spectrogram(image: Image, top: float, path: Path) -> None:
    """Write decibels [rows, columns] as WebP, from `top` down to `RANGE_DB` below."""
    _write(_coloured((image - top) / RANGE_DB + 1, _LEVELS), path)


def draw_difference(estimate: Image, reference: Image, top: float, path: Path) -> None:
    """Write estimate minus reference in dB as WebP: brightest at `DIFFERENCE_DB`.

    Levels are clamped at `RANGE_DB` below `top`, so that silence differs from silence by 0.
    """
    floor = top - RANGE_DB
    difference = np.maximum(estimate, floor) - np.maximum(reference, floor)
    _write(_coloured(difference / (2 * DIFFERENCE_DB) + 0.5, _SIGNS), path)


def peaks(audio: NDArray[np.float32]) -> list[int]:
    """Waveform outline of [C, T]: minimum and maximum per column in turn, full scale 100."""
    edges = np.linspace(0, audio.shape[1], min(_N_PEAKS, audio.shape[1]), endpoint=False)
    starts = edges.astype(int)
    low = np.minimum.reduceat(audio.min(axis=0), starts)
    high = np.maximum.reduceat(audio.max(axis=0), starts)
    outline = np.stack([low, high], axis=1).clip(-1, 1)
    return [int(value) for value in np.rint(100 * outline).ravel()]


def gradients() -> dict[str, str]:
    """Colour scales as lists of CSS colours, for the legends."""
    return {
        "levels": ", ".join(f"#{colour}" for colour in _LEVELS.split()),
        "signs": ", ".join(f"#{colour}" for colour in _SIGNS.split()),
    }


def _edges(sample_rate: int) -> tuple[float, float]:
    return _LOWEST_HZ, min(_HIGHEST_HZ, sample_rate / 2)


def _bands(n_fft: int, sample_rate: int) -> NDArray[np.float32]:
    """Triangular mel filters [rows, bins], none narrower than a bin."""
    low, high = to_mel(np.array(_edges(sample_rate)))
    centres = to_hz(np.linspace(low, high, N_ROWS))
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    widths = np.maximum(np.gradient(centres), sample_rate / n_fft)
    weights = np.maximum(0, 1 - np.abs(bins - centres[:, None]) / widths[:, None])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _coloured(shares: NDArray[np.floating[Any]], colours: str) -> NDArray[np.uint8]:
    """Values from 0 to 1, low frequencies first, as pixels [rows, columns, 3]."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in colours.split()], float)
    places = np.linspace(0, 1, len(anchors))
    steps = np.linspace(0, 1, 256)
    table = np.stack([np.interp(steps, places, channel) for channel in anchors.T], axis=1)
    indices = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return np.asarray(np.rint(table).astype(np.uint8)[indices[::-1]])


def _write(pixels: NDArray[np.uint8], path: Path) -> None:
    pillow = require("PIL.Image", "evaluate", "drawing pictures")
    pillow.fromarray(pixels).save(path, "WEBP", quality=_QUALITY, method=3)
