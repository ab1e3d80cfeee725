"""The Descript Audio Codec and its relatives: factorised codebooks with cosine lookup.

Encoder, decoder and quantiser are modules of the `descript-audio-codec` package, so that its
checkpoints load key by key and give the same output.

Sources: DAC, Kumar et al. 2023 (arXiv 2306.06546); the VampNet codec (LAC), Flores García et al.
2023 (arXiv 2307.04686), with another decoder.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision, plain_options
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.networks.factorized import FactorizedCodebook
from mssgen.codecs.networks.mrf import MrfDecoder
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, CodebookSize, ModelName, SampleRate, Strides, Width

DAC_44KHZ: dict[str, Any] = {"sample_rate": 44_100, "n_codebooks": 9}
DAC_24KHZ: dict[str, Any] = {
    "sample_rate": 24_000,
    "encoder_rates": [2, 4, 5, 8],
    "decoder_rates": [8, 5, 4, 2],
    "n_codebooks": 32,
}
DAC_16KHZ: dict[str, Any] = {**DAC_24KHZ, "sample_rate": 16_000, "n_codebooks": 12}
_MAX_HOP = 2**15  # samples; published codecs use up to 1024
_VAMPNET_LUFS = -24.0  # loudness of what VampNet was trained on
_COMMITMENT = 0.25  # DAC's weight of the commitment loss; that of the codebook loss is 1


class DacCodec(Codec):
    """A mono codec that looks up codes by angle in a low dimension; the defaults are DAC 44.1 kHz.

    Audio is coded at its own level. DAC's command line first normalises it to -16 LUFS with peaks
    below 1, and reverts that after decoding; here a stem must keep its level relative to the
    mixture, and the targets of a trained encoder must not depend on the rest of the file. The codec
    of VampNet codes whole files at -24 LUFS (`mssgen.codecs.coding`), as VampNet does.
    """

    architecture = "dac"
    n_channels = 1

    def __init__(
        self,
        *,
        name: ModelName = "dac",
        sample_rate: SampleRate = 44_100,
        encoder_dim: Width = 64,
        encoder_rates: Strides = (2, 4, 8, 8),
        latent_dim: Width | None = None,
        decoder_dim: Width = 1536,
        decoder_rates: Strides = (8, 8, 4, 2),
        decoder_kind: Literal["dac", "mrf"] = "dac",
        n_codebooks: Codebooks = 9,
        codebook_size: CodebookSize = 1024,
        codebook_dim: Width | Annotated[Sequence[Width], Field(max_length=256)] = 8,
    ) -> None:
        """Build with fresh weights.

        Args:
            name: name for messages.
            sample_rate: Hz.
            encoder_dim: channels of the encoder's first layer, doubled at each stride.
            encoder_rates: strides of the encoder; their product is the hop.
            latent_dim: D; None: the number of channels of the encoder's last layer.
            decoder_dim: channels of the decoder's first layer, halved at each stride.
            decoder_rates: strides of the decoder, with the same product.
            decoder_kind: "dac", or "mrf" for the decoder of the VampNet codec.
            n_codebooks: K.
            codebook_size: V.
            codebook_dim: E, one number for all codebooks or one for each.

        Raises:
            UsageError: the options contradict one another, or the descript-audio-codec package is
                not installed.
        """
        super().__init__()
        self.options = plain_options(locals())
        if prod(encoder_rates) != prod(decoder_rates):
            raise UsageError(
                f"the encoder_rates {list(encoder_rates)} and decoder_rates {list(decoder_rates)} "
                "have different products: use the same hop length in both"
            )
        if prod(encoder_rates) > _MAX_HOP or (latent_dim is None and len(encoder_rates) > 8):
            raise UsageError(
                f"the encoder_rates make a hop of {prod(encoder_rates)} samples: choose fewer or "
                f"smaller ones, with a product of at most {_MAX_HOP}"
            )
        if isinstance(codebook_dim, Sequence) and len(codebook_dim) != n_codebooks:
            raise UsageError(
                f"codebook_dim has {len(codebook_dim)} values and n_codebooks is {n_codebooks}: "
                "make them equal"
            )
        if decoder_kind not in ("dac", "mrf"):
            raise UsageError(f"decoder_kind {decoder_kind} is unknown: use dac or mrf")
        if decoder_kind == "mrf" and any(rate % 2 for rate in (*encoder_rates, *decoder_rates)):
            raise UsageError("the decoder_kind mrf needs even encoder_rates and decoder_rates")
        model = import_codec_package("dac.model.dac")
        quantize = import_codec_package("dac.nn.quantize")
        self.name, self.sample_rate = name, sample_rate
        if decoder_kind == "mrf":
            self.loudness_lufs = _VAMPNET_LUFS
        self.hop_length = prod(encoder_rates)
        self.n_codebooks, self.codebook_size = n_codebooks, codebook_size
        self.latent_dim = latent_dim or encoder_dim * 2 ** len(encoder_rates)
        self.encoder = model.Encoder(encoder_dim, list(encoder_rates), self.latent_dim)
        if decoder_kind == "mrf":
            layers = import_codec_package("dac.nn.layers")
            self.decoder = MrfDecoder(layers, self.latent_dim, decoder_dim, decoder_rates)
        else:
            self.decoder = model.Decoder(self.latent_dim, decoder_dim, list(decoder_rates))
        self.quantizer = quantize.ResidualVectorQuantize(
            input_dim=self.latent_dim,
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim if isinstance(codebook_dim, int) else list(codebook_dim),
        )
        # DAC also initialises the weights, which takes seconds and which weight norm overrides.
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # A transposed convolution of odd stride outputs one sample less than frames x stride.
        self._missing_samples = 0
        for rate in decoder_rates:
            self._missing_samples = rate * self._missing_samples + rate % 2

    @property
    def codebooks(self) -> Sequence[Codebook]:
        return [FactorizedCodebook(stage) for stage in self.quantizer.quantizers]

    def n_frames(self, n_samples: int) -> int:
        """Number of frames of `n_samples` samples.

        With odd strides (5 in DAC 24 and 16 kHz) the decoder outputs a few samples less than frames
        times hop (8 in those). A frame is added where these samples would be missing.
        """
        return -(-(n_samples + self._missing_samples) // self.hop_length)

    def pad(self, audio: Tensor) -> Tensor:
        """Zero-pad audio [B, 1, T] at the end to whole frames."""
        n_samples = audio.shape[-1]
        return F.pad(audio, (0, self.n_frames(n_samples) * self.hop_length - n_samples))

    @torch.no_grad()
    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        return self._quantized(latents, self.check_n_codebooks(n_codebooks))[1]

    def dequantize(self, codes: Tensor) -> Tensor:
        quantized: Tensor = self.quantizer.from_codes(codes)[0]
        return quantized

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        """As `Codec.forward`; the codebooks are learned by gradients.

        `commitment` is 0.25 times the commitment loss plus the codebook loss, summed over the
        codebooks (equation 5 of VQ-VAE, arXiv 1711.00937, in the space of the lookup; DAC's
        weights).
        """
        latents = self.encoder(self.pad(audio))
        n_codebooks = self.check_n_codebooks(n_codebooks)
        with full_precision(latents):
            quantized, codes, commitment = self._quantized(latents.float(), n_codebooks)
        return Reconstruction(self.decoder(quantized)[..., : audio.shape[-1]], codes, commitment)

    def _quantized(self, latents: Tensor, n_codebooks: int) -> tuple[Tensor, Tensor, Tensor]:
        """(quantised latents [B, D, N] with straight-through gradients, codes [B, K, N], loss).

        Loops over the codebooks here, since the package's loop draws their number in train mode.
        """
        residual, quantized = latents, torch.zeros_like(latents)
        codes, loss = [], latents.new_zeros(())
        for stage in self.quantizer.quantizers[:n_codebooks]:
            vectors, commitment, codebook, indices, _ = stage(residual)
            quantized, residual = quantized + vectors, residual - vectors
            codes.append(indices)
            loss = loss + _COMMITMENT * commitment.mean() + codebook.mean()
        return quantized, torch.stack(codes, dim=1), loss
