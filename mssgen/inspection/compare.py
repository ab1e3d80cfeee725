"""Two audio files compared: level, length, delay, gain, SDR, and where they differ.

A is the reference, B is compared with it. Both stream: memory is a few seconds of audio and the
spectrograms, whatever the length.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.loudness import LoudnessMeter
from mssgen.audio.reading import AudioSource, check_finite, open_source
from mssgen.audio.resampling import resample
from mssgen.errors import AudioError, UsageError
from mssgen.inspection.decibels import power_db_or_none
from mssgen.inspection.file_info import Levels
from mssgen.inspection.spectrograms import SpectrogramPair

Audio = NDArray[np.float32]
MIN_CORRELATION = 0.1
"""Normalised correlation at the best delay, below which A and B cannot be aligned."""
_DELTA = 1e-7  # as in Demucs' uSDR
_BLOCK_SAMPLES = 2**16
# Windowed sinc: 32 samples to each side keep the error below -80 dB up to 0.9 of the band.
_SINC_HALF = 32
# Smaller fractions of a sample are ignored.
_MIN_FRACTION = 0.01


@dataclass(frozen=True)
class Side:
    """One of the files; levels in dBFS, None for silence."""

    path: str
    sample_rate: int
    n_channels: int
    n_samples: int
    duration_s: float
    rms_db: float | None
    peak_db: float | None
    loudness_lufs: float | None


@dataclass(frozen=True)
class Match:
    """Similarity of B to A over the length of A; None where one of them is silent."""

    correlation: float | None
    """Normalised correlation of all channels as one vector, -1 to 1."""
    usdr_db: float | None
    """10 log10((sum a^2 + 1e-7) / (sum (a - b)^2 + 1e-7))."""
    si_sdr_db: float | None
    """SI-SDR: as above with the least-squares gain applied to a, so that gain does not count."""
    largest_difference_db: float | None
    """Peak of a - b, dBFS; None if they are equal."""
    largest_difference_s: float | None
    """Position of that peak in A, seconds."""


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison, without spectrograms."""

    a: Side
    b: Side
    notes: tuple[str, ...]
    """Changes made so that B fits A: resampled, mono doubled, cut, padded."""
    is_identical: bool
    """Whether they are equal sample by sample and in length."""
    delay_samples: float | None
    """Delay of B against A in samples of A, positive if B is late; None if nothing aligns them."""
    delay_s: float | None
    gain_db: float | None
    """Gain of B against A after alignment, dB: the least-squares g in b = g a."""
    is_inverted: bool
    """Whether g is negative."""
    before: Match
    after: Match | None
    """After correcting delay and gain of B; None without a delay."""


def compare_files(
    path_a: str, path_b: str, *, max_delay_s: float = 2.0
) -> tuple[Comparison, SpectrogramPair]:
    """Compare B with A; returns the result and the spectrograms of A and delay-corrected B.

    Raises:
        UsageError: `max_delay_s` is out of range.
        AudioError: a file cannot be read, or their channels cannot be paired.
    """
    if not 0 <= max_delay_s <= 60:
        raise UsageError(f"`max_delay_s` {max_delay_s:g} is out of range; use 0 to 60 seconds")
    with open_source(path_a) as source_a, open_source(path_b) as source_b:
        a, b = _side(source_a), _side(source_b)
        pair = _Pair(source_a, source_b, a.n_samples)
        n_in_b = round(b.n_samples * a.sample_rate / b.sample_rate)
        max_lag = min(round(max_delay_s * a.sample_rate), max(a.n_samples, n_in_b) - 1)
        before = _match(pair, 0.0, 1.0, a.sample_rate)
        delay = _find_delay(pair, max_lag)
        spectrograms = SpectrogramPair(a.sample_rate, a.n_samples)
        moments = np.zeros((2, 2))
        for block_a, block_b in pair.blocks(delay or 0.0):
            moments += _moments(block_a, block_b)
            spectrograms.add(block_a, block_b)
        after, gain = None, 0.0
        if delay is not None and moments[0, 0] > 0 and moments[1, 1] > 0:
            gain = moments[0, 1] / moments[0, 0]
            # The gain that brings B closest to A; noise in B makes it smaller than 1 / gain.
            after = _match(pair, delay, moments[0, 1] / moments[1, 1], a.sample_rate)
        is_same_length = a.n_samples == b.n_samples and a.sample_rate == b.sample_rate
        return (
            Comparison(
                a,
                b,
                tuple(_notes(a, b, n_in_b)),
                is_same_length
                and a.n_channels == b.n_channels
                and before.largest_difference_db is None,
                delay,
                None if delay is None else delay / a.sample_rate,
                power_db_or_none(gain**2),
                bool(gain < 0),
                before,
                after,
            ),
            spectrograms,
        )


def _side(source: AudioSource) -> Side:
    info = source.info
    levels = Levels(info.sample_rate, info.n_channels)
    meter = LoudnessMeter(info.sample_rate, info.n_channels)
    for block in source.blocks():
        check_finite(block, levels.n_samples, info.sample_rate, source.name)
        levels.add(block)
        meter.add(block)
    return Side(
        source.name,
        info.sample_rate,
        info.n_channels,
        levels.n_samples,
        levels.n_samples / info.sample_rate,
        power_db_or_none(levels.power),
        power_db_or_none(levels.peak**2),
        meter.integrated_lufs(),
    )


def _notes(a: Side, b: Side, n_in_b: int) -> Iterator[str]:
    if a.sample_rate != b.sample_rate:
        yield f"B was resampled from {b.sample_rate} to {a.sample_rate} Hz"
    if a.n_channels != b.n_channels:
        mono = "A" if a.n_channels == 1 else "B"
        yield f"{mono} is mono; its channel was doubled"
    missing_s = (a.n_samples - n_in_b) / a.sample_rate
    # Resampling rounds to a sample.
    if abs(a.n_samples - n_in_b) > (a.sample_rate != b.sample_rate):
        what = "shorter: padded with zeros" if missing_s > 0 else "longer: its end was left out"
        yield f"B is {abs(missing_s):.4f} s {what}"


class _Pair:
    """Both files as blocks [C, T'] of the same size, at the rate and over the length of A."""

    def __init__(self, a: AudioSource, b: AudioSource, n_samples: int) -> None:
        counts = {a.info.n_channels, b.info.n_channels}
        if len(counts) > 1 and 1 not in counts:
            raise AudioError(
                f"{a.name} has {a.info.n_channels} channels and {b.name} {b.info.n_channels}, "
                "which cannot be paired: mix one of them down"
            )
        self.n_channels, self.n_samples = max(counts), n_samples
        self._a, self._b, self._rate = a, b, a.info.sample_rate

    def blocks(self, delay_samples: float) -> Iterator[tuple[Audio, Audio]]:
        """Blocks of A, and of B with `delay_samples` (positive if B is late) corrected."""
        whole = round(delay_samples)
        fraction = delay_samples - whole
        if abs(fraction) < _MIN_FRACTION:
            shifted = self._read(self._b, whole, 0)
        else:
            # b(n + fraction) = sum over k of b(n + k) sinc(fraction - k).
            k = np.arange(-_SINC_HALF, _SINC_HALF + 1)
            taps = np.sinc(fraction - k) * np.kaiser(len(k), 8.0)
            read = self._read(self._b, whole - _SINC_HALF, 2 * _SINC_HALF)
            shifted = (
                np.stack([np.correlate(row, taps, "valid") for row in block]).astype(np.float32)
                for block in read
            )
        n_left = self.n_samples
        for block_a, block_b in zip(self._read(self._a, 0, 0), shifted, strict=False):
            yield block_a[:, :n_left], block_b[:, :n_left]
            n_left -= block_a.shape[1]
            if n_left <= 0:
                return

    def wide_blocks(self, size: int, margin: int) -> Iterator[tuple[Audio, Audio]]:
        """Blocks of A with `size` samples, and of B with `margin` more samples on each side."""
        n_blocks = -(-self.n_samples // size)
        a, b = self._read(self._a, 0, 0, size), self._read(self._b, -margin, 2 * margin, size)
        for _, block_a, block_b in zip(range(n_blocks), a, b, strict=False):
            yield block_a, block_b

    def _read(
        self, source: AudioSource, start: int, overlap: int, size: int = _BLOCK_SAMPLES
    ) -> Iterator[Audio]:
        """Endless blocks of `size` + `overlap` samples, `size` apart, from `start` on; zeros before
        the beginning and after the end."""
        info = source.info
        blocks: Iterable[Audio] = resample(
            source.blocks(), info.n_channels, info.sample_rate, self._rate
        )
        waiting = np.zeros((info.n_channels, max(0, -start)), np.float32)
        n_to_skip = max(0, start)
        for block in blocks:
            n_skipped = min(n_to_skip, block.shape[1])
            n_to_skip -= n_skipped
            waiting = np.concatenate([waiting, block[:, n_skipped:]], axis=1)
            while waiting.shape[1] >= size + overlap:
                yield self._paired(waiting[:, : size + overlap])
                waiting = waiting[:, size:]
        while True:
            n_missing = max(0, size + overlap - waiting.shape[1])
            waiting = np.pad(waiting, ((0, 0), (0, n_missing)))
            yield self._paired(waiting[:, : size + overlap])
            waiting = waiting[:, size:]

    def _paired(self, block: Audio) -> Audio:
        return np.repeat(block, self.n_channels, axis=0) if len(block) == 1 else block


def _moments(a: Audio, b: Audio) -> NDArray[np.float64]:
    """[[aa, ab], [ab, bb]], summed over channels and time."""
    both = np.stack([a.ravel(), b.ravel()]).astype(np.float64)
    return both @ both.T


def _match(pair: _Pair, delay: float, gain: float, rate: int) -> Match:
    """Similarity of A and gain times B with the delay corrected."""
    moments, error = np.zeros((2, 2)), 0.0
    largest, largest_at, position = 0.0, 0, 0
    for a, b in pair.blocks(delay):
        moments += _moments(a, b)
        difference = a.astype(np.float64) - gain * b
        error += float(np.square(difference).sum())
        peaks = np.abs(difference).max(axis=0)
        if peaks.max() > largest:
            largest, largest_at = float(peaks.max()), position + int(peaks.argmax())
        position += a.shape[1]
    (aa, ab), (_, bb) = moments
    is_heard = aa > 0 and bb > 0
    target = ab * ab / aa if is_heard else 0.0
    return Match(
        correlation=float(np.clip(ab / math.sqrt(aa * bb), -1, 1)) if is_heard else None,
        usdr_db=_ratio_db(aa, error) if aa > 0 else None,
        # SI-SDR has its own gain.
        si_sdr_db=_ratio_db(target, max(0.0, bb - target)) if is_heard else None,
        largest_difference_db=power_db_or_none(largest**2),
        largest_difference_s=largest_at / rate if largest > 0 else None,
    )


def _ratio_db(signal: float, error: float) -> float:
    return 10 * math.log10((signal + _DELTA) / (error + _DELTA))


def _find_delay(pair: _Pair, max_lag: int) -> float | None:
    """Delay of B in samples, to 0.01; None if nothing correlates.

    The cross-correlation for all lags up to `max_lag` is summed over blocks in the frequency
    domain and interpolated between samples by a windowed sinc, as it is band-limited.
    """
    n_fft = 2 ** max(16, math.ceil(math.log2(4 * max_lag + 1)))
    size = n_fft - 2 * max_lag
    spectrum = np.zeros(n_fft // 2 + 1, complex)
    powers = np.zeros(2)
    for a, b in pair.wide_blocks(size, max_lag):
        product = np.conj(np.fft.rfft(a, n_fft)) * np.fft.rfft(b, n_fft)
        spectrum += product.sum(axis=0)
        middle = b[:, max_lag : max_lag + size]
        powers += [np.square(a, dtype=np.float64).sum(), np.square(middle, dtype=np.float64).sum()]
    correlation = np.fft.irfft(spectrum, n_fft)[: 2 * max_lag + 1]
    strength = np.abs(correlation)
    if not powers.all() or strength.max() < MIN_CORRELATION * math.sqrt(powers[0] * powers[1]):
        return None
    # Of equally good lags, as in periodic signals, the shortest.
    best = np.flatnonzero(strength >= strength.max() * (1 - 1e-9)) - max_lag
    lag = int(best[np.abs(best).argmin()])
    near = np.arange(-_SINC_HALF, _SINC_HALF + 1)
    inside = np.abs(lag + near) <= max_lag
    values = np.where(inside, correlation[np.clip(lag + near + max_lag, 0, 2 * max_lag)], 0.0)
    fractions = np.arange(-50, 51) / 100
    kernel = np.sinc(fractions[:, None] - near) * np.kaiser(len(near), 8.0)
    fraction = float(fractions[np.abs(kernel @ values).argmax()])
    return lag + fraction if 2 * max_lag else float(lag)
