"""Discriminators small enough for one CPU core, on spectrograms and periods of stereo audio.

    sound [B, C, T] -> as loud as any other -> middle and side
        -> logarithmic magnitudes at a resolution -> 2-d convolutions     one network each
        -> treble raised, folded at a period      -> convolutions         one network each

They are those of codecs and vocoders at a fraction of the width. Both channels are seen at once, so
that a stereo image that does not hang together is noticed. Sound from a codec with many codes
differs where it is soft, 40 dB below what is loud: that is why magnitudes are logarithms here, and
why treble is raised. On complex spectra to the power 0.5, and on plain waveforms, the same networks
were at chance after 400 steps; on logarithms they told 9 of 10 pairs after 80.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import full_precision

_SOFTEST = 1e-3  # RMS: what is softer stays soft, since silence must not be blown up
_FLOOR = 1e-4  # of magnitudes, 80 dB below a sine of unit amplitude
_EMPHASIS = 0.97
_SLOPE = 0.1  # of the leaky ReLU (arXiv 2010.05646)


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
            stereo = _as_loud(torch.stack([left + right, left - right], dim=1) / 2)
        return [network(stereo) for network in self.networks]


class SpectrogramDiscriminator(nn.Module):
    """One resolution of UnivNet's (Jang et al. 2021, arXiv 2106.07889, section 2.3): convolutions
    on magnitudes, each with half as many bins as the one before.

    Magnitudes are logarithms, the kernels and dilations are EnCodec's (arXiv 2210.13438, section
    3.4), and one more channel says how high a bin is, since convolutions alone do not know (Liu et
    al. 2018, arXiv 1807.03247).
    """

    window: Tensor

    def __init__(self, window: int, n_filters: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        wide = partial(nn.Conv2d, kernel_size=(9, 3), stride=(2, 1))
        self.layers = nn.ModuleList(
            [
                wide(3, n_filters, padding=(4, 1)),
                *(
                    wide(n_filters, n_filters, padding=(4, dilation), dilation=(1, dilation))
                    for dilation in (1, 2, 4)
                ),
                nn.Conv2d(n_filters, n_filters, 3, padding=1),
            ]
        )
        self.last = nn.Conv2d(n_filters, 1, 3, padding=1)
        _initialise(self.layers)

    def forward(self, stereo: Tensor) -> list[Tensor]:
        """Middle and side [B, 2, T] to layers [B, n_filters, F', N]; logits have one channel."""
        with full_precision(stereo):
            bins = self._log_magnitudes(stereo)
        height = torch.linspace(-1, 1, bins.shape[2], device=bins.device)
        height = height[None, None, :, None].expand(len(bins), 1, -1, bins.shape[3])
        return _layers(torch.cat([bins, height], dim=1), self.layers, self.last)

    def _log_magnitudes(self, stereo: Tensor) -> Tensor:
        """[B, 2, F, N], about -1 for silence and up to 2."""
        n = len(self.window)
        spectra = torch.stft(
            stereo.flatten(0, 1),
            n,
            n // 4,
            window=self.window.float(),
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectra * (4 / n)).square().sum(-1)
        magnitudes = (power + 1e-14).sqrt().unflatten(0, (-1, 2))
        return (magnitudes / _FLOOR).log1p() / 3 - 1.2


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN's (Kong et al. 2020, arXiv 2010.05646, section 2.3): sound folded to rows of one
    period, convolutions down the columns; narrower, with one layer less, and on raised treble."""

    def __init__(self, period: int, n_filters: int) -> None:
        super().__init__()
        self.period = period
        widths = [2, *(n_filters * factor for factor in (1, 2, 4, 8))]
        down = partial(nn.Conv2d, kernel_size=(5, 1), stride=(3, 1), padding=(2, 0))
        self.layers = nn.ModuleList(
            [
                *(down(before, after) for before, after in pairwise(widths)),
                nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0)),
            ]
        )
        self.last = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))
        _initialise(self.layers)

    def forward(self, stereo: Tensor) -> list[Tensor]:
        """Middle and side [B, 2, T] to layers [B, D, T', period]; logits have one channel."""
        raised = _as_loud(stereo[..., 1:] - _EMPHASIS * stereo[..., :-1])
        padded = F.pad(raised, (0, -raised.shape[-1] % self.period))
        return _layers(padded.unflatten(2, (-1, self.period)), self.layers, self.last)


def _as_loud(stereo: Tensor) -> Tensor:
    """[B, 2, T] of unit power, as far as it is no silence."""
    level = (stereo.square().mean((1, 2), keepdim=True) + 1e-12).sqrt()
    return stereo / (level + _SOFTEST)


def _initialise(layers: nn.ModuleList) -> None:
    """As leaky ReLUs want it, so that what is soft is not lost on the way (arXiv 1502.01852)."""
    for layer in layers:
        assert isinstance(layer, nn.Conv2d)
        nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def _layers(hidden: Tensor, layers: nn.ModuleList, last: nn.Module) -> list[Tensor]:
    found = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), _SLOPE)
        found.append(hidden)
    return [*found, last(hidden)]
