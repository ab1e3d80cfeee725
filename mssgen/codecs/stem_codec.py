"""The stem codec: ours, at frame rate instead of sample rate, so that a CPU is enough.

    audio [B, 2, T] -> STFT of middle and side, compressed -> ConvNeXt blocks -> latents [B, D, N]
    quantised latents -> ConvNeXt blocks -> spectrum, expanded -> inverse STFT -> audio

Every frame carries the phase, since the compressed spectrum is complex, and there is no convolution
on samples. What is too noisy for its phase to be worth codes, as cymbals are, goes as levels of
bands and comes back as noise of these levels (perceptual noise substitution, Herre and Schulz
1998). The skeleton is that of Vocos, Siuzdak 2023 (arXiv 2306.00814), with an encoder of the same
kind before it and blocks after ConvNeXt, Liu et al. 2022 (arXiv 2201.03545).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codebook, Codec, Reconstruction, full_precision
from mssgen.codecs.factorized import FactorizedQuantizer

# Noise: one value of a frame in so many seeds it, and far more than a turn scatters the phases, yet
# so little that rounding moves none.
_SHUFFLE_STEP = 16
_SHUFFLE_RADIANS = 20.0
_SCATTERED = (
    1.35  # compressed, 4.3 dB: what noise loses where its frames overlap, and a sound does not
)
_SOFTEST = 0.03  # compressed, -84 dB: where another sound has less in a bin, noise is noise


class StemCodec(Codec):
    """A stereo codec for stems; needs no package beside torch."""

    architecture = "stem"
    n_channels = 2
    encoder: nn.Sequential
    decoder: nn.Sequential
    quantizer: FactorizedQuantizer

    def __init__(
        self,
        *,
        name: str = "stem",
        sample_rate: int = 44_100,
        n_fft: int = 1024,
        hop_length: int = 512,
        compression: float = 0.6,
        width: int = 320,
        expansion: int = 2,
        kernel_size: int = 7,
        n_noise_bands: int = 32,
        n_encoder_blocks: int = 4,
        n_decoder_blocks: int = 6,
        latent_dim: int = 320,
        n_codebooks: int = 32,
        codebook_size: int = 1024,
        codebook_dim: int = 8,
    ) -> None:
        """Build with fresh weights.

        Args:
            name: for messages.
            sample_rate: Hz.
            n_fft: length of the transform, samples.
            hop_length: samples a frame, a divisor of `n_fft`.
            compression: magnitudes are taken to this power.
            width: of the blocks.
            expansion: width inside a block, as a multiple.
            kernel_size: frames that a block sees, odd.
            n_noise_bands: of the noise in middle and side, as wide as the ear's bands; 0 for none.
            n_encoder_blocks: before the quantiser.
            n_decoder_blocks: after it.
            latent_dim: D.
            n_codebooks: K.
            codebook_size: V.
            codebook_dim: of the space in which codes are looked up.
        """
        super().__init__()
        self.options = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        self.name, self.sample_rate, self.hop_length = name, sample_rate, hop_length
        self.n_codebooks, self.codebook_size = n_codebooks, codebook_size
        self.latent_dim, self.adds_noise = latent_dim, n_noise_bands > 0
        transform = (n_fft, hop_length, compression, n_noise_bands)
        spectrum = Spectrum(*transform)
        n_values = spectrum.n_values + spectrum.n_levels
        block = (width, expansion, kernel_size)
        self.encoder = nn.Sequential(
            spectrum,
            nn.Conv1d(n_values, width, 1),
            *(Block(*block) for _ in range(n_encoder_blocks)),
            nn.Conv1d(width, latent_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(latent_dim, width, 1),
            *(Block(*block) for _ in range(n_decoder_blocks)),
            nn.Conv1d(width, n_values, 1),
            InverseSpectrum(*transform),
        )
        self.quantizer = FactorizedQuantizer(latent_dim, n_codebooks, codebook_size, codebook_dim)

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
        *layers, inverse = self.decoder
        assert isinstance(inverse, InverseSpectrum)
        frames = nn.Sequential(*layers)(latents)
        kinds = [frames, frames[:, : inverse.n_values]] if self.adds_noise else [frames]
        return tuple(inverse(kind)[..., :n_samples] for kind in kinds)


class Block(nn.Module):
    """A ConvNeXt block on frames [B, D, N]: depthwise convolution, norm, and a layer of neurons."""

    def __init__(self, width: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            width, width, kernel_size, padding=kernel_size // 2, groups=width
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


class _Transform(nn.Module):
    """What the transform and its inverse share; named as torch's convolutions name it."""

    window: Tensor  # [n_fft]
    bands: Tensor  # [n_noise_bands, F], triangles that sum to 1 in each bin
    transposed = False

    def __init__(
        self, n_fft: int, hop_length: int, compression: float, n_noise_bands: int = 0
    ) -> None:
        super().__init__()
        n_bins = n_fft // 2 + 1
        self.n_values = 2 * 2 * n_bins
        """Middle and side, real and imaginary part, bins: the spectrum is first in a frame ..."""
        self.n_levels = 2 * n_noise_bands
        """... and levels of bands in middle and side, compressed alike, come after it."""
        with torch.device("cpu"):  # real values also in a model that is built without any
            window = torch.hann_window(n_fft)
            bands = _bands(n_bins, n_noise_bands)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bands", bands, persistent=False)
        self.kernel_size, self.stride, self.dilation = (n_fft,), (hop_length,), (1,)
        self._n_fft, self._hop_length, self._compression = n_fft, hop_length, compression
        self._margin = (n_fft - hop_length) // 2
        self._gain = 4 / n_fft  # a sine of full scale has magnitude 1 ...
        self._level = 10.0  # ... and this after compression, so that music is around 1

    def levels(self, spectra: Tensor) -> Tensor:
        """Of the bands of compressed spectra [B, 4 F, N], mean magnitudes: [B, n_levels, N]."""
        real, imaginary = spectra.unflatten(1, (2, 2, -1)).unbind(dim=2)
        magnitudes = (real.square() + imaginary.square()).clamp_min(1e-12).sqrt()
        bands = self.bands.to(spectra)
        weights = bands / bands.sum(1, keepdim=True).clamp_min(1e-6)
        return (weights @ magnitudes).flatten(1, 2)


def _bands(n_bins: int, n_bands: int) -> Tensor:
    """Evenly spaced on the mel scale up to half a rate of 44.1 kHz: [n_bands, n_bins]."""
    mels = torch.linspace(0, 22_050, n_bins).div(700).log1p()
    positions = mels / mels[-1] * (n_bands - 1)
    return (1 - (positions - torch.arange(n_bands)[:, None]).abs()).clamp_min(0)


class Spectrum(_Transform):
    """Audio [B, 2, T], T a multiple of the hop, to compressed spectra and the levels of their
    bands, [B, 4 F + 2 n_noise_bands, T / hop]."""

    def forward(self, audio: Tensor) -> Tensor:
        with full_precision(audio):
            left, right = audio.float().unbind(dim=1)
            stereo = torch.stack([left + right, left - right], dim=1).flatten(0, 1) / 2
            spectrum = self._gain * torch.stft(
                F.pad(stereo, (self._margin, self._margin)),
                self._n_fft,
                self._hop_length,
                window=self.window,
                center=False,
                return_complex=True,
            )
            values = torch.view_as_real(spectrum)  # [2 B, F, N, 2]
            magnitude = values.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
            values = self._level * values * magnitude ** (self._compression - 1)
            frames = values.permute(0, 3, 1, 2).reshape(len(audio), -1, spectrum.shape[-1])
            return torch.cat([frames, self.levels(frames)], dim=1) if self.n_levels else frames


class InverseSpectrum(_Transform):
    """Compressed spectra and levels of noise [B, 4 F + 2 n_noise_bands, N] to audio [B, 2, N hop].

    A level below 0 is none. The noise is not random: every frame shuffles its own spectrum into
    phases, so that the same codes give the same sound, in pieces and in batches.
    """

    transposed = True
    shuffle: Tensor  # [2 F, ceil(4 F / 16)]

    def __init__(
        self, n_fft: int, hop_length: int, compression: float, n_noise_bands: int = 0
    ) -> None:
        super().__init__(n_fft, hop_length, compression, n_noise_bands)
        with torch.device("cpu"):
            shape = (self.n_values // 2, -(-self.n_values // _SHUFFLE_STEP))
            shuffle = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("shuffle", shuffle * _SHUFFLE_RADIANS, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        with full_precision(frames):
            n_items, _, n_frames = frames.shape
            values = self.filled(frames).reshape(2 * n_items, 2, -1, n_frames)
            real, imaginary = (values / self._level).unbind(dim=1)
            magnitude = (real.square() + imaginary.square()).clamp_min(1e-12).sqrt()
            growth = magnitude ** (1 / self._compression - 1) / self._gain
            spectrum = torch.complex(real * growth, imaginary * growth)
            parts = torch.fft.irfft(spectrum, n=self._n_fft, dim=1) * self.window[:, None]
            audio = self._overlap(parts) / self._overlap(
                self.window.square()[None, :, None].expand(1, -1, n_frames)
            ).clamp_min(1e-3)
            stereo = audio[:, self._margin : self._margin + n_frames * self._hop_length]
            middle, side = stereo.unflatten(0, (n_items, 2)).unbind(dim=1)
            return torch.stack([middle + side, middle - side], dim=1)

    def filled(self, frames: Tensor, like: Tensor | None = None) -> Tensor:
        """Frames with the noise that their levels ask for: spectra alone, [B, 4 F, N].

        Args:
            frames: [B, 4 F + 2 n_noise_bands, N]; [B, 4 F, N] have no noise to come.
            like: frames of a sound whose fine structure the noise takes, so that in each band only
                the level of that sound changes; None: a structure of its own.
        """
        frames = frames.float()
        values, levels = frames[:, : self.n_values], frames[:, self.n_values :]
        if not levels.shape[1]:
            return values
        seeds = F.normalize(values.detach()[:, ::_SHUFFLE_STEP], dim=1)
        phases = self.shuffle.float() @ seeds  # [B, 2 F, N]
        noise = torch.stack(
            [part.unflatten(1, (2, -1)) for part in (phases.cos(), phases.sin())], 2
        )
        levels = levels.relu()
        if like is not None:
            noise = like[:, : self.n_values].unflatten(1, (2, 2, -1)) + _SOFTEST * noise
            levels = levels / (_SCATTERED * self.levels(noise.flatten(1, 3))).clamp_min(1e-6)
        gains = self.bands.mT.float() @ levels.unflatten(1, (2, -1))  # [B, 2, F, N]
        return values + (noise * gains[:, :, None]).flatten(1, 3)

    def _overlap(self, frames: Tensor) -> Tensor:
        """[B, n_fft, N] frames a hop apart, added up: [B, (N - 1) * hop + n_fft]."""
        length = (frames.shape[-1] - 1) * self._hop_length + self._n_fft
        added = F.fold(frames, (1, length), (1, self._n_fft), stride=(1, self._hop_length))
        return added[:, 0, 0]
