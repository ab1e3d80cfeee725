"""The decoder of the VampNet codec (LAC), which differs from DAC's in its residual units.

Each upsampling is followed by the mean of residual branches with different kernels, the
multi-receptive-field fusion of HiFi-GAN (Kong et al. 2020, arXiv 2010.05646). Modules are named as
in the keys of the published checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_KERNELS = (3, 7, 11)
_DILATIONS = (1, 3, 5)


class MrfDecoder(nn.Module):
    """Latents [B, D, N] to audio [B, 1, N * prod(rates)], from -1 to 1; the rates are even."""

    def __init__(self, layers: Any, latent_dim: int, width: int, rates: Sequence[int]) -> None:
        """Build with fresh weights.

        Args:
            layers: the module dac.nn.layers.
            latent_dim: D.
            width: channels of the first layer, halved at each stride.
            rates: strides.
        """
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
    """Upsampling by `rate` to half the channels, then the residual branches."""

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
    """Mean of the residual branches."""

    def __init__(self, layers: Any, width: int) -> None:
        super().__init__()
        self.mrf_blocks = nn.ModuleList(_Branch(layers, width, kernel) for kernel in _KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.mrf_blocks]).mean(dim=0)


class _Branch(nn.Module):
    """Residual layers with growing dilation, of one kernel size."""

    def __init__(self, layers: Any, width: int, kernel: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(_Residual(layers, width, kernel, dilation) for dilation in _DILATIONS)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class _Residual(nn.Module):
    """Two convolutions with a skip connection."""

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
