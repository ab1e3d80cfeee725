"""What an HTDemucs checkpoint holds: its configuration, and the name and shape of every tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from mssgen.errors import CheckpointError

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class HTDemucsConfig:
    """What tells the published HTDemucs checkpoints apart; names are the original's arguments."""

    sources: tuple[str, ...]
    samplerate: int = 44100
    segment: Fraction = Fraction(39, 5)  # seconds
    audio_channels: int = 2
    channels: int = 48
    growth: int = 2
    depth: int = 4
    nfft: int = 4096
    kernel_size: int = 8
    stride: int = 4
    freq_emb: float = 0.2
    emb_scale: float = 10.0
    dconv_mode: int = 1  # residual branches; 1: in the encoders, 2: in the decoders, 3: in both
    dconv_depth: int = 2
    dconv_comp: int = 8
    bottom_channels: int = 0  # width of the transformer; 0: that of the innermost layer
    t_layers: int = 5
    t_heads: int = 8
    t_hidden_scale: float = 4.0
    t_max_period: float = 10000.0
    t_weight_pos_embed: float = 1.0

    @property
    def segment_samples(self) -> int:
        """The only length that the network takes."""
        return int(self.segment * self.samplerate)


def check_state(config: HTDemucsConfig, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless `state` holds exactly the tensors of the configuration."""
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
    """Every tensor; U-Net level 0 is the outermost, and decoders count from the inside."""
    kernel, last = config.kernel_size, config.depth - 1
    for level in range(config.depth):
        width = config.channels * config.growth**level
        inner = width // config.growth if level else 0
        for branch, extent, n_values in (("", (1,), 2), ("t", (), 1)):
            # The spectrogram has two values (real, imaginary) where the waveform has one.
            n_in = inner or config.audio_channels * n_values
            n_out = inner or config.audio_channels * n_values * len(config.sources)
            encoder, decoder = f"{branch}encoder.{level}", f"{branch}decoder.{last - level}"
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
    """A weight and its bias."""
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
        # Layers attend in turn to their own branch and to the other one.
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
