"""Layers that BS-RoFormer and Mel-Band RoFormer share, on features [B, N, K, D].

Axes: frames N, bands K, features D. Module names are those of the published state dicts.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.separators.state_dicts import Shapes

_ROTARY_BASE = 10_000.0


class RMSNorm(nn.Module):
    """Root mean square norm over D, whose smallest norm is that of torch's `normalize`."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(shapes.of(f"{prefix}.gamma", 1)))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> the same shape."""
        # Bins of treble are far smaller than the usual epsilon.
        width = len(self.gamma)
        return F.rms_norm(x, (width,), self.gamma, 1e-24 / width)


def linear(shapes: Shapes, prefix: str, *, bias: bool = True) -> nn.Linear:
    """The linear layer whose tensors are under `prefix`."""
    n_out, n_in = shapes.of(f"{prefix}.weight", 2)
    return nn.Linear(n_in, n_out, bias=bias)


def rotations(length: int, head_width: int, device: torch.device) -> Tensor:
    """Rotary position embedding: complex [length, head_width / 2], one turn per pair of features.

    J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
    """
    rates = _ROTARY_BASE ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(x: Tensor, by: Tensor) -> Tensor:
    """Rotate neighbouring pairs of features of x [..., L, D] by the angles of `by` [L, D / 2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * by).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Gated self-attention along one axis."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        self.norm = RMSNorm(shapes, f"{prefix}.norm")
        self.to_qkv = linear(shapes, f"{prefix}.to_qkv", bias=False)
        self.to_gates = linear(shapes, f"{prefix}.to_gates")
        self.to_out = nn.ModuleList([linear(shapes, f"{prefix}.to_out.0", bias=False)])
        self.n_heads, width = self.to_gates.out_features, self.to_qkv.out_features
        if width % (6 * self.n_heads):
            raise CheckpointError(
                f"its attention has {width} features for {self.n_heads} heads: get the file again"
            )
        self.head_width = width // (3 * self.n_heads)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, M, L, D], attended along L -> the same shape."""
        x = self.norm(x)
        qkv = self.to_qkv(x).unflatten(-1, (3, self.n_heads, self.head_width))
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(1, 2)  # each [B * M, H, L, D]
        by = rotations(x.shape[-2], self.head_width, x.device)
        y = F.scaled_dot_product_attention(_rotate(query, by), _rotate(key, by), value)
        y = y.unflatten(0, x.shape[:2]).transpose(2, 3)  # [B, M, L, H, D]
        y = y * self.to_gates(x).sigmoid()[..., None]
        return self.to_out[0](y.flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        self.net = nn.ModuleDict(
            {
                "0": RMSNorm(shapes, f"{prefix}.net.0"),
                "1": linear(shapes, f"{prefix}.net.1"),
                "4": linear(shapes, f"{prefix}.net.4"),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> the same shape."""
        return self.net["4"](F.gelu(self.net["1"](self.net["0"](x))))


class Transformer(nn.Module):
    """Attention and feed-forward layers along one axis, then a norm if the file has one."""

    layers: Iterable[Any]

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(shapes, f"{prefix}.layers.{index}.0"),
                    FeedForward(shapes, f"{prefix}.layers.{index}.1"),
                ]
            )
            for index in range(shapes.count(f"{prefix}.layers."))
        )
        has_norm = f"{prefix}.norm.gamma" in shapes
        self.norm = RMSNorm(shapes, f"{prefix}.norm") if has_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, M, L, D] -> the same shape."""
        for attend, feed_forward in self.layers:
            x = x + attend(x)
            x = x + feed_forward(x)
        return self.norm(x)


class BandSplit(nn.Module):
    """Features of each band from its bins."""

    to_features: Iterable[Any]

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        prefixes = [
            f"band_split.to_features.{band}"
            for band in range(shapes.count("band_split.to_features."))
        ]
        self.to_features = nn.ModuleList(
            nn.ModuleList([RMSNorm(shapes, f"{prefix}.0"), linear(shapes, f"{prefix}.1")])
            for prefix in prefixes
        )
        self.widths = [shapes.of(f"{prefix}.0.gamma", 1)[0] for prefix in prefixes]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, sum of widths] -> [B, N, K, D]."""
        parts = x.split(self.widths, dim=-1)
        layers = zip(self.to_features, parts, strict=True)
        return torch.stack([project(norm(part)) for (norm, project), part in layers], dim=2)


class MaskEstimator(nn.Module):
    """Mask of one stem: a perceptron for each band."""

    to_freqs: Iterable[Any]

    def __init__(self, shapes: Shapes, prefix: str) -> None:
        super().__init__()
        bands = [f"{prefix}.to_freqs.{n}" for n in range(shapes.count(f"{prefix}.to_freqs."))]
        self.to_freqs = nn.ModuleList(
            nn.ModuleList([_perceptron(shapes, f"{band}.0")]) for band in bands
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, K, D] -> the mask's values of all bands, [B, N, sum of widths]."""
        masks = []
        for features, (layers,) in zip(x.unbind(2), self.to_freqs, strict=True):
            first, *rest = layers.values()
            y = first(features)
            for layer in rest:
                y = layer(torch.tanh(y))
            masks.append(F.glu(y, dim=-1))
        return torch.cat(masks, dim=-1)


def _perceptron(shapes: Shapes, prefix: str) -> nn.ModuleDict:
    """Linear layers numbered 0, 2, 4, …: between them are activations."""
    numbers = [2 * index for index in range(shapes.count(f"{prefix}."))]
    return nn.ModuleDict({str(n): linear(shapes, f"{prefix}.{n}") for n in numbers})
