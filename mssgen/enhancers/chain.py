"""A separator whose stems are enhanced as they come, without files between."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.audio import fit_length, resample
from mssgen.chunking import align
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.errors import UsageError
from mssgen.separators.base import Level, Separator, measure_level


class EnhancedSeparator:
    """A separator, and behind it an enhancer for some of its stems; itself a separator.

    Args:
        separator: gives the stems.
        enhancers: by stem; the other stems pass as they are.
    """

    def __init__(self, separator: Separator, enhancers: Mapping[str, CodecEnhancer]) -> None:
        self.separator, self.enhancers = separator, dict(enhancers)
        self.name = separator.name
        self.sources, self.n_channels = separator.sources, separator.n_channels
        self.sample_rate = separator.sample_rate
        self.device, self.precision = separator.device, separator.precision

    def check(self, stems: Sequence[str]) -> None:
        """Raise UsageError for an enhancer of a stem that is not wanted."""
        for stem, enhancer in self.enhancers.items():
            if stem not in stems:
                raise UsageError(
                    f"{enhancer.name} is for the stem {stem}, not for {', '.join(stems)}"
                )

    def __call__(self, mixture: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return torch.cat(list(self.stream([mixture], measure_level([mixture]))), dim=-1)

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """As `Separator.stream`; an enhancer is at most a few of its pieces behind."""
        stems = self.sources if stems is None else tuple(stems)
        separated = self.separator.stream(blocks, level, stems=stems, warn=warn)
        if level.is_silent:
            yield from separated
            return
        copies = itertools.tee(separated, len(stems))
        streams = [
            self._enhanced(stem, map(itemgetter((slice(None), index)), copy), level)
            for index, (stem, copy) in enumerate(zip(stems, copies, strict=True))
        ]
        for parts in align(streams):
            yield torch.stack(list(parts), dim=1)

    def _enhanced(self, stem: str, blocks: Iterable[Tensor], level: Level) -> Iterator[Tensor]:
        """Blocks [B, C, T'] of one stem, at the separator's rate before and after."""
        enhancer = self.enhancers.get(stem)
        if enhancer is None:
            yield from blocks
            return
        rate, codec_rate = self.sample_rate, enhancer.sample_rate
        shape = (len(level.mean), self.n_channels)
        n_flat = shape[0] * shape[1]
        n_samples = -(-level.n_samples * codec_rate // rate)
        at_codec = fit_length(
            resample(map(_flat, blocks), n_flat, rate, codec_rate), n_flat, n_samples
        )
        pairs = (torch.from_numpy(block).unflatten(0, shape) for block in at_codec)
        enhanced = enhancer.stream(pairs, replace(level, n_samples=n_samples))
        back = resample((_flat(block[:, 0]) for block in enhanced), n_flat, codec_rate, rate)
        for block in fit_length(back, n_flat, level.n_samples):
            yield torch.from_numpy(block).unflatten(0, shape)


def _flat(block: Tensor) -> NDArray[np.float32]:
    """[B, C, T] as channels [B * C, T]."""
    return np.ascontiguousarray(block.flatten(0, 1).numpy())
