"""Open-Unmix: one recurrent network per stem on the magnitudes, then a Wiener filter of all stems.

Stöter et al., "Open-Unmix: a reference implementation for music source separation" (2019), written
from its state dicts. The program runs the recurrent layers over the whole song; here they see one
segment, cross-faded with the next, so that memory does not depend on the length of the song.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.errors import CheckpointError
from mssgen.separators import wiener
from mssgen.separators.batch_norm import BatchNorm
from mssgen.separators.state_dicts import FFTSize, Shapes, Trunk, TrunkOptions
from mssgen.separators.stft import STFT

_EPS = 1e-5
_EPS_WIENER = 1e-10
_WIENER_FRAMES = 300  # windows of the filter, as in the program


@dataclass(frozen=True, kw_only=True)
class OpenUnmixOptions(TrunkOptions):
    """Options that the tensors do not tell."""

    n_fft: FFTSize = 4096
    """Length of the Hann window in samples; frames are a quarter of it apart."""
    wiener_iterations: wiener.Iterations = 1
    """Rounds of the Wiener filter; 0 gives the stems the phase of the mixture."""


class OpenUnmix(Trunk):
    """All stems' networks and the filter; see `state_dicts.Trunk`."""

    Options = OpenUnmixOptions

    def __init__(self, options: OpenUnmixOptions, shapes: Shapes) -> None:
        super().__init__(options, shapes)
        self.options, n_fft = options, options.n_fft
        self.stft = STFT(n_fft, n_fft // 4, options.segment_samples)
        self.n_stems = shapes.count("stems.")
        stems = [Stem(f"stems.{i}", shapes) for i in range(self.n_stems)]
        self.stems, self.n_channels = nn.ModuleList(stems), stems[0].n_channels
        n_bins = options.n_fft // 2 + 1
        for stem in stems:
            if stem.n_channels != self.n_channels or stem.n_bins != n_bins:
                raise CheckpointError(
                    f"its networks see {stem.n_bins} bins of {stem.n_channels} channels, but "
                    f"n_fft {options.n_fft} gives {n_bins} of {self.n_channels}: get the file again"
                )
        if self.n_channels > 2:
            raise CheckpointError(f"it has {self.n_channels} channels, not 1 or 2")

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        spectrum = self.stft(mixture).mT  # [B, C, N, F]
        magnitudes = spectrum.abs()
        masks = torch.stack([stem(magnitudes) for stem in self.stems], dim=1)
        n_iterations = self.options.wiener_iterations
        windows = [
            wiener.refine(mask * part[:, None], part, n_iterations, eps=_EPS_WIENER)
            for mask, part in zip(
                masks.split(_WIENER_FRAMES, 3), spectrum.split(_WIENER_FRAMES, 2), strict=True
            )
        ]
        stems = torch.cat(windows, dim=3)
        return self.stft.inverse(stems.mT, mixture.shape[-1])


class Stem(nn.Module):
    """One stem's network: magnitudes [B, C, N, F] -> non-negative mask of the same shape."""

    input_mean: Tensor
    input_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, prefix: str, shapes: Shapes) -> None:
        super().__init__()
        (n_seen,) = shapes.of(f"{prefix}.input_mean", 1)
        (self.n_bins,) = shapes.of(f"{prefix}.output_mean", 1)
        width, n_inputs = shapes.of(f"{prefix}.fc1.weight", 2)
        n_gates, _ = shapes.of(f"{prefix}.lstm.weight_ih_l0", 2)
        n_layers = 1
        while f"{prefix}.lstm.weight_ih_l{n_layers}" in shapes:
            n_layers += 1
        is_both_ways = f"{prefix}.lstm.weight_ih_l0_reverse" in shapes
        self.n_channels = max(1, n_inputs // n_seen)
        n_outputs = self.n_channels * self.n_bins
        for name, size in (("input", n_seen), ("output", self.n_bins)):
            self.register_buffer(f"{name}_mean", torch.empty(size))
            self.register_buffer(f"{name}_scale", torch.empty(size))
        self.fc1 = nn.Linear(self.n_channels * n_seen, width, bias=False)
        self.bn1 = BatchNorm(width, _EPS)
        hidden = max(1, n_gates // 4)
        self.lstm = nn.LSTM(width, hidden, n_layers, bidirectional=is_both_ways, batch_first=True)
        self.fc2 = nn.Linear(width + hidden * (1 + is_both_ways), width, bias=False)
        self.bn2 = BatchNorm(width, _EPS)
        self.fc3 = nn.Linear(width, n_outputs, bias=False)
        self.bn3 = BatchNorm(n_outputs, _EPS)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Mask of the stem, [B, C, N, F], zero or more."""
        frames = magnitudes.transpose(1, 2)  # [B, N, C, F]
        seen = (frames[..., : len(self.input_mean)] + self.input_mean) * self.input_scale
        x = torch.tanh(_normed(self.bn1, self.fc1(seen.flatten(2))))
        x = torch.cat([x, self.lstm(x)[0]], dim=-1)
        x = F.relu(_normed(self.bn2, self.fc2(x)))
        x = _normed(self.bn3, self.fc3(x)).unflatten(-1, (self.n_channels, self.n_bins))
        return F.relu(x * self.output_scale + self.output_mean).transpose(1, 2)


def _normed(norm: BatchNorm, frames: Tensor) -> Tensor:
    """[B, N, W], every frame normalised alike."""
    normed: Tensor = norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    return normed
