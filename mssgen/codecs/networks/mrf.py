"""The decoder of the VampNet codec (LAC), which is DAC's but for its residual units.

After each stride the mean of several residual branches with different kernels follows, the
multi-receptive-field fusion of HiFi-GAN (Kong et al. 2020, arXiv 2010.05646). The names of the
parts are those of the published checkpoint's keys.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_KERNELS = (3, 7, 11)
_DILATIONS = (1, 3, 5)


class MrfDecoder(nn.Module):
    """[B, D, N] -> [B, 1, N * prod(rates)], within -1 to 1; the rates are even."""

    def __init__(self, layers: Any, latent_dim: int, width: int, rates: Sequence[int]) -> None:
        """`layers` is the module dac.nn.layers; `width` is halved at each stride."""
        super().__init__()
        parts = [layers.WNConv1d(latent_dim, width, kernel_size=7, padding=3)]
        for rate in rates:
            parts.append(_Stage(layers, width, rate))
            width //= 2
        parts += [
            layers.Snake1d(width),
            layers.WNConv1d(width, 1, kernel_size=7, padding=3),
            nn.Tanh(),
        ]
        self.model = nn.Sequential(*parts)

    def forward(self, latents: Tensor) -> Tensor:
        audio: Tensor = self.model(latents)
        return audio


class _Stage(nn.Module):
    """Upsampling by `rate` to half the channels, then the branches."""

    def __init__(self, layers: Any, width: int, rate: int) -> None:
        super().__init__()
        upsampling = layers.WNConvTranspose1d(
            width, width // 2, kernel_size=2 * rate, stride=rate, padding=rate // 2
        )
        self.block = nn.Sequential(layers.Snake1d(width), upsampling, _Fusion(layers, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class _Fusion(nn.Module):
    """The mean of the branches."""

    def __init__(self, layers: Any, width: int) -> None:
        super().__init__()
        self.mrf_blocks = nn.ModuleList(_Branch(layers, width, kernel) for kernel in _KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.mrf_blocks]).mean(dim=0)


class _Branch(nn.Module):
    """Residual layers of growing dilation."""

    def __init__(self, layers: Any, width: int, kernel: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(_Residual(layers, width, kernel, dilation) for dilation in _DILATIONS)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class _Residual(nn.Module):
    """Two convolutions around which the input goes straight."""

    def __init__(self, layers: Any, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        reach = (kernel - 1) // 2
        self.layer = nn.Sequential(
            layers.Snake1d(width),
            layers.WNConv1d(
                width, width, kernel_size=kernel, dilation=dilation, padding=reach * dilation
            ),
            layers.Snake1d(width),
            layers.WNConv1d(width, width, kernel_size=kernel, padding=reach),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer(x)
        return y
