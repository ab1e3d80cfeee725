"""The ends of the stem codec: audio to compressed spectra with the levels of their bands, and back.

A frame is [values, levels]: of middle and side the real and imaginary parts of all bins, 4 F, and
the mean magnitude of each band, all compressed alike. On the way back a frame may have noise to be
added, and levels that its bands shall have.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import full_precision

# Noise: one value of a frame in so many seeds it, and far more than a turn scatters the phases, yet
# so little that rounding moves none.
_SHUFFLE_STEP = 16
_SHUFFLE_RADIANS = 20.0
_SCATTERED = (
    1.35  # compressed, 4.3 dB: what noise loses where its frames overlap, and a sound does not
)
_SOFTEST = 0.03  # compressed, -84 dB: what is softer than this is nothing
_TOLERANCE = 0.14  # 2 dB: waveforms say the levels of loud bands better than levels do ...
_MAX_GAIN = 2.3  # compressed, 12 dB: ... and what is hardly there has no shape to be made louder


class _Transform(nn.Module):
    """What the transform and its inverse share; named as torch's convolutions name it."""

    window: Tensor  # [n_fft]
    bands: Tensor  # [n_bands, F], triangles that sum to 1 in each bin
    transposed = False

    def __init__(self, n_fft: int, hop_length: int, compression: float, n_bands: int = 0) -> None:
        super().__init__()
        n_bins = n_fft // 2 + 1
        self.n_values = 2 * 2 * n_bins
        """Middle and side, real and imaginary part, bins: the spectrum is first in a frame ..."""
        self.n_levels = 2 * n_bands
        """... and levels of bands in middle and side, compressed alike, come after it."""
        with torch.device("cpu"):  # real values also in a model that is built without any
            window = torch.hann_window(n_fft)
            bands = _bands(n_bins, n_bands)
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
        return self._mean_in_bands((real.square() + imaginary.square()).clamp_min(1e-12).sqrt())

    def _mean_in_bands(self, magnitudes: Tensor) -> Tensor:
        """[B, 2, F, N] -> [B, n_levels, N]."""
        bands = self.bands.to(magnitudes)
        weights = bands / bands.sum(1, keepdim=True).clamp_min(1e-6)
        return (weights @ magnitudes).flatten(1, 2)

    def at_bins(self, of_bands: Tensor) -> Tensor:
        """Values of bands [B, n_levels, N] at the bins, as factors of spectra [B, 2, 1, F, N]."""
        return (self.bands.mT.float() @ of_bands.unflatten(1, (2, -1)))[:, :, None]


def _bands(n_bins: int, n_bands: int) -> Tensor:
    """Evenly spaced on the mel scale up to half a rate of 44.1 kHz: [n_bands, n_bins]."""
    mels = torch.linspace(0, 22_050, n_bins).div(700).log1p()
    positions = mels / mels[-1] * (n_bands - 1)
    return (1 - (positions - torch.arange(n_bands)[:, None]).abs()).clamp_min(0)


def to_log(levels: Tensor) -> Tensor:
    """Compressed levels, 0 to about 10, as logarithms: 0 for silence, up to 6; 0.07 is a dB."""
    return (levels / _SOFTEST).log1p()


def from_log(levels: Tensor) -> Tensor:
    """The inverse of `to_log`; what is below silence is silence."""
    return _SOFTEST * levels.clamp(0, 8).expm1()


class Spectrum(_Transform):
    """Audio [B, 2, T], T a multiple of the hop, to compressed spectra and the levels of their
    bands, [B, 4 F + 2 n_bands, T / hop]."""

    def forward(self, audio: Tensor) -> Tensor:
        with full_precision(audio):
            values = self._transformed(audio)
            magnitude = values.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
            values = self._level * values * magnitude ** (self._compression - 1)
            frames = values.permute(0, 3, 1, 2).reshape(len(audio), -1, values.shape[2])
            return torch.cat([frames, self.levels(frames)], dim=1) if self.n_levels else frames

    def levels_alone(self, audio: Tensor) -> Tensor:
        """The last `n_levels` of each frame, in a third of the time of all: [B, n_levels, N]."""
        with full_precision(audio):
            energies = self._transformed(audio).square().sum(-1).clamp_min(1e-20)
            growth = self._level * energies.clamp_min(1e-12) ** (self._compression / 2 - 0.5)
            return self._mean_in_bands((energies.sqrt() * growth).unflatten(0, (-1, 2)))

    def _transformed(self, audio: Tensor) -> Tensor:
        """Middle and side as spectra [2 B, F, N, 2], a sine of full scale having magnitude 1."""
        left, right = audio.float().unbind(dim=1)
        stereo = torch.stack([left + right, left - right], dim=1).flatten(0, 1) / 2
        spectrum = torch.stft(
            F.pad(stereo, (self._margin, self._margin)),
            self._n_fft,
            self._hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        return torch.view_as_real(self._gain * spectrum)


class InverseSpectrum(_Transform):
    """Frames [B, 4 F, N], or with levels of noise [B, 4 F + 2 n_bands, N], or with levels that the
    bands shall have after those [B, 4 F + 4 n_bands, N], to audio [B, 2, N hop].

    Levels of noise are compressed, and below 0 is none; those of bands are as `to_log` gives them,
    and hold to 2 dB.
    The noise is not random: every frame shuffles its own spectrum into phases, so that the same
    codes give the same sound, in pieces and in batches.
    """

    transposed = True
    shuffle: Tensor  # [2 F, ceil(4 F / 16)]

    def __init__(self, n_fft: int, hop_length: int, compression: float, n_bands: int = 0) -> None:
        super().__init__(n_fft, hop_length, compression, n_bands)
        with torch.device("cpu"):
            shape = (self.n_values // 2, -(-self.n_values // _SHUFFLE_STEP))
            shuffle = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("shuffle", shuffle * _SHUFFLE_RADIANS, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        return self.waveform(self.filled(frames))

    def filled(self, frames: Tensor, like: Tensor | None = None) -> Tensor:
        """The spectra alone [B, 4 F, N], with the noise and the levels that the frames ask for.

        Args:
            frames: see the class.
            like: frames of a sound whose fine structure the noise takes, so that in each band only
                the level of that sound changes; None: a structure of its own.
        """
        return self.parts(frames, like)[0]

    def parts(self, frames: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `filled` gives, and what of it is no noise; both spectra [B, 4 F, N]."""
        with full_precision(frames):
            values, noise, levels = torch.tensor_split(
                frames.float(), (self.n_values, self.n_values + self.n_levels), dim=1
            )
            sound = values
            if noise.shape[1]:
                sound = values + self._noise(values, noise.relu(), like)
            if not levels.shape[1]:
                return sound, values
            found = self.levels(sound)
            missed = F.softshrink(levels - to_log(found), _TOLERANCE)
            # A waveform that is hardly known comes nearer to the true one by being softer; levels
            # must not learn that.
            known = self._changed(values, found, missed.detach())
            return self._changed(sound, found, missed), known

    def waveform(self, spectra: Tensor) -> Tensor:
        """Compressed spectra [B, 4 F, N] to audio [B, 2, N hop]."""
        with full_precision(spectra):
            n_items, _, n_frames = spectra.shape
            values = spectra.float().reshape(2 * n_items, 2, -1, n_frames)
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

    def lowered(self, frames: Tensor, levels: Tensor) -> Tensor:
        """The spectra [B, 4 F, N] of a sound as `Spectrum` gives it, no band louder than `levels`
        [B, n_levels, N], which are as `to_log` gives them."""
        values, found = frames[:, : self.n_values], frames[:, self.n_values :]
        return self._changed(values, found, (levels.float() - to_log(found)).clamp_max(0))

    def _changed(self, spectra: Tensor, found: Tensor, change: Tensor) -> Tensor:
        """Spectra whose bands have the levels `found`, with those changed by logarithms."""
        wanted = from_log(to_log(found) + change)
        gains = self.at_bins((wanted / found.clamp_min(1e-4)).clamp(max=_MAX_GAIN))
        return (spectra.unflatten(1, (2, 2, -1)) * gains).flatten(1, 3)

    def _noise(self, values: Tensor, levels: Tensor, like: Tensor | None) -> Tensor:
        """Noise [B, 4 F, N] of these levels; see `filled`."""
        seeds = F.normalize(values.detach()[:, ::_SHUFFLE_STEP], dim=1)
        phases = self.shuffle.float() @ seeds  # [B, 2 F, N]
        noise = torch.stack(
            [part.unflatten(1, (2, -1)) for part in (phases.cos(), phases.sin())], 2
        )
        if like is not None:
            noise = like[:, : self.n_values].unflatten(1, (2, 2, -1)) + _SOFTEST * noise
            levels = levels / (_SCATTERED * self.levels(noise.flatten(1, 3))).clamp_min(1e-6)
        return (noise * self.at_bins(levels)).flatten(1, 3)

    def _overlap(self, frames: Tensor) -> Tensor:
        """[B, n_fft, N] frames a hop apart, added up: [B, (N - 1) * hop + n_fft]."""
        length = (frames.shape[-1] - 1) * self._hop_length + self._n_fft
        added = F.fold(frames, (1, length), (1, self._n_fft), stride=(1, self._hop_length))
        return added[:, 0, 0]
