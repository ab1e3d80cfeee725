"""The complex spectrogram of Demucs and its inverse.

Hop = nfft/4, periodic Hann window, orthonormal transform, no Nyquist bin; the signal is extended by
reflection so that N = ceil(T / hop) frames cover it (`_spec` and `_ispec` of Demucs v4).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def to_spectrogram(wave: Tensor, window: Tensor) -> Tensor:
    """Waveform [B, C, T] -> spectrogram [B, F, N, 2C], real and imaginary parts alternating.

    F = nfft/2, N = ceil(T / hop); `window` is [nfft].
    """
    size = len(window)
    hop = size // 4
    pad, n_samples = hop // 2 * 3, wave.shape[-1]
    n_frames = math.ceil(n_samples / hop)
    wave = F.pad(wave, (pad, pad + n_frames * hop - n_samples), mode="reflect")
    frames = wave.unfold(-1, size, hop) * window  # [B, C, N, nfft]
    bins = torch.view_as_real(torch.fft.rfft(frames, norm="ortho")[..., :-1])  # [B, C, N, F, 2]
    return bins.permute(0, 3, 2, 1, 4).flatten(3)


def to_waveform(bins: Tensor, window: Tensor, n_samples: int) -> Tensor:
    """Bins [B, C, N, F + 1] complex64 -> waveform [B, C, n_samples] fp32.

    The inverse of `to_spectrogram`, with a Nyquist bin.
    """
    size = len(window)
    hop = size // 4
    batch, n_signals, n_frames = bins.shape[:3]
    wave = window.new_zeros(batch, n_signals, n_frames + 3, hop)
    for signal in range(n_signals):  # one at a time: the frames of all would take four waveforms
        frames = torch.fft.irfft(bins[:, signal], n=size, norm="ortho").mul_(window)
        quarters = frames.unflatten(-1, (4, hop))  # [B, N, 4, hop]
        for index in range(4):
            wave[:, signal, index : index + n_frames] += quarters[:, :, index]
    pad = hop // 2 * 3
    # Squared Hann windows with a hop of a quarter of their length sum to 3/2.
    return wave.flatten(2)[..., pad : pad + n_samples] / 1.5
