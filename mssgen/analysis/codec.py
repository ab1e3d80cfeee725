"""Analyses how a codec represents stems: code usage and reconstruction quality.

It follows sections 6 and 6.1 of the thesis: how often each code of each codebook is used, what the
most frequent codes sound like, whether stems separate in the space of quantised latents, and the
SDR ceiling of any system based on this codec.

Files are streamed: memory is a few seconds of audio and the codes of one file.
"""

import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.analysis.statistics import (
    FrameSample,
    FrequentCodes,
    count_codes,
    frequent_codes,
)
from mssgen.audio.channels import to_items
from mssgen.audio.reading import AudioSource, check_finite, open_source
from mssgen.audio.resampling import resample
from mssgen.codecs.base import Codec
from mssgen.codecs.streaming import decode_stream, encode_stream
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Progress, Start, Warned, ignore
from mssgen.extras import missing
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.inspection.decibels import power_db, ratio_db
from mssgen.streams import align

STEM_SOURCES = ("name", "folder", "all")
MAX_STEMS = 14
"""Number of classes that a plot can distinguish."""
SILENCE_DB = -80.0
"""Files with less mean power, in dBFS, count as silent; well above 16-bit dither."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalysisOptions:
    """Options of an analysis."""

    stem_from: str = "name"
    """Source of the stem class of a file: its "name" ({track}/bass.wav), its "folder"
    (bass/{track}.wav), or "all" for a single class."""
    n_codebooks: tuple[int, ...] = ()
    """Numbers of codebooks for which to measure the SDR; empty: 1, 2, 4, ... and all."""
    max_s: float | None = None
    """Seconds to analyse from the start of each file; None: all."""
    n_points: int = 1000
    """Number of randomly sampled frames in the projections, over all stems."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        if self.stem_from not in STEM_SOURCES:
            raise UsageError(
                f"`stem_from` {self.stem_from} is unknown; use {', '.join(STEM_SOURCES)}"
            )
        if self.max_s is not None and not 0 < self.max_s < math.inf:
            raise UsageError(f"`max_s` {self.max_s:g} is out of range; use more than 0")


@dataclass(frozen=True)
class FileResult:
    """Measurements of a file that is not silent."""

    track: str
    duration_s: float
    level_db: float
    """RMS level, dBFS."""
    sdr_db: dict[int, float]
    """SDR of the reconstruction by number of codebooks."""


@dataclass
class StemAnalysis:
    """Results for all files of one stem."""

    stem: str
    counts: Tensor
    """[K, V] int64, how often each code was used."""
    frames: FrameSample
    files: list[FileResult] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Silent files, which are left out."""

    @property
    def n_frames(self) -> int:
        return int(self.counts[0].sum())

    def sdr_db(self, n_codebooks: int) -> list[float]:
        """SDR per file, dB."""
        return [file.sdr_db[n_codebooks] for file in self.files]


@dataclass(frozen=True)
class CodecAnalysis:
    """Result of an analysis; stems with only silent files have no frames."""

    codec: Codec
    options: AnalysisOptions
    n_codebooks: tuple[int, ...]
    """Numbers of codebooks with an SDR, ascending; the last is the ceiling."""
    stems: list[StemAnalysis]
    frequent: dict[str, FrequentCodes]
    """By stem, for stems with frames."""
    done: Done

    @property
    def heard(self) -> list[StemAnalysis]:
        """Stems with at least one file that is not silent."""
        return [stem for stem in self.stems if stem.files]

    @torch.inference_mode()
    def sampled_latents(self, n_codebooks: int) -> dict[str, NDArray[np.float32]]:
        """By stem, quantised latents [P, D] of its sampled frames, from the first codebooks."""
        device = self.codec.device
        latents = {}
        for stem in self.heard:
            codes = stem.frames.codes[:, :n_codebooks].T[None].to(device)
            latents[stem.stem] = self.codec.dequantize(codes)[0].T.float().cpu().numpy()
        return latents


def analyze_codec(
    tracks: Sequence[Track],
    codec: Codec,
    options: AnalysisOptions | None = None,
    *,
    hook: Hook = ignore,
) -> CodecAnalysis:
    """Encode and decode files and count codes; a file that fails does not stop the others.

    Mono codecs code a stereo file as mid and side (`channels.to_items`). The SDR covers both and
    equals that of the stereo file, because the transform is orthogonal. Codes are counted in mid
    only: the side of most stems is close to silence and would distort the counts.

    Raises:
        UsageError: wrong options, or too many stems (raised before any work).
        AudioError: nothing could be analysed. Failures of single files are reported to `hook`.
    """
    started = time.monotonic()
    options = options or AnalysisOptions()
    numbers = _sdr_numbers(codec, options.n_codebooks)
    names = [stem_of(track, options.stem_from) for track in tracks]
    unique = sorted(set(names))
    if len(unique) > MAX_STEMS:
        raise UsageError(
            f"`stem_from` {options.stem_from} gives {len(unique)} stems ({', '.join(unique[:3])}, "
            f"...) where {MAX_STEMS} can be told apart; use another `stem_from`"
        )
    n_points = max(1, options.n_points // len(unique)) if unique else 0
    stems = {
        name: StemAnalysis(
            name,
            torch.zeros(codec.n_codebooks, codec.codebook_size, dtype=torch.int64),
            FrameSample(n_points, options.seed + index),
        )
        for index, name in enumerate(unique)
    }
    n_failed = 0
    for track, name in zip(tracks, names, strict=True):
        try:
            _analyze_file(track, codec, stems[name], numbers, options, hook)
        except Exception as error:
            n_failed += 1
            _log.debug("%s failed", track.label, exc_info=True)
            is_ours = isinstance(error, MssgenError)
            kind = "" if is_ours else f"unexpected {type(error).__name__}: "
            hook(Failed(track.label, f"{kind}{error}"))
    heard = [stem for stem in stems.values() if stem.files]
    if not heard:
        raise AudioError(
            "there is nothing to analyse: every file is silent or failed; name other files"
        )
    frequent = {stem.stem: frequent_codes(codec, stem.counts, numbers) for stem in heard}
    done = Done(len(tracks) - n_failed, 0, n_failed, time.monotonic() - started)
    found = [stem for stem in stems.values() if stem.files or stem.silent]
    return CodecAnalysis(codec, options, numbers, found, frequent, done)


def check_packages() -> None:
    """Raise UsageError if a package of the report is not installed."""
    for module in ("matplotlib", "sklearn", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise missing(module, "analysis", "the analysis")


def stem_of(track: Track, stem_from: str) -> str:
    """Stem class of a file in lower case; see `AnalysisOptions.stem_from`."""
    if stem_from == "all" or track.path == STDIN:
        return "all"
    path = Path(os.path.abspath(track.path))
    name = path.stem if stem_from == "name" else path.parent.name
    # File names need not be valid text.
    return name.encode("utf-8", "backslashreplace").decode().lower() or "all"


def _sdr_numbers(codec: Codec, n_codebooks: Sequence[int]) -> tuple[int, ...]:
    """Numbers of codebooks for the SDR: as requested, else powers of two; always all, too."""
    powers = (2**exponent for exponent in range(codec.n_codebooks.bit_length()))
    chosen = [codec.check_n_codebooks(n) for n in n_codebooks or powers]
    return tuple(sorted({*chosen, codec.n_codebooks}))


@dataclass(frozen=True)
class _Signal:
    """A file at the sample rate of the codec; can be read repeatedly."""

    source: AudioSource
    codec: Codec
    max_s: float | None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks [C, T'] at the sample rate of the codec, with the channels of the file."""
        info = self.source.info
        at_rate = resample(self._cut(), info.n_channels, info.sample_rate, self.codec.sample_rate)
        return (block for block in at_rate if block.shape[-1])

    def items(self, kept: Tensor) -> Iterator[Tensor]:
        """Blocks [B, C, T'] of the `kept` items of `channels.to_items`, on the CPU."""
        layout = self.source.info.layout
        return (to_items(block, self.codec.n_channels, layout)[kept] for block in self.blocks())

    def _cut(self) -> Iterator[NDArray[np.float32]]:
        """Blocks [C, T'] of the first `max_s` seconds; AudioError for NaN or infinity."""
        rate = self.source.info.sample_rate
        n_left = max(1, round(self.max_s * rate)) if self.max_s else sys.maxsize
        n_read = 0
        for block in self.source.blocks():
            block = block[:, :n_left]
            check_finite(block, n_read, rate, self.source.name)
            yield block
            n_read += block.shape[1]
            n_left -= block.shape[1]
            if not n_left:
                return


def _analyze_file(
    track: Track,
    codec: Codec,
    stem: StemAnalysis,
    numbers: Sequence[int],
    options: AnalysisOptions,
    hook: Hook,
) -> None:
    device = codec.device
    with open_source(track.path) as source:
        info, signal = source.info, _Signal(source, codec, options.max_s)
        n_samples, energy, of_items = 0, 0.0, torch.zeros(1, dtype=torch.float64)
        for block in signal.blocks():
            n_samples += block.shape[-1]
            energy += float(np.square(block, dtype=np.float64).sum())
            of_items = of_items + _energies(to_items(block, codec.n_channels, info.layout))
        level_db = power_db(energy / (info.n_channels * max(1, n_samples)))
        if level_db < SILENCE_DB:
            stem.silent.append(track.label)
            hook(Warned(track.label, "the file is silent and left out"))
            return
        duration_s = n_samples / codec.sample_rate
        hook(Start(track.label, duration_s, info.sample_rate, info.n_channels, str(device), "fp32"))
        # As in `.codes` files: silent items, such as the side of a mono file, have no codes.
        heard = of_items.nonzero().flatten()
        codes = encode_stream(codec, (block.to(device) for block in signal.items(heard)))
        decoded = [decode_stream(codec, codec.truncate(codes, n)) for n in numbers]
        errors = torch.zeros(len(numbers), dtype=torch.float64)
        n_done = 0
        for target, *estimates in align([signal.items(heard), *decoded]):
            errors += torch.stack([_energies(target - part.cpu()).sum() for part in estimates])
            n_done += target.shape[-1]
            hook(Progress(track.label, n_done / codec.sample_rate, duration_s))
    total = float(of_items.sum())
    sdr = {n: ratio_db(total, error) for n, error in zip(numbers, errors.tolist(), strict=True)}
    # Counted last: a file that fails must not count.
    is_middle = (heard % 2 == 0) | (codec.n_channels > 1)
    counted = codes.codes[is_middle] if is_middle.any() else codes.codes
    stem.counts += count_codes(counted, codec.codebook_size)
    stem.frames.add(counted)
    stem.files.append(FileResult(track.label, duration_s, level_db, sdr))


def _energies(items: Tensor) -> Tensor:
    """Energies [B] of items [B, C, T], float64."""
    return items.double().square().sum(dim=(1, 2))
