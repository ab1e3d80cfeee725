"""What a separator is: a mixture in, stems out, whole or in a stream."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mssgen.audio.levels import LoudLevel
from mssgen.separators.offset import RestLevel

# Songs keep far more of their level in mono; only what nearly cancels is below it.
_MIN_SHARE_OF_MONO = 0.1


class Network(Protocol):
    """A network that separates one segment."""

    sources: tuple[str, ...]
    sample_rate: int
    n_channels: int
    segment_samples: int
    has_fixed_length: bool
    """Whether it takes segments of `segment_samples` only."""

    def __call__(self, mixture: Tensor) -> Tensor:
        """[B, C, T] fp32 of about unit variance -> [B, S, C, T] fp32."""
        ...


@dataclass(frozen=True)
class Level:
    """How loud a mixture is and how far off zero it rests; found by a first pass."""

    n_samples: int
    offset: Tensor
    """[B, C], the DC offset of each channel, to be taken away before a network hears it."""
    std: Tensor
    """[B], the deviation that a network wants as 1; 0 only where every channel is constant."""
    is_mono: Tensor
    """[B] bool, whether its channels are equal throughout."""
    loud: float = 0.0
    """Level of the loud parts of all channels (`mssgen.audio.levels.LoudLevel`)."""

    @property
    def is_silent(self) -> bool:
        return bool((self.std == 0).all())


class Separator(Protocol):
    """Stage 1 of the pipeline."""

    name: str
    sources: tuple[str, ...]
    """The stems that it can give, in the order of the axis S."""
    sample_rate: int
    """Hz, of everything that goes in and comes out."""
    n_channels: int
    device: str
    precision: str

    def __call__(self, mixture: Tensor) -> Tensor:
        """Separate whole mixtures: [B, C, T] -> [B, S, C, T]."""
        ...

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """Separate a stream of blocks [B, C, T'] into blocks [B, S, C, T'], of `stems` only."""
        ...


def measure_level(blocks: Iterable[Tensor]) -> Level:
    """Measure a stream of blocks [B, C, T'] (in fp64, whatever the length).

    The deviation is that of the mean over channels, as Demucs has it, but at least a tenth of that
    of the channels themselves: what cancels in mono is as loud as anything else.
    """
    n_samples, shift = 0, None
    total = square = torch.zeros((), dtype=torch.float64)  # [B, C + 1] from the first block on
    is_mono = torch.tensor(True)  # [B], likewise
    rests, loud = RestLevel(), LoudLevel()
    for block in blocks:
        if not block.shape[-1]:
            continue
        is_mono = is_mono & (block == block[:, :1]).flatten(1).all(dim=1)
        channels = block.double()
        rests.add(channels)
        loud.add(channels.numpy())
        signals = torch.cat([channels, channels.mean(dim=1, keepdim=True)], dim=1)
        if shift is None:
            shift = signals[..., :1]  # sums of squares cancel less around a value of the signal
        signals = signals - shift
        n_samples += signals.shape[-1]
        total = total + signals.sum(-1)
        square = square + signals.square().sum(-1)
    if shift is None:
        # A sample of a few, at a much lower rate: nothing is left, and that is silent.
        return Level(0, torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    mean = total / n_samples
    variance = (square - n_samples * mean.square()).clamp_min(0) / max(1, n_samples - 1)
    of_channels = variance[:, :-1].mean(dim=1).sqrt()
    std = torch.maximum(variance[:, -1].sqrt(), _MIN_SHARE_OF_MONO * of_channels).float()
    offset = rests.offset((mean + shift[..., 0])[:, :-1], variance[:, :-1].sqrt())
    return Level(n_samples, offset.float(), std, is_mono, loud.value)
