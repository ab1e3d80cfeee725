"""Short-time Fourier transform of the networks that are built from state dicts."""

import torch
from torch import Tensor, nn

from mssgen.errors import CheckpointError

_MAX_CELLS = 2**22  # bins times frames of a segment; the largest published one has 2 million


class STFT(nn.Module):
    """Centred STFT and its inverse, with a window of `n_fft` samples.

    Args:
        n_fft, hop_length: in samples.
        segment_samples: longest signal, to bound memory.
        is_hann: periodic Hann window; else a rectangular one.
        is_orthonormal: divide by the square root of `n_fft`.

    Raises:
        CheckpointError: the sizes do not fit one another.
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        segment_samples: int,
        *,
        is_hann: bool = True,
        is_orthonormal: bool = False,
    ) -> None:
        super().__init__()
        if not hop_length <= n_fft // 2 <= segment_samples // 2:
            raise CheckpointError(
                f"the n_fft {n_fft}, hop_length {hop_length} and segment_samples {segment_samples} "
                "do not fit one another: get the file again"
            )
        if segment_samples // hop_length * (n_fft // 2) > _MAX_CELLS:
            raise CheckpointError(
                f"a segment of {segment_samples} samples with a hop_length of {hop_length} needs "
                "too much memory: get the file again"
            )
        window = torch.hann_window if is_hann else torch.ones
        self.register_buffer("window", window(n_fft, device="cpu"), persistent=False)
        self.hop_length, self.is_orthonormal = hop_length, is_orthonormal

    def forward(self, signal: Tensor) -> Tensor:
        """Signal [..., T] fp32 -> complex spectrogram [..., F, N]."""
        spectrogram: Tensor = torch.stft(
            signal.flatten(0, -2),
            len(self.window),
            self.hop_length,
            window=self.window,
            normalized=self.is_orthonormal,
            return_complex=True,
        )
        return spectrogram.unflatten(0, signal.shape[:-1])

    def inverse(self, spectrogram: Tensor, n_samples: int) -> Tensor:
        """Complex spectrogram [..., F, N] -> signal [..., n_samples] fp32."""
        signal: Tensor = torch.istft(
            spectrogram.flatten(0, -3),
            len(self.window),
            self.hop_length,
            window=self.window,
            normalized=self.is_orthonormal,
            length=n_samples,
        )
        return signal.unflatten(0, spectrogram.shape[:-2])
