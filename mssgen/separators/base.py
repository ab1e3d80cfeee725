"""What a separator is: a mixture in, stems out, whole or in a stream."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
    """Mean and deviation of a mixture, which a network wants as 0 and 1; found by a first pass."""

    n_samples: int
    mean: Tensor
    """[B], of the mean over channels."""
    std: Tensor
    """[B], likewise; 0 where the mixture is silent or constant."""
    is_mono: Tensor
    """[B] bool, whether its channels are equal throughout."""

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
    """Measure a stream of blocks [B, C, T'] (in fp64, whatever the length)."""
    n_samples, shift = 0, None
    total = square = torch.zeros((), dtype=torch.float64)  # [B] from the first block on
    is_mono = torch.tensor(True)  # likewise
    for block in blocks:
        if not block.shape[-1]:
            continue
        is_mono = is_mono & (block == block[:, :1]).flatten(1).all(dim=1)
        mono = block.double().mean(dim=1)  # [B, T']
        if shift is None:
            shift = mono[:, :1]  # sums of squares cancel less around a value of the signal
        mono = mono - shift
        n_samples += mono.shape[-1]
        total = total + mono.sum(-1)
        square = square + mono.square().sum(-1)
    if shift is None:
        # A sample of a few, at a much lower rate: nothing is left, and that is silent.
        return Level(0, torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    mean = total / n_samples
    variance = (square - n_samples * mean.square()).clamp_min(0) / max(1, n_samples - 1)
    std = torch.sqrt(variance).float()
    return Level(n_samples, (mean + shift[:, 0]).float(), std, is_mono)
