"""Stems out: every file is complete under its name, or absent.

A stem is written to a hidden file beside its target and renamed when it is done. Memory is one
block, whatever the length.
"""

import errno
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mssgen.channel_maps import write_layout
from mssgen.encoding import CONTAINERS, Encoding
from mssgen.errors import AudioError, UsageError
from mssgen.speakers import Layout, order_for
from mssgen.tags import Tags, write_tags
from mssgen.wav_chunks import StudioChunks, write_studio_chunks

CLIP_MODES = ("rescale", "clamp", "none")
BLOCK_SAMPLES = 2**16


class StemWriter:
    """One output file, complete or absent.

    With `clip="rescale"` and an encoding that ends at full scale the gain is known only when the
    last sample is, so the samples wait in an unnamed temporary file as float32; otherwise they
    are encoded as they come. `clip="clamp"` limits to full scale. `clip="none"` leaves samples
    above full scale to the format: float keeps them, integers saturate, lossy codecs take them.
    16 bit is dithered (triangular, seeded by the file name: two runs give the same bytes), except
    where a sample is exactly zero: silence stays silent.
    """

    def __init__(
        self,
        target: Path,
        *,
        sample_rate: int,
        n_channels: int,
        n_samples: int,
        encoding: Encoding,
        clip: str,
        layout: Layout = (),
    ) -> None:
        """Create the folder and start the file; `layout` are its speakers, as in `AudioInfo`.

        Channels come in the order of WAV; the file has the order of its format. Raises UsageError
        or AudioError if it cannot.
        """
        if clip not in CLIP_MODES:
            raise UsageError(f"--clip {clip} is unknown; use one of {', '.join(CLIP_MODES)}")
        encoding.check(sample_rate, n_channels)
        self._target, self._encoding, self._clip = target, encoding, clip
        self._n_channels, self._n_samples, self._n_written = n_channels, n_samples, 0
        self._layout = layout
        self._order = order_for(layout, n_channels, encoding.container)
        self._peak = 0.0
        self._part = target.parent / f".mssgen-{secrets.token_hex(6)}.part"
        self._spool: BinaryIO | None = None
        self._encoder: _Encoder | None = None
        format_names = encoding.sndfile_format(n_samples, n_channels)
        if format_names[0] == "WAV" and len(layout) > 2:
            format_names = "WAVEX", format_names[1]
        with self._reported():
            target.parent.mkdir(parents=True, exist_ok=True)
            if clip == "rescale" and not encoding.is_float:
                self._spool = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115
            seed = zlib.crc32(os.fsencode(target.name))
            self._encoder = _Encoder(
                self._part, sample_rate, n_channels, encoding, format_names, seed
            )

    @property
    def peak(self) -> float:
        """The largest magnitude written so far, before any gain or limit; 1 is full scale."""
        return self._peak

    def write(self, block: NDArray[np.float32]) -> None:
        """Append samples [C, T']; raises AudioError when the disk is full."""
        if not block.size:
            return
        peak = float(np.abs(block).max())
        if not np.isfinite(peak):
            self.discard()
            raise AudioError(
                f"{self._target} would hold samples that are no numbers; try --precision fp32"
            )
        self._peak = max(self._peak, peak)
        self._n_written += block.shape[1]
        with self._reported():
            if self._spool is not None:
                self._spool.write(np.ascontiguousarray(block.T, np.float32).tobytes())
            else:
                self._encode(np.clip(block, -1.0, 1.0) if self._clip == "clamp" else block)

    def finish(
        self,
        gain: float = 1.0,
        *,
        tags: Tags | None = None,
        stem: str = "",
        studio: StudioChunks | None = None,
    ) -> Path:
        """Encode what waits, multiplied by `gain`; tag it, give it its name and return that.

        `gain` is for clip="rescale" only. `tags` are the song's; `stem` is added to the title.
        `studio` goes into a wav only.
        Raises AudioError when the disk is full or the target cannot be replaced.
        """
        if self._n_written != self._n_samples:
            raise ValueError(f"{self._n_written} samples written of {self._n_samples}")
        if gain != 1.0 and self._spool is None:
            raise ValueError("the samples are encoded already: a gain needs clip='rescale'")
        with self._reported():
            if self._spool is not None:
                self._spool.seek(0)
                n_values = BLOCK_SAMPLES * self._n_channels
                while data := self._spool.read(4 * n_values):
                    block = np.frombuffer(data, np.float32).reshape(-1, self._n_channels).T
                    self._encode(block * np.float32(gain))
                self._spool.close()
            assert self._encoder is not None
            self._encoder.close()
            write_layout(self._part, self._layout, self._encoding.container)
            if studio is not None and self._encoding.container == "wav":
                write_studio_chunks(self._part, studio)
            if tags is not None:
                write_tags(self._part, tags, stem=stem, container=self._encoding.container)
            os.replace(self._part, self._target)
        return self._target

    def discard(self) -> None:
        """Remove what is unfinished; a finished stem stays. May be called any number of times."""
        if self._spool is not None:
            with suppress(OSError):
                self._spool.close()
        if self._encoder is not None:
            self._encoder.abandon()
        with suppress(OSError):
            self._part.unlink()

    def __enter__(self) -> "StemWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _encode(self, block: NDArray[np.float32]) -> None:
        assert self._encoder is not None
        block = block[list(self._order)] if self._order else block
        # libsndfile's Vorbis encoder keeps a whole call on the stack.
        for start in range(0, block.shape[1], BLOCK_SAMPLES):
            self._encoder.write(block[:, start : start + BLOCK_SAMPLES])

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn the system's errors into sentences and leave nothing half written."""
        try:
            yield
        except OSError as error:
            self.discard()
            raise AudioError(_write_failure(self._target, error)) from error
        except BaseException:
            self.discard()
            raise


class _Encoder:
    """A new file at `path` that takes blocks [C, T'] in the given encoding; raises OSError."""

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        n_channels: int,
        encoding: Encoding,
        format_names: tuple[str, str],
        seed: int,
    ) -> None:
        self._bits = 0 if encoding.is_lossy or encoding.is_float else int(encoding.bit_depth)
        self._random = np.random.default_rng(seed)
        self._file = _NotingFile(path)
        try:
            self._sound = sf.SoundFile(
                self._file,
                "w",
                sample_rate,
                n_channels,
                format=format_names[0],
                subtype=format_names[1],
                **dict(CONTAINERS[encoding.container].settings),
            )
        except sf.SoundFileError as error:
            self._file.close()
            path.unlink(missing_ok=True)
            raise self._file.error or OSError(None, "the encoder refused to start") from error

    def write(self, block: NDArray[np.float32]) -> None:
        frames = block.T if self._bits == 0 else self._quantise(block)
        with self._noted():
            self._sound.write(np.ascontiguousarray(frames))

    def close(self) -> None:
        """Complete the file."""
        with self._noted():
            self._sound.close()
            self._file.close()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        with suppress(OSError, sf.SoundFileError):
            self._sound.close()
        self._file.close()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        # libsndfile knows only that a write came short; the reason stands in the file's note.
        try:
            yield
        except (sf.SoundFileError, AssertionError) as error:
            raise self._file.error or OSError(None, "the encoder failed") from error
        if self._file.error is not None:
            raise self._file.error

    def _quantise(self, block: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.int32]:
        """Round [C, T'] to integers [T', C]; libsndfile's own scale is 32767, but 32768 to read."""
        limit = 2.0 ** (self._bits - 1)
        frames = block.T * np.float32(limit)
        if self._bits == 16:
            # One draw a sample, in the order of time: the bytes do not depend on the blocks.
            noise = self._random.random((*frames.shape, 2), dtype=np.float32)
            frames = np.where(frames == 0, frames, frames + noise[..., 0] - noise[..., 1])
        whole: NDArray[np.float32] = np.clip(np.rint(frames), -limit, limit - 1)
        return whole.astype(np.int16) if self._bits == 16 else whole.astype(np.int32) << 8


class _NotingFile:
    """A new file for libsndfile's callbacks that notes the error which those would swallow."""

    def __init__(self, path: Path) -> None:
        # O_EXCL through "x": never into a file, or a link, that someone else put there.
        self._file = open(path, "x+b", buffering=2**18)  # noqa: SIM115
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            return 0

    def seek(self, offset: int, whence: Literal[0, 1, 2] = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return -1

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


_WRITE_FAILURES = {
    errno.ENOSPC: "the disk is full; free some space, or choose another --output",
    errno.EDQUOT: "your disk quota is used up; free some space, or choose another --output",
    errno.EFBIG: "the file would be too large here; choose another --output or --format flac",
    errno.EACCES: "there is no permission to write there; choose another --output",
    errno.EPERM: "there is no permission to write there; choose another --output",
    errno.EROFS: "the disk is read-only; choose another --output",
    errno.EISDIR: "a folder has that name; choose another --output or --template",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another --output",
    errno.EEXIST: "a file stands where a folder should; choose another --output",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter --output or --template",
}


def _write_failure(target: Path | str, error: OSError) -> str:
    reason = _WRITE_FAILURES.get(error.errno or 0)
    return f"{target} cannot be written: " + (
        reason or f"{error.strerror or error}; choose another --output"
    )


def copy_to_stdout(path: Path, stream: BinaryIO) -> None:
    """Copy a finished file into `stream` in blocks.

    Raises AudioError when that cannot be written; BrokenPipeError passes, it is no failure.
    """
    try:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, stream, 2**20)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudioError(_write_failure("standard output", error)) from error
