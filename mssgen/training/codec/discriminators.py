"""Discriminators, which learn to distinguish a codec's output from real audio.

Each kind is a function of its options; all map audio [B, C, T] to a `Judgement`. The networks are
those of the `encodec` and `descript-audio-codec` packages, and small ones of our own.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mssgen.codecs.networks.compat import import_codec_package
from mssgen.recipes.sections import check_fields
from mssgen.training.codec.small_discriminators import SmallDiscriminators


@dataclass(frozen=True)
class Judgement:
    """Outputs of several discriminators for a batch."""

    logits: list[Tensor]
    """One tensor per discriminator, batch first, shapes differ; higher for real audio."""
    features: list[list[Tensor]]
    """Outputs of the inner layers of each discriminator, batch first."""

    def halves(self) -> tuple["Judgement", "Judgement"]:
        """The outputs for the first and for the second half of the batch."""
        first, second = (
            Judgement(
                [each.chunk(2)[half] for each in self.logits],
                [[layer.chunk(2)[half] for layer in each] for each in self.features],
            )
            for half in range(2)
        )
        return first, second


@dataclass(frozen=True)
class DiscriminatorOptions:
    """Section [loss.discriminator]; each kind uses only some of the options."""

    kind: Literal["stft", "wave", "dac", "soundstream", "small"] = "stft"
    """A key of `DISCRIMINATORS`."""
    n_filters: int = 32
    """Channels of "stft" and "small"; the period layers of "small" get up to eight times as wide.
    """
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Window lengths of the STFTs, samples."""
    rates: tuple[int, ...] = (1, 2, 4)
    """Factors by which the waveform's sample rate is divided."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Periods at which the waveform is folded, samples ("wave", "dac" and "small")."""

    def __post_init__(self) -> None:
        check_fields(self, "loss.discriminator")


def build_discriminator(
    options: DiscriminatorOptions, sample_rate: int, n_channels: int
) -> nn.Module:
    """A module that maps audio [B, C, T] to a `Judgement`."""
    # Both packages use the old form of weight norm.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return DISCRIMINATORS[options.kind](options, sample_rate, n_channels)


def _stft(options: DiscriminatorOptions, sample_rate: int, n_channels: int) -> nn.Module:
    """EnCodec's: 2-d convolutions on complex STFTs (arXiv 2210.13438, section 3.4)."""
    return _Stft(options.n_filters, options.windows, n_channels)


def _wave(options: DiscriminatorOptions, sample_rate: int, n_channels: int) -> nn.Module:
    """RAVE's: MelGAN's multi-scale (arXiv 1910.06711) plus HiFi-GAN's multi-period (2010.05646)."""
    return _Descript(sample_rate, rates=options.rates, periods=options.periods)


def _soundstream(options: DiscriminatorOptions, sample_rate: int, n_channels: int) -> nn.Module:
    """SoundStream's: multi-scale on the waveform and on STFTs (arXiv 2107.03312)."""
    waves = _Descript(sample_rate, rates=options.rates)
    return _Several([waves, _stft(options, sample_rate, n_channels)])


def _dac(options: DiscriminatorOptions, sample_rate: int, n_channels: int) -> nn.Module:
    """DAC's: multi-period, and multi-band on complex STFTs (arXiv 2306.06546)."""
    return _Descript(sample_rate, periods=options.periods, windows=options.windows)


def _small(options: DiscriminatorOptions, sample_rate: int, n_channels: int) -> nn.Module:
    """Ours, for a CPU: multi-period, and multi-resolution on compressed complex STFTs."""
    return _Small(SmallDiscriminators(options.n_filters, options.windows, options.periods))


DISCRIMINATORS: dict[str, Callable[[DiscriminatorOptions, int, int], nn.Module]] = {
    "stft": _stft,
    "wave": _wave,
    "soundstream": _soundstream,
    "dac": _dac,
    "small": _small,
}


class _Stft(nn.Module):
    """The `encodec` package's multi-scale STFT discriminator."""

    def __init__(self, n_filters: int, windows: Sequence[int], n_channels: int) -> None:
        super().__init__()
        self.network = import_codec_package("encodec.msstftd").MultiScaleSTFTDiscriminator(
            filters=n_filters,
            in_channels=n_channels,
            n_ffts=list(windows),
            hop_lengths=[window // 4 for window in windows],
            win_lengths=list(windows),
        )

    def forward(self, audio: Tensor) -> Judgement:
        return Judgement(*self.network(audio))


class _Descript(nn.Module):
    """The `descript-audio-codec` package's discriminators, on each channel separately."""

    def __init__(
        self,
        sample_rate: int,
        *,
        rates: Sequence[int] = (),
        periods: Sequence[int] = (),
        windows: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.network = import_codec_package("dac.model.discriminator").Discriminator(
            rates=list(rates),
            periods=list(periods),
            fft_sizes=list(windows),
            sample_rate=sample_rate,
        )

    def forward(self, audio: Tensor) -> Judgement:
        # Channels of an item stay together, so that the batch can be halved afterwards.
        layers = self.network(audio.flatten(0, 1)[:, None])
        return Judgement([each[-1] for each in layers], [each[:-1] for each in layers])


class _Small(nn.Module):
    def __init__(self, network: SmallDiscriminators) -> None:
        super().__init__()
        self.network = network

    def forward(self, audio: Tensor) -> Judgement:
        layers = self.network(audio)
        return Judgement([each[-1] for each in layers], [each[:-1] for each in layers])


class _Several(nn.Module):
    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, audio: Tensor) -> Judgement:
        judgements = [part(audio) for part in self.parts]
        return Judgement(
            [logits for each in judgements for logits in each.logits],
            [features for each in judgements for features in each.features],
        )
