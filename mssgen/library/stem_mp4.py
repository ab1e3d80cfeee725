"""Reads the streams of MUSDB18's .stem.mp4 files with the stempeg package and ffmpeg."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import AudioError, UsageError
from mssgen.extras import require

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
"""Names of the streams in the order of the file (musdb's `stem_ids`)."""
# Decoders may output a frame or two less than the container declares.
_TOLERATED_SAMPLES = 4096


@dataclass(frozen=True)
class StemStream:
    """One of the five streams of a file; UsageError if stempeg is not installed."""

    path: Path
    index: int
    """Index into STREAMS."""

    def __post_init__(self) -> None:
        _stempeg(self.path)

    @property
    def sample_rate(self) -> int:
        return int(self._info.sample_rate(self.index))

    @property
    def n_samples(self) -> int:
        return int(self._info.samples(self.index))

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """Samples [C, n_samples] from `start_sample`; ffmpeg decodes the file up to there."""
        n_held = min(n_samples, max(0, self.n_samples - start_sample))
        samples = np.zeros((0, self._info.channels(self.index)), np.float32)
        if n_held:
            stempeg = _stempeg(self.path)
            try:
                samples, _ = stempeg.read_stems(
                    str(self.path),
                    start=start_sample / self.sample_rate,
                    # Times are rounded to microseconds, so request one sample more than needed.
                    duration=(n_held + 1) / self.sample_rate,
                    stem_id=self._info.audio_stream_idx()[self.index],
                    always_3d=True,
                    dtype=np.float32,
                    info=self._info,
                )
                samples = samples[0]
            except Exception as error:  # stempeg raises Warning, RuntimeError and ffmpeg errors
                raise _damaged(self.path) from error
        if len(samples) < n_held - _TOLERATED_SAMPLES:
            raise _damaged(self.path)
        held = samples[:n_held].T
        return np.ascontiguousarray(np.pad(held, ((0, 0), (0, n_samples - held.shape[1]))))

    @cached_property
    def _info(self) -> Any:
        """stempeg's description of the file, from ffprobe."""
        stempeg = _stempeg(self.path)
        try:
            info = stempeg.Info(str(self.path))
        except FileNotFoundError as error:
            raise AudioError(f"{self.path} needs ffmpeg and ffprobe: install them") from error
        except Exception as error:
            raise _damaged(self.path) from error
        if info.nb_audio_streams != len(STREAMS):
            raise AudioError(
                f"{self.path} has {info.nb_audio_streams} audio streams instead of MUSDB18's "
                f"{len(STREAMS)} ({', '.join(STREAMS)}); move it out of the library"
            )
        return info


def _stempeg(path: Path) -> Any:
    """The stempeg package, to read `path`; UsageError if it or ffmpeg is missing."""
    try:
        return require("stempeg", "train", f"reading {path}")
    except RuntimeError as error:  # stempeg looks for them when imported
        raise UsageError(f"{path} needs ffmpeg and ffprobe: install them") from error


def _damaged(path: Path) -> AudioError:
    return AudioError(f"{path} is damaged or not a MUSDB18 file; get a new copy")
