"""Discriminators small enough for one CPU core, on spectrograms and periods of stereo audio.

    audio [B, C, T] -> normalised level -> middle and side
        -> complex STFTs, compressed -> 2-d convolutions    one network per resolution
        -> folded at a period        -> convolutions        one network per period

They are the discriminators of codecs at a fraction of the width. Each gets both channels, to detect
an inconsistent stereo image.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from mssgen.codecs.base import full_precision
from mssgen.codecs.networks.stem_spectrum import Spectrum

_COMPRESSION = 0.5  # exponent of magnitudes, as in the loss "spectrum"; raises quiet treble
_SOFTEST = 1e-3  # RMS below which audio is not amplified further
_SLOPE = 0.1  # negative slope of the leaky ReLU (arXiv 2010.05646)


class SmallDiscriminators(nn.Module):
    """Maps audio [B, 1 or 2, T] to layer outputs [B, ...] per network, the logits last."""

    def __init__(self, n_filters: int, windows: Sequence[int], periods: Sequence[int]) -> None:
        """Build with random weights.

        Args:
            n_filters: channels of the 2-d convolutions, and of the first layer on periods.
            windows: window length of each spectrogram network, samples; the hop is a quarter.
            periods: period of each period network, samples.
        """
        super().__init__()
        self.networks = nn.ModuleList(
            [
                *(SpectrogramDiscriminator(window, n_filters) for window in windows),
                *(PeriodDiscriminator(period, n_filters) for period in periods),
            ]
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        with full_precision(audio):
            left, right = audio.float().expand(-1, 2, -1).unbind(dim=1)
            stereo = torch.stack([left + right, left - right], dim=1) / 2
            level = stereo.square().mean((1, 2), keepdim=True).sqrt()
            stereo = stereo / (level + _SOFTEST)
        return [network(stereo) for network in self.networks]


class SpectrogramDiscriminator(nn.Module):
    """One resolution: the layers of EnCodec's discriminator on STFTs (arXiv 2210.13438, section
    3.4), each with half as many bins as the one before.

    Magnitudes are compressed, unlike EnCodec's, and an extra channel encodes the frequency of each
    bin, which convolutions do not know (Liu et al. 2018, arXiv 1807.03247).
    """

    def __init__(self, window: int, n_filters: int) -> None:
        super().__init__()
        self.transform = Spectrum(window, window // 4, _COMPRESSION, 0)
        wide = partial(nn.Conv2d, kernel_size=(9, 3), stride=(2, 1))
        self.layers = nn.ModuleList(
            [
                weight_norm(wide(5, n_filters, padding=(4, 1))),
                *(
                    weight_norm(
                        wide(n_filters, n_filters, padding=(4, dilation), dilation=(1, dilation))
                    )
                    for dilation in (1, 2, 4)
                ),
                weight_norm(nn.Conv2d(n_filters, n_filters, 3, padding=1)),
            ]
        )
        self.last = weight_norm(nn.Conv2d(n_filters, 1, 3, padding=1))

    def forward(self, stereo: Tensor) -> list[Tensor]:
        """Middle and side [B, 2, T] to layers [B, n_filters, F', N], then logits [B, 1, F', N]."""
        hop_length = self.transform.stride[0]
        padded = F.pad(stereo, (0, -stereo.shape[-1] % hop_length))
        middle, side = padded.unbind(dim=1)
        frames = self.transform(torch.stack([middle + side, middle - side], dim=1))
        bins = frames.unflatten(1, (4, -1))  # real and imaginary part of middle and of side
        height = torch.linspace(-1, 1, bins.shape[2], device=bins.device)
        height = height[None, None, :, None].expand(len(bins), 1, -1, bins.shape[3])
        return _layers(torch.cat([bins, height], dim=1), self.layers, self.last)


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN's period discriminator (Kong et al. 2020, arXiv 2010.05646, section 2.3): audio is
    folded into rows of one period and convolved along columns; narrower, with one layer fewer."""

    def __init__(self, period: int, n_filters: int) -> None:
        super().__init__()
        self.period = period
        widths = [2, *(n_filters * factor for factor in (1, 2, 4, 8))]
        down = partial(nn.Conv2d, kernel_size=(5, 1), stride=(3, 1), padding=(2, 0))
        self.layers = nn.ModuleList(
            [
                *(weight_norm(down(before, after)) for before, after in pairwise(widths)),
                weight_norm(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))),
            ]
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, stereo: Tensor) -> list[Tensor]:
        """Middle and side [B, 2, T] to layers [B, D, T', period]; logits have one channel."""
        padded = F.pad(stereo, (0, -stereo.shape[-1] % self.period))
        return _layers(padded.unflatten(2, (-1, self.period)), self.layers, self.last)


def _layers(hidden: Tensor, layers: nn.ModuleList, last: nn.Module) -> list[Tensor]:
    found = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), _SLOPE)
        found.append(hidden)
    return [*found, last(hidden)]
