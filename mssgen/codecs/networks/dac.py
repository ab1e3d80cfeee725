"""The Descript Audio Codec and its relatives: factorised codebooks with cosine lookup.

Encoder, decoder and quantiser are the modules of the `descript-audio-codec` package, so that its
checkpoints load key by key and give its own numbers.

Sources: DAC, Kumar et al. 2023 (arXiv 2306.06546); the VampNet codec (LAC), Flores García et al.
2023 (arXiv 2307.04686), which has another decoder.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision
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
_MAX_HOP = 2**15  # samples; published codecs have up to 1024
_COMMITMENT = 0.25  # the weight of DAC's recipe, beside 1 for the codebooks


class DacCodec(Codec):
    """A mono codec whose codes are looked up by angle in few dimensions; defaults: DAC 44.1 kHz.

    Audio is coded at the level it has. DAC's own command line brings it to -16 LUFS and peaks
    below 1 first, and undoes that afterwards; here a stem must keep its level relative to the
    mixture, segments of a long file must match, and targets of a trained encoder must not depend
    on the loudness of what else is in the file.
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
            name: for messages.
            sample_rate: Hz.
            encoder_dim: width of the encoder's first layer, doubled at each stride.
            encoder_rates: strides of the encoder; their product is the hop.
            latent_dim: D; None is the width at the encoder's inner end.
            decoder_dim: width of the decoder's first layer, halved at each stride.
            decoder_rates: strides of the decoder, with the same product.
            decoder_kind: "dac", or "mrf" for that of the VampNet codec.
            n_codebooks: K.
            codebook_size: V.
            codebook_dim: of the space in which codes are looked up; one number for each level, or
                one for all.

        Raises:
            UsageError: the strides do not fit, or the descript-audio-codec package is missing.
        """
        super().__init__()
        self.options = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in locals().items()
            if key not in ("self", "__class__")
        }
        if prod(encoder_rates) != prod(decoder_rates):
            raise UsageError(
                f"the encoder_rates {list(encoder_rates)} and decoder_rates {list(decoder_rates)} "
                "have different products: give both the same hop length"
            )
        if prod(encoder_rates) > _MAX_HOP or (latent_dim is None and len(encoder_rates) > 8):
            raise UsageError(
                f"the encoder_rates make a hop of {prod(encoder_rates)} samples: choose fewer and "
                f"smaller ones, of {_MAX_HOP} at most"
            )
        if isinstance(codebook_dim, Sequence) and len(codebook_dim) != n_codebooks:
            raise UsageError(
                f"codebook_dim names {len(codebook_dim)} levels and n_codebooks {n_codebooks}: "
                "make them agree"
            )
        if decoder_kind not in ("dac", "mrf"):
            raise UsageError(f"decoder_kind {decoder_kind} is unknown: use dac or mrf")
        if decoder_kind == "mrf" and any(rate % 2 for rate in (*encoder_rates, *decoder_rates)):
            raise UsageError("the decoder_kind mrf needs even encoder_rates and decoder_rates")
        model = import_codec_package("dac.model.dac")
        quantize = import_codec_package("dac.nn.quantize")
        self.name, self.sample_rate = name, sample_rate
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
        # DAC also draws each convolution's weight, for seconds; weight norm makes that void.
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # A transposed convolution of odd stride ends one sample short of its multiple.
        self._missing_samples = 0
        for rate in decoder_rates:
            self._missing_samples = rate * self._missing_samples + rate % 2

    @property
    def codebooks(self) -> Sequence[Codebook]:
        return [FactorizedCodebook(level) for level in self.quantizer.quantizers]

    def n_frames(self, n_samples: int) -> int:
        """Frames of `n_samples` samples.

        Where a stride is odd (DAC 24 and 16 kHz: 5) the decoder gives a few samples less than
        frames times hop (8 of them there). One more frame is coded where those would be missed, so
        that every decoded sample is real.
        """
        return -(-(n_samples + self._missing_samples) // self.hop_length)

    def pad(self, audio: Tensor) -> Tensor:
        """Whole frames, with zeros at the end."""
        n_samples = audio.shape[-1]
        return F.pad(audio, (0, self.n_frames(n_samples) * self.hop_length - n_samples))

    @torch.no_grad()
    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        return self._quantized(latents, self.check_n_codebooks(n_codebooks))[1]

    def dequantize(self, codes: Tensor) -> Tensor:
        quantized: Tensor = self.quantizer.from_codes(codes)[0]
        return quantized

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        """As `Codec.forward`; the codebooks learn by gradients, and nothing changes here.

        `commitment` is 0.25 times DAC's commitment loss plus its codebook loss, summed over the
        levels (equation 5 of VQ-VAE, arXiv 1711.00937, in the space of the lookup; weights of
        DAC's recipe).
        """
        latents = self.encoder(self.pad(audio))
        n_levels = self.check_n_codebooks(n_codebooks)
        with full_precision(latents):
            quantized, codes, commitment = self._quantized(latents.float(), n_levels)
        return Reconstruction(self.decoder(quantized)[..., : audio.shape[-1]], codes, commitment)

    def _quantized(self, latents: Tensor, n_levels: int) -> tuple[Tensor, Tensor, Tensor]:
        """(quantised latents with straight-through gradients, codes, loss).

        The levels one by one: in train mode the package's own loop draws their number itself.
        """
        residual, quantized = latents, torch.zeros_like(latents)
        codes, loss = [], latents.new_zeros(())
        for level in self.quantizer.quantizers[:n_levels]:
            vectors, commitment, codebook, indices, _ = level(residual)
            quantized, residual = quantized + vectors, residual - vectors
            codes.append(indices)
            loss = loss + _COMMITMENT * commitment.mean() + codebook.mean()
        return quantized, torch.stack(codes, dim=1), loss
