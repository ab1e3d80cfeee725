"""SCNet: sparse compression network for music source separation.

W. Tong et al., "SCNet: Sparse Compression Network for Music Source Separation" (2024,
https://arxiv.org/abs/2401.13276). An encoder compresses high bands more than low ones, dual-path
recurrent layers work on the compressed spectrogram, alternately on frames and on the Fourier
transform along frames, and a decoder restores the bands. Also its masked variant, whose output
multiplies the mixture's spectrogram.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.separators.scnet.layers import N_BANDS, Bands, DualPath, Encoder, Fusion, Upsampler
from mssgen.separators.state_dicts import FFTSize, HopLength, Shapes, Trunk, TrunkOptions
from mssgen.separators.stft import STFT

BandShares = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    Field(strict=False, min_length=N_BANDS, max_length=N_BANDS),
]
BandStrides = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...],
    Field(strict=False, min_length=N_BANDS, max_length=N_BANDS),
]
_MASK = "mask_layer.0.weight"


@dataclass(frozen=True, kw_only=True)
class SCNetOptions(TrunkOptions):
    """What an SCNet's tensors do not tell."""

    n_fft: FFTSize = 4096
    hop_length: HopLength = 1024
    band_shares: BandShares
    """Share of the bins in the low, mid and high band, at each level."""
    band_strides: BandStrides
    """Compression of the low, mid and high band, at each level."""


class SCNet(Trunk):
    """SCNet and masked SCNet, told apart by their tensors."""

    Options: ClassVar = SCNetOptions
    takes_bf16: ClassVar = True
    encoder: Sequence[Encoder]
    decoder: Sequence[Any]
    separation_net: Any

    def __init__(self, options: SCNetOptions, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        depth, strides = shapes.count("encoder."), options.band_strides
        encoders = [Encoder(shapes, f"encoder.{level}", strides) for level in range(depth)]
        self.encoder = nn.ModuleList(encoders)  # type: ignore[assignment]
        self.decoder = nn.ModuleList(  # type: ignore[assignment]
            nn.Sequential(
                Fusion(shapes, f"decoder.{level}.0"),
                Upsampler(shapes, f"decoder.{level}.1", strides),
            )
            for level in range(depth)
        )
        self.separation_net = nn.ModuleDict(
            {
                "dp_modules": nn.ModuleList(
                    DualPath(shapes, f"separation_net.dp_modules.{index}")
                    for index in range(shapes.count("separation_net.dp_modules."))
                )
            }
        )
        self.is_masked = _MASK in shapes
        self.n_bins = options.n_fft // 2 + 1
        n_inputs = shapes.of("encoder.0.SDlayer.convs.0.weight", 4)[1]
        n_outputs = shapes.of(f"decoder.{depth - 1}.1.convtrs.0.weight", 4)[1]
        if self.is_masked:
            n_hidden, _, width, _ = shapes.of(_MASK, 4)
            self.pos_embed_f = nn.Parameter(torch.empty(1, n_inputs, self.n_bins, 1))
            self.mask_layer = nn.Sequential(
                nn.Conv2d(n_outputs, n_hidden, width, padding="same"),
                nn.GELU(),
                nn.Conv2d(n_hidden, n_outputs, 1),
                nn.Tanh(),
            )
        self.stft = STFT(
            options.n_fft,
            options.hop_length,
            options.segment_samples,
            is_hann=self.is_masked,
            is_orthonormal=True,
        )
        self.bands, n_bins = [], self.n_bins
        for encoder in encoders:
            self.bands.append(Bands(n_bins, options.band_shares, strides, encoder.kernels))
            n_bins = sum(self.bands[-1].inner_lengths)
        self.n_channels, self.n_stems = n_inputs // 2, n_outputs // n_inputs
        self._check(n_inputs, n_outputs)

    def _check(self, n_inputs: int, n_outputs: int) -> None:
        """Raise CheckpointError unless the widths of the layers match one another."""
        inputs = [encoder.SDlayer["convs"][0].in_channels for encoder in self.encoder]
        outputs = [encoder.n_channels for encoder in self.encoder]
        widths = [layer.norm_layers[0].num_channels for layer in self.separation_net["dp_modules"]]
        wanted = [outputs[-1] * (2 if index % 2 else 1) for index in range(len(widths))]
        up = [decoder[1].convtrs[0] for decoder in self.decoder]
        if (
            inputs != [n_inputs, *outputs[:-1]]
            or widths != wanted
            or len(widths) % 2
            or [conv.in_channels for conv in up] != outputs[::-1]
            or [conv.out_channels for conv in up] != [*inputs[:0:-1], n_outputs]
            or n_inputs % 2
            or n_outputs % n_inputs
        ):
            raise CheckpointError("the widths of its layers contradict one another")

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        n_samples, hop_length = mixture.shape[-1], self.stft.hop_length
        # The transform along frames needs an even number of frames.
        n_hops = n_samples // hop_length + 1
        n_padded = (n_hops + 1 - n_hops % 2) * hop_length
        spectrogram = self.stft(F.pad(mixture, (0, n_padded - n_samples)))
        parts = torch.view_as_real(spectrogram.permute(0, 2, 3, 1).contiguous())
        x = parts.flatten(-2)  # [B, F, N, 2C]: L.re, L.im, R.re, R.im
        if self.is_masked:
            x = x + self.pos_embed_f.permute(0, 2, 3, 1)
        # Reduced precision is for the recurrent layers: half of the time, and little of the error.
        with torch.autocast(x.device.type, enabled=False):
            skips = []
            for encode, bands in zip(self.encoder, self.bands, strict=True):
                x, skip = encode(x, bands)
                skips.append(skip)
        x = self._separate(x)
        with torch.autocast(x.device.type, enabled=False):
            for decode, bands in zip(self.decoder, reversed(self.bands), strict=True):
                x = decode[1](decode[0](x, skips.pop()), bands)
            if self.is_masked:
                x = self.mask_layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x.unflatten(-1, (self.n_stems, self.n_channels, 2)).contiguous()
        stems = torch.view_as_complex(x).permute(0, 3, 4, 1, 2)  # [B, S, C, F, N]
        if self.is_masked:
            stems = stems * spectrogram[:, None]
        return self.stft.inverse(stems, n_samples)

    def _separate(self, x: Tensor) -> Tensor:
        """Dual-path layers on x [B, F, N, C] fp32, every second one on its Fourier transform."""
        for index, layer in enumerate(self.separation_net["dp_modules"]):
            x = layer(x)
            if index % 2:
                n_half = x.shape[-1] // 2
                real, imaginary = x.split(n_half, dim=-1)
                x = torch.fft.irfft(torch.complex(real, imaginary), dim=2, norm="ortho")
            else:
                spectrum = torch.fft.rfft(x, dim=2, norm="ortho")
                x = torch.cat([spectrum.real, spectrum.imag], dim=-1)
        return x
