"""Losses of codecs: each is one function of audio, logits or features.

Audio is [B, C, T] at full scale 1. Losses are means, independent of batch size and length.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.networks.stem_spectrum import Spectrum, to_log
from mssgen.extras import require

_AURALOSS = require("auraloss.freq", "train", "training a codec")
_FILTERS = require("librosa.filters", "train", "training a codec")
_FLOOR = 1e-5

# Between two audio signals.


def time_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """L1 on the waveform (EnCodec, arXiv 2210.13438, section 3.4)."""
    return F.l1_loss(estimate, reference)


def mel_distance(
    estimate: Tensor,
    reference: Tensor,
    *,
    sample_rate: int,
    windows: Sequence[int],
    n_mels: int | Sequence[int] = 64,
    form: str = "encodec",
) -> Tensor:
    """Distance of mel spectra, the mean over several resolutions.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        sample_rate: Hz.
        windows: window lengths, samples; the hop is a quarter.
        n_mels: number of bands from 0 Hz to half the sample rate, one number or one per window;
            bands too narrow for a window are left out.
        form: the distance at each resolution, a key of `MEL_FORMS`.
    """
    distance = MEL_FORMS[form]
    losses = []
    n_bands = [n_mels] * len(windows) if isinstance(n_mels, int) else n_mels
    for window, n in zip(windows, n_bands, strict=True):
        spectrum = partial(mel_spectrum, sample_rate=sample_rate, window=window, n_mels=n)
        losses.append(distance(spectrum(estimate), spectrum(reference), window))
    return torch.stack(losses).mean()


def mel_spectrum(audio: Tensor, sample_rate: int, window: int, n_mels: int) -> Tensor:
    """Mel magnitudes [B * C, M, N] of a Hann window scaled to unit energy; M <= `n_mels`."""
    hann = torch.hann_window(window, device=audio.device)
    spectrum = torch.stft(
        audio.flatten(0, 1),
        window,
        window // 4,
        window=hann / hann.square().sum().sqrt(),
        pad_mode="constant",
        return_complex=True,
    )
    return _mel_filters(sample_rate, window, n_mels, audio.device) @ spectrum.abs()


@lru_cache(maxsize=64)
def _mel_filters(sample_rate: int, window: int, n_mels: int, device: torch.device) -> Tensor:
    """Triangular filters [M, F] of height 1 on the HTK scale, as in EnCodec."""
    with warnings.catch_warnings():
        # Short windows have fewer bins than bands; empty bands are removed.
        warnings.filterwarnings("ignore", "Empty filters")
        filters = _FILTERS.mel(sr=sample_rate, n_fft=window, n_mels=n_mels, htk=True, norm=None)
    return torch.from_numpy(filters[filters.any(axis=1)]).to(device)


def _encodec(estimate: Tensor, reference: Tensor, window: int) -> Tensor:
    """L1 + L2 of the magnitudes (arXiv 2210.13438, section 3.4)."""
    return F.l1_loss(estimate, reference) + _l2_per_frame(estimate - reference)


def _soundstream(estimate: Tensor, reference: Tensor, window: int) -> Tensor:
    """L1 of the magnitudes + L2 of their logarithms (arXiv 2107.03312)."""
    log_difference = (estimate + _FLOOR).log() - (reference + _FLOOR).log()
    return F.l1_loss(estimate, reference) + math.sqrt(window / 2) * _l2_per_frame(log_difference)


def _dac(estimate: Tensor, reference: Tensor, window: int) -> Tensor:
    """L1 of the logarithms (arXiv 2306.06546)."""
    return F.l1_loss((estimate + _FLOOR).log10(), (reference + _FLOOR).log10())


def _l2_per_frame(difference: Tensor) -> Tensor:
    """The mean over frames of the root mean square over bands."""
    return difference.norm(dim=-2).mean() / math.sqrt(difference.shape[-2])


MEL_FORMS = {"encodec": _encodec, "soundstream": _soundstream, "dac": _dac}


def stft_distance(estimate: Tensor, reference: Tensor, *, windows: Sequence[int]) -> Tensor:
    """RAVE's spectral distance, the mean over resolutions (arXiv 2111.05011).

    At each resolution: the relative error of the linear magnitudes (Frobenius norm) + L1 of their
    logarithms; the hop is a quarter of the window.
    """
    distance = _stft_distance(tuple(windows))
    return distance(estimate.contiguous(), reference.contiguous())


def spectrum_distance(estimate: Tensor, reference: Tensor, *, window: int = 2048) -> Tensor:
    """L1 between complex spectra with magnitudes to the power 0.5; sensitive to phase.

    Quiet components weigh more than in the waveform, as in hearing. The transform is that of the
    stem codec, on middle and side of stereo [B, 2, T], with a hop of a quarter of the window.
    """
    transform = _spectrum(window, window // 4, 0.5, 0, estimate.device)
    return F.l1_loss(_frames(transform, estimate), _frames(transform, reference))


def level_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """L1 between logarithmic energies of 32 bands in middle and side, in frames of 512 samples.

    Scaled as in the stem codec (`mssgen.codecs.networks.stem_spectrum.to_log`): 1 dB is 0.07, and
    everything below -84 dB counts as silence.
    """
    transform = _spectrum(1024, 512, 0.6, 32, estimate.device)
    given, wanted = (_frames(transform, audio) for audio in (estimate, reference))
    n_values = transform.n_values
    return F.l1_loss(to_log(given[:, n_values:]), to_log(wanted[:, n_values:]))


def _frames(transform: Spectrum, audio: Tensor) -> Tensor:
    """Spectral frames of audio [B, 1 or 2, T]."""
    n_missing = -audio.shape[-1] % transform.stride[0]
    frames: Tensor = transform(F.pad(audio.expand(-1, 2, -1), (0, n_missing)))
    return frames


@lru_cache(maxsize=8)
def _spectrum(
    window: int, hop_length: int, compression: float, n_bands: int, device: torch.device
) -> Spectrum:
    return Spectrum(window, hop_length, compression, n_bands).to(device)


@lru_cache(maxsize=8)
def _stft_distance(windows: tuple[int, ...]) -> nn.Module:
    return _AURALOSS.MultiResolutionSTFTLoss(
        fft_sizes=windows,
        hop_sizes=[window // 4 for window in windows],
        win_lengths=windows,
    )


# Between a codec and its discriminators: logits and features, lists over discriminators.


class GanLoss(NamedTuple):
    """The losses of discriminators and generator; means over all discriminators."""

    discriminator: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    """Loss of the discriminators, from the logits of real and of fake audio."""
    generator: Callable[[Sequence[Tensor]], Tensor]
    """Loss of the generator, from the logits of fake audio."""


def _hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss (arXiv 2210.13438, section 3.4): real above 1, fake below -1."""
    pairs = zip(real, fake, strict=True)
    return _mean([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs])


def _hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    return _mean([F.relu(1 - f).mean() for f in fake])


def _least_squares_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mao et al. 2017 (arXiv 1611.04076): real at 1, fake at 0."""
    pairs = zip(real, fake, strict=True)
    return _mean([(1 - r).square().mean() + f.square().mean() for r, f in pairs])


def _least_squares_generator(fake: Sequence[Tensor]) -> Tensor:
    return _mean([(1 - f).square().mean() for f in fake])


GAN_LOSSES = {
    "hinge": GanLoss(_hinge_discriminator, _hinge_generator),
    "least_squares": GanLoss(_least_squares_discriminator, _least_squares_generator),
}


def feature_matching(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], *, relative: bool = True
) -> Tensor:
    """Mean L1 between the layers of all discriminators (arXiv 2210.13438, section 3.4).

    `relative` divides each layer's distance by the mean magnitude of the real audio's features.
    """
    losses = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            loss = F.l1_loss(f, r.detach())
            losses.append(loss / (r.detach().abs().mean() + _FLOOR) if relative else loss)
    return _mean(losses)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


# Metrics without gradients.


def sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-distortion ratio of audio [B, C, T], dB, the mean over the batch."""
    error = (reference - estimate).flatten(1).square().sum(1)
    ratio = (reference.flatten(1).square().sum(1) + 1e-9) / (error + 1e-9)
    return 10 * ratio.log10().mean()


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """exp(entropy) of the codes [B, K, N] of each codebook, [K], from 1 to V."""
    n_levels = codes.shape[1]
    # One histogram for all codebooks.
    first = codebook_size * torch.arange(n_levels, device=codes.device)[:, None]
    counts = torch.bincount((codes + first).flatten(), minlength=n_levels * codebook_size)
    shares = counts.view(n_levels, codebook_size).float() / (codes.numel() / n_levels)
    return torch.special.entr(shares).sum(1).exp()
