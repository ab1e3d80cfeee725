"""Audio of the page: the same excerpt of all sources of a stem, matched in loudness."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.channels import downmixed
from mssgen.audio.encodings import Encoding
from mssgen.audio.loudness import integrated_lufs
from mssgen.audio.reading import AudioSource, open_source
from mssgen.audio.resampling import at_rate, fit_length, resample
from mssgen.audio.writing import write_audio

Audio = NDArray[np.float32]

_TARGET_LUFS = -20.0
_PEAK_DBFS = -1.0
# BS.1770 gates at -70 LUFS; below this it is noise in silence, not music to amplify.
_QUIETEST_LUFS = -55.0
_LONGEST_BLOCK_S = 0.4  # BS.1770 measures blocks of this length
_FADE_S = 0.01
_OPUS_RATE = 48_000


@dataclass(frozen=True)
class AlignedExcerpt:
    """The same part of every source of a stem, at the sample rate of the reference."""

    start_s: float
    song_s: float
    """Duration of the whole reference."""
    sample_rate: int
    sources: Mapping[str, Audio]
    """By name, [C, T] without gain; either all mono or all stereo."""

    @property
    def duration_s(self) -> float:
        return next(iter(self.sources.values())).shape[1] / self.sample_rate


@dataclass(frozen=True)
class Matched:
    """Gains that make all sources of a stem equally loud."""

    lufs: float
    """Integrated loudness of every measurable source with its gain (ITU-R BS.1770)."""
    gains_db: Mapping[str, float]
    is_silent: Mapping[str, bool]
    """Whether a source is too quiet to measure; it gets the gain of the reference."""


def read_excerpt(paths: Mapping[str, Path], reference: str, seconds: float) -> AlignedExcerpt:
    """Read the same part of all files: the `seconds` with the most energy in `reference`.

    Files are resampled to the rate of the reference, and cut or padded with zeros at the end. More
    than two channels are mixed to stereo; mono is doubled if another source is stereo, because
    loudness sums over channels. 0 seconds: the whole file. Raises AudioError.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(open_source(path)) for name, path in paths.items()}
        rate = files[reference].info.sample_rate
        n_song, start = _loudest(files[reference], round(seconds * rate))
        n_samples = min(n_song, round(seconds * rate)) if seconds else n_song
        sources = {name: _read(file, start / rate, n_samples, rate) for name, file in files.items()}
    n_channels = max(len(audio) for audio in sources.values())
    sources = {
        name: np.broadcast_to(audio, (n_channels, audio.shape[1]))
        for name, audio in sources.items()
    }
    return AlignedExcerpt(start / rate, n_song / rate, rate, sources)


def _loudest(source: AudioSource, n_samples: int) -> tuple[int, int]:
    """(length of the file, start of the `n_samples` with the most energy, to 0.1 s)."""
    step = max(1, source.info.sample_rate // 10)
    # Blocks of some files are shorter than requested.
    blocks = [(block.shape[1], float(np.square(block).sum())) for block in source.blocks(step)]
    lengths, energies = np.array(blocks).T
    ends, sums = np.cumsum(lengths), np.cumsum(energies)
    n_song, starts = int(ends[-1]), ends - lengths
    starts = starts[starts + n_samples <= n_song]
    if not n_samples or not len(starts):
        return n_song, 0
    last = np.searchsorted(ends, starts + n_samples)
    return n_song, int(starts[(sums[last] - (sums - energies)[: len(starts)]).argmax()])


def _read(source: AudioSource, start_s: float, n_samples: int, rate: int) -> Audio:
    own_rate = source.info.sample_rate
    n_own = -(-n_samples * own_rate // rate)
    block = source.segment(round(start_s * own_rate), n_own)
    if len(block) > 2:
        block = downmixed(block, source.info.layout)
    # The evaluation reports NaN; a page must not fail because of it.
    block = np.nan_to_num(block, posinf=0.0, neginf=0.0)
    parts = fit_length(resample([block], len(block), own_rate, rate), len(block), n_samples)
    return np.concatenate(list(parts), axis=1)


def loudness_lufs(audio: Audio, sample_rate: int) -> float | None:
    """Integrated loudness of [C, T] by ITU-R BS.1770-4; None for (near) silence."""
    shortfall = math.ceil(_LONGEST_BLOCK_S * sample_rate) + 1 - audio.shape[1]
    if shortfall > 0:
        # Repeating keeps the level of signals too short to measure.
        audio = np.tile(audio, -(-shortfall // audio.shape[1]) + 1)
    loudness = integrated_lufs(audio, sample_rate)
    return loudness if loudness is not None and loudness >= _QUIETEST_LUFS else None


def match(excerpt: AlignedExcerpt, reference: str) -> Matched:
    """Gains to -20 LUFS, or lower if a source would peak above -1 dBFS."""
    measured = {
        name: loudness_lufs(audio, excerpt.sample_rate) for name, audio in excerpt.sources.items()
    }
    target = _TARGET_LUFS
    for name, loudness in measured.items():
        if loudness is not None:
            peak_db = 20 * math.log10(float(np.abs(excerpt.sources[name]).max()))
            target = min(target, loudness + _PEAK_DBFS - peak_db)
    gains = {name: target - loudness for name, loudness in measured.items() if loudness is not None}
    fallback = gains.get(reference, min(gains.values(), default=0.0))
    return Matched(
        target,
        {name: gains.get(name, min(fallback, 0.0)) for name in measured},
        {name: loudness is None for name, loudness in measured.items()},
    )


def amplified(audio: Audio, gain_db: float) -> Audio:
    """Audio [C, T] with a gain in dB."""
    return np.asarray(audio * np.float32(10 ** (gain_db / 20)), np.float32)


def write_sound(audio: Audio, sample_rate: int, target: Path, container: str) -> None:
    """Encode [C, T] with short fades at both ends; raises UsageError or AudioError."""
    if container == "opus":
        audio, sample_rate = at_rate(audio, sample_rate, _OPUS_RATE), _OPUS_RATE
    n_fade = min(audio.shape[1] // 2, round(_FADE_S * sample_rate))
    audio = audio.copy()
    ramp = np.linspace(0, 1, n_fade, endpoint=False, dtype=np.float32)
    audio[:, :n_fade] *= ramp
    audio[:, audio.shape[1] - n_fade :] *= ramp[::-1]
    write_audio(target, audio, sample_rate, Encoding(container, "16"), clip="clamp")
