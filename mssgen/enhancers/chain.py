"""Separated stems, enhanced and blended with what they were, as streams of blocks.

    lanes: stem, mixture                                      at the separator's rate
        -> enhanced stem, attenuation of the stem             at the codec's rate, and back
        -> blend                                              at the separator's rate

`EnhancedSeparator` enhances what a separator gives, `StemEnhancer` stems from files; both have the
form of a separator (`mssgen.separators.base`).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.audio.channels import keep_mono, mixed_layout, n_mixed
from mssgen.audio.levels import NATURAL, gain_into
from mssgen.audio.reading import Source
from mssgen.audio.resampling import fit_length, out_samples, resample
from mssgen.audio.speakers import pairs_of
from mssgen.enhancers.blend import Blend, Changes, attenuated, blend_stream
from mssgen.enhancers.codec import CodecEnhancer, Enhanced
from mssgen.enhancers.lanes import Lanes
from mssgen.errors import UsageError
from mssgen.separators.base import Level, Separator, measure_level
from mssgen.streams import align, alongside, in_step, map_lanes

_MIN_RATE = 44_100
_AUTO = Blend()
_Signals = TypeVar("_Signals", bound=tuple[Tensor | None, ...])


class EnhancedSeparator:
    """A separator whose stems are enhanced; itself a separator.

    Args:
        separator: gives the stems.
        enhancers: by stem; the other stems pass unchanged.
        blend: of each separated stem and its enhanced form.
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
        """Options that change the result, for tags."""
        names = " ".join(enhancer.name for enhancer in self.enhancers.values())
        blend = f"encoders {names}, blend {self.blend.mode}, mix {self.blend.mix:g}"
        return ", ".join(filter(None, [getattr(self.separator, "settings", ""), blend]))

    def check(self, stems: Sequence[str]) -> None:
        """Raise UsageError for an enhancer whose stem is not among `stems`."""
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
        changes: dict[str, Changes] | None = None,
    ) -> Iterator[Tensor]:
        """As `Separator.stream`, some seconds behind the separator; `changes` gets those of each
        enhanced stem."""
        stems = self.sources if stems is None else tuple(stems)
        separate = partial(self.separator.stream, level=level, stems=stems, warn=warn)
        if level.is_silent:
            yield from separate(blocks)
            return
        stages = [
            partial(self._one_stem, stem=stem, index=index, level=level, changes=changes)
            for index, stem in enumerate(stems)
        ]
        for each in in_step(alongside(blocks, separate), *stages):
            yield torch.stack(each, dim=1)

    def _one_stem(
        self,
        separated: Iterable[tuple[Tensor, Tensor]],
        *,
        stem: str,
        index: int,
        level: Level,
        changes: dict[str, Changes] | None,
    ) -> Iterator[Tensor]:
        """One stem [B, C, T'] of pairs of mixture [B, C, T'] and stems [B, S, C, T'], enhanced."""
        lanes = (Lanes(stems[:, index], mixture) for mixture, stems in separated)
        enhancer = self.enhancers.get(stem)
        if enhancer is None:
            return (lane.stem for lane in lanes)
        return _blended(enhancer, lanes, level, self.blend, self.sample_rate, changes)


class StemEnhancer:
    """An enhancer for stems from files, in the form of a separator that gives this one stem.

    It works at 44.1 kHz or more: the treble that a codec of a lower rate does not have is left as
    it is.

    Args:
        enhancer: at any rate.
        blend: of the stem and its enhanced form.
    """

    n_channels = 2

    def __init__(self, enhancer: CodecEnhancer, blend: Blend = _AUTO) -> None:
        self.enhancer, self.blend = enhancer, blend
        self.name, self.stem, self.sources = enhancer.name, enhancer.stem, enhancer.sources
        self.sample_rate = max(_MIN_RATE, enhancer.sample_rate)
        self.device, self.precision = enhancer.device, enhancer.precision

    @property
    def settings(self) -> str:
        """Options that change the result, for tags."""
        return f"blend {self.blend.mode}, mix {self.blend.mix:g}"

    def __call__(self, mixture: Tensor) -> Tensor:
        """Stems [B, 2, T], without what they were separated from, to [B, 1, 2, T]."""
        return torch.cat(list(self.stream([mixture], measure_level([mixture]))), dim=-1)

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
        mixture: Iterable[Tensor] | None = None,
        changes: dict[str, Changes] | None = None,
    ) -> Iterator[Tensor]:
        """As `Separator.stream`, with the mixture that the stem was separated from beside it.

        Args:
            blocks: the stem, [B, 2, T'].
            level: of the stem.
            stems: its name at most; UsageError for another.
            warn: not used.
            mixture: blocks [B, 2, T'], cut or padded with silence to the length of the stem; None
                if it is not known.
            changes: gets those of the stem, under its name.
        """
        self.enhancer.check(stems)
        lanes: Iterable[Lanes] = map(Lanes, blocks)
        if mixture is not None and not level.is_silent:
            beside = _resampled(
                map(Lanes, mixture), self.sample_rate, self.sample_rate, level.n_samples
            )
            lanes = (Lanes(*each) for each in align([blocks, (lane.stem for lane in beside)]))
        if level.is_silent:
            enhanced: Iterator[Tensor] = (torch.zeros_like(lane.stem) for lane in lanes)
        else:
            enhanced = _blended(self.enhancer, lanes, level, self.blend, self.sample_rate, changes)
        for block in enhanced:
            yield block[:, None]


def _blended(
    enhancer: CodecEnhancer,
    lanes: Iterable[Lanes],
    level: Level,
    blend: Blend,
    sample_rate: int,
    changes: dict[str, Changes] | None,
) -> Iterator[Tensor]:
    """Lanes of stem and mixture to the blend [B, 2, T']; `changes` gets those of the stem.

    Very loud or quiet audio is processed at a natural level and comes back at its own.
    """
    gain = gain_into(level.loud, NATURAL)
    natural = replace(level, loud=level.loud * gain)
    lanes = (_scaled(lane, gain, level) for lane in lanes)
    made = alongside(lanes, partial(_enhanced, enhancer, natural, sample_rate))
    filled = (_filled_in(lane, each, enhancer, blend) for lane, each in made)
    changed = None if changes is None else changes.setdefault(enhancer.stem, Changes())
    for block in blend_stream(filled, blend, sample_rate=sample_rate, changes=changed):
        yield block / gain


def _scaled(lane: Lanes, gain: float, level: Level) -> Lanes:
    """Stem and mixture times `gain`; a mono stem has no side, so the mixture's is left out."""
    mixture = lane.mixture
    if mixture is not None:
        mixture = keep_mono(mixture * gain, level.is_mono)
    return Lanes(lane.stem * gain, mixture)


def _filled_in(lane: Lanes, made: Enhanced, enhancer: CodecEnhancer, blend: Blend) -> Lanes:
    """All four lanes.

    An encoder that expects the mixture and has none cannot know what was lost: nothing is added
    then, only attenuated, except in the mode that asks for the codec alone.
    """
    is_unsure = lane.mixture is None and enhancer.takes_mixture and blend.mode != "full"
    lane = lane._replace(enhanced=made.enhanced, attenuation=made.attenuation)
    return lane._replace(enhanced=attenuated(lane)) if is_unsure else lane


def _enhanced(
    enhancer: CodecEnhancer, level: Level, sample_rate: int, lanes: Iterable[Lanes]
) -> Iterator[Enhanced]:
    """Lanes at `sample_rate`, `level.n_samples` in all, to the codec's rate and back."""
    codec_rate = enhancer.sample_rate
    at_codec = replace(level, n_samples=-(-level.n_samples * codec_rate // sample_rate))
    if not enhancer.takes_mixture:
        lanes = (Lanes(lane.stem) for lane in lanes)
    resampled = _resampled(lanes, sample_rate, codec_rate, at_codec.n_samples)
    made = enhancer.enhanced(resampled, at_codec)
    return _resampled(made, codec_rate, sample_rate, level.n_samples)


def _resampled(
    blocks: Iterable[_Signals], in_rate: int, out_rate: int, n_samples: int
) -> Iterator[_Signals]:
    """Lanes at another rate, cut or padded to `n_samples`; one resampler keeps them in step."""
    iterator = iter(blocks)
    first: _Signals | None = next(iterator, None)
    if first is None:
        return
    present = [signal for signal in first if signal is not None]
    shape = (len(present), *present[0].shape[:-1])

    def channels() -> Iterator[NDArray[np.float32]]:
        for lanes in itertools.chain([first], iterator):
            signals = torch.stack([signal for signal in lanes if signal is not None])
            yield np.ascontiguousarray(signals.flatten(0, -2).numpy())

    n_channels = math.prod(shape)
    at_rate = resample(channels(), n_channels, in_rate, out_rate)
    for block in fit_length(at_rate, n_channels, n_samples):
        signals = iter(torch.from_numpy(block).unflatten(0, shape))
        yield map_lanes(lambda _, signals=signals: next(signals), first)


class _Finite(Source, Protocol):
    """A source of known length."""

    @property
    def n_samples(self) -> int: ...


def check_mixture(
    stem: _Finite, mixture: _Finite, sample_rate: int, *, downmix: bool = False
) -> None:
    """Raise UsageError unless `stem` can be separated from `mixture`.

    Their lengths may differ by one sample at `sample_rate` (Hz); the numbers of their pairs of
    channels must not.
    """
    lengths = [
        out_samples(each.n_samples, each.info.sample_rate, sample_rate) for each in (stem, mixture)
    ]
    if abs(lengths[0] - lengths[1]) > 1:
        raise UsageError(
            f"`mixture` {mixture.name} has {lengths[1] / sample_rate:.3f} s and {stem.name} "
            f"{lengths[0] / sample_rate:.3f} s: give the mixture that the stem was separated from"
        )
    channels = [n_mixed(each.info.n_channels, downmix=downmix) for each in (stem, mixture)]
    layouts = [mixed_layout(each.info, downmix=downmix) for each in (stem, mixture)]
    if len(pairs_of(layouts[0], channels[0])) != len(pairs_of(layouts[1], channels[1])):
        raise UsageError(
            f"`mixture` {mixture.name} has {channels[1]} channels and {stem.name} {channels[0]}: "
            "give the mixture that the stem was separated from, or `downmix=True`"
        )
