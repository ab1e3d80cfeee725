"""Audio of any rate and number of channels to codes and back, in blocks.

For a codec that does not scale its input, a gain first brings the audio into the codec's level
range, or to its loudness; it is stored as `gain` in `.codes` files, and decoding divides by it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.audio.channels import downmixed, from_items, to_items
from mssgen.audio.levels import LoudLevel, gain_into
from mssgen.audio.loudness import LoudnessMeter
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
    """Code audio of any rate and number of channels.

    Memory holds the codes and a few seconds of audio.

    Args:
        source: read twice; once for a codec that scales its segments.
        codec: frozen, on any device.
        n_codebooks: number of codebooks to code; None codes all.
        duration_s: duration of the audio in seconds, for progress events; None sends none.
        hook: receives `Progress` events.

    Raises:
        UsageError: the codec has fewer codebooks.
        AudioError: the audio cannot be read, or is shorter than one sample at the codec's rate.
    """
    codec.check_n_codebooks(n_codebooks)
    info, device = source.info, codec.device
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
            f"{source.name} is shorter than a sample at {codec.sample_rate} Hz: use longer audio"
        ) from None
    assert is_silent is not None
    kept = ~is_silent
    audible = replace(
        codes,
        codes=codes.codes[kept],
        scale=None if codes.scale is None else codes.scale[kept],
    )
    silent = tuple(int(item) for item in is_silent.nonzero().flatten())
    return CodedAudio(
        audible,
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
    """Linear gain that brings the audio to the codec's level or loudness; 1 if the codec scales."""
    if codec.scales(torch.ones(1, codec.n_channels, 1)) is not None:
        return 1.0
    info, level, n_samples, peak = source.info, LoudLevel(), 0, 0.0
    meter = LoudnessMeter(info.sample_rate, 1)
    for block in source.blocks():
        check_finite(block, n_samples, info.sample_rate, source.name)
        n_samples += block.shape[-1]
        level.add(block)
        if codec.loudness_lufs is not None:
            peak = max(peak, float(np.abs(block).max(initial=0)))
            meter.add(downmixed(block, info.layout).mean(axis=0, keepdims=True))
    gain = gain_into(level.value, codec.level_range)
    # Unknown for silence, less than 0.4 s, and a mono sum that cancels.
    if codec.loudness_lufs is not None and (lufs := meter.integrated_lufs()) is not None:
        gain = min(10 ** ((codec.loudness_lufs - lufs) / 20), 1 / peak)
    return float(np.float32(gain))


def decode_coded(
    coded: CodedAudio, codec: Codec, *, sample_rate: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Audio in blocks [C, T'], with the channels and length of the file that was coded.

    Args:
        coded: from `encode_source` or `read_codes`.
        codec: the codec that made the codes.
        sample_rate: sample rate of the output, Hz; None: that of the file that was coded.

    Raises:
        UsageError: the codes are damaged or were made by another codec.
    """
    codec.check(coded.codes)
    n_coded = out_samples(coded.n_samples, coded.sample_rate, codec.sample_rate)
    if n_coded > coded.codes.n_samples + 1:
        raise UsageError(
            f"these codes are damaged: they hold {coded.codes.n_samples} samples, and "
            f"{coded.n_samples} samples at {coded.sample_rate} Hz need {n_coded}; encode the audio "
            "again"
        )
    out_rate = sample_rate or coded.sample_rate
    n_samples = out_samples(coded.n_samples, coded.sample_rate, out_rate)
    resampled = resample(_decoded(coded, codec), coded.n_channels, codec.sample_rate, out_rate)
    yield from fit_length(resampled, coded.n_channels, n_samples)


def _decoded(coded: CodedAudio, codec: Codec) -> Iterator[NDArray[np.float32]]:
    """Audio in blocks [C, T'] at the codec's rate, with silent items as zeros."""
    audible = [item for item in range(coded.n_items) if item not in coded.silent]
    if not audible:
        for start in range(0, coded.codes.n_samples, codec.sample_rate):
            length = min(codec.sample_rate, coded.codes.n_samples - start)
            yield np.zeros((coded.n_channels, length), np.float32)
        return
    for block in decode_stream(codec, coded.codes):
        items = torch.zeros(coded.n_items, *block.shape[1:])
        items[audible] = block.float().cpu()
        yield from_items(items / coded.gain, coded.n_channels, coded.layout)
