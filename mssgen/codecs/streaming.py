"""Block-wise coding of long audio, in memory that does not depend on its length.

The result equals that of one call on the whole signal: convolutions get each block with the context
of their receptive field, LSTMs carry their state from block to block, and segmented codecs are run
segment by segment.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mssgen.codecs.base import Codec, Codes
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.streams import CrossFader, in_context

# Far longer than the receptive fields, yet small in memory: DAC keeps 64 channels of this length.
PIECE_SAMPLES = 2**17
_MAX_BATCH = 8  # segments per batch on a GPU; a CPU is fastest with one, which fits its cache


@torch.inference_mode()
def encode_stream(codec: Codec, blocks: Iterable[Tensor], n_codebooks: int | None = None) -> Codes:
    """Codes of a signal given in blocks [B, C, T'], as from `codec.encode` of the whole signal.

    Args:
        codec: frozen.
        blocks: samples at the codec's rate, on its device; full scale is 1.
        n_codebooks: number of codebooks to code; None codes all.

    Raises:
        UsageError: the codec has fewer codebooks.
        ValueError: the signal has no samples.
    """
    n_samples = 0

    def counted() -> Iterator[Tensor]:
        nonlocal n_samples
        for block in blocks:
            n_samples += block.shape[-1]
            yield block

    scales: deque[Tensor] = deque()
    # int16 until all are there: an hour of 32 codebooks takes 17 MB.
    codes = [
        codec.quantize(latents, n_codebooks).to("cpu", torch.int16)
        for latents in stream_latents(codec, counted(), scales=scales)
    ]
    if not codes:
        raise ValueError("there are no samples to encode")
    scale = torch.stack(list(scales), dim=-1).cpu() if scales else None
    return Codes(torch.cat(codes, dim=-1).long(), n_samples, codec.codec_id, scale)


@torch.inference_mode()
def decode_stream(codec: Codec, codes: Codes) -> Iterator[Tensor]:
    """Audio in blocks [B, C, T'], `codes.n_samples` in total, as from `codec.decode`.

    Raises:
        UsageError: the codes are damaged or were made by another codec.
    """
    codec.check(codes)
    step = max(1, PIECE_SAMPLES // codec.hop_length)
    device = codec.device
    latents = (codec.dequantize(part.to(device)) for part in codes.codes.split(step, dim=-1))
    scales = None if codes.scale is None else deque(codes.scale.to(device).unbind(-1))
    yield from stream_audio(codec, latents, codes.n_samples, scales)


@torch.inference_mode()
def stream_latents(
    codec: Codec,
    blocks: Iterable[Tensor],
    *,
    encoder: nn.Module | None = None,
    scales: deque[Tensor] | None = None,
) -> Iterator[Tensor]:
    """Latents [B, D, N'] of audio in blocks [B, C, T'], as from `codec.latents` of the whole.

    Args:
        codec: defines segments and padding.
        blocks: samples at the codec's rate, on its device; full scale is 1.
        encoder: replaces the codec's own encoder, and may take more channels; None: its own.
        scales: the gain [B] of each segment is appended, in order, if the codec scales.
    """
    encoder = encoder or codec.encoder
    if codec.segment_samples is not None:
        for batch in _segments(blocks, codec.segment_samples, codec.segment_stride or 1):
            n_items, n_segments = batch.shape[:2]
            flat = batch.flatten(0, 1)
            scale = codec.scales(flat)
            if scale is not None:
                scale = scale[:, :1]  # of this segment only, which overlaps with the next one
                flat = flat / scale[:, :, None]
                if scales is not None:
                    scales.extend(scale.view(n_items, n_segments).unbind(-1))
            latents = encoder(codec.pad(flat)).unflatten(0, (n_items, n_segments))
            yield latents.transpose(1, 2).flatten(2)
        return

    # The codec pads the last frame if it is incomplete.
    def padded(piece: Tensor) -> Tensor:
        return first(codec.pad(piece))

    first, *others = _stages(encoder)
    yield from _through(
        others,
        in_context(
            blocks,
            padded,
            step=_multiple(PIECE_SAMPLES, codec.hop_length),
            context=_context(first, codec.hop_length),
            hop_in=codec.hop_length,
        ),
        codec,
    )


@torch.inference_mode()
def stream_audio(
    codec: Codec,
    latents: Iterable[Tensor],
    n_samples: int,
    scales: deque[Tensor] | None = None,
) -> Iterator[Tensor]:
    """Audio in blocks [B, C, T'] from quantised latents, as from `codec.synthesize`.

    Args:
        codec: provides the decoder.
        latents: all frames of the audio, in blocks [B, D, N'] of any length.
        n_samples: total length of the audio in samples.
        scales: gain [B] of each segment, popped from the left as segments are decoded.

    Raises:
        ValueError: there are fewer frames than `n_samples` requires.
    """
    if codec.segment_samples is not None:
        yield from _segmented_audio(codec, latents, n_samples, scales)
        return
    yield from _to_length(_through(_stages(codec.decoder), latents, codec), n_samples, codec)


@torch.inference_mode()
def stream_spectra(codec: StemCodec, latents: Iterable[Tensor]) -> Iterator[Tensor]:
    """Spectra [B, F', N'], as `InverseSpectrum` takes them, from quantised latents [B, D, N']."""
    yield from _through([codec.decoder[0]], latents, codec)


@torch.inference_mode()
def stream_waveform(
    codec: StemCodec, spectra: Iterable[Tensor], n_samples: int
) -> Iterator[Tensor]:
    """Audio [B, 2, T'], `n_samples` in all, from spectra as `InverseSpectrum` takes them.

    Raises ValueError where there are fewer frames than `n_samples` needs.
    """
    yield from _to_length(_through([codec.decoder[1]], spectra, codec), n_samples, codec)


def _to_length(blocks: Iterable[Tensor], n_samples: int, codec: Codec) -> Iterator[Tensor]:
    """Decoded blocks [B, C, T'], cut to `n_samples` in all; ValueError where frames are missing."""
    n_left = n_samples
    for audio in blocks:
        if n_left:
            audio = audio[..., :n_left]
            n_left -= audio.shape[-1]
            yield audio
    if n_left >= codec.hop_length:
        raise ValueError(f"the frames end {n_left} samples too early")
    if n_left:
        # Some decoders output a few samples less than whole frames.
        yield audio.new_zeros(*audio.shape[:-1], n_left)


def _segmented_audio(
    codec: Codec, latents: Iterable[Tensor], n_samples: int, scales: deque[Tensor] | None
) -> Iterator[Tensor]:
    """`stream_audio` for a codec with segments, which are cross-faded where they overlap."""
    assert codec.segment_samples is not None
    assert codec.segment_stride is not None
    fader = CrossFader(codec.segment_samples)
    iterator, held = iter(latents), torch.zeros(0)
    for start in range(0, n_samples, codec.segment_stride):
        length = min(codec.segment_samples, n_samples - start)
        n_frames = codec.n_frames(length)
        while held.shape[-1] < n_frames:
            more = next(iterator, None)
            if more is None:
                raise ValueError(f"the frames end {n_samples - start} samples too early")
            held = torch.cat([held, more], dim=-1) if held.numel() else more
        audio = codec.decoder(held[..., :n_frames])[..., :length]
        held = held[..., n_frames:]
        if scales is not None:
            audio = audio * scales.popleft()[:, None, None]
        fader.add(audio, start)
        is_last = start + codec.segment_stride >= n_samples
        yield fader.take(n_samples if is_last else start + codec.segment_stride)


def _segments(blocks: Iterable[Tensor], length: int, stride: int) -> Iterator[Tensor]:
    """Cut audio in blocks [B, C, T'] into batches [B, G, C, length] of segments.

    A segment starts at every multiple of `stride` samples before the end, as in EnCodec; the last
    ones are shorter and come one per batch.
    """
    held, iterator, is_more = torch.zeros(0), iter(blocks), True
    n_batch = _MAX_BATCH
    while is_more:
        wanted = (n_batch - 1) * stride + length
        while held.shape[-1] < wanted:
            block = next(iterator, None)
            if block is None:
                is_more = False
                break
            held = torch.cat([held, block], dim=-1) if held.numel() else block
            if block.device.type == "cpu":
                n_batch, wanted = 1, length
        while held.shape[-1] >= (wanted if is_more else length):
            full = held[..., :wanted].unfold(-1, length, stride)  # [B, C, G, length]
            yield full.transpose(1, 2)
            held = held[..., full.shape[2] * stride :]
    while held.shape[-1]:
        yield held[:, None]
        held = held[..., stride:]


def _through(stages: list[nn.Module], blocks: Iterable[Tensor], codec: Codec) -> Iterator[Tensor]:
    """Blocks [B, D, N'] of frames passed through the stages in order."""
    stream = iter(blocks)
    for stage in stages:
        if _is_recurrent(stage):
            stream = _recurrent(stage, stream)
        elif any(True for _ in (*stage.parameters(), *_convolutions(stage))):
            n_out = _upsampling(stage)
            step = _multiple(PIECE_SAMPLES / codec.hop_length, 1)
            stream = in_context(stream, stage, step=step, context=_context(stage, 1), hop_out=n_out)
    yield from stream


def _recurrent(stage: nn.Module, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """EnCodec's LSTM on blocks [B, D, N'], its state carried from block to block."""
    state = None
    for block in blocks:
        frames = block.permute(2, 0, 1)
        output, state = stage.lstm(frames, state)  # type: ignore[operator]
        yield (output + frames if stage.skip else output).permute(1, 2, 0)


def _is_recurrent(module: nn.Module) -> bool:
    """Whether `module` is EnCodec's wrapper of an LSTM."""
    return isinstance(getattr(module, "lstm", None), nn.LSTM)


def _stages(module: nn.Module) -> list[nn.Module]:
    """Split a network into parts that run in sequence, with each LSTM as a part of its own."""
    if not any(isinstance(part, nn.LSTM) for part in module.modules()):
        return [module]
    stages: list[nn.Module] = []
    run: list[nn.Module] = []
    for layer in _layers(module):
        if _is_recurrent(layer):
            stages += [nn.Sequential(*run), layer]
            run = []
        else:
            run.append(layer)
    return [*stages, nn.Sequential(*run)]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Layers of nested sequences in order; SEANet's encoder and decoder keep them in `model`."""
    inner = module if isinstance(module, nn.Sequential) else getattr(module, "model", None)
    if isinstance(inner, nn.Sequential):
        for layer in inner:
            yield from _layers(layer)
    else:
        yield module


def _convolutions(module: nn.Module) -> Iterator[tuple[int, int, int, bool]]:
    """(kernel size, stride, dilation, is transposed) of each convolution, in execution order."""
    part: Any
    for part in module.modules():
        if hasattr(part, "transposed") and hasattr(part, "kernel_size"):
            yield part.kernel_size[0], part.stride[0], part.dilation[0], part.transposed


def _context(module: nn.Module, multiple: int) -> int:
    """Context on either side that a network needs, in input samples, rounded up to `multiple`.

    Convolutions of parallel branches are added up as if they were in sequence; a module whose
    branches should be counted separately lists them in `branches`.
    """
    branches = getattr(module, "branches", None) or [module]
    return _multiple(max(map(_reach, branches)), multiple)


def _reach(module: nn.Module) -> float:
    """Receptive field on either side, in input samples."""
    context, rate = 0.0, 1.0  # rate: samples of the current layer per input sample
    for kernel_size, stride, dilation, is_transposed in _convolutions(module):
        if is_transposed:
            context += math.ceil(kernel_size / stride) / rate
            rate *= stride
        else:
            context += (kernel_size - 1) * dilation / rate
            rate /= stride
    return context


def _upsampling(module: nn.Module) -> int:
    """Output samples per input frame: product of the strides of transposed convolutions."""
    return math.prod(
        stride for _, stride, _, is_transposed in _convolutions(module) if is_transposed
    )


def _multiple(length: float, unit: int) -> int:
    """`length` rounded up to a positive multiple of `unit`."""
    return max(1, math.ceil(length / unit)) * unit
