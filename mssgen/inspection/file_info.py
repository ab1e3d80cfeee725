"""Facts about an audio file or a `.codes` file: format, levels, loudness, bandwidth.

A file is streamed once; memory is a block and a spectrum, whatever the length.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.loudness import LoudnessMeter
from mssgen.audio.reading import AudioSource, check_finite, open_source
from mssgen.audio.resampling import resample
from mssgen.inspection.bandwidth import Bandwidth, LongTermSpectrum, bandwidth
from mssgen.inspection.decibels import power_db_or_none

SILENCE_DB = -60.0
"""Frames of 50 ms with less mean power, in dBFS, count as silence."""
CODES_SUFFIX = ".codes"  # not from `codecs.container`, which would load torch for every file
_FRAME_S = 0.05
# The largest 16-bit value: clipped samples reach it in any format.
_FULL_SCALE = 32767 / 32768


@dataclass(frozen=True)
class SoundInfo:
    """Measurements of an audio file; levels in dBFS (a full-scale sine has an RMS of -3.01).

    None stands for minus infinity (silence) or for undefined values.
    """

    path: str
    container: str
    codec: str
    """Sample format as named by libsndfile: "PCM_16", "VORBIS", ...; "" if decoded by ffmpeg."""
    sample_rate: int
    n_channels: int
    layout: tuple[str, ...]
    """Speaker of each channel in WAV order (`mssgen.audio.speakers`); () if unknown."""
    duration_s: float
    n_samples: int
    size_bytes: int
    bit_rate_kbps: float
    """File size over duration."""
    bit_depth: int | None
    """None for lossy formats."""
    used_bits: int | None
    """Used bits of PCM: 16 if the lowest 8 of 24 bits are always 0."""
    peak_db: float | None
    true_peak_db: float | None
    """True peak by BS.1770-4, dBTP: of the signal oversampled to at least 176 kHz."""
    rms_db: float | None
    """RMS level over all channels."""
    loudness_lufs: float | None
    loudness_range_lu: float | None
    dc: tuple[float, ...]
    """Mean of each channel."""
    silence_share: float
    """Share of 50 ms frames below -60 dB."""
    n_clipped: int
    """Samples at full scale that have a neighbour there too."""
    bandwidth: Bandwidth | None
    """None for silence."""
    is_mono: bool | None
    """Whether left and right are the same to the last bit; None unless stereo."""
    correlation: float | None
    """Correlation of left and right, -1 to 1."""
    width_db: float | None
    """Power of side (L - R) over that of mid (L + R), dB; None for mono."""


@dataclass(frozen=True)
class CodesInfo:
    """Content of a `.codes` file."""

    path: str
    codec: str
    codec_id: str
    n_codebooks: int
    n_frames: int
    n_items: int
    """Coded channels (mid and side for a mono codec), including silent ones."""
    n_silent_items: int
    codebook_size: int | None
    """Codes per codebook, from the codec id; None if unknown."""
    bit_rate_kbps: float | None
    """Bit rate of the codes without file overhead; None if the codebook size is unknown."""
    size_bytes: int
    sample_rate: int
    """Sample rate of the encoded audio file, Hz."""
    n_channels: int
    duration_s: float


def describe(path: str) -> SoundInfo | CodesInfo:
    """Measure a file, "-" for standard input; AudioError if it cannot be read to its end."""
    if path.lower().endswith(CODES_SUFFIX):
        return _describe_codes(path)
    with open_source(path) as source:
        return _describe_sound(source)


class Levels:
    """Running sums over blocks for levels, DC, clipping, silence and stereo."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self.n_samples = 0
        self.peak = 0.0
        self.sums = np.zeros(n_channels)
        self.products = np.zeros((n_channels, n_channels))
        """Inner products of all pairs of channels."""
        self.n_clipped = 0
        self.n_frames = self.n_silent_frames = 0
        self._frame_samples = max(1, round(_FRAME_S * sample_rate))
        self._waiting = np.zeros(0)
        self._before = np.zeros((n_channels, 2), bool)
        self._is_different = False

    def add(self, block: NDArray[np.float32]) -> None:
        """The next samples, [C, T]."""
        wide = block.astype(np.float64)
        self.n_samples += block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        self.sums += wide.sum(axis=1)
        self.products += wide @ wide.T
        self._is_different |= len(block) == 2 and not np.array_equal(block[0], block[1])
        self._count_clipped(np.abs(block) >= _FULL_SCALE)
        self._count_silent(np.concatenate([self._waiting, np.square(wide).mean(axis=0)]))

    @property
    def power(self) -> float:
        """Mean square over all channels."""
        return float(self.products.trace()) / max(1, self.n_samples * len(self.sums))

    @property
    def is_mono(self) -> bool | None:
        return None if len(self.sums) != 2 else not self._is_different

    def stereo(self) -> tuple[float | None, float | None]:
        """(correlation of left and right, side over middle in dB)."""
        if len(self.sums) != 2 or not self.products[0, 0] * self.products[1, 1] > 0:
            return None, None
        left, right, both = self.products[0, 0], self.products[1, 1], self.products[0, 1]
        middle, side = left + right + 2 * both, left + right - 2 * both
        width_db = power_db_or_none(side / middle) if self._is_different and middle > 0 else None
        return float(both / math.sqrt(left * right)), width_db

    def _count_clipped(self, is_full: NDArray[np.bool_]) -> None:
        # Includes the last two samples of the previous block, whose neighbours are known only now.
        joined = np.concatenate([self._before, is_full], axis=1)
        has_neighbour = joined[:, :-2] | joined[:, 2:]
        self.n_clipped += int((joined[:, 1:-1] & has_neighbour).sum())
        self._before = joined[:, -2:]

    def _count_silent(self, power: NDArray[np.float64]) -> None:
        n_whole = len(power) // self._frame_samples * self._frame_samples
        frames = power[:n_whole].reshape(-1, self._frame_samples).mean(axis=1)
        self.n_frames += len(frames)
        self.n_silent_frames += int((frames < 10 ** (SILENCE_DB / 10)).sum())
        self._waiting = power[n_whole:]

    def finish(self) -> None:
        """Count the samples that waited for their neighbours."""
        self.n_clipped += int((self._before[:, 1] & self._before[:, 0]).sum())
        if self._waiting.size and not self.n_frames:  # shorter than a frame
            self.n_frames = 1
            self.n_silent_frames = int(self._waiting.mean() < 10 ** (SILENCE_DB / 10))


def _describe_sound(source: AudioSource) -> SoundInfo:
    info = source.info
    levels = Levels(info.sample_rate, info.n_channels)
    meter = LoudnessMeter(info.sample_rate, info.n_channels)
    spectrum = LongTermSpectrum(info.sample_rate, info.n_channels)
    bits = bit_depth(info.subtype)
    is_whole = bits is not None and bits <= 24 and info.sample_rate == source.file_rate
    used = 0

    def watched() -> Iterator[NDArray[np.float32]]:
        nonlocal used
        for block in source.blocks():
            check_finite(block, levels.n_samples, info.sample_rate, source.name)
            levels.add(block)
            meter.add(block)
            spectrum.add(block)
            if is_whole:
                used |= int(np.bitwise_or.reduce((block * 2.0**23).astype(np.int32), axis=None))
            yield block

    true_peak = 0.0
    factor = max(1, math.ceil(4 * 44_100 / info.sample_rate))
    for block in resample(watched(), info.n_channels, info.sample_rate, factor * info.sample_rate):
        true_peak = max(true_peak, float(np.abs(block).max(initial=0)))
    levels.finish()
    used_bits = (24 - _n_trailing_zeros(used) if used else bits) if is_whole else None
    duration_s = levels.n_samples / info.sample_rate
    # Standard input, pipes and what ffmpeg decoded are read from temporary files.
    is_named = Path(source.name).is_file()
    size_bytes = os.path.getsize(source.name if is_named else source.path)
    correlation, width_db = levels.stereo()
    return SoundInfo(
        path=source.name,
        container=info.container,
        codec=info.subtype,
        sample_rate=info.sample_rate,
        n_channels=info.n_channels,
        layout=info.layout,
        duration_s=duration_s,
        n_samples=levels.n_samples,
        size_bytes=size_bytes,
        bit_rate_kbps=8 * size_bytes / duration_s / 1000,
        bit_depth=bits,
        used_bits=used_bits,
        peak_db=power_db_or_none(levels.peak**2),
        true_peak_db=power_db_or_none(max(true_peak, levels.peak) ** 2),
        rms_db=power_db_or_none(levels.power),
        loudness_lufs=meter.integrated_lufs(),
        loudness_range_lu=meter.range_lu(),
        dc=tuple(float(mean) for mean in levels.sums / max(1, levels.n_samples)),
        silence_share=levels.n_silent_frames / max(1, levels.n_frames),
        n_clipped=levels.n_clipped,
        bandwidth=bandwidth(spectrum.bands(), info.sample_rate, used_bits),
        is_mono=levels.is_mono,
        correlation=correlation,
        width_db=width_db,
    )


def bit_depth(subtype: str) -> int | None:
    """Bits per sample of a sample format as named by libsndfile; None for lossy formats."""
    if subtype in ("FLOAT", "DOUBLE"):
        return {"FLOAT": 32, "DOUBLE": 64}[subtype]
    kind, _, bits = subtype.partition("_")
    digits = bits.lstrip("SU")
    return int(digits) if kind in ("PCM", "ALAC") and digits.isdecimal() else None


def _n_trailing_zeros(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _describe_codes(path: str) -> CodesInfo:
    from mssgen.codecs.container import read_codes

    coded = read_codes(Path(path))
    _, n_codebooks, n_frames = coded.codes.codes.shape
    duration_s = coded.n_samples / coded.sample_rate
    size = _codebook_size(coded.codes.codec_id)
    n_codes = coded.codes.codes.numel()
    return CodesInfo(
        path=path,
        codec=coded.codec,
        codec_id=coded.codes.codec_id,
        n_codebooks=n_codebooks,
        n_frames=n_frames,
        n_items=coded.n_items,
        n_silent_items=len(coded.silent),
        codebook_size=size,
        bit_rate_kbps=n_codes * (size - 1).bit_length() / duration_s / 1000 if size else None,
        size_bytes=os.path.getsize(path),
        sample_rate=coded.sample_rate,
        n_channels=coded.n_channels,
        duration_s=duration_s,
    )


def _codebook_size(codec_id: str) -> int | None:
    """V of an identity such as "seanet-24000-32x1024-h320-..."; see `Codec.codec_id`."""
    for part in codec_id.split("-"):
        n_codebooks, cross, size = part.partition("x")
        if cross and n_codebooks.isdecimal() and size.isdecimal() and int(size) > 1:
            return int(size)
    return None
