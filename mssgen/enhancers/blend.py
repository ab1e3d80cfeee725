"""Blend a separated stem with the codec's version of it, within bounds on what may change.

    all:         enhanced stem -> match level -> mixture bound -> Y
    auto, fill:  stem X + limited attenuation -> X';  X' + limited filling from Y -> blend
    full:        stem X + limited (Y - X) -> blend
    fill, full:  blend -> match level -> blend
    all:         `mix` between the stem and the blend

X (the separated stem), Y (the enhanced stem) and M (the mixture) are STFTs: Hann windows of about
46 ms with 75 % overlap. P_X, P_Y and P_M are their energies per region, a third of an octave by 58
ms of one channel (`mssgen.enhancers.bounds`). Levels are matched by loudness, over ten seconds
(`mssgen.enhancers.levels`).

**Mixture bound.** A stem cannot be louder than its mixture: where P_Y exceeds both P_X and P_M, Y
is attenuated to the larger of the two. The second level match adds 3 dB at most, so no region of
the blend is more than 3 dB above the mixture unless the separated stem was.

**Attenuation.** Encoders with band energies predict how loud each band of the clean stem is. X' is
the separated waveform with every band that is louder lowered to it, which removes bleed and adds no
codec artefacts. Both level matches take X' as their reference, so the removed bleed is not made up
for by gain.

**Fill.** Gaps are bands in which the stem is much quieter than its neighbours suggest. Let Q be the
highest P_X of all bands after subtracting 6 dB per octave of distance: the envelope of a spectrum
without gaps. The confidence in a region of the stem is t = P_X / (P_X + Q / 10), which is 1/2 at 10
dB below the envelope. The codec contributes A = sqrt((1 - t) max(0, P_Y - 2 P_X) / P_Y) Y: little
where the confidence is high, and nothing where it is less than 3 dB above the stem, which may be
the codec's own error. Energies add, |Z|^2 = |X'|^2 + |A|^2, and the phase is that of X' |X'| + A
|A|, close to the stronger of the two. Setting the magnitude avoids the comb filtering that the sum
of two nearly equal signals would have.

**Limit on the change.** In every window of one second the change D = Z - X' (of `full`: Y - X) has
|D|^2 <= r |X|^2. `full` has r = 4, `fill` has r = 1: a codec that hums while the stem is silent is
muted. `auto` has r = -36 dB, which bounds the loss of SI-SDR. For a stem x = s + e, with s along
the reference and e the error, a change d costs

    at worst, along e:         20 lg((1 + sqrt(r |x|^2 / |e|^2)) / (1 - sqrt(r |x|^2 / |s|^2)))  dB
    uncorrelated with s, e:    10 lg(1 + r |x|^2 / |e|^2)                                        dB

The first is below 0.5 dB for stems of up to 10 dB SI-SDR, which is what separators reach; the
second for stems of up to 26 dB. A bound on every second bounds the file, and a bound on D bounds
the waveform d, because the STFT is a tight frame whose inverse never adds energy.

With a mixture the error can be estimated: a Wiener filter that knew P_X and P_M-X would leave the
error W = sum P_X P_M-X / (P_X + P_M-X), and separators seldom leave less. `auto` then also allows
|D|^2 <= W / 16, which costs 0.26 dB by the second line, and 0.5 dB for a stem that is 2.8 dB better
than the Wiener filter's. All of this is scaled by the agreement of X and Y, the share of their
energies in common where the confidence is high: a codec that gets wrong what is known is not
trusted with what is missing.

**Limit on the attenuation.** `auto` limits X - X' as well, but less, because it mostly removes the
error: to -18 dB of the stem's energy in each second; with a mixture to no less than W / 16 and no
more than W / 8. Each band gets an equal share of that, so quiet bands, in which bleed is audible at
little energy, may be removed entirely. A stem separated to 22 dB of SI-SDR lost 0.41 dB (0.69 dB
without W / 8); others lose next to nothing or gain.
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
_LIMITS = {"auto": 10**-3.6, "fill": 1.0, "full": 4.0}
_OF_ERROR = 1 / 16
_OF_ERROR_AT_MOST = 1 / 8
_ATTENUATION = 10**-1.8
_SURE = 2
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
    """"full": the codec's output alone; "fill": the separated stem without its bleed, its gaps
    filled from the codec; "auto": "fill" as far as it costs less than 0.5 dB of SI-SDR."""
    mix: float = 1.0
    """From 0 (the separated stem) to 1 (the blend)."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"`blend` {self.mode} is unknown; use one of {', '.join(MODES)}")
        if not 0 <= self.mix <= 1:
            raise UsageError(f"`mix` {self.mix:g} is out of range; use 0 (input) to 1 (blend)")


def blend_stream(lanes: Iterable[Lanes], blend: Blend, *, sample_rate: int) -> Iterator[Tensor]:
    """Blend each stem with its enhanced form, to blocks [B, C, T'].

    Length and timing are the stem's; silence and equal channels are kept; memory is that of ten
    seconds.

    Args:
        lanes: stem and enhanced stem; the mixture for the mixture bound, and the attenuation, where
            there are any.
        blend: mode and mix.
        sample_rate: Hz, of all lanes.
    """
    blender = _Blender(blend.mode, sample_rate)
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
    blended = alongside(at_level, blender.stream)
    if blend.mode != "auto":
        blended = (
            (lane, after)
            for (lane, _), after in alongside(
                blended,
                lambda pairs: match(
                    ((attenuated(lane), after) for lane, after in pairs),
                    max_boost_db=_MAX_BOOST_DB,
                ),
            )
        )
    for lane, after in blended:
        yield torch.lerp(lane.stem, after, blend.mix)


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
        """Blocks [B, C, T'] of the blend, from lanes whose enhanced stem has the stem's level."""
        return in_context(lanes, self.blended, step=self.step, context=self.context)

    def blended(self, lane: Lanes) -> Tensor:
        """The blend of whole signals [B, C, T]; letters as in the module's description."""
        x, y = self._spectrum(lane.stem), self._spectrum(present(lane.enhanced))
        mixture = None if lane.mixture is None else self._spectrum(lane.mixture)
        if mixture is not None:
            y = self._bounded(y, x, mixture)
        allowed = _LIMITS[self.mode] * squared(x).sum(dim=(1, 2))  # [B, N]
        if self.mode == "full":
            change = self._limited(y - x, allowed)
        else:
            lower = x if lane.attenuation is None else self._spectrum(attenuated(lane))
            there, given = (smoothed(self.bands.energies(each), _REGION_FRAMES) for each in (x, y))
            confidence = self._confidence(there)
            lacks = (
                (1 - confidence) * (given - _SURE * there).clamp_min(0) / given.clamp_min(_NOTHING)
            )
            if self.mode == "auto":
                most = _ATTENUATION * squared(x).sum(dim=(1, 2))
                if mixture is not None:
                    error = self._error(x, mixture)
                    allowed = torch.maximum(allowed, _OF_ERROR * error)
                    most = most.clamp(_OF_ERROR * error, _OF_ERROR_AT_MOST * error)
                allowed = allowed * self._agreement(confidence, there, given)
                lower = x + self._limited_in_bands(lower - x, most)
            filling = _filled(lower, y * self.bands.at_bins(lacks).sqrt()) - lower
            change = lower - x + self._limited(filling, allowed)
        return lane.stem + self._waveform(change, lane.stem.shape[-1])

    def _limited(self, change: Tensor, allowed: Tensor) -> Tensor:
        """A change [B, C, F, N] of at most the allowed energy [B, N] in any second."""
        gain = gain_within(squared(change).sum(dim=(1, 2)), allowed, self.limit_frames)
        if self.mode == "auto":
            gain = in_all_windows(gain[:, None], self.limit_frames)[:, 0]
        return change * gain[:, None, None]

    def _limited_in_bands(self, change: Tensor, allowed: Tensor) -> Tensor:
        """The same with an equal share of the allowed energy for every band, so that quiet bands
        may change entirely."""
        shares = allowed[:, None, None] / (change.shape[1] * len(self.bands.octaves))
        energies = self.bands.energies(change)
        gain = gain_within(energies, shares.expand_as(energies), self.limit_frames)
        return change * self.bands.at_bins(in_all_windows(gain, self.limit_frames))

    def _bounded(self, y: Tensor, x: Tensor, mixture: Tensor) -> Tensor:
        """Y with no region louder than in the louder of stem and mixture, [B, C, F, N]."""
        allowed = torch.maximum(self.bands.energies(x), self.bands.energies(mixture))
        gain = gain_within(self.bands.energies(y), allowed, _REGION_FRAMES)
        return y * self.bands.at_bins(in_all_windows(gain, _REGION_FRAMES, n_bands=3))

    def _confidence(self, energies: Tensor) -> Tensor:
        """Confidence in a stem's regions, [..., K, N], from 0 to 1; silence has 1."""
        expected = (energies[..., None, :, :] * self.spread[..., None]).amax(dim=-2)
        return (energies + _NOTHING) / (energies + _GAP * expected + _NOTHING)

    def _error(self, x: Tensor, mixture: Tensor) -> Tensor:
        """The energy W [B, N] of the error that a Wiener filter would leave."""
        there, rest = self.bands.energies(x), self.bands.energies(mixture - x)
        return (there * rest / (there + rest).clamp_min(_NOTHING)).sum(dim=(1, 2))

    def _agreement(self, confidence: Tensor, there: Tensor, given: Tensor) -> Tensor:
        """Share [B, N] of two energies [B, C, K, N] in common, weighted by confidence, 0 to 1."""
        common, either = (
            smoothed((confidence * of(there, given)).sum(dim=(1, 2)), self.limit_frames)
            for of in (torch.minimum, torch.maximum)
        )
        return common / either.clamp_min(_NOTHING)

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


def _filled(x: Tensor, added: Tensor) -> Tensor:
    """Z with |Z|^2 = |X|^2 + |A|^2 and about the phase of the stronger, [..., F, N]."""
    x2, added2 = squared(x), squared(added)
    direction = x * x2.sqrt() + added * added2.sqrt()
    return direction * ((x2 + added2).sqrt() / direction.abs().clamp_min(_NOTHING))
