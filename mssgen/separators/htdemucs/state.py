"""Configuration of an HTDemucs checkpoint, and the name and shape of each of its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Protocol

from pydantic import Field
from torch import Tensor

from mssgen.errors import CheckpointError
from mssgen.recipes.schema import Channels, Layers, SampleRate, Scale, StemName, Width

Shapes = Iterator[tuple[str, tuple[int, ...]]]
StemNames = Annotated[tuple[StemName, ...], Field(strict=False, min_length=1, max_length=64)]
SegmentSeconds = Annotated[Fraction | int | float, Field(ge=0.01, le=600)]
Depth = Annotated[int, Field(ge=1, le=12)]
_MAX_SEGMENT_SAMPLES = 2**21
_MAX_SEGMENT_VALUES = 2**28
_MAX_PLACES = 2**15


@dataclass(frozen=True)
class HTDemucsConfig:
    """Options in which published HTDemucs checkpoints differ, named as in the demucs package.

    Contradictions raise CheckpointError.
    """

    sources: StemNames
    samplerate: SampleRate = 44100
    segment: SegmentSeconds = Fraction(39, 5)
    audio_channels: Channels = 2
    channels: Width = 48
    growth: Annotated[int, Field(ge=1, le=8)] = 2
    depth: Depth = 4
    nfft: Annotated[int, Field(ge=16, le=2**16)] = 4096
    kernel_size: Annotated[int, Field(ge=1, le=64)] = 8
    stride: Annotated[int, Field(ge=2, le=32)] = 4
    freq_emb: Scale = 0.2
    emb_scale: Annotated[float, Field(ge=1e-6, le=1e6)] = 10.0
    dconv_mode: Annotated[int, Field(ge=0, le=3)] = 1
    """Where residual branches are; 1: in the encoders, 2: in the decoders, 3: in both."""
    dconv_depth: Annotated[int, Field(ge=0, le=16)] = 2
    dconv_comp: Width = 8
    bottom_channels: Annotated[int, Field(ge=0, le=2**14)] = 0
    """Channels of the transformer; 0: as many as the innermost layer of the U-Net."""
    t_layers: Layers = 5
    t_heads: Annotated[int, Field(ge=1, le=256)] = 8
    t_hidden_scale: Annotated[float, Field(gt=0, le=64)] = 4.0
    t_max_period: Annotated[float, Field(gt=1, le=1e12)] = 10000.0
    t_weight_pos_embed: Scale = 1.0

    def __post_init__(self) -> None:
        check_unet(self)
        check_transformer(self)

    @property
    def segment_samples(self) -> int:
        """Segment length in samples, the only input length that the network accepts."""
        return int(self.segment * self.samplerate)


class UNetOptions(Protocol):
    """Options of either Demucs network that determine the memory for one segment."""

    @property
    def samplerate(self) -> int: ...

    @property
    def segment(self) -> Fraction | int | float: ...

    @property
    def channels(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def nfft(self) -> int: ...

    @property
    def kernel_size(self) -> int: ...

    @property
    def stride(self) -> int: ...

    @property
    def dconv_comp(self) -> int: ...


def check_unet(options: UNetOptions) -> None:
    """Raise CheckpointError if sizes do not match or one segment needs too much memory.

    Segments of published networks have at most 44 s at 44.1 kHz and 48 channels.
    """
    n_samples = int(options.segment * options.samplerate)
    # The spectrogram mirrors up to 5/8 of a window beyond the ends.
    if not max(1, options.nfft * 5 // 8) <= n_samples <= _MAX_SEGMENT_SAMPLES:
        raise CheckpointError(
            f"a segment of {n_samples} samples (options segment and samplerate) is out of range "
            f"for an nfft of {options.nfft}: get the file again"
        )
    if n_samples * options.channels > _MAX_SEGMENT_VALUES:
        raise CheckpointError(
            f"a segment of {n_samples} samples in {options.channels} channels (options segment, "
            "samplerate and channels) is out of range: get the file again"
        )
    if options.kernel_size - options.stride != 2 * (options.kernel_size // 4):
        raise CheckpointError(
            f"the kernel_size {options.kernel_size} and stride {options.stride} do not match: "
            "get the file again"
        )
    n_bins = options.nfft // 2
    for layer in range(options.depth):
        if n_bins > options.kernel_size and n_bins % options.stride:
            raise CheckpointError(
                f"the nfft {options.nfft} cannot be divided over {layer + 1} layers of stride "
                f"{options.stride}: get the file again"
            )
        n_bins = n_bins // options.stride if n_bins > options.kernel_size else 1
    if options.nfft % 4 or options.channels < options.dconv_comp:
        raise CheckpointError(
            f"the nfft {options.nfft}, or the channels {options.channels} with the dconv_comp "
            f"{options.dconv_comp}, cannot be divided: get the file again"
        )


def check_transformer(options: "HTDemucsConfig") -> None:
    """Raise CheckpointError if the transformer cannot be built or its sequence is too long.

    Published ones attend over 2,688 positions of the spectrogram.
    """
    width = options.bottom_channels or options.channels * options.growth ** (options.depth - 1)
    if width % 4 or width % options.t_heads:
        raise CheckpointError(
            f"{options.t_heads} attention heads (option t_heads) do not divide the width {width}, "
            "or 4 does not: get the file again"
        )
    n_samples = int(options.segment * options.samplerate)
    n_places = 2 * n_samples // options.stride**options.depth
    if options.t_layers and n_places > _MAX_PLACES:
        raise CheckpointError(
            f"a segment of {n_samples} samples is too long for a transformer behind "
            f"{options.depth} layers (options segment and depth): get the file again"
        )


def check_state(config: HTDemucsConfig, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless `state` has exactly the tensors that `config` implies."""
    expected = dict(_shapes(config))
    for name, shape in expected.items():
        if name not in state:
            raise CheckpointError(f"the checkpoint has no '{name}', so it is not this HTDemucs")
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"the checkpoint's '{name}' has shape {list(state[name].shape)} where this "
                f"HTDemucs has {list(shape)}"
            )
    if left_over := sorted(set(state) - set(expected)):
        raise CheckpointError(
            f"the checkpoint holds {len(left_over)} tensors that this HTDemucs has no place for, "
            f"such as '{left_over[0]}'"
        )


def _shapes(config: HTDemucsConfig) -> Shapes:
    """Yield name and shape of every tensor.

    Layer 0 of the U-Net is the outermost; the names of decoders count from the innermost.
    """
    kernel, last = config.kernel_size, config.depth - 1
    for layer in range(config.depth):
        width = config.channels * config.growth**layer
        inner = width // config.growth if layer else 0
        for branch, extent, n_values in (("", (1,), 2), ("t", (), 1)):
            # The spectrogram has two values (real, imaginary) where the waveform has one.
            n_in = inner or config.audio_channels * n_values
            n_out = inner or config.audio_channels * n_values * len(config.sources)
            encoder, decoder = f"{branch}encoder.{layer}", f"{branch}decoder.{last - layer}"
            yield from _pair(f"{encoder}.conv", width, n_in, kernel, *extent)
            yield from _pair(f"{encoder}.rewrite", 2 * width, width, 1, *extent)
            yield from _pair(f"{decoder}.rewrite", 2 * width, width, *[3] * (1 + len(extent)))
            yield f"{decoder}.conv_tr.weight", (width, n_out, kernel, *extent)
            yield f"{decoder}.conv_tr.bias", (n_out,)
            for name, bit in ((encoder, 1), (decoder, 2)):
                if config.dconv_mode & bit:
                    yield from _residual(f"{name}.dconv", width, config)
    yield "freq_emb.embedding.weight", (config.nfft // 2 // config.stride, config.channels)
    innermost = config.channels * config.growth**last
    if config.bottom_channels:
        for suffix in ("", "_t"):
            yield from _pair(f"channel_upsampler{suffix}", config.bottom_channels, innermost, 1)
            yield from _pair(f"channel_downsampler{suffix}", innermost, config.bottom_channels, 1)
    yield from _transformer(config.bottom_channels or innermost, config)


def _pair(name: str, *shape: int) -> Shapes:
    """Yield a weight of this shape and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _residual(name: str, width: int, config: HTDemucsConfig) -> Shapes:
    hidden = width // config.dconv_comp
    for index in range(config.dconv_depth):
        branch = f"{name}.layers.{index}"
        yield from _pair(f"{branch}.0", hidden, width, 3)
        yield from _pair(f"{branch}.1", hidden)
        yield from _pair(f"{branch}.3", 2 * width, hidden, 1)
        yield from _pair(f"{branch}.4", 2 * width)
        yield f"{branch}.6.scale", (width,)


def _transformer(width: int, config: HTDemucsConfig) -> Shapes:
    hidden = int(width * config.t_hidden_scale)
    for name in ("norm_in", "norm_in_t"):
        yield from _pair(f"crosstransformer.{name}", width)
    for index in range(config.t_layers):
        # Even layers attend to their own branch, odd ones to the other.
        attention, norms = ("cross_attn", "123") if index % 2 else ("self_attn", "12")
        for branch in ("layers", "layers_t"):
            layer = f"crosstransformer.{branch}.{index}"
            yield f"{layer}.{attention}.in_proj_weight", (3 * width, width)
            yield f"{layer}.{attention}.in_proj_bias", (3 * width,)
            yield from _pair(f"{layer}.{attention}.out_proj", width, width)
            yield from _pair(f"{layer}.linear1", hidden, width)
            yield from _pair(f"{layer}.linear2", width, hidden)
            for norm in (*(f"norm{number}" for number in norms), "norm_out"):
                yield from _pair(f"{layer}.{norm}", width)
            yield f"{layer}.gamma_1.scale", (width,)
            yield f"{layer}.gamma_2.scale", (width,)
