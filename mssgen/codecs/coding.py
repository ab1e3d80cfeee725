"""Songs to codes and back, in blocks.

A codec that does not scale by itself gets the song at a level where it works (`gain` in `.codes`
files), and decoding undoes that: what comes back is as loud as what went in.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.audio.channels import from_items, to_items
from mssgen.audio.levels import LoudLevel, gain_into
from mssgen.audio.reading import Source, check_finite
from mssgen.audio.resampling import fit_length, out_samples, resample
from mssgen.codecs.base import Codec
from mssgen.codecs.container import CodedAudio
from mssgen.codecs.streaming import decode_stream, encode_stream
from mssgen.errors import AudioError, UsageError
from mssgen.events import Hook, Progress, ignore


def encode_source(
    source: Source,
    codec: Codec,
    *,
    n_codebooks: int | None = None,
    duration_s: float | None = None,
    hook: Hook = ignore,
) -> CodedAudio:
    """Code a song of any rate and number of channels; memory holds its codes and a few seconds.

    Args:
        source: is read twice, or once for a codec that scales by itself.
        codec: frozen, on any device.
        n_codebooks: how many levels; None takes all.
        duration_s: of the song, for the progress; None tells none.
        hook: told the progress.

    Raises:
        UsageError: the codec has not that many codebooks. AudioError: the song cannot be read.
    """
    codec.check_n_codebooks(n_codebooks)
    info, device = source.info, next(codec.encoder.parameters()).device
    gain = _gain(source, codec)
    n_samples = 0
    is_silent: torch.Tensor | None = None  # [B]

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal n_samples
        for block in source.blocks():
            check_finite(block, n_samples, info.sample_rate, source.name)
            n_samples += block.shape[-1]
            yield block
            if duration_s is not None:
                hook(Progress(source.name, n_samples / info.sample_rate, duration_s))

    def items() -> Iterator[torch.Tensor]:
        nonlocal is_silent
        for block in resample(counted(), info.n_channels, info.sample_rate, codec.sample_rate):
            if block.shape[-1]:
                batch = to_items(block * np.float32(gain), codec.n_channels, info.layout)
                silent = (batch == 0).flatten(1).all(dim=1)
                is_silent = silent if is_silent is None else is_silent & silent
                yield batch.to(device)

    try:
        codes = encode_stream(codec, items(), n_codebooks)
    except ValueError:
        raise AudioError(
            f"{source.name} is shorter than a sample at {codec.sample_rate} Hz: give it more"
        ) from None
    assert is_silent is not None
    kept = ~is_silent
    heard = replace(
        codes,
        codes=codes.codes[kept],
        scale=None if codes.scale is None else codes.scale[kept],
    )
    silent = tuple(int(item) for item in is_silent.nonzero().flatten())
    return CodedAudio(
        heard,
        codec.name,
        info.sample_rate,
        info.n_channels,
        n_samples,
        len(is_silent),
        silent,
        gain,
        info.layout,
    )


def _gain(source: Source, codec: Codec) -> float:
    """What brings a song to a level where the codec works; 1 for one that sees to that."""
    if codec.scales(torch.ones(1, codec.n_channels, 1)) is not None:
        return 1.0
    level, n_samples = LoudLevel(), 0
    for block in source.blocks():
        check_finite(block, n_samples, source.info.sample_rate, source.name)
        n_samples += block.shape[-1]
        level.add(block)
    return float(np.float32(gain_into(level.value, codec.wanted_level)))


def decode_coded(
    coded: CodedAudio, codec: Codec, *, sample_rate: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Decode in blocks [C, T'] with rate, channels and length of the song that was coded.

    `sample_rate` (Hz) asks for another rate. Raises UsageError for the codes of another codec.
    """
    codec.check(coded.codes)
    n_coded = out_samples(coded.n_samples, coded.sample_rate, codec.sample_rate)
    if n_coded > coded.codes.n_samples + 1:
        raise UsageError(
            f"these codes are damaged: they hold {coded.codes.n_samples} samples, and a song of "
            f"{coded.n_samples} at {coded.sample_rate} Hz has {n_coded}; encode the song again"
        )
    out_rate = sample_rate or coded.sample_rate
    n_samples = out_samples(coded.n_samples, coded.sample_rate, out_rate)
    resampled = resample(_decoded(coded, codec), coded.n_channels, codec.sample_rate, out_rate)
    yield from fit_length(resampled, coded.n_channels, n_samples)


def _decoded(coded: CodedAudio, codec: Codec) -> Iterator[NDArray[np.float32]]:
    """Blocks [C, T'] at the codec's rate; silent items are zeros."""
    heard = [item for item in range(coded.n_items) if item not in coded.silent]
    if not heard:
        for start in range(0, coded.codes.n_samples, codec.sample_rate):
            length = min(codec.sample_rate, coded.codes.n_samples - start)
            yield np.zeros((coded.n_channels, length), np.float32)
        return
    for block in decode_stream(codec, coded.codes):
        items = torch.zeros(coded.n_items, *block.shape[1:])
        items[heard] = block.float().cpu()
        yield from_items(items / coded.gain, coded.n_channels, coded.layout)
