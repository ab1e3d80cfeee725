"""BS-RoFormer and Mel-Band RoFormer: transformers on bands of the spectrogram.

W.-T. Lu et al., "Music Source Separation with Band-Split RoPE Transformer" (2023,
https://arxiv.org/abs/2309.02612); J.-C. Wang et al., "Mel-Band RoFormer for Music Source
Separation" (2023, https://arxiv.org/abs/2310.01809). Both split the bins of the mixture's
spectrogram into bands, attend in turn along frames and along bands, and estimate one complex mask
per stem. They differ in the bands: adjoining ones of chosen widths, or overlapping ones on the mel
scale.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mssgen.errors import CheckpointError
from mssgen.separators.roformer.layers import BandSplit, MaskEstimator, RMSNorm, Transformer
from mssgen.separators.state_dicts import FFTSize, HopLength, Shapes, Trunk, TrunkOptions
from mssgen.separators.stft import STFT


@dataclass(frozen=True, kw_only=True)
class RoFormerOptions(TrunkOptions):
    """What a RoFormer's tensors do not tell."""

    n_fft: FFTSize = 2048
    hop_length: HopLength
    zero_dc: bool = True
    """Whether the output has no energy at 0 Hz."""
    skip_connection: bool = False
    """Whether each block also gets the sum of the outputs of the blocks before it."""


class RoFormer(Trunk):
    """What both have in common; `bins` says which bins each band has."""

    Options: ClassVar = RoFormerOptions
    ignored: ClassVar = re.compile(r".*\.rotary_embed\.freqs")  # a constant
    takes_bf16: ClassVar = True
    layers: Iterable[Any]
    bins: Tensor
    n_bands_of: Tensor

    def __init__(self, options: RoFormerOptions, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.band_split = BandSplit(shapes)
        self.layers = nn.ModuleList(
            nn.ModuleList(Transformer(shapes, f"layers.{index}.{axis}") for axis in range(2))
            for index in range(shapes.count("layers."))
        )
        has_norm = "final_norm.gamma" in shapes
        self.final_norm = RMSNorm(shapes, "final_norm") if has_norm else nn.Identity()
        self.n_stems = shapes.count("mask_estimators.")
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(shapes, f"mask_estimators.{index}") for index in range(self.n_stems)
        )
        self.stft = STFT(options.n_fft, options.hop_length, options.segment_samples)
        self.zero_dc, self.skip_connection = options.zero_dc, options.skip_connection
        bands = self._bands(options)
        widths = [len(band) for band in bands]
        self.n_channels = self.band_split.widths[0] // (2 * widths[0])
        wanted = [2 * self.n_channels * width for width in widths]
        if self.band_split.widths != wanted or self.n_channels not in (1, 2):
            raise CheckpointError(
                f"its {len(self.band_split.widths)} bands do not fit an n_fft of {options.n_fft} "
                f"at {options.samplerate} Hz: check the options"
            )
        bins = torch.tensor([index for band in bands for index in band], device="cpu")
        self.register_buffer("bins", bins, persistent=False)
        n_bands_of = torch.bincount(bins, minlength=options.n_fft // 2 + 1)
        self.register_buffer("n_bands_of", n_bands_of, persistent=False)

    def _bands(self, options: RoFormerOptions) -> Sequence[range]:
        """Bins of each band, in order."""
        raise NotImplementedError

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        spectrogram = self.stft(mixture)  # [B, C, F, N]
        parts = torch.view_as_real(spectrogram.permute(0, 3, 2, 1).contiguous())  # [B, N, F, C, 2]
        x = self.band_split(parts[:, :, self.bins].flatten(2)).float()
        total: Tensor | int = 0
        for along_frames, along_bands in self.layers:
            if self.skip_connection:
                x = x + total
            x = along_frames(x.transpose(1, 2)).transpose(1, 2)
            x = along_bands(x)
            if self.skip_connection:
                total = total + x
        x = self.final_norm(x)
        stems = []
        for estimate in self.mask_estimators:
            values = estimate(x).float().unflatten(-1, (len(self.bins), self.n_channels, 2))
            mask = self._merged(torch.view_as_complex(values)).permute(0, 3, 2, 1)
            stems.append(self.stft.inverse(self._masked(spectrogram, mask), mixture.shape[-1]))
        return torch.stack(stems, dim=1)

    def _merged(self, mask: Tensor) -> Tensor:
        """Masks of the bands [B, N, bins, C] -> [B, N, F, C]: the mean where bands overlap."""
        if len(self.bins) == len(self.n_bands_of):
            return mask
        merged = mask.new_zeros(*mask.shape[:2], len(self.n_bands_of), self.n_channels)
        return merged.index_add_(2, self.bins, mask) / self.n_bands_of[:, None]

    def _masked(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        """Product of the mixture's spectrogram and a mask, both [B, C, F, N]."""
        product = spectrogram * mask
        if self.zero_dc:
            product[:, :, 0] = 0
        return product


class BSRoFormer(RoFormer):
    """Band-split RoFormer: the bands adjoin one another, and their tensors tell their widths."""

    def _bands(self, options: RoFormerOptions) -> Sequence[range]:
        n_bins, total = options.n_fft // 2 + 1, sum(self.band_split.widths)
        n_values = 2 * (total // (2 * n_bins)) or 2  # of a bin
        edges = [0]
        for width in self.band_split.widths:
            edges.append(edges[-1] + width // n_values)
        if edges[-1] != n_bins or 0 in {width // n_values for width in self.band_split.widths}:
            raise CheckpointError(
                f"its bands have {edges[-1]} bins, and an n_fft of {options.n_fft} has {n_bins}: "
                "check the options"
            )
        return [range(*pair) for pair in pairwise(edges)]


class MelRoFormer(RoFormer):
    """Mel-band RoFormer: each bin is in one or two of the overlapping bands."""

    def _bands(self, options: RoFormerOptions) -> Sequence[range]:
        return mel_bands(len(self.band_split.widths), options.n_fft, options.samplerate)


def mel_bands(n_bands: int, n_fft: int, sample_rate: int) -> list[range]:
    """Bins inside the triangles of a mel filter bank on Slaney's scale, as in librosa.

    The first band also has the bin at 0 Hz, the last one the bin at half the sample rate. Raises
    CheckpointError if a band has no bins.
    """
    top = _to_mel(sample_rate / 2)
    edges = [_to_hz(top * index / (n_bands + 1)) for index in range(n_bands + 2)]
    bin_hz = sample_rate / n_fft
    bands = [
        range(math.floor(low / bin_hz) + 1, math.ceil(high / bin_hz))
        for low, high in zip(edges, edges[2:], strict=False)
    ]
    bands[0] = range(bands[0].stop)
    bands[-1] = range(bands[-1].start, n_fft // 2 + 1)
    if not all(bands) or any(a.stop < b.start for a, b in pairwise(bands)):
        raise CheckpointError(f"an n_fft of {n_fft} is too small for its {n_bands} mel bands")
    return bands


def _to_mel(hz: float) -> float:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000, 6.4)


def _to_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)
