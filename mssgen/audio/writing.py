"""Writing stems: every output file is complete or absent.

A stem is written in constant memory to a hidden file beside its target, which is renamed at the
end.
"""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mssgen.audio.containers.channel_maps import write_layout
from mssgen.audio.containers.stable_bytes import settle
from mssgen.audio.containers.wav_chunks import StudioChunks, write_studio_chunks
from mssgen.audio.encodings import CONTAINERS, Encoding
from mssgen.audio.resampling import BLOCK_SAMPLES
from mssgen.audio.speakers import Layout, order_for
from mssgen.audio.tags import Tags, write_tags
from mssgen.errors import AudioError, UsageError
from mssgen.files import Draft, unwritable

CLIP_MODES = ("rescale", "clamp", "none")


def check_clip(clip: str) -> None:
    """Raise UsageError unless `clip` is one of `CLIP_MODES`."""
    if clip not in CLIP_MODES:
        raise UsageError(f"`clip={clip!r}` is unknown; use one of {', '.join(CLIP_MODES)}")


def over_full_scale(gain: float, clip: str, *, lowered: str = "the output was lowered") -> str:
    """Warning about a peak that needs `gain` below 1 to fit; `lowered` names the lowered files."""
    done = f"{lowered} by as much" if clip == "rescale" else "peaks were clipped"
    over_db = -20 * np.log10(gain)
    return f"the peak is {over_db:.1f} dB over full scale; {done} (`bit_depth='32f'` avoids this)"


class StemWriter:
    """One output file, complete or absent.

    With `clip="rescale"` and an encoding that ends at full scale, the gain is known only after the
    last sample, so float32 samples are kept in an unnamed temporary file until then; otherwise
    samples are encoded as they arrive. `clip="clamp"` limits to full scale. `clip="none"` leaves
    samples above full scale to the format: float keeps them, integers saturate, lossy codecs
    encode them. 16 bit is dithered (triangular, seeded by the file name, so two runs write the
    same bytes), except samples that are exactly zero: silence stays silent.
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
        """Create the folder and start the file.

        Args:
            target: path of the finished file.
            sample_rate: in Hz.
            n_channels: number of channels C.
            n_samples: length T that will be written.
            encoding: container and bit depth.
            clip: one of `CLIP_MODES`.
            layout: speaker of each channel, in WAV order; the file gets the order of its format.

        Raises:
            UsageError: the encoding does not fit, or `clip` is unknown.
            AudioError: the file cannot be created.
        """
        check_clip(clip)
        encoding.check(sample_rate, n_channels)
        self._target, self._encoding, self._clip = target, encoding, clip
        self._n_channels, self._n_samples, self._n_written = n_channels, n_samples, 0
        self._layout = layout
        self._order = order_for(layout, n_channels, encoding.container)
        self._peak = 0.0
        self._draft: Draft | None = None
        self._spool: BinaryIO | None = None
        self._encoder: _Encoder | None = None
        format_names = encoding.sndfile_format(n_samples, n_channels)
        if format_names[0] == "WAV" and len(layout) > 2:
            format_names = "WAVEX", format_names[1]
        with self._reported():
            self._draft = Draft(target)
            if clip == "rescale" and not encoding.is_float:
                self._spool = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115
            self._encoder = _Encoder(
                self._draft.path,
                sample_rate,
                n_channels,
                encoding,
                format_names,
                _seed(target),
            )

    @property
    def peak(self) -> float:
        """Largest magnitude written so far, before gain and limiting; 1 is full scale."""
        return self._peak

    def write(self, block: NDArray[np.float32]) -> None:
        """Append samples [C, T']; raises AudioError for NaN and if the disk is full."""
        if not block.size:
            return
        peak = float(np.abs(block).max())
        if not np.isfinite(peak):
            self.discard()
            raise AudioError(
                f"{self._target} would hold NaN or infinite samples; try `precision='fp32'`"
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
        announce: Callable[[Path], None] | None = None,
    ) -> Path:
        """Complete the file, give it its name and return its path.

        Args:
            gain: factor for all samples; only 1 unless `clip="rescale"` held them back.
            tags: tags of the mixture.
            stem: name of the stem, added to the title.
            studio: studio chunks to add to a wav.
            announce: called with the path of the complete file before it is renamed to its target.

        Raises:
            AudioError: the disk is full or the target cannot be replaced.
            ValueError: the number of samples is not `n_samples`, or `gain` comes too late.
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
            assert self._draft is not None
            self._encoder.close()
            write_layout(self._draft.path, self._layout, self._encoding.container)
            if studio is not None and self._encoding.container == "wav":
                write_studio_chunks(self._draft.path, studio)
            settle(self._draft.path, self._encoding.container, _seed(self._target))
            if tags is not None:
                write_tags(self._draft.path, tags, stem=stem, container=self._encoding.container)
            if announce is not None:
                announce(self._draft.path)
            self._draft.finish()
        return self._target

    def discard(self) -> None:
        """Remove an unfinished file; a finished one stays. May be called any number of times."""
        if self._spool is not None:
            with suppress(OSError):
                self._spool.close()
        if self._encoder is not None:
            self._encoder.abandon()
        if self._draft is not None:
            self._draft.discard()

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
        """Raise OSError as AudioError; on any error remove the unfinished file."""
        try:
            yield
        except OSError as error:
            self.discard()
            raise AudioError(unwritable(self._target, error)) from error
        except BaseException:
            self.discard()
            raise


def write_audio(
    target: Path,
    audio: NDArray[np.float32],
    sample_rate: int,
    encoding: Encoding,
    *,
    clip: str = "none",
) -> Path:
    """Write audio [C, T] at `sample_rate` (Hz) to a file of its own; see `StemWriter`."""
    with StemWriter(
        target,
        sample_rate=sample_rate,
        n_channels=audio.shape[0],
        n_samples=audio.shape[1],
        encoding=encoding,
        clip=clip,
    ) as writer:
        writer.write(audio)
        return writer.finish()


def _seed(target: Path) -> int:
    """Seed of dither and Ogg serial number, from the file name: two runs write the same bytes."""
    return zlib.crc32(os.fsencode(target.name))


class _Encoder:
    """Encodes blocks [C, T'] into the empty file at `path`; raises OSError."""

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
            raise self._file.error or OSError(None, "the encoder refused to start") from error

    def write(self, block: NDArray[np.float32]) -> None:
        frames = block.T if self._bits == 0 else self._quantise(block)
        with self._noted():
            self._sound.write(np.ascontiguousarray(frames))

    def close(self) -> None:
        """Write the header and close the file."""
        with self._noted():
            self._sound.close()
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, ignoring errors."""
        with suppress(OSError, sf.SoundFileError):
            self._sound.close()
        self._file.close()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        # libsndfile reports only a short write; the reason is in `_NotingFile.error`.
        try:
            yield
        except (sf.SoundFileError, AssertionError) as error:
            raise self._file.error or OSError(None, "the encoder failed") from error
        if self._file.error is not None:
            raise self._file.error

    def _quantise(self, block: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.int32]:
        """Round [C, T'] to integers [T', C] at scale 32768, with which libsndfile also reads.

        libsndfile itself would write at scale 32767.
        """
        limit = 2.0 ** (self._bits - 1)
        frames = block.T * np.float32(limit)
        if self._bits == 16:
            # Drawn sample by sample in time, so the bytes do not depend on the block length.
            noise = self._random.random((*frames.shape, 2), dtype=np.float32)
            frames = np.where(frames == 0, frames, frames + noise[..., 0] - noise[..., 1])
        whole: NDArray[np.float32] = np.clip(np.rint(frames), -limit, limit - 1)
        return whole.astype(np.int16) if self._bits == 16 else whole.astype(np.int32) << 8


class _NotingFile:
    """An empty file for libsndfile's callbacks; `error` keeps the first error they swallow."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "r+b", buffering=2**18)  # noqa: SIM115
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


def copy_to_stdout(path: Path, stream: BinaryIO) -> None:
    """Copy a finished file to `stream` in blocks.

    Raises AudioError if writing fails; BrokenPipeError passes, for the reader may stop early.
    """
    try:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, stream, 2**20)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudioError(unwritable("standard output", error)) from error
