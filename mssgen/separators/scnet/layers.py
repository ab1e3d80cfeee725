"""Layers of SCNet on spectrograms [B, F, N, C]: bins, frames, and channels last in memory.

Channels last make every convolution a matrix product on contiguous rows. Module names are those of
the published state dicts.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.separators.state_dicts import Shapes

N_BANDS = 3  # low, mid and high


class Bands:
    """How the bins of a layer are split into three bands, each with its own stride in frequency.

    Args:
        n_bins: length of the axis F.
        shares: share of the bins of each band; the last one takes what remains.
        strides, kernels: stride and kernel size of each band's convolution, in bins.
    """

    def __init__(
        self, n_bins: int, shares: Sequence[float], strides: Sequence[int], kernels: Sequence[int]
    ) -> None:
        low, mid = math.ceil(n_bins * shares[0]), math.ceil(n_bins * (shares[0] + shares[1]))
        self.lengths = [stop - start for start, stop in pairwise((0, low, mid, n_bins))]
        self.strides = strides
        pairs = list(zip(strides, kernels, strict=True))
        if min(self.lengths) < 1 or not all(s == k or (s == 1 and k % 2) for s, k in pairs):
            raise CheckpointError(
                f"the band_shares {list(shares)} and band_strides {list(strides)} do not fit "
                f"{n_bins} bins and kernels of {list(kernels)}: get the file again"
            )
        # Zeros around a band, so that the convolution covers it.
        self.pads = [
            k - 1 if s == 1 else -n % s for n, (s, k) in zip(self.lengths, pairs, strict=True)
        ]
        self.inner_lengths = [-(-n // s) for n, s in zip(self.lengths, strides, strict=True)]


def _convolve(x: Tensor, conv: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Convolution of x [B, F, N, C]; a Conv1d runs along the frames of each bin."""
    weight, stride, padding = conv.weight, conv.stride, conv.padding
    if isinstance(conv, nn.Conv1d):
        weight, stride, padding = weight[:, :, None], (1, 1), (0, weight.shape[-1] // 2)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, conv.bias, stride, padding, groups=conv.groups)
    return y.permute(0, 2, 3, 1).contiguous()


def _norm_bins(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Normalise each bin of x [B, F, N, C] over its frames and channels."""
    shape = x.shape[2:]
    return F.layer_norm(x, shape, norm.weight.expand(shape), norm.bias.expand(shape), norm.eps)


class FrameConvolutions(nn.Module):
    """Residual branches over the frames of each bin on its own, then GELU."""

    layers: Iterable[Any]

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        layers = []
        for index in range(shapes.count(f"{prefix}.layers.")):
            name = f"{prefix}.layers.{index}"
            n_channels, n_hidden, _ = shapes.of(f"{name}.6.weight", 3)
            *_, width = shapes.of(f"{name}.1.weight", 3)
            *_, depthwise_width = shapes.of(f"{name}.3.weight", 3)
            layer = {
                "0": nn.GroupNorm(1, n_channels),
                "1": nn.Conv1d(n_channels, 2 * n_hidden, width),
                "3": nn.Conv1d(n_hidden, n_hidden, depthwise_width, groups=n_hidden),
                "4": nn.GroupNorm(1, n_hidden),
                "6": nn.Conv1d(n_hidden, n_channels, 1),
            }
            layers.append(nn.ModuleDict(layer))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, F, N, C] -> the same shape."""
        for layer in self.layers:
            y = F.glu(_convolve(_norm_bins(x, layer["0"]), layer["1"]), dim=-1)
            y = F.silu(_norm_bins(_convolve(y, layer["3"]), layer["4"]))
            x = x + _convolve(y, layer["6"])
        return F.gelu(x)


class Encoder(nn.Module):
    """Downsamples each band in frequency by its own stride."""

    SDlayer: Any

    def __init__(self, shapes: Shapes, prefix: str, strides: Sequence[int]) -> None:
        super().__init__()
        convs = []
        for band, stride in enumerate(strides):
            n_out, n_in, kernel, _ = shapes.of(f"{prefix}.SDlayer.convs.{band}.weight", 4)
            convs.append(nn.Conv2d(n_in, n_out, (kernel, 1), (stride, 1)))
        self.SDlayer = nn.ModuleDict({"convs": nn.ModuleList(convs)})
        self.conv_modules = nn.ModuleList(
            FrameConvolutions(shapes, f"{prefix}.conv_modules.{band}") for band in range(N_BANDS)
        )
        self.n_channels, *_, width = shapes.of(f"{prefix}.globalconv.weight", 4)
        self.globalconv = nn.Conv2d(self.n_channels, self.n_channels, width, padding=width // 2)

    @property
    def kernels(self) -> list[int]:
        """Kernel size of each band in bins."""
        return [conv.kernel_size[0] for conv in self.SDlayer["convs"]]

    def forward(self, x: Tensor, bands: Bands) -> tuple[Tensor, Tensor]:
        """x [B, F, N, C] -> (output, skip), both [B, F', N, C']."""
        parts = []
        for band, part in enumerate(x.split(bands.lengths, dim=1)):
            pad = bands.pads[band]
            part = F.pad(part, (0, 0, 0, 0, pad // 2, pad - pad // 2))
            parts.append(self.conv_modules[band](_convolve(part, self.SDlayer["convs"][band])))
        skip = torch.cat(parts, dim=1)
        return _convolve(skip, self.globalconv), skip


class Fusion(nn.Module):
    """Adds the encoder's output and gates the sum."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        n_channels, *_, width = shapes.of(f"{prefix}.conv.weight", 4)
        self.conv = nn.Conv2d(n_channels, n_channels, width, padding=width // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x and skip [B, F, N, C] -> [B, F, N, C]."""
        # The convolution takes its input twice, so one of the sum of its halves does the same.
        weight = self.conv.weight.unflatten(1, (2, -1)).sum(1)
        both = (x + skip).permute(0, 3, 1, 2)
        y = F.conv2d(both, weight, self.conv.bias, padding=self.conv.padding)
        return F.glu(y.permute(0, 2, 3, 1), dim=-1)


class Upsampler(nn.Module):
    """Undoes the downsampling of an encoder, band by band."""

    def __init__(self, shapes: Shapes, prefix: str, strides: Sequence[int]) -> None:
        super().__init__()
        self.convtrs = nn.ModuleList()
        for band, stride in enumerate(strides):
            n_in, n_out, kernel, _ = shapes.of(f"{prefix}.convtrs.{band}.weight", 4)
            self.convtrs.append(nn.ConvTranspose2d(n_in, n_out, (kernel, 1), (stride, 1)))

    def forward(self, x: Tensor, bands: Bands) -> Tensor:
        """x [B, F', N, C'] -> [B, F, N, C]."""
        parts = []
        for band, part in enumerate(x.split(bands.inner_lengths, dim=1)):
            part = self.convtrs[band](part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            length = bands.lengths[band]
            start = (part.shape[1] - length) // 2
            parts.append(part[:, start : start + length])
        return torch.cat(parts, dim=1)


class DualPath(nn.Module):
    """Recurrent layers along the bins of each frame, then along the frames of each bin."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        (n_channels,) = shapes.of(f"{prefix}.norm_layers.0.weight", 1)
        _, n_hidden = shapes.of(f"{prefix}.lstm_layers.0.weight_hh_l0", 2)
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(n_channels, n_hidden, bidirectional=True) for _ in range(2)
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * n_hidden, n_channels) for _ in range(2))
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, n_channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, F, N, C] -> the same shape."""
        y = self._normed(x, 0).transpose(0, 1)  # [F, B, N, C]
        x = x + self._recur(y, 0).transpose(0, 1)
        y = self._normed(x, 1).permute(2, 0, 1, 3)  # [N, B, F, C]
        return x + self._recur(y, 1).permute(1, 2, 0, 3)

    def _normed(self, x: Tensor, index: int) -> Tensor:
        return self.norm_layers[index](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _recur(self, x: Tensor, index: int) -> Tensor:
        """Run a recurrent and a linear layer along the first axis of x [L, ., ., C]."""
        y, _ = self.lstm_layers[index](x.flatten(1, 2))
        return self.linear_layers[index](y).unflatten(1, x.shape[1:3])
