"""The stem codec: ours, at frame rate instead of sample rate, so that a CPU is enough.

    audio [B, 2, T] -> STFT of middle and side, compressed -> ConvNeXt blocks -> latents [B, D, N]
    quantised latents -> ConvNeXt blocks -> spectrum, expanded -> inverse STFT -> audio

Every frame carries the phase, since the compressed spectrum is complex, and there is no convolution
on samples. What is too noisy for its phase to be worth codes, as cymbals are, goes as levels of
bands and comes back as noise of these levels (perceptual noise substitution, Herre and Schulz
1998).

Beside that goes how loud each band is, through a small network and codebooks of its own, the first
of all; the decoder sets the bands of what it makes to these levels. So the shape of a spectrum and
its level are coded apart (gain and shape, as in Opus' CELT, Valin et al. 2013, arXiv 1602.04845):
errors of the shape, which spread over all bins, cannot make a soft band loud.

The skeleton is that of Vocos, Siuzdak 2023 (arXiv 2306.00814), with an encoder of the same kind
before it and blocks after ConvNeXt, Liu et al. 2022 (arXiv 2201.03545).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision
from mssgen.codecs.networks.factorized import FactorizedQuantizer
from mssgen.codecs.networks.stem_spectrum import InverseSpectrum, Spectrum, to_log
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, CodebookSize, Layers, ModelName, SampleRate, Width


class StemCodec(Codec):
    """A stereo codec for stems; needs no package beside torch."""

    architecture = "stem"
    n_channels = 2
    # One level for all: its error is smallest there, and codes do not depend on the level.
    wanted_level = (0.05, 0.05)
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
            name: for messages.
            sample_rate: Hz.
            n_fft: length of the transform, samples.
            hop_length: samples a frame, a divisor of `n_fft` and at least a 16th of it.
            compression: magnitudes are taken to this power.
            width: of the blocks.
            expansion: width inside a block, as a multiple.
            kernel_size: frames that a block sees, odd.
            n_bands: of noise and levels in middle and side, as wide as the ear's; 0 for none.
            n_encoder_blocks: before the quantiser.
            n_decoder_blocks: after it.
            latent_dim: of the spectrum; with levels, D is this and 2 `n_bands`.
            n_codebooks: of the spectrum; with those of levels, which come first, K.
            codebook_size: V.
            codebook_dim: of the space in which codes are looked up.
            n_level_codebooks: of the levels of bands; 0 codes none.
            level_width: of the blocks for levels.
            n_level_blocks: before their codebooks, and after them.

        Raises:
            ValueError: levels shall be coded, but there are no bands.
            UsageError: `hop_length` or `kernel_size` is none that the others allow.
        """
        super().__init__()
        self.options = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
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
        n_values = spectrum.n_values + spectrum.n_levels
        n_levels = spectrum.n_levels if n_level_codebooks else 0
        if n_level_codebooks and not n_levels:
            raise ValueError("n_level_codebooks needs n_bands")
        self.latent_dim, self.n_level_dims = latent_dim + n_levels, n_levels
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
        of_levels = (n_levels, n_level_blocks, level_width, expansion, kernel_size)
        self.encoder = nn.Sequential(spectrum, Analysis(encoder, *of_levels))
        self.decoder = nn.Sequential(Synthesis(decoder, *of_levels), InverseSpectrum(*transform))
        parts = [(latent_dim, n_levels)] * n_level_codebooks + [(0, latent_dim)] * n_codebooks
        self.quantizer = FactorizedQuantizer(self.latent_dim, codebook_size, codebook_dim, parts)

    @property
    def codebooks(self) -> Sequence[Codebook]:
        return self.quantizer.codebooks

    def pad(self, audio: Tensor) -> Tensor:
        """Whole frames, with zeros at the end."""
        return F.pad(audio, (0, -audio.shape[-1] % self.hop_length))

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        with full_precision(latents):
            return self.quantizer.encode(latents.float(), self.check_n_codebooks(n_codebooks))

    def dequantize(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes)

    def level_latents(self, audio: Tensor) -> Tensor:
        """The last `n_level_dims` of the latents of audio [B, 2, T] alone, which take a small part
        of the time of all."""
        spectrum, analysis = self.encoder
        assert isinstance(analysis, Analysis)
        assert isinstance(spectrum, Spectrum)
        return analysis.level_latents(spectrum.levels_alone(self.pad(audio)))

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        latents = self.encoder(self.pad(audio))
        with full_precision(latents):
            n_levels = self.check_n_codebooks(n_codebooks)
            quantized, codes, loss = self.quantizer(latents.float(), n_levels)
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
    """Frames of `Spectrum` to latents [B, D, N]: of the spectrum, then of the levels."""

    def __init__(self, main: nn.Sequential, n_levels: int, *of_levels: int) -> None:
        super().__init__()
        self.main, self.n_levels = main, n_levels
        self.levels = LevelNet(n_levels, *of_levels) if n_levels else None

    def forward(self, frames: Tensor, heard: Tensor | None = None) -> Tensor:
        """`heard` [B, width, N] is what something else adds behind the first layer."""
        hidden = self.main[0](frames)
        latents = self.main[1:](hidden if heard is None else hidden + heard)
        return torch.cat([latents, self.level_latents(frames).to(latents)], dim=1)

    def level_latents(self, frames: Tensor) -> Tensor:
        """The last of the latents alone, [B, n_levels, N], of frames or of their levels."""
        if self.levels is None:
            return frames[:, :0]
        levels: Tensor = self.levels(to_log(frames[:, -self.n_levels :]))
        return levels


class Synthesis(nn.Module):
    """Latents [B, D, N] to frames for `InverseSpectrum`."""

    def __init__(self, main: nn.Sequential, n_levels: int, *of_levels: int) -> None:
        super().__init__()
        self.main, self.n_levels = main, n_levels
        self.levels = LevelNet(n_levels, *of_levels) if n_levels else None

    def forward(self, latents: Tensor) -> Tensor:
        if self.levels is None:
            return self.main(latents)
        main, levels = latents[:, : -self.n_levels], latents[:, -self.n_levels :]
        frames = self.main(main)
        return torch.cat([frames, self.levels(levels).to(frames)], dim=1)


class LevelNet(nn.Module):
    """Levels [B, n_levels, N], logarithmic, to levels; at first to the same."""

    def __init__(
        self, n_levels: int, n_blocks: int, width: int, expansion: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(n_levels, width, 1),
            *(Block(width, expansion, kernel_size) for _ in range(n_blocks)),
        )
        self.output = nn.Conv1d(width, n_levels, 1)
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, levels: Tensor) -> Tensor:
        return levels + self.output(self.layers(levels)).to(levels)


class Block(nn.Module):
    """A ConvNeXt block on frames [B, D, N]: depthwise convolution, norm, and a layer of neurons."""

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
        # Nearly nothing at first: the linear way through all blocks is a start already.
        self.scale = nn.Parameter(torch.full((width,), 0.02))

    def forward(self, frames: Tensor) -> Tensor:
        inner = self.layers(self.norm(self.depthwise(frames).mT))
        return frames + (self.scale * inner).mT
