"""First and last layer of the stem codec: audio to compressed spectra with band energies, and back.

A frame holds 4 F spectrum values, the real and imaginary parts of all F bins of mid and side, and
2 `n_bands` band energies. The energy of a band is the mean compressed magnitude of its bins:
magnitude ** compression, times 10. Frames to be inverted may also hold energies of noise to be
added, and target energies of the bands.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import full_precision

# Noise is seeded by every 16th value of a frame; its phases spread over several turns, few enough
# that rounding errors do not change them.
_SHUFFLE_STEP = 16
_SHUFFLE_RADIANS = 20.0
_OVERLAP_GAIN = 1.35  # compressed, 4.3 dB: incoherent frames lose this in the overlap-add
_FLOOR = 0.03  # compressed, -84 dB: bands below this count as silent
_TOLERANCE = 0.14  # 2 dB: waveform codes give loud bands more precisely than energy codes do
_MAX_GAIN = 2.3  # compressed, 12 dB: a band that is nearly absent has no shape to amplify


class _Transform(nn.Module):
    """Common part of transform and inverse; kernel_size, stride etc. are those of a convolution."""

    window: Tensor  # [n_fft]
    bands: Tensor  # [n_bands, F], triangles that sum to 1 in each bin
    transposed = False

    def __init__(self, n_fft: int, hop_length: int, compression: float, n_bands: int = 0) -> None:
        super().__init__()
        n_bins = n_fft // 2 + 1
        self.n_values = 2 * 2 * n_bins
        """Number of spectrum values, first in a frame: mid and side x real and imaginary x F."""
        self.n_energies = 2 * n_bands
        """Number of band energies, next in a frame: mid and side x `n_bands`."""
        with torch.device("cpu"):  # constants need values even in a model on the meta device
            window = torch.hann_window(n_fft)
            bands = _bands(n_bins, n_bands)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bands", bands, persistent=False)
        self.kernel_size, self.stride, self.dilation = (n_fft,), (hop_length,), (1,)
        self._n_fft, self._hop_length, self._compression = n_fft, hop_length, compression
        self._margin = (n_fft - hop_length) // 2
        self._gain = 4 / n_fft  # a sine of full scale has magnitude 1 ...
        self._scale = 10.0  # ... and this after compression, so that music is around 1

    def band_energies(self, spectra: Tensor) -> Tensor:
        """Band energies [B, n_energies, N] of compressed spectra [B, 4 F, N]."""
        real, imaginary = spectra.unflatten(1, (2, 2, -1)).unbind(dim=2)
        return self._mean_in_bands((real.square() + imaginary.square()).clamp_min(1e-12).sqrt())

    def _mean_in_bands(self, magnitudes: Tensor) -> Tensor:
        """Mean of magnitudes [B, 2, F, N] in each band: [B, n_energies, N]."""
        bands = self.bands.to(magnitudes)
        weights = bands / bands.sum(1, keepdim=True).clamp_min(1e-6)
        return (weights @ magnitudes).flatten(1, 2)

    def at_bins(self, band_values: Tensor) -> Tensor:
        """Band values [B, n_energies, N] interpolated to factors of the bins [B, 2, 1, F, N]."""
        return (self.bands.mT.float() @ band_values.unflatten(1, (2, -1)))[:, :, None]


def _bands(n_bins: int, n_bands: int) -> Tensor:
    """Triangular bands [n_bands, F], evenly spaced on the mel scale from 0 to 22.05 kHz."""
    mels = torch.linspace(0, 22_050, n_bins).div(700).log1p()
    positions = mels / mels[-1] * (n_bands - 1)
    return (1 - (positions - torch.arange(n_bands)[:, None]).abs()).clamp_min(0)


def to_log(energies: Tensor) -> Tensor:
    """Logarithm of band energies (0 to about 10): 0 for silence, at most about 6; 1 dB is 0.07."""
    return (energies / _FLOOR).log1p()


def from_log(log_energies: Tensor) -> Tensor:
    """Inverse of `to_log`; negative values give silence."""
    return _FLOOR * log_energies.clamp(0, 8).expm1()


class Spectrum(_Transform):
    """Audio [B, 2, T] to frames [B, 4 F + 2 n_bands, T / hop]; T is a multiple of the hop."""

    def forward(self, audio: Tensor) -> Tensor:
        with full_precision(audio):
            values = self._transformed(audio)
            magnitude = values.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
            values = self._scale * values * magnitude ** (self._compression - 1)
            frames = values.permute(0, 3, 1, 2).reshape(len(audio), -1, values.shape[2])
            if not self.n_energies:
                return frames
            return torch.cat([frames, self.band_energies(frames)], dim=1)

    def band_energies_of(self, audio: Tensor) -> Tensor:
        """Band energies [B, n_energies, N] of audio [B, 2, T], three times as fast as `forward`."""
        with full_precision(audio):
            energies = self._transformed(audio).square().sum(-1).clamp_min(1e-20)
            growth = self._scale * energies.clamp_min(1e-12) ** (self._compression / 2 - 0.5)
            return self._mean_in_bands((energies.sqrt() * growth).unflatten(0, (-1, 2)))

    def _transformed(self, audio: Tensor) -> Tensor:
        """Spectra of mid and side [2 B, F, N, 2], in which a full-scale sine has magnitude 1."""
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
    """Frames to audio [B, 2, N * hop].

    A frame holds spectrum values [4 F]; optionally followed by the energies of noise to be added
    [2 n_bands], where negative means none; optionally followed by target energies of the bands
    [2 n_bands], logarithmic as from `to_log`, which the output meets within 2 dB.

    The noise is deterministic: its phases are projections of each frame's own values, so that the
    same codes give the same audio in any block or batch.
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
        """Spectra [B, 4 F, N] with noise added and bands set to their target energies.

        Args:
            frames: as described in the class.
            like: frames [B, >= 4 F, N] of audio whose fine structure the noise takes: in each band
                the noise is that audio at another level. None: noise by shuffled phases.
        """
        return self.parts(frames, like)[0]

    def parts(self, frames: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spectra [B, 4 F, N] with noise, as from `filled`, and without noise."""
        with full_precision(frames):
            values, noise, targets = torch.tensor_split(
                frames.float(), (self.n_values, self.n_values + self.n_energies), dim=1
            )
            noisy = values
            if noise.shape[1]:
                noisy = values + self._noise(values, noise.relu(), like)
            if not targets.shape[1]:
                return noisy, values
            actual = self.band_energies(noisy)
            change = F.softshrink(targets - to_log(actual), _TOLERANCE)
            # An uncertain waveform is closer to the reference if it is quieter; without the
            # detach, the target energies would learn to be too low.
            clean = self._scaled(values, actual, change.detach())
            return self._scaled(noisy, actual, change), clean

    def waveform(self, spectra: Tensor) -> Tensor:
        """Compressed spectra [B, 4 F, N] to audio [B, 2, N * hop]."""
        with full_precision(spectra):
            n_items, _, n_frames = spectra.shape
            values = spectra.float().reshape(2 * n_items, 2, -1, n_frames)
            real, imaginary = (values / self._scale).unbind(dim=1)
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

    def attenuated(self, frames: Tensor, limits: Tensor) -> Tensor:
        """Spectra [B, 4 F, N] of `frames` with each band attenuated to at most its limit.

        `frames` [B, 4 F + 2 n_bands, N] are from `Spectrum`; `limits` [B, n_energies, N] are
        logarithmic energies as from `to_log`.
        """
        values, actual = frames[:, : self.n_values], frames[:, self.n_values :]
        return self._scaled(values, actual, (limits.float() - to_log(actual)).clamp_max(0))

    def _scaled(self, spectra: Tensor, actual: Tensor, change: Tensor) -> Tensor:
        """Spectra [B, 4 F, N] with the band energies `actual` changed by `change`, logarithmic."""
        targets = from_log(to_log(actual) + change)
        gains = self.at_bins((targets / actual.clamp_min(1e-4)).clamp(max=_MAX_GAIN))
        return (spectra.unflatten(1, (2, 2, -1)) * gains).flatten(1, 3)

    def _noise(self, values: Tensor, energies: Tensor, like: Tensor | None) -> Tensor:
        """Noise [B, 4 F, N] with band energies [B, n_energies, N]; `like` as in `filled`."""
        seeds = F.normalize(values.detach()[:, ::_SHUFFLE_STEP], dim=1)
        phases = self.shuffle.float() @ seeds  # [B, 2 F, N]
        noise = torch.stack(
            [part.unflatten(1, (2, -1)) for part in (phases.cos(), phases.sin())], 2
        )
        if like is not None:
            noise = like[:, : self.n_values].unflatten(1, (2, 2, -1)) + _FLOOR * noise
            coherent = self.band_energies(noise.flatten(1, 3))
            energies = energies / (_OVERLAP_GAIN * coherent).clamp_min(1e-6)
        return (noise * self.at_bins(energies)).flatten(1, 3)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Overlap-add of frames [B, n_fft, N]: [B, (N - 1) * hop + n_fft]."""
        length = (frames.shape[-1] - 1) * self._hop_length + self._n_fft
        added = F.fold(frames, (1, length), (1, self._n_fft), stride=(1, self._hop_length))
        return added[:, 0, 0]
