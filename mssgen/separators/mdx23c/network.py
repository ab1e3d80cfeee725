"""MDX23C: a U-Net on the spectrogram, of convolutions and of layers along frequency.

The third version of TFC-TDF-UNet: M. Kim et al., "Sound Demixing Challenge 2023 Music Demixing
Track Technical Report: TFC-TDF-UNet v3" (https://arxiv.org/abs/2306.09382). The lower bins are cut
into sub-bands, which are channels of the network. Module names are those of the published state
dicts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.separators.state_dicts import FFTSize, HopLength, Shapes, Trunk, TrunkOptions
from mssgen.separators.stft import STFT

_N_CHANNELS = 2


@dataclass(frozen=True, kw_only=True)
class MDX23COptions(TrunkOptions):
    """What an MDX23C's tensors do not tell."""

    n_fft: FFTSize
    hop_length: HopLength
    norm: Literal["InstanceNorm"] = "InstanceNorm"
    act: Literal["gelu"] = "gelu"


def _conv(shapes: Shapes, key: str, padding: int = 0) -> nn.Conv2d:
    n_out, n_in, height, width = shapes.of(f"{key}.weight", 4)
    return nn.Conv2d(n_in, n_out, (height, width), padding=padding, bias=False)


def _norm(shapes: Shapes, key: str) -> nn.InstanceNorm2d:
    (n_channels,) = shapes.of(f"{key}.weight", 1)
    return nn.InstanceNorm2d(n_channels, affine=True)


def _dense(shapes: Shapes, key: str) -> nn.Linear:
    n_out, n_in = shapes.of(f"{key}.weight", 2)
    return nn.Linear(n_in, n_out, bias=False)


class Block(nn.Module):
    """Convolutions over time and frequency, and dense layers along frequency between them."""

    def __init__(self, shapes: Shapes, key: str) -> None:
        super().__init__()
        self.tfc1 = nn.Sequential(
            _norm(shapes, f"{key}.tfc1.0"), nn.GELU(), _conv(shapes, f"{key}.tfc1.2", padding=1)
        )
        self.tdf = nn.Sequential(
            _norm(shapes, f"{key}.tdf.0"),
            nn.GELU(),
            _dense(shapes, f"{key}.tdf.2"),
            _norm(shapes, f"{key}.tdf.3"),
            nn.GELU(),
            _dense(shapes, f"{key}.tdf.5"),
        )
        self.tfc2 = nn.Sequential(
            _norm(shapes, f"{key}.tfc2.0"), nn.GELU(), _conv(shapes, f"{key}.tfc2.2", padding=1)
        )
        self.shortcut = _conv(shapes, f"{key}.shortcut")

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N, F] -> [B, C', N, F]."""
        y = self.tfc1(x)
        return self.tfc2(y + self.tdf(y)) + self.shortcut(x)


class Blocks(nn.Module):
    """Blocks of one level of the U-Net."""

    def __init__(self, shapes: Shapes, key: str) -> None:
        super().__init__()
        numbers = range(shapes.count(f"{key}.blocks."))
        self.blocks = nn.Sequential(*(Block(shapes, f"{key}.blocks.{n}") for n in numbers))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N, F] -> [B, C', N, F]."""
        return self.blocks(x)


class Rescale(nn.Module):
    """Changes the resolution of both axes by the size of its kernel."""

    def __init__(self, shapes: Shapes, key: str, *, is_up: bool) -> None:
        super().__init__()
        n_first, n_second, height, width = shapes.of(f"{key}.conv.2.weight", 4)
        self.scale = size = (height, width)
        conv = (
            nn.ConvTranspose2d(n_first, n_second, size, size, bias=False)
            if is_up
            else nn.Conv2d(n_second, n_first, size, size, bias=False)
        )
        self.conv = nn.Sequential(_norm(shapes, f"{key}.conv.0"), nn.GELU(), conv)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N, F] -> [B, C', N', F']."""
        return self.conv(x)


class MDX23C(Trunk):
    """TFC-TDF v3 with instance norms and GELU, as in every published checkpoint."""

    Options: ClassVar = MDX23COptions
    takes_bf16: ClassVar = True
    encoder_blocks: Iterable[Any]
    decoder_blocks: Iterable[Any]

    def __init__(self, options: MDX23COptions, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        depth = shapes.count("encoder_blocks.")
        self.first_conv = _conv(shapes, "first_conv")
        self.encoder_blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "tfc_tdf": Blocks(shapes, f"encoder_blocks.{level}.tfc_tdf"),
                    "downscale": Rescale(shapes, f"encoder_blocks.{level}.downscale", is_up=False),
                }
            )
            for level in range(depth)
        )
        self.bottleneck_block = Blocks(shapes, "bottleneck_block")
        self.decoder_blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "upscale": Rescale(shapes, f"decoder_blocks.{level}.upscale", is_up=True),
                    "tfc_tdf": Blocks(shapes, f"decoder_blocks.{level}.tfc_tdf"),
                }
            )
            for level in range(depth)
        )
        self.final_conv = nn.Sequential(
            _conv(shapes, "final_conv.0"), nn.GELU(), _conv(shapes, "final_conv.2")
        )
        self.stft = STFT(options.n_fft, options.hop_length, options.segment_samples)
        n_inputs = self.first_conv.in_channels
        n_outputs = shapes.of("final_conv.2.weight", 4)[0]
        self.n_channels, self.n_stems = _N_CHANNELS, n_outputs // n_inputs
        self.n_subbands = n_inputs // (2 * _N_CHANNELS)
        if n_inputs % (2 * _N_CHANNELS) or n_outputs % n_inputs:
            raise CheckpointError(f"it maps {n_inputs} channels to {n_outputs}, which are no stems")
        rows = shapes.of("encoder_blocks.0.tfc_tdf.blocks.0.tdf.2.weight", 2)[1]
        self.n_bins = rows * self.n_subbands
        self._check(options, rows)

    def _check(self, options: MDX23COptions, rows: int) -> None:
        """Raise CheckpointError unless the levels divide the frames and bins of a segment."""
        n_frames = options.segment_samples // options.hop_length + 1
        if self.n_bins > options.n_fft // 2 + 1:
            raise CheckpointError(
                f"it has {self.n_bins} bins, more than an n_fft of {options.n_fft} gives: check "
                "the options"
            )
        for block in self.encoder_blocks:
            height, width = block["downscale"].scale
            if n_frames % height or rows % width:
                raise CheckpointError(
                    f"a segment of {options.segment_samples} samples has {n_frames} frames at this "
                    f"level, which it cannot divide by {height}: check the options"
                )
            n_frames, rows = n_frames // height, rows // width

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        spectrogram = self.stft(mixture)[:, :, : self.n_bins]
        parts = torch.view_as_real(spectrogram).movedim(-1, 2)  # [B, C, 2, F, N]
        inputs = parts.unflatten(3, (self.n_subbands, -1)).flatten(1, 3)  # [B, C * 2 * K, F / K, N]
        first = self.first_conv(inputs)
        x, skips = first.transpose(2, 3), []
        for block in self.encoder_blocks:
            x = block["tfc_tdf"](x)
            skips.append(x)
            x = block["downscale"](x)
        x = self.bottleneck_block(x)
        for block in self.decoder_blocks:
            x = block["tfc_tdf"](torch.cat([block["upscale"](x), skips.pop()], dim=1))
        x = x.transpose(2, 3) * first
        x = self.final_conv(torch.cat([inputs, x], dim=1)).float()
        x = x.unflatten(1, (self.n_stems, self.n_channels, 2, self.n_subbands)).flatten(4, 5)
        stems = torch.view_as_complex(x.movedim(3, -1).contiguous())  # [B, S, C, F, N]
        n_missing = len(self.stft.window) // 2 + 1 - self.n_bins
        return self.stft.inverse(F.pad(stems, (0, 0, 0, n_missing)), mixture.shape[-1])
