"""Reads the parts of a sound file in order, skipping damage where possible."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mssgen.audio.containers import flac_frames
from mssgen.audio.containers.byte_views import ByteView
from mssgen.audio.containers.file_layout import MAX_LOSSES, Part, cut_short, damaged
from mssgen.audio.containers.parts import (
    DECODE_ERRORS,
    UNDECLARED,
    DecodeError,
    decode_part,
    find_layout,
    mapped,
    open_stream,
)
from mssgen.errors import AudioError


class PartReader:
    """Reader of the parts of one file.

    Damage found while decoding is reported once and remembered, so that every pass over the file
    reads the same samples.

    Args:
        name: the file in messages.
        path: the file.
        parts: its parts in order; None is the file as it is.
        tell: called with each loss, which continues a sentence that starts with the name.
    """

    def __init__(
        self, name: str, path: Path, parts: tuple[Part | None, ...], tell: Callable[[str], None]
    ) -> None:
        self.path = path
        self._name = name
        self._tell = tell
        self._parts = list(parts)
        self._is_searched = False
        self._n_told = 0
        self._ends: set[int] = set()
        """Indices of parts whose early end was reported."""

    def open_first(self) -> AbstractContextManager[sf.SoundFile]:
        """Open the first part; raises `DECODE_ERRORS` on entering."""
        return self._opened(self._parts[0])

    @contextmanager
    def _opened(self, part: Part | None) -> Iterator[sf.SoundFile]:
        with ExitStack() as stack:
            yield open_stream(stack, self.path, part)

    def formats(self) -> list[tuple[int, int]]:
        """(sample rate, channels) of each part; parts that cannot be opened are dropped."""
        found, kept = [], list[Part | None]()
        for part in self._parts:
            with ExitStack() as stack:
                try:
                    file = open_stream(stack, self.path, part)
                except DECODE_ERRORS:
                    continue
                found.append((file.samplerate, file.channels))
                kept.append(part)
        if len(kept) < len(self._parts):
            self._loss(f"is damaged: {len(self._parts) - len(kept)} stretches cannot be decoded")
        self._parts = kept
        return found

    def streams(self, block_samples: int) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
        """Yield (sample rate, blocks [C, T']) per part; use up the blocks before the next part."""
        self.search()
        index, position_s, stream_samples = 0, 0.0, 0
        while index < len(self._parts):
            with ExitStack() as stack:
                try:
                    file = open_stream(stack, self.path, self._parts[index])
                except DECODE_ERRORS as error:
                    message = f"{self._name} can no longer be read; was it changed?"
                    raise AudioError(message) from error
                rate, n_channels, n_frames = file.samplerate, file.channels, file.frames
            n_lost, ends_at = 0, None
            if (part := self._parts[index]) is not None:
                n_lost, ends_at = part.n_lost_before, part.ends_at
            if ends_at is None:
                stream_samples = 0
            elif n_frames < UNDECLARED:
                n_lost = max(0, ends_at - n_frames - stream_samples)
            counter = _Counter()
            blocks = self._blocks(index, block_samples, position_s + n_lost / rate, rate)
            yield rate, counter.count(chain(_silence(n_channels, n_lost, block_samples), blocks))
            position_s += counter.n_samples / rate
            stream_samples += counter.n_samples
            index += 1

    def _blocks(
        self, index: int, block_samples: int, begin_s: float, rate: int
    ) -> Iterator[NDArray[np.float32]]:
        part = self._parts[index]
        try:
            yield from decode_part(self.path, part, block_samples)
        except DecodeError as error:
            self._heal(index, error, begin_s, rate)

    def _heal(self, index: int, error: DecodeError, begin_s: float, rate: int) -> None:
        """Insert a part for the audio after the damage, or report that there is none."""
        part, end_s = self._parts[index], begin_s + error.n_samples / rate
        data = mapped(self.path)
        if error.is_failure and data[:4] == b"fLaC":
            whole = part or Part((range(len(data)),))
            after = flac_frames.resume(data, whole, error.n_samples)
            self._parts[index] = replace(whole, n_samples=error.n_samples)
            if after is not None:
                self._parts.insert(index + 1, after)
                self._loss(damaged(end_s, after.n_lost_before / rate))
                return
        if index in self._ends:
            return
        self._ends.add(index)
        if error.n_declared > error.n_samples:
            self._loss(cut_short(end_s, begin_s + error.n_declared / rate))
        else:
            self._loss(f"cannot be decoded beyond {end_s:.2f} s")

    def _loss(self, loss: str) -> None:
        self._n_told += 1
        if self._n_told <= MAX_LOSSES:
            self._tell(loss)
        elif self._n_told == MAX_LOSSES + 1:
            self._tell("is damaged at more places")

    def search(self) -> None:
        """Find FLAC files joined to the first one; later calls do nothing."""
        if not self._is_searched and len(self._parts) == 1 and self._is_flac():
            layout = find_layout(self.path, is_thorough=True)
            if layout is not None and len(layout.parts) > 1:
                self._parts = list(layout.parts)
                self.formats()
        self._is_searched = True

    def _is_flac(self) -> bool:
        return mapped(self.path)[:4] == b"fLaC"

    def seekable_samples(self) -> int:
        """Length in samples of an intact file of one part; 0 for other files."""
        if len(self._parts) != 1 or (self._parts[0] and self._parts[0].n_samples is not None):
            return 0
        with ExitStack() as stack:
            n_samples = int(self._open(stack).frames)
        return n_samples if n_samples < UNDECLARED else 0

    def read(self, start_sample: int, n_samples: int) -> NDArray[np.float32]:
        """Read samples [T, C] of a file with `seekable_samples`; fewer if it is damaged there."""
        with ExitStack() as stack:
            file = self._open(stack)
            file.seek(start_sample)
            found: NDArray[np.float32] = file.read(n_samples, dtype="float32", always_2d=True)
        return found

    def _open(self, stack: ExitStack) -> sf.SoundFile:
        part = self._parts[0]
        if part is None:
            return stack.enter_context(sf.SoundFile(os.fsencode(self.path)))
        view = stack.enter_context(ByteView(self.path, part.pieces))
        return stack.enter_context(sf.SoundFile(view))


def _silence(n_channels: int, n_samples: int, block_samples: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, n_samples, block_samples):
        n_zeros = min(block_samples, n_samples - start)
        yield np.zeros((n_channels, n_zeros), np.float32)


class _Counter:
    """Counts the samples of a stream of blocks [C, T']."""

    def __init__(self) -> None:
        self.n_samples = 0

    def count(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            self.n_samples += block.shape[1]
            yield block
