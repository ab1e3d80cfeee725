"""Streaming sample rate conversion, and lengths at another rate."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

BLOCK_SAMPLES = 2**16


def resample(
    blocks: Iterable[NDArray[np.float32]], n_channels: int, in_rate: int, out_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Resample blocks [C, T'] from `in_rate` to `out_rate` (Hz) without delay.

    The total length is T * out_rate / in_rate to within one sample; `fit_length` makes it exact.
    """
    if in_rate == out_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(in_rate, out_rate, n_channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(block.T)).T)
    end = np.zeros((0, n_channels), np.float32)
    yield np.ascontiguousarray(stream.resample_chunk(end, last=True).T)


def at_rate(audio: NDArray[np.float32], in_rate: int, out_rate: int) -> NDArray[np.float32]:
    """Resample audio [C, T] as a whole from `in_rate` to `out_rate` (Hz), without delay.

    At least one sample is left if there was one: of one or two the resampler may leave none.
    """
    if in_rate == out_rate:
        return audio
    joined = np.concatenate(list(resample([audio], len(audio), in_rate, out_rate)), axis=1)
    return joined if joined.shape[1] else audio[:, :1]


def fit_length(
    blocks: Iterable[NDArray[np.float32]], n_channels: int, n_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Cut or zero-pad the end of a stream of blocks [C, T'] to exactly `n_samples` in total."""
    n_left = n_samples
    for block in blocks:
        if n_left == 0:
            return
        yield block[:, :n_left]
        n_left -= min(n_left, block.shape[1])
    while n_left:
        n_zeros = min(n_left, BLOCK_SAMPLES)
        yield np.zeros((n_channels, n_zeros), np.float32)
        n_left -= n_zeros


def out_samples(n_samples: int, in_rate: int, out_rate: int) -> int:
    """Length or position in samples at `out_rate`, rounded to the nearest sample."""
    return (2 * n_samples * out_rate + in_rate) // (2 * in_rate)
