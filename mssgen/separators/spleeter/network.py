"""The networks of Spleeter: one U-Net per stem on the magnitudes of the spectrogram.

Hennequin et al., "Spleeter: a fast and efficient music source separation tool with pre-trained
models" (2020), written from the layout of the released checkpoints. Skip connections carry the raw
convolution, before norm and activation; the decoder normalises after its activation. Convolutions
are padded as TensorFlow's "SAME", which adds the odd row at the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.checkpoints.blueprints import blueprint, misfit
from mssgen.errors import CheckpointError
from mssgen.recipes.schema import SampleRate, Width
from mssgen.separators.batch_norm import BatchNorm
from mssgen.separators.demucs import HighFrequencies
from mssgen.separators.state_dicts import StemNames
from mssgen.separators.wiener import Iterations

N_LEVELS = 6
_N_CHANNELS = 2
_MAX_CELLS = 2**21  # bins times frames of a block; published networks have a quarter
_EPS = 1e-3  # of Keras' batch norm, as Spleeter sets it
_Activation = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, tuple[_Activation, _Activation]] = {  # of the encoder and the decoder
    "relu": (lambda x: F.leaky_relu(x, 0.2), F.relu),
    "elu": (F.elu, F.elu),
}
Widths = Annotated[tuple[Width, ...], Field(strict=False, min_length=N_LEVELS, max_length=N_LEVELS)]


@dataclass(frozen=True)
class SpleeterConfig:
    """Options of a Spleeter checkpoint; sizes that do not match raise CheckpointError."""

    sources: StemNames
    activation: Literal["relu", "elu"]
    """"relu": leaky ReLU in the encoder and ReLU in the decoder; "elu": ELU in both."""
    softmax: bool = False
    """Whether the stems share each bin by a softmax, instead of a sigmoid each."""
    samplerate: SampleRate = 44_100
    n_fft: Annotated[int, Field(ge=16, le=2**14)] = 4096
    """Length of the Hann window in samples; frames are a quarter of it apart."""
    n_frames: Annotated[int, Field(ge=64, le=4096)] = 512
    """Frames per block, a multiple of 64."""
    n_bins: Annotated[int, Field(ge=64, le=2**13)] = 1024
    """Lowest bins, which the networks see, a multiple of 64; no stem has the others by itself."""
    widths: Widths = (16, 32, 64, 128, 256, 512)
    """Channels of the six levels of each U-Net."""
    high_frequencies: HighFrequencies = "zeros"
    """What the stems have above `n_bins`: nothing; on average the same share of the mixture as
    below, frame by frame; or the last stem all of the mixture."""
    wiener_iterations: Iterations = 0
    """Rounds of the multichannel Wiener filter; 0: ratio masks."""

    def __post_init__(self) -> None:
        size = 2**N_LEVELS
        is_whole = self.n_frames % size == self.n_bins % size == 0
        is_small = self.n_frames * self.n_bins <= _MAX_CELLS
        if not is_whole or not is_small or self.n_bins > self.n_fft // 2 + 1:
            raise CheckpointError(
                f"the checkpoint's block of {self.n_frames} frames and {self.n_bins} bins (options "
                f"n_frames, n_bins and n_fft) is not a multiple of {size}, too large, or "
                "wider than the spectrum: get the file again"
            )


class Spleeter(nn.Module):
    """All U-Nets of a checkpoint, in eval mode: estimates of the stems' magnitudes."""

    def __init__(self, config: SpleeterConfig) -> None:
        super().__init__()
        self.config = config
        self.stems = nn.ModuleList(UNet(config.widths, config.activation) for _ in config.sources)
        self.eval()

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes [B, C, N, F] of the mixture -> of the stems [B, S, C, N, F]."""
        x = magnitudes.contiguous(memory_format=torch.channels_last)  # a third faster on CPUs
        logits = torch.stack([unet(x) for unet in self.stems], dim=1)
        share = logits.softmax(dim=1) if self.config.softmax else logits.sigmoid()
        return share * magnitudes[:, None]


class UNet(nn.Module):
    """One stem's network: magnitudes [B, C, N, F] -> logits of a mask of the same shape.

    Args:
        widths: channels of the six levels.
        activation: see `SpleeterConfig`.
    """

    def __init__(self, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.encode, self.decode = _ACTIVATIONS[activation]
        outputs = (*reversed(widths[:-1]), 1)
        inputs = (widths[-1], *(2 * width for width in outputs[:-1]))
        self.down = nn.ModuleList(
            nn.Conv2d(given, width, 5, stride=2)
            for given, width in zip((_N_CHANNELS, *widths), widths, strict=False)
        )
        self.down_norm = nn.ModuleList(BatchNorm(width, _EPS) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(given, width, 5, stride=2, padding=1)
            for given, width in zip(inputs, outputs, strict=True)
        )
        self.up_norm = nn.ModuleList(BatchNorm(width, _EPS) for width in outputs)
        self.head = nn.Conv2d(1, _N_CHANNELS, 4, dilation=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Magnitudes [B, C, N, F] -> logits [B, C, N, F]; N and F are multiples of 64."""
        skips = []
        for index, conv in enumerate(self.down):
            x = conv(F.pad(x, (1, 2, 1, 2)))
            skips.append(x)
            if index < len(self.down_norm):  # the innermost level goes on raw
                x = self.encode(self.down_norm[index](x))
        skips.pop()
        for index, (conv, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            if index:
                x = torch.cat([skips.pop(), x], dim=1)
            x = norm(self.decode(conv(x)[..., :-1, :-1]))
        logits: Tensor = self.head(x)
        return logits


def build_network(config: SpleeterConfig, state: Mapping[str, Tensor]) -> Spleeter:
    """The network with the weights `state`; CheckpointError if a tensor is missing or misfits."""
    with blueprint():
        network = Spleeter(config)
    if (problem := misfit(network, state)) is not None:
        raise CheckpointError(
            f"the checkpoint does not fit Spleeter: {problem}; get the file again"
        )
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network.requires_grad_(False)
