"""The SEANet family: EnCodec, SoundStream and a discrete RAVE, as options of one codec.

Encoder, decoder and quantiser are modules of the `encodec` package, so that its checkpoints load
key by key and give the same output.

Sources: EnCodec, Défossez et al. 2022 (arXiv 2210.13438); SoundStream, Zeghidour et al. 2021
(arXiv 2107.03312), without LSTM and with dilated residual units; RAVE, Caillon and Esling 2021
(arXiv 2111.05011), which works on sub-bands of a PQMF and, in its discrete form, feeds noise to the
decoder besides the latents.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision, plain_options
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.networks.factorized import squared_distances
from mssgen.codecs.networks.pqmf import Pqmf
from mssgen.errors import UsageError
from mssgen.recipes.schema import (
    Channels,
    Codebooks,
    CodebookSize,
    Layers,
    ModelName,
    SampleRate,
    Strides,
    Width,
)

_N_WAVES = 4  # cosines summed for a noise channel, which makes it nearly normal
_SHUFFLE_RADIANS = 20.0  # several turns, few enough that rounding does not change the noise

ENCODEC_24KHZ: dict[str, Any] = {"sample_rate": 24_000, "n_codebooks": 32}
ENCODEC_48KHZ: dict[str, Any] = {
    "sample_rate": 48_000,
    "n_channels": 2,
    "n_codebooks": 16,
    "causal": False,
    "norm": "time_group_norm",
    "segment_s": 1.0,
    "normalize": True,
}
Norm = Literal[
    "none", "weight_norm", "spectral_norm", "time_layer_norm", "layer_norm", "time_group_norm"
]
_MAX_HOP = 2**15  # samples; published codecs use up to 2048
_MAX_DILATION = 2**12
_MAX_SEGMENT_SAMPLES = 2**21

# As in `separators.base`.
_MIN_SHARE_OF_MONO = 0.1


class SeanetCodec(Codec):
    """A convolutional codec with Euclidean codebooks; the defaults are EnCodec at 24 kHz."""

    architecture = "seanet"

    def __init__(
        self,
        *,
        name: ModelName = "encodec",
        sample_rate: SampleRate = 24_000,
        n_channels: Channels = 1,
        ratios: Strides = (8, 5, 4, 2),
        n_filters: Width = 32,
        latent_dim: Width = 128,
        n_residual_layers: Annotated[int, Field(ge=0, le=16)] = 1,
        dilation_base: Annotated[int, Field(ge=1, le=16)] = 2,
        n_lstm_layers: Layers = 2,
        causal: bool = True,
        norm: Norm = "weight_norm",
        n_codebooks: Codebooks = 32,
        codebook_size: CodebookSize = 1024,
        normalize: bool = False,
        segment_s: Annotated[float, Field(ge=0.02, le=60)] | None = None,
        segment_overlap: Annotated[float, Field(ge=0, le=0.95)] = 0.01,
        n_bands: Literal[1, 2, 4, 8, 16, 32, 64] = 1,
        n_noise_channels: Annotated[int, Field(ge=0, le=1024)] = 0,
    ) -> None:
        """Build with fresh weights.

        Args:
            name: name for messages.
            sample_rate: Hz.
            n_channels: channels of the audio.
            ratios: strides of the decoder's layers; their product times `n_bands` is the hop.
            n_filters: channels of the outermost layers, doubled at each stride.
            latent_dim: D.
            n_residual_layers: residual units per stride, dilated by `dilation_base ** index`.
            dilation_base: base of the dilations.
            n_lstm_layers: number of LSTM layers at the inner end of encoder and decoder; 0: none.
            causal: whether the convolutions are causal.
            norm: normalisation of the convolutions, as the encodec package names it.
            n_codebooks: K.
            codebook_size: V.
            normalize: divide each segment by the RMS of its channels' mean before coding.
            segment_s: length of independently coded segments in seconds; None: no segments.
            segment_overlap: overlap of successive segments, as a share of their length.
            n_bands: number of PQMF sub-bands, a power of 2; 1: code the waveform itself.
            n_noise_channels: channels of normal noise fed to the decoder besides the latents:
                random in training, computed from the latents otherwise, so that decoding is
                deterministic.

        Raises:
            UsageError: the options contradict one another, or the encodec package is not installed.
        """
        super().__init__()
        self.options = plain_options(locals())
        _check(prod(ratios) * n_bands, segment_s, sample_rate, normalize)
        if n_residual_layers > 1 and dilation_base ** (n_residual_layers - 1) > _MAX_DILATION:
            raise UsageError(
                f"{n_residual_layers} residual layers of dilation_base {dilation_base} are dilated "
                f"by more than {_MAX_DILATION} frames: choose fewer or a smaller base"
            )
        modules = import_codec_package("encodec.modules")
        quantization = import_codec_package("encodec.quantization")
        self.name, self.sample_rate, self.n_channels = name, sample_rate, n_channels
        self.hop_length = prod(ratios) * n_bands
        self.n_codebooks, self.codebook_size = n_codebooks, codebook_size
        self.latent_dim = latent_dim
        self._normalize, self._n_noise_channels = normalize, n_noise_channels
        if segment_s is not None:
            self.segment_samples = int(segment_s * sample_rate)
            self.segment_stride = max(1, int((1 - segment_overlap) * self.segment_samples))
        common = {
            "channels": n_channels * n_bands,
            "n_filters": n_filters,
            "n_residual_layers": n_residual_layers,
            "ratios": list(ratios),
            "dilation_base": dilation_base,
            "causal": causal,
            "norm": norm,
            "lstm": n_lstm_layers,
        }
        # The package uses torch's old weight norm, whose keys its checkpoints have.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            inner_encoder = modules.SEANetEncoder(dimension=latent_dim, **common)
            inner_decoder = modules.SEANetDecoder(dimension=latent_dim + n_noise_channels, **common)
        if n_bands > 1:
            pqmf = Pqmf(n_bands)
            self.encoder = nn.Sequential(pqmf.analysis, inner_encoder)
            self.decoder = nn.Sequential(
                _WithNoise(latent_dim, n_noise_channels), inner_decoder, pqmf.synthesis
            )
        elif n_noise_channels:
            self.encoder = inner_encoder
            self.decoder = nn.Sequential(_WithNoise(latent_dim, n_noise_channels), inner_decoder)
        else:
            self.encoder, self.decoder = inner_encoder, inner_decoder
        self.quantizer = quantization.ResidualVectorQuantizer(
            dimension=latent_dim, n_q=n_codebooks, bins=codebook_size
        )

    @property
    def codebooks(self) -> Sequence[Codebook]:
        return [EuclideanCodebook(layer.codebook) for layer in self.quantizer.vq.layers]

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        n_codebooks = self.check_n_codebooks(n_codebooks)
        return self.quantizer.vq.encode(latents, n_q=n_codebooks).transpose(0, 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        return self.quantizer.vq.decode(codes.transpose(0, 1))

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        scale = self.scales(audio)
        if scale is not None:
            audio = audio / scale[:, :1, None]
        latents = self.encoder(self.pad(audio))
        n_codebooks = self.check_n_codebooks(n_codebooks)
        # Codebooks are moving averages of sums of frames: not in half precision.
        with full_precision(latents):
            latents = latents.float()
            residual, codes, losses = latents, [], []
            for layer in self.quantizer.vq.layers[:n_codebooks]:
                vectors, stage_codes, loss = layer(residual)
                # The package's own loop subtracts the straight-through output, whose gradient
                # cancels that of the residual: only the first codebook would have a commitment.
                residual = residual - vectors.detach()
                codes.append(stage_codes)
                losses.append(loss)
        decoded = self.decoder(latents - residual.detach())[..., : audio.shape[-1]]
        if scale is not None:
            decoded = decoded * scale[:, :1, None]
        return Reconstruction(decoded, torch.stack(codes, dim=1), torch.stack(losses).mean())

    def pad(self, audio: Tensor) -> Tensor:
        """Zero-pad audio [B, C, T] to whole hops for a PQMF; SEANet itself pads inside."""
        n_bands = self.options["n_bands"]
        return audio if n_bands == 1 else F.pad(audio, (0, -audio.shape[-1] % self.hop_length))

    def scales(self, audio: Tensor) -> Tensor | None:
        if not self._normalize:
            return None
        # Channels that cancel in mono still have power; EnCodec would divide by almost zero.
        powers = [
            torch.maximum(
                part.mean(dim=1).square().mean(dim=-1),
                _MIN_SHARE_OF_MONO**2 * part.square().mean(dim=(1, 2)),
            )
            for part in self._segments(audio, None)
        ]
        return torch.stack(powers, dim=-1).sqrt() + 1e-8


def _check(hop_length: int, segment_s: float | None, sample_rate: int, normalize: bool) -> None:
    """Raise UsageError if hop or segment length is out of range, or for `normalize` without one."""
    if hop_length > _MAX_HOP:
        raise UsageError(
            f"ratios and n_bands make a hop of {hop_length} samples: choose {_MAX_HOP} or less"
        )
    if segment_s is None:
        if normalize:
            raise UsageError("normalize scales segments: set their length, segment_s")
        return
    if not hop_length <= segment_s * sample_rate <= _MAX_SEGMENT_SAMPLES:
        raise UsageError(
            f"segments of {segment_s:g} s at {sample_rate} Hz are shorter than one hop of "
            f"{hop_length} samples, or longer than {_MAX_SEGMENT_SAMPLES}: choose another segment_s"
        )


@dataclass(frozen=True)
class EuclideanCodebook:
    """A `Codebook` that looks up the nearest entry in latent space."""

    embedding: Tensor
    """Entries [V, D]."""

    def distances(self, residual: Tensor) -> Tensor:
        """Squared distances [B, N, V] of residuals [B, D, N]."""
        return squared_distances(residual.transpose(1, 2), self.embedding)

    def expected(self, probabilities: Tensor) -> Tensor:
        """Mean entry [B, D, N], weighted by probabilities [B, N, V]."""
        return (probabilities @ self.embedding).transpose(1, 2)

    def vectors(self, codes: Tensor) -> Tensor:
        """Entries [B, D, N] of codes [B, N]."""
        return F.embedding(codes, self.embedding).transpose(1, 2)


class _WithNoise(nn.Module):
    """Appends `n_channels` channels of unit-power noise to latents [B, D, N].

    The noise is random in training. Otherwise it is computed from each frame's latents, as a sum of
    a few cosines per channel, so that the same codes give the same audio in any block or batch.
    """

    shuffle: Tensor  # [C * waves, D]
    phases: Tensor  # [C * waves, 1]

    def __init__(self, latent_dim: int, n_channels: int) -> None:
        super().__init__()
        self._n_channels = n_channels
        n_waves = n_channels * _N_WAVES
        with torch.device("cpu"):  # constants need values even in a model on the meta device
            generator = torch.Generator().manual_seed(0)
            shuffle = torch.randn(n_waves, latent_dim, generator=generator)
            phases = torch.rand(n_waves, 1, generator=generator)
        # Determined by the shape, so not part of checkpoints.
        self.register_buffer("shuffle", shuffle * _SHUFFLE_RADIANS, persistent=False)
        self.register_buffer("phases", phases * 2 * torch.pi, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        if not self._n_channels:
            return latents
        noise = self._random(latents) if self.training else self._computed(latents)
        return torch.cat([latents, noise.to(latents)], dim=1)

    def _random(self, latents: Tensor) -> Tensor:
        return latents.new_empty(len(latents), self._n_channels, latents.shape[-1]).normal_()

    def _computed(self, latents: Tensor) -> Tensor:
        """Noise [B, n_channels, N]."""
        with full_precision(latents):  # half precision would change the phases
            seeds = F.normalize(latents.detach().float(), dim=1)
            waves = (self.shuffle.float() @ seeds + self.phases.float()).cos()
            return waves.unflatten(1, (-1, _N_WAVES)).sum(2) * (2 / _N_WAVES) ** 0.5
