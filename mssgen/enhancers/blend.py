"""Blend a separated stem with the codec's version of it, where the separated stem is unreliable.

    enhanced stem -> match level -> mixture bound -> Y
    stem X, lowered where it is unreliable -> X';  X' + A, what Y adds to it -> blend
    fill, full:  blend -> match level of X' -> blend
    `mix` between the stem and the blend

X (the separated stem), Y (the enhanced stem) and M (the mixture) are STFTs: Hann windows of about
46 ms with 75 % overlap. P_X, P_Y, P_M and P_R (of the rest R = M - X) are their energies per
region, a third of an octave by 58 ms of one channel (`mssgen.enhancers.bounds`). Levels are matched
by loudness, over ten seconds (`mssgen.enhancers.levels`).

**Reliability.** r = P_X / (P_X + P_R), the gain of a Wiener filter that knows both energies
(Wiener 1949): 1/2 where the stem is as loud as the rest, 0.9 where it is 10 dB louder. Such a
filter leaves an error of W = (1 - r) P_X, and separators seldom leave less. Without a mixture, the
rest is taken to lie 10 dB below Q, the highest P_X of all bands after subtracting 6 dB per octave
of distance: the envelope of a spectrum without gaps.

**Attenuation.** Encoders with band energies predict how loud each band of the clean stem is, which
lowers the bands that are louder by d dB. That removes bleed and adds no codec artefacts. For codecs
without them, a band is lowered to 3 dB above P_Y. The change D = X' - X is limited twice, and the
larger result counts:

- in each region to |D|^2 <= W, and to the share d^2 / (d^2 + (16 dB r)^2) of itself: half of a
  change of 8 dB counts where the stem is as loud as the rest, and less of a smaller one, since
  encoders miss levels by 3 dB or so, and a stem may be separated better than W says;
- in each second to an eighth of its W with an equal share of that for every band, so quiet bands,
  in which bleed is audible at little energy, may be removed entirely. If the separator's error is
  W and D does not correlate with it, that costs 10 lg(1 + 1/8) = 0.5 dB of SI-SDR.

**Addition.** What Y adds to X' depends on the mode:

- `auto`: A = a (1 - r)^2 (Y - X'): all of Y where the rest is far louder, nearly nothing where
  the stem is. a is the agreement of X' and Y, the share of their energies in common, weighted by r,
  in a second: a codec that gets wrong what is known is not trusted with what is missing. In each
  second |A|^2 is at most an eighth of W, or -30 dB of the stem, which costs a stem of 20 dB of
  SI-SDR 10 lg(1 + 1/10) = 0.4 dB if uncorrelated.
- `full`: A = sqrt(1 - r) (Y - X'): half of Y where the stem is 5 dB louder than the rest.
- `fill`: only gaps are filled, bands much quieter than their neighbours suggest. With t = P_X /
  (P_X + Q / 10), A = sqrt((1 - r) (1 - t) max(0, P_Y - 2 P_X) / P_Y) Y: nothing where Y is less
  than 3 dB above the stem, which may be the codec's own error. Energies add, |Z|^2 = |X'|^2 +
  |A|^2, and the phase is that of X' |X'| + A |A|, close to the stronger of the two. Setting the
  magnitude avoids the comb filtering that the sum of two nearly equal signals would have.

In every second |A|^2 is also at most that of the stem (`full`: four times that): a codec that hums
while the stem is silent is muted.

**Mixture bound.** A stem cannot be louder than its mixture: where P_Y exceeds both P_X and P_M, Y
is attenuated to the larger of the two. The second level match adds 3 dB at most, so no region of
the blend is more than 3 dB above the mixture unless the separated stem was.

Bounds on the STFT bound the waveform, as the STFT is a tight frame whose inverse adds no energy.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.enhancers.bounds import Bands, gain_within, in_all_windows, smoothed, squared
from mssgen.enhancers.lanes import Lanes, present
from mssgen.enhancers.levels import match_level
from mssgen.errors import UsageError
from mssgen.streams import alongside, in_context

MODES = ("auto", "fill", "full")
_LIMITS = {"auto": 1.0, "fill": 1.0, "full": 4.0}
_OF_ERROR = 1 / 8
_OF_STEM = 10**-3.0
_SURE = 2
_DOUBT_DB = 16.0
_WINDOW_S = 0.046
_REGION_FRAMES = 5
_LIMIT_S = 1.0
_STEP_S = 6.0
_GAP = 0.1
_SLOPE_DB = 6.0
_NOTHING = 1e-20
_MAX_CODEC_BOOST_DB, _MAX_BOOST_DB = 12.0, 3.0


@dataclass(frozen=True)
class Blend:
    """How a separated stem and its enhanced form are combined; UsageError for a wrong option."""

    mode: str = "auto"
    """"auto": the separated stem without its bleed, and the codec's output where the stem is
    unreliable; "fill": the same stem, its gaps filled from the codec; "full": the codec's output,
    save where the stem is reliable."""
    mix: float = 1.0
    """From 0 (the separated stem) to 1 (the blend)."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"`blend` {self.mode} is unknown; use one of {', '.join(MODES)}")
        if not 0 <= self.mix <= 1:
            raise UsageError(f"`mix` {self.mix:g} is out of range; use 0 (input) to 1 (blend)")


@dataclass
class Changes:
    """What blending did to a stem, summed over all of its blocks."""

    stem: float = 0.0
    """Energy of the separated stem."""
    lowered: float = 0.0
    """Energy of the stem after attenuation."""
    added: float = 0.0
    """Energy of what was added to that."""

    @property
    def taken_away_db(self) -> float:
        """How much attenuation lowered the stem, dB, 0 or more."""
        return 10 * math.log10((self.stem + _NOTHING) / (min(self.lowered, self.stem) + _NOTHING))

    @property
    def added_db(self) -> float:
        """What was added, in dB of the separated stem; at least -120."""
        return 10 * math.log10(max(self.added / (self.stem + _NOTHING), 1e-12))

    def count(self, stem: Tensor, lowered: Tensor, blended: Tensor) -> None:
        """Include a block of each signal, [B, C, T']."""
        self.stem += float(stem.double().square().sum())
        self.lowered += float(lowered.double().square().sum())
        self.added += float((blended - lowered).double().square().sum())


def blend_stream(
    lanes: Iterable[Lanes], blend: Blend, *, sample_rate: int, changes: Changes | None = None
) -> Iterator[Tensor]:
    """Blend each stem with its enhanced form, to blocks [B, C, T'].

    Length and timing are the stem's; silence and equal channels are kept; memory is that of ten
    seconds.

    Args:
        lanes: stem and enhanced stem; the mixture for reliability and mixture bound, and the
            attenuation, where there are any.
        blend: mode and mix.
        sample_rate: Hz, of all lanes.
        changes: counts what was done.
    """
    match = partial(match_level, sample_rate=sample_rate)
    # The codec's level first, then that of the blend; both follow the attenuated stem.
    matched = alongside(
        lanes,
        lambda lanes: match(
            ((attenuated(each), present(each.enhanced)) for each in lanes),
            max_boost_db=_MAX_CODEC_BOOST_DB,
            is_extended=True,
        ),
    )
    at_level = (lane._replace(enhanced=enhanced) for lane, enhanced in matched)
    pairs = alongside(at_level, _Blender(blend.mode, sample_rate).stream)
    made = ((lane.stem, lowered, after) for lane, (lowered, after) in pairs)
    if blend.mode != "auto":
        made = (
            (stem, lowered, after)
            for (stem, lowered, _), after in alongside(
                made,
                lambda made: match((each[1:] for each in made), max_boost_db=_MAX_BOOST_DB),
            )
        )
    for stem, lowered, after in made:
        blended = torch.lerp(stem, after, blend.mix)
        if changes is not None:
            changes.count(stem, torch.lerp(stem, lowered, blend.mix), blended)
        yield blended


def attenuated(lane: Lanes) -> Tensor:
    """The stem [B, C, T'] with no band louder than the encoder predicts."""
    return lane.stem if lane.attenuation is None else lane.stem + lane.attenuation


class _Blender:
    """Lanes to the blended stem [B, C, T'], in pieces with `context` samples to either side."""

    def __init__(self, mode: str, sample_rate: int) -> None:
        self.mode = mode
        self.n_fft = 2 ** round(math.log2(_WINDOW_S * sample_rate))
        self.hop = self.n_fft // 4
        self.window = torch.hann_window(self.n_fft)
        self.bands = Bands(self.n_fft // 2 + 1)
        octaves = self.bands.octaves
        distance = (octaves[:, None] - octaves).abs()
        self.spread = 10 ** (-_SLOPE_DB * distance / 10)  # [K, K]
        self.limit_frames = round(_LIMIT_S * sample_rate / self.hop) // 2 * 2 + 1
        self.step = round(_STEP_S * sample_rate / self.hop) * self.hop
        self.context = (2 * self.limit_frames + 4 * _REGION_FRAMES) * self.hop + 2 * self.n_fft

    def stream(self, lanes: Iterable[Lanes]) -> Iterator[Tensor]:
        """Blocks [2, B, C, T'] of X' and the blend; enhanced stems have the level of the stem."""
        return in_context(lanes, self.blended, step=self.step, context=self.context)

    def blended(self, lane: Lanes) -> Tensor:
        """X' and the blend [2, B, C, T] of whole signals; letters as in the description."""
        x, y = self._spectrum(lane.stem), self._spectrum(present(lane.enhanced))
        there = self._regions(x)
        if lane.mixture is not None:
            mixture = self._spectrum(lane.mixture)
            y = self._bounded(y, x, mixture)
            rest = self._regions(mixture - x)
        given = self._regions(y)
        expected = (there[..., None, :, :] * self.spread[..., None]).amax(dim=-2)
        if lane.mixture is None:
            rest = _GAP * expected
        reliability = _share(there, rest)
        error = ((1 - reliability) * there).sum(dim=(1, 2))  # [B, N]
        if lane.attenuation is None:
            gain = (_SURE * given / there.clamp_min(_NOTHING)).clamp_max(1).sqrt()
            change = x * (self.bands.at_bins(gain) - 1)
        else:
            change = self._spectrum(lane.attenuation)
        change = self._attenuation(x, change, there, reliability, error)
        lower = x + change
        if self.mode == "fill":
            lacks = (given - _SURE * there).clamp_min(0) / given.clamp_min(_NOTHING)
            lacks = lacks * (1 - reliability) * (1 - _share(there, _GAP * expected))
            added = _filled(lower, y * self.bands.at_bins(lacks).sqrt()) - lower
        elif self.mode == "full":
            added = (y - lower) * self.bands.at_bins((1 - reliability).sqrt())
        else:
            agreement = self._agreement(reliability, self._regions(lower), given)
            added = (y - lower) * self.bands.at_bins(agreement * (1 - reliability).square())
        added = self._limited(added, _LIMITS[self.mode] * squared(x).sum(dim=(1, 2)))
        if self.mode == "auto":
            harmless = torch.maximum(_OF_ERROR * error, _OF_STEM * squared(x).sum(dim=(1, 2)))
            added = self._limited(added, harmless)
        changes = torch.stack([change, change + added])
        return lane.stem + self._waveform(changes, lane.stem.shape[-1])

    def _regions(self, spectra: Tensor) -> Tensor:
        """Energies of regions, [B, C, F, N] -> [B, C, K, N]."""
        return smoothed(self.bands.energies(spectra), _REGION_FRAMES)

    def _attenuation(
        self, x: Tensor, change: Tensor, there: Tensor, reliability: Tensor, error: Tensor
    ) -> Tensor:
        """The change [B, C, F, N] that lowers X, limited by reliability and by the error [B, N]."""
        removed, left = self._regions(change), self._regions(x + change)
        lowered_db = 10 * ((there + _NOTHING) / (left + _NOTHING)).log10().clamp_min(0)
        doubt_db = (_DOUBT_DB * reliability).clamp_min(_NOTHING)
        in_region = torch.minimum(
            _gain(removed, (1 - reliability) * there), _share(lowered_db**2, doubt_db**2)
        )
        shares = _OF_ERROR * error[:, None, None] / (there.shape[1] * there.shape[2])
        energies = self.bands.energies(change)
        in_second = gain_within(energies, shares.expand_as(energies), self.limit_frames)
        in_second = in_all_windows(in_second, self.limit_frames)
        return change * self.bands.at_bins(torch.maximum(in_region, in_second))

    def _limited(self, change: Tensor, allowed: Tensor) -> Tensor:
        """A change [B, C, F, N] of at most the allowed energy [B, N] in any second."""
        gain = gain_within(squared(change).sum(dim=(1, 2)), allowed, self.limit_frames)
        if self.mode == "auto":
            gain = in_all_windows(gain[:, None], self.limit_frames)[:, 0]
        return change * gain[:, None, None]

    def _bounded(self, y: Tensor, x: Tensor, mixture: Tensor) -> Tensor:
        """Y with no region louder than in the louder of stem and mixture, [B, C, F, N]."""
        allowed = torch.maximum(self.bands.energies(x), self.bands.energies(mixture))
        gain = gain_within(self.bands.energies(y), allowed, _REGION_FRAMES)
        return y * self.bands.at_bins(in_all_windows(gain, _REGION_FRAMES, n_bands=3))

    def _agreement(self, reliability: Tensor, there: Tensor, given: Tensor) -> Tensor:
        """Share [B, 1, 1, N] of energies [B, C, K, N] in common, weighted by reliability."""
        common, either = (
            smoothed((reliability * of(there, given)).sum(dim=(1, 2)), self.limit_frames)
            for of in (torch.minimum, torch.maximum)
        )
        return (common / either.clamp_min(_NOTHING))[:, None, None]

    def _spectrum(self, signal: Tensor) -> Tensor:
        """[..., T] -> [..., F, N], padded with a window of zeros at both ends."""
        flat = F.pad(signal.flatten(0, -2), (self.n_fft, self.n_fft))
        spectra = torch.stft(
            flat, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        return spectra.unflatten(0, signal.shape[:-1])

    def _waveform(self, spectra: Tensor, n_samples: int) -> Tensor:
        """The inverse of `_spectrum`, [..., F, N] -> [..., T]."""
        n_padded = n_samples + 2 * self.n_fft
        flat = torch.istft(
            spectra.flatten(0, -3), self.n_fft, self.hop, window=self.window, length=n_padded
        )
        return flat.unflatten(0, spectra.shape[:-2])[..., self.n_fft : -self.n_fft]


def _share(there: Tensor, rest: Tensor) -> Tensor:
    """Share of `there` in the sum of both, 0 to 1; of silence it is 1."""
    return (there + _NOTHING) / (there + rest + _NOTHING)


def _gain(energies: Tensor, allowed: Tensor) -> Tensor:
    """Gains, 0 to 1, that lower energies to the allowed ones; where both are 0 it is 1."""
    return ((allowed + _NOTHING) / (energies + _NOTHING)).clamp_max(1).sqrt()


def _filled(x: Tensor, added: Tensor) -> Tensor:
    """Z with |Z|^2 = |X|^2 + |A|^2 and about the phase of the stronger, [..., F, N]."""
    x2, added2 = squared(x), squared(added)
    direction = x * x2.sqrt() + added * added2.sqrt()
    return direction * ((x2 + added2).sqrt() / direction.abs().clamp_min(_NOTHING))
