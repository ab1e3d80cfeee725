"""mssgen's own stem codec, which works on STFT frames instead of samples and so is fast on a CPU.

    audio [B, 2, T] -> STFT of mid and side, compressed -> ConvNeXt blocks -> latents [B, D, N]
    quantised latents -> ConvNeXt blocks -> spectrum, expanded -> inverse STFT -> audio

The compressed spectrum is complex, so that frames carry phase. The decoder also outputs the energy
of noise in each band and adds it, which restores noisy sounds such as cymbals without coding their
phase (perceptual noise substitution, Herre and Schulz 1998).

Optionally the energy of each band is coded too, by a small network and codebooks of its own, which
come first; the decoder scales the bands of its output to these energies. Gain and shape of the
spectrum are then coded separately, as in Opus' CELT (Valin et al. 2013, arXiv 1602.04845), and
errors of the shape, which spread over all bins, cannot raise a quiet band.

The skeleton is that of Vocos, Siuzdak 2023 (arXiv 2306.00814), with an encoder of the same kind and
ConvNeXt blocks, Liu et al. 2022 (arXiv 2201.03545).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision, plain_options
from mssgen.codecs.networks.factorized import FactorizedQuantizer
from mssgen.codecs.networks.stem_spectrum import InverseSpectrum, Spectrum, to_log
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, CodebookSize, Layers, ModelName, SampleRate, Width


class StemCodec(Codec):
    """A stereo codec for stems that needs no package besides torch."""

    architecture = "stem"
    n_channels = 2
    # Audio is always coded at the one level where the error is smallest.
    level_range = (0.05, 0.05)
    encoder: nn.Sequential
    decoder: nn.Sequential
    quantizer: FactorizedQuantizer

    def __init__(
        self,
        *,
        name: ModelName = "stem",
        sample_rate: SampleRate = 44_100,
        n_fft: Annotated[int, Field(ge=4, le=2**15)] = 1024,
        hop_length: Annotated[int, Field(ge=1, le=2**15)] = 512,
        compression: Annotated[float, Field(gt=0, le=1)] = 0.6,
        width: Width = 320,
        expansion: Annotated[int, Field(ge=1, le=16)] = 2,
        kernel_size: Annotated[int, Field(ge=1, le=255)] = 7,
        n_bands: Annotated[int, Field(ge=0, le=512)] = 32,
        n_encoder_blocks: Layers = 4,
        n_decoder_blocks: Layers = 6,
        latent_dim: Width = 320,
        n_codebooks: Codebooks = 32,
        codebook_size: CodebookSize = 1024,
        codebook_dim: Width = 8,
        n_level_codebooks: Annotated[int, Field(ge=0, le=256)] = 0,
        level_width: Width = 128,
        n_level_blocks: Layers = 3,
    ) -> None:
        """Build with fresh weights.

        Args:
            name: name for messages.
            sample_rate: Hz.
            n_fft: STFT length in samples.
            hop_length: samples per frame, a divisor of `n_fft` and at least a 16th of it.
            compression: exponent applied to the magnitudes.
            width: channels of the ConvNeXt blocks.
            expansion: hidden width of a block, as a multiple of `width`.
            kernel_size: kernel of a block's convolution in frames, odd.
            n_bands: number of mel bands of mid, and of side, for noise and band energies; 0: none.
            n_encoder_blocks: number of blocks before the quantiser.
            n_decoder_blocks: number of blocks after the quantiser.
            latent_dim: latent dimensions of the spectrum; D adds 2 `n_bands` if band energies are
                coded.
            n_codebooks: number of codebooks of the spectrum; K adds `n_level_codebooks`.
            codebook_size: V, the number of entries of a codebook.
            codebook_dim: E, the number of dimensions of an entry.
            n_level_codebooks: number of codebooks of the band energies, the first ones; 0: none.
            level_width: channels of the band-energy networks.
            n_level_blocks: number of blocks of each band-energy network, before and after the
                codebooks.

        Raises:
            ValueError: `n_level_codebooks` > 0 without `n_bands`.
            UsageError: `hop_length` does not fit `n_fft`, or `kernel_size` is even.
        """
        super().__init__()
        self.options = plain_options(locals())
        if n_fft % hop_length or n_fft > 16 * hop_length or (n_fft - hop_length) % 2:
            raise UsageError(
                f"hop_length {hop_length} is not a half to a 16th of n_fft {n_fft}: choose another"
            )
        if kernel_size % 2 == 0:
            raise UsageError(f"kernel_size {kernel_size} is even: choose an odd one")
        self.name, self.sample_rate, self.hop_length = name, sample_rate, hop_length
        self.n_codebooks, self.codebook_size = n_level_codebooks + n_codebooks, codebook_size
        self.n_level_codebooks = n_level_codebooks
        self.adds_noise = n_bands > 0
        transform = (n_fft, hop_length, compression, n_bands)
        spectrum = Spectrum(*transform)
        n_values = spectrum.n_values + spectrum.n_energies
        n_energies = spectrum.n_energies if n_level_codebooks else 0
        if n_level_codebooks and not n_energies:
            raise ValueError("n_level_codebooks needs n_bands")
        self.latent_dim, self.n_band_dims = latent_dim + n_energies, n_energies
        block = (width, expansion, kernel_size)
        encoder = nn.Sequential(
            nn.Conv1d(n_values, width, 1),
            *(Block(*block) for _ in range(n_encoder_blocks)),
            nn.Conv1d(width, latent_dim, 1),
        )
        decoder = nn.Sequential(
            nn.Conv1d(latent_dim, width, 1),
            *(Block(*block) for _ in range(n_decoder_blocks)),
            nn.Conv1d(width, n_values, 1),
        )
        bands = (n_energies, n_level_blocks, level_width, expansion, kernel_size)
        self.encoder = nn.Sequential(spectrum, Analysis(encoder, *bands))
        self.decoder = nn.Sequential(Synthesis(decoder, *bands), InverseSpectrum(*transform))
        parts = [(latent_dim, n_energies)] * n_level_codebooks + [(0, latent_dim)] * n_codebooks
        self.quantizer = FactorizedQuantizer(self.latent_dim, codebook_size, codebook_dim, parts)

    @property
    def codebooks(self) -> Sequence[Codebook]:
        return self.quantizer.codebooks

    def pad(self, audio: Tensor) -> Tensor:
        """Zero-pad audio [B, 2, T] at the end to whole frames."""
        return F.pad(audio, (0, -audio.shape[-1] % self.hop_length))

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        with full_precision(latents):
            return self.quantizer.encode(latents.float(), self.check_n_codebooks(n_codebooks))

    def dequantize(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes)

    def band_latents(self, audio: Tensor) -> Tensor:
        """Only the last `n_band_dims` latent dimensions of audio [B, 2, T]: [B, n_band_dims, N].

        Much faster than all of the latents.
        """
        spectrum, analysis = self.encoder
        assert isinstance(analysis, Analysis)
        assert isinstance(spectrum, Spectrum)
        return analysis.band_latents(spectrum.band_energies_of(self.pad(audio)))

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        latents = self.encoder(self.pad(audio))
        with full_precision(latents):
            n_codebooks = self.check_n_codebooks(n_codebooks)
            quantized, codes, loss = self.quantizer(latents.float(), n_codebooks)
        sounds = self.sounds(quantized, audio.shape[-1])
        return Reconstruction(sounds[0], codes, loss, *sounds[1:])

    def sounds(
        self, latents: Tensor, n_samples: int, scale: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        synthesis, inverse = self.decoder
        assert isinstance(inverse, InverseSpectrum)
        parts = inverse.parts(synthesis(latents))
        kinds = parts if self.adds_noise else parts[:1]
        return tuple(inverse.waveform(kind)[..., :n_samples] for kind in kinds)


class Analysis(nn.Module):
    """Frames of `Spectrum` to latents [B, D, N]: those of the spectrum, then of band energies."""

    def __init__(self, main: nn.Sequential, n_energies: int, *bands: int) -> None:
        """`bands`: arguments of `BandNet` after `n_energies`; unused if that is 0."""
        super().__init__()
        self.main, self.n_energies = main, n_energies
        self.levels = BandNet(n_energies, *bands) if n_energies else None

    def forward(self, frames: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents of `frames`; `context` [B, width, N] is added to the first layer's output."""
        hidden = self.main[0](frames)
        latents = self.main[1:](hidden if context is None else hidden + context)
        return torch.cat([latents, self.band_latents(frames).to(latents)], dim=1)

    def band_latents(self, frames: Tensor) -> Tensor:
        """Only the latents of band energies [B, n_energies, N], of frames or of band energies."""
        if self.levels is None:
            return frames[:, :0]
        latents: Tensor = self.levels(to_log(frames[:, -self.n_energies :]))
        return latents


class Synthesis(nn.Module):
    """Quantised latents [B, D, N] to frames for `InverseSpectrum`."""

    def __init__(self, main: nn.Sequential, n_energies: int, *bands: int) -> None:
        """`bands`: arguments of `BandNet` after `n_energies`; unused if that is 0."""
        super().__init__()
        self.main, self.n_energies = main, n_energies
        self.levels = BandNet(n_energies, *bands) if n_energies else None

    def forward(self, latents: Tensor) -> Tensor:
        if self.levels is None:
            return self.main(latents)
        main, bands = latents[:, : -self.n_energies], latents[:, -self.n_energies :]
        frames = self.main(main)
        return torch.cat([frames, self.levels(bands).to(frames)], dim=1)


class BandNet(nn.Module):
    """A residual network on logarithmic band energies [B, n_energies, N]; initially the identity.

    In state dicts it is called `levels`.
    """

    def __init__(
        self, n_energies: int, n_blocks: int, width: int, expansion: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(n_energies, width, 1),
            *(Block(width, expansion, kernel_size) for _ in range(n_blocks)),
        )
        self.output = nn.Conv1d(width, n_energies, 1)
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, energies: Tensor) -> Tensor:
        return energies + self.output(self.layers(energies)).to(energies)


class Block(nn.Module):
    """A ConvNeXt block on frames [B, width, N]: depthwise convolution, norm, two linear layers."""

    def __init__(self, width: int, expansion: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            width,
            width,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=width,
        )
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )
        # Small at first, so that all blocks together start close to the identity.
        self.scale = nn.Parameter(torch.full((width,), 0.02))

    def forward(self, frames: Tensor) -> Tensor:
        inner = self.layers(self.norm(self.depthwise(frames).mT))
        return frames + (self.scale * inner).mT
