"""What a codec is trained with: each loss is one function of sounds, logits or features.

Sounds are [B, C, T] at full scale 1 and losses are means, so that they do not grow with the batch
or the length.
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
from mssgen.extras import missing

try:
    import auraloss.freq
    import librosa.filters
except ModuleNotFoundError as error:
    raise missing(str(error.name), "train", "training a codec") from None

_FLOOR = 1e-5

# Between two sounds.


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
    """Between mel spectra at several resolutions, the mean over them.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        sample_rate: Hz.
        windows: lengths in samples; the hop is a quarter.
        n_mels: bands from 0 Hz to half the rate, one number or one for each window; bands too
            narrow for a window are left out.
        form: which distance at each resolution, a word of `MEL_FORMS`.
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
    """[M, F] triangles of height 1 on the HTK scale, as EnCodec's authors have them."""
    with warnings.catch_warnings():
        # Short windows have fewer bins than bands; the empty bands go.
        warnings.filterwarnings("ignore", "Empty filters")
        filters = librosa.filters.mel(
            sr=sample_rate, n_fft=window, n_mels=n_mels, htk=True, norm=None
        )
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

    At each: the relative error of the linear magnitudes (Frobenius norm) + L1 of their logarithms;
    the hop is a quarter of the window.
    """
    distance = _stft_distance(tuple(windows))
    return distance(estimate.contiguous(), reference.contiguous())


def spectrum_distance(estimate: Tensor, reference: Tensor, *, window: int = 2048) -> Tensor:
    """L1 between complex spectra whose magnitudes are taken to the power 0.5: phase counts.

    What is soft weighs more than in the waveform, as it does for the ear. The transform is that of
    the stem codec, so a quarter of the window is the hop; middle and side of stereo [B, 2, T].
    """
    transform = _spectrum(window, window // 4, 0.5, 0, estimate.device)
    return F.l1_loss(_frames(transform, estimate), _frames(transform, reference))


def level_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """L1 between logarithmic levels of 32 bands in middle and side, in frames of 512 samples.

    They are those of the stem codec (`mssgen.codecs.networks.stem_spectrum.to_log`): a dB is 0.07,
    and whatever is softer than -84 dB is silence.
    """
    transform = _spectrum(1024, 512, 0.6, 32, estimate.device)
    given, wanted = (_frames(transform, audio) for audio in (estimate, reference))
    n_values = transform.n_values
    return F.l1_loss(to_log(given[:, n_values:]), to_log(wanted[:, n_values:]))


def _frames(transform: Spectrum, audio: Tensor) -> Tensor:
    """Frames of a sound [B, 1 or 2, T]."""
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
    return auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=windows,
        hop_sizes=[window // 4 for window in windows],
        win_lengths=windows,
    )


# Between a codec and its discriminators: logits and features, lists over discriminators.


class GanLoss(NamedTuple):
    """What each side wants of the logits; means over all discriminators."""

    discriminator: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    """Of the logits of real sounds and of fake ones."""
    generator: Callable[[Sequence[Tensor]], Tensor]
    """Of the logits of fake sounds."""


def _hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Of arXiv 2210.13438, section 3.4: real above 1, fake below -1."""
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

    `relative` divides each layer's by the mean magnitude of its features of the real sound.
    """
    losses = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            loss = F.l1_loss(f, r.detach())
            losses.append(loss / (r.detach().abs().mean() + _FLOOR) if relative else loss)
    return _mean(losses)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


# What is watched and not learnt from.


def sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-distortion ratio, dB, the mean over the batch; both [B, C, T]."""
    error = (reference - estimate).flatten(1).square().sum(1)
    ratio = (reference.flatten(1).square().sum(1) + 1e-9) / (error + 1e-9)
    return 10 * ratio.log10().mean()


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """How many codes of each level are in use, 1 to V: exp of the entropy; [B, K, N] -> [K]."""
    n_levels = codes.shape[1]
    # Levels side by side: one histogram for all.
    first = codebook_size * torch.arange(n_levels, device=codes.device)[:, None]
    counts = torch.bincount((codes + first).flatten(), minlength=n_levels * codebook_size)
    shares = counts.view(n_levels, codebook_size).float() / (codes.numel() / n_levels)
    return torch.special.entr(shares).sum(1).exp()
