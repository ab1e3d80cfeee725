"""Interfaces of separators and their networks, and the level measurement that they need."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mssgen.audio.levels import LoudLevel
from mssgen.errors import UsageError
from mssgen.separators.offset import RestLevel

# Music keeps far more of its level in mono; only nearly cancelling channels fall below this share.
_MIN_SHARE_OF_MONO = 0.1


class Network(Protocol):
    """A network that separates one segment of a mixture."""

    sources: tuple[str, ...]
    """Stem names in the order of the axis S."""
    sample_rate: int
    """Hz."""
    n_channels: int
    segment_samples: int
    """Usual segment length in samples."""
    has_fixed_length: bool
    """Whether segments must have exactly `segment_samples`."""
    is_normalised: bool
    """Whether it expects mixtures of unit variance, not the level of the recording."""

    def __call__(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        ...


@dataclass(frozen=True)
class Level:
    """Statistics of a mixture from a first pass over it."""

    n_samples: int
    offset: Tensor
    """[B, C], DC offset of each channel, subtracted before separation."""
    std: Tensor
    """[B], standard deviation to normalise by; 0 only if all channels are constant."""
    is_mono: Tensor
    """[B] bool, whether all channels are identical."""
    loud: float = 0.0
    """Level of the loud parts of all channels (see `mssgen.audio.levels.LoudLevel`)."""

    @property
    def is_silent(self) -> bool:
        """Whether every channel of every mixture is constant."""
        return bool((self.std == 0).all())


class Separator(Protocol):
    """Separates mixtures into stems, whole or as streams."""

    name: str
    sources: tuple[str, ...]
    """Names of the available stems, in the order of the axis S."""
    sample_rate: int
    """Sample rate of input and output in Hz."""
    n_channels: int
    device: str
    precision: str

    def __call__(self, mixture: Tensor) -> Tensor:
        """Separate whole mixtures [B, C, T] into stems [B, S, C, T]."""
        ...

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """Separate blocks [B, C, T'] into blocks [B, S, C, T'] of `stems` (None: all)."""
        ...


def chosen_stems(separator: Separator, stems: Sequence[str] | None) -> tuple[str, ...]:
    """The stems to output, in this order; all for None. UsageError for one not in `sources`."""
    chosen = separator.sources if stems is None else tuple(stems)
    if unknown := [stem for stem in chosen if stem not in separator.sources]:
        raise UsageError(
            f"{separator.name} has no stem '{unknown[0]}', only {', '.join(separator.sources)}"
        )
    return chosen


def measure_level(blocks: Iterable[Tensor]) -> Level:
    """Measure a stream of blocks [B, C, T'] in fp64.

    `std` is that of the mono downmix, as in Demucs, but at least a tenth of that of the channels,
    so that channels which cancel in mono still count.
    """
    n_samples, shift = 0, None
    total = square = torch.zeros((), dtype=torch.float64)  # [B, C + 1] from the first block on
    is_mono = torch.tensor(True)  # [B] from the first block on
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
            shift = signals[..., :1]  # near the mean, so that sums of squares lose less precision
        signals = signals - shift
        n_samples += signals.shape[-1]
        total = total + signals.sum(-1)
        square = square + signals.square().sum(-1)
    if shift is None:
        # No samples, such as a few that were resampled to a much lower rate: silent.
        return Level(0, torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    mean = total / n_samples
    variance = (square - n_samples * mean.square()).clamp_min(0) / max(1, n_samples - 1)
    of_channels = variance[:, :-1].mean(dim=1).sqrt()
    std = torch.maximum(variance[:, -1].sqrt(), _MIN_SHARE_OF_MONO * of_channels).float()
    offset = rests.offset((mean + shift[..., 0])[:, :-1], variance[:, :-1].sqrt())
    return Level(n_samples, offset.float(), std, is_mono, loud.value)
