"""Stems that are enhanced as they come, and blended with what they were.

`EnhancedSeparator` does it behind a separator, `StemEnhancer` with stems from files; both have the
form of a separator.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.audio.channels import keep_mono, mixed_layout, mixture_blocks, n_mixed, to_pairs
from mssgen.audio.levels import NATURAL, gain_into
from mssgen.audio.reading import AudioSource
from mssgen.audio.resampling import fit_length, out_samples, resample
from mssgen.audio.speakers import pairs_of
from mssgen.enhancers.blend import Blend, blend_stream
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.errors import UsageError
from mssgen.separators.base import Level, Separator, measure_level
from mssgen.streams import align

_MIN_RATE = 44_100
_AUTO = Blend()


class EnhancedSeparator:
    """A separator, and behind it an enhancer for some of its stems; itself a separator.

    Args:
        separator: gives the stems.
        enhancers: by stem; the other stems pass as they are.
        blend: of what the separator gave and what an enhancer made of it.
    """

    def __init__(
        self,
        separator: Separator,
        enhancers: Mapping[str, CodecEnhancer],
        blend: Blend = _AUTO,
    ) -> None:
        self.separator, self.enhancers, self.blend = separator, dict(enhancers), blend
        self.name = separator.name
        self.sources, self.n_channels = separator.sources, separator.n_channels
        self.sample_rate = separator.sample_rate
        self.device, self.precision = separator.device, separator.precision

    @property
    def settings(self) -> str:
        """Its options that change the result, for tags."""
        names = " ".join(enhancer.name for enhancer in self.enhancers.values())
        blend = f"encoders {names}, blend {self.blend.mode}, mix {self.blend.mix:g}"
        return ", ".join(filter(None, [getattr(self.separator, "settings", ""), blend]))

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
        if level.is_silent:
            yield from self.separator.stream(blocks, level, stems=stems, warn=warn)
            return
        to_separate, *mixtures = itertools.tee(blocks, 1 + len(stems))
        separated = self.separator.stream(to_separate, level, stems=stems, warn=warn)
        copies = itertools.tee(separated, len(stems))
        streams = [
            self._enhanced(stem, map(itemgetter((slice(None), index)), copy), level, mixture)
            for index, (stem, copy, mixture) in enumerate(zip(stems, copies, mixtures, strict=True))
        ]
        del to_separate, mixtures, separated, copies  # or what nobody reads would be kept
        for parts in align(streams):
            yield torch.stack(list(parts), dim=1)

    def _enhanced(
        self, stem: str, blocks: Iterable[Tensor], level: Level, mixture: Iterable[Tensor]
    ) -> Iterator[Tensor]:
        """Blocks [B, C, T'] of one stem, at the separator's rate before and after."""
        enhancer = self.enhancers.get(stem)
        if enhancer is None:
            return iter(blocks)
        return _blended(enhancer, blocks, level, self.blend, self.sample_rate, mixture)


class StemEnhancer:
    """An enhancer for stems from files, in the form of a separator that gives this one stem.

    It works at 44.1 kHz at least: a codec of a lower rate has nothing to say of the treble that the
    stem has, and leaves it alone.

    Args:
        enhancer: at any rate.
        blend: of the stem and what the enhancer made of it.
        mixture: gives the song from its start, as blocks [B, 2, T'] at `sample_rate`; None where
            it is not at hand.
    """

    n_channels = 2

    def __init__(
        self,
        enhancer: CodecEnhancer,
        blend: Blend = _AUTO,
        mixture: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self.enhancer, self.blend, self.mixture = enhancer, blend, mixture
        self.name, self.stem, self.sources = enhancer.name, enhancer.stem, enhancer.sources
        self.sample_rate = max(_MIN_RATE, enhancer.sample_rate)
        self.device, self.precision = enhancer.device, enhancer.precision

    @property
    def settings(self) -> str:
        """Its options that change the result, for tags."""
        return f"blend {self.blend.mode}, mix {self.blend.mix:g}"

    def __call__(self, mixture: Tensor) -> Tensor:
        """[B, 2, T] -> [B, 1, 2, T]."""
        return torch.cat(list(self.stream([mixture], measure_level([mixture]))), dim=-1)

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """As `Separator.stream`; UsageError for another stem."""
        self.enhancer.check(stems)
        if level.is_silent:
            streams: Iterator[Tensor] = map(torch.zeros_like, blocks)
        else:
            song = _fitted(self.mixture(), level) if self.mixture else None
            streams = _blended(self.enhancer, blocks, level, self.blend, self.sample_rate, song)
        for block in streams:
            yield block[:, None]


def _blended(
    enhancer: CodecEnhancer,
    blocks: Iterable[Tensor],
    level: Level,
    blend: Blend,
    sample_rate: int,
    mixture: Iterable[Tensor] | None,
) -> Iterator[Tensor]:
    """Blocks [B, 2, T'] of a stem through an enhancer of any rate, and blended.

    Very loud or soft sound is worked on at a natural level and comes back at its own.
    """
    gain = gain_into(level.loud, NATURAL)
    if gain != 1:
        at_level = replace(level, loud=level.loud * gain)
        song = mixture and (block * gain for block in mixture)
        scaled = (block * gain for block in blocks)
        for block in _at_level(enhancer, scaled, at_level, blend, sample_rate, song):
            yield block / gain
    else:
        yield from _at_level(enhancer, blocks, level, blend, sample_rate, mixture)


def _at_level(
    enhancer: CodecEnhancer,
    blocks: Iterable[Tensor],
    level: Level,
    blend: Blend,
    sample_rate: int,
    mixture: Iterable[Tensor] | None,
) -> Iterator[Tensor]:
    """As `_blended`, of sound that is neither very loud nor very soft."""
    stem, to_enhance = itertools.tee(blocks)
    song = None
    if mixture is not None:
        # A stem that is mono has no side, whatever the song has there.
        mixture = map(partial(keep_mono, is_mono=level.is_mono), mixture)
        if enhancer.hears_song:
            mixture, song = itertools.tee(mixture)
    both = _enhanced(enhancer, to_enhance, level, sample_rate, song)
    enhanced: Iterable[Tensor]
    if mixture is None and enhancer.hears_song and blend.mode != "full":
        # What was lost is in the song: without it nothing is added, only taken away.
        stem, enhanced = itertools.tee(stem)
    else:
        both, copy = itertools.tee(both)
        enhanced = map(itemgetter((slice(None), 0)), copy)
    lowering = map(itemgetter((slice(None), 1)), both)
    return blend_stream(
        stem, enhanced, blend, sample_rate=sample_rate, mixture=mixture, lowering=lowering
    )


def _enhanced(
    enhancer: CodecEnhancer,
    blocks: Iterable[Tensor],
    level: Level,
    sample_rate: int,
    song: Iterable[Tensor] | None,
) -> Iterator[Tensor]:
    """Blocks [B, 2, T'] at `sample_rate`, `level.n_samples` in all, to [B, 2, 2, T'] of it; see
    `CodecEnhancer.stream_both`."""
    at_codec = replace(level, n_samples=-(-level.n_samples * enhancer.sample_rate // sample_rate))

    def for_codec(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        return _fitted(_resampled(blocks, sample_rate, enhancer.sample_rate, level), at_codec)

    both = enhancer.stream_both(for_codec(blocks), at_codec, song and for_codec(song))
    items = (block.flatten(0, 1) for block in both)
    twice = replace(level, std=level.std.repeat(2))
    for block in _fitted(_resampled(items, enhancer.sample_rate, sample_rate, twice), twice):
        yield block.unflatten(0, (-1, 2))


def _resampled(
    blocks: Iterable[Tensor], in_rate: int, out_rate: int, level: Level
) -> Iterator[Tensor]:
    """Blocks [B, 2, T'] at another rate."""
    n_channels = 2 * len(level.std)
    for block in resample(map(_flat, blocks), n_channels, in_rate, out_rate):
        yield torch.from_numpy(block).unflatten(0, (-1, 2))


def _fitted(blocks: Iterable[Tensor], level: Level) -> Iterator[Tensor]:
    """Blocks [B, 2, T'], cut or filled with zeros to `level.n_samples` in all."""
    for block in fit_length(map(_flat, blocks), 2 * len(level.std), level.n_samples):
        yield torch.from_numpy(block).unflatten(0, (-1, 2))


def _flat(block: Tensor) -> NDArray[np.float32]:
    """[B, C, T] as channels [B * C, T]."""
    return np.ascontiguousarray(block.flatten(0, 1).numpy())


def mixture_of(
    stem: AudioSource, mixture: AudioSource, sample_rate: int, *, downmix: bool = False
) -> Callable[[], Iterator[torch.Tensor]]:
    """The mixture that a stem is from, as `StemEnhancer` wants it: blocks [B, 2, T'].

    `mixture` stays open as long as the result is used. Raises UsageError where the two cannot be
    of one song: other lengths (by more than a sample at `sample_rate`, Hz), other channels.
    """
    lengths = [
        out_samples(each.n_samples, each.info.sample_rate, sample_rate) for each in (stem, mixture)
    ]
    if abs(lengths[0] - lengths[1]) > 1:
        raise UsageError(
            f"--mixture {mixture.name} has {lengths[1] / sample_rate:.3f} s and {stem.name} "
            f"{lengths[0] / sample_rate:.3f} s: give the song that the stem was separated from"
        )
    channels = [n_mixed(each.info.n_channels, downmix=downmix) for each in (stem, mixture)]
    layouts = [mixed_layout(each.info, downmix=downmix) for each in (stem, mixture)]
    if len(pairs_of(layouts[0], channels[0])) != len(pairs_of(layouts[1], channels[1])):
        raise UsageError(
            f"--mixture {mixture.name} has {channels[1]} channels and {stem.name} {channels[0]}: "
            "give the song that the stem was separated from, or --downmix"
        )

    def blocks() -> Iterator[torch.Tensor]:
        mixed = mixture_blocks(mixture.blocks(), mixture.info, downmix=downmix)
        for block in resample(mixed, channels[1], mixture.info.sample_rate, sample_rate):
            yield to_pairs(block, layouts[1])

    return blocks
