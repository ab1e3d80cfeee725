"""A codec whose encoder was trained on separated stems: it re-synthesises a stem without bleed.

    stem (and mixture) -> encoder: latents -> quantiser: codes -> refiner (optional): codes
        -> decoder: enhanced stem
    band energies among the latents, and the stem's spectra -> attenuation of the stem

`CodecEnhancer` has the form of a separator with one stem. With an encoder that was trained on
mixtures it separates; with one that was trained on separated stems it enhances such a stem.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mssgen.audio.channels import keep_mono
from mssgen.audio.levels import NATURAL, gain_into
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.codecs.networks.stem_spectrum import InverseSpectrum
from mssgen.codecs.streaming import stream_audio, stream_latents, stream_spectra, stream_waveform
from mssgen.encoders.stem_encoder import Prediction, StemEncoder
from mssgen.enhancers.lanes import Lanes, present
from mssgen.errors import UsageError
from mssgen.refiners.refine import Refiner
from mssgen.separators.base import Level, measure_level
from mssgen.streams import SlidingReader, alongside, apart, in_step, map_lanes


class Enhanced(NamedTuple):
    """Blocks [B, 2, T'] that an enhancer makes of a stem; see the lanes of the same names."""

    enhanced: Tensor
    attenuation: Tensor | None = None
    """None for a codec without band energies."""


class _Frames(NamedTuple):
    """The stem in frames of the codec, in step."""

    spectra: Tensor
    """[B, F', N'], as `mssgen.codecs.networks.stem_spectrum.Spectrum` gives them."""
    latents: Tensor
    """[B, D, N'], from the stem encoder, not quantised."""


class CodecEnhancer:
    """See `mssgen.separators.base.Separator`; `sources` is the one stem that was learned.

    Args:
        encoder: in eval mode, with its codec, on one device.
        name: shown to users.
        n_codebooks: number of codebooks to take from the encoder; None: those it was trained for.
        refiner: regenerates the codes before they are decoded. If guided, it stays close to the
            encoder's latents, or to its codes where the encoder predicts codes.
        has_own_noise: keep the noise that the decoder makes up; False gives the noise the fine
            structure of the stem and the codec's band energies.

    Raises:
        UsageError: the codec has fewer codebooks, or the refiner is for another codec or needs
            more codebooks.
    """

    n_channels = 2

    def __init__(
        self,
        encoder: StemEncoder,
        *,
        name: str,
        n_codebooks: int | None = None,
        refiner: Refiner | None = None,
        has_own_noise: bool = False,
    ) -> None:
        self.encoder, self.codec, self.name = encoder, encoder.codec, name
        self.stem, self.takes_mixture = encoder.options.stem, encoder.options.takes_mixture
        self.sources: tuple[str, ...] = (self.stem,)
        self.sample_rate = self.codec.sample_rate
        self.n_codebooks = self.codec.check_n_codebooks(n_codebooks or encoder.n_codebooks)
        self.refiner, self.has_own_noise = refiner, has_own_noise
        if refiner is not None:
            refiner.check(self.codec, self.n_codebooks)
        self._device = self.codec.device
        self.device, self.precision = self._device.type, "fp32"

    def __call__(self, mixture: Tensor) -> Tensor:
        """[B, 2, T] -> [B, 1, 2, T] at `sample_rate`."""
        return torch.cat(list(self.stream([mixture], measure_level([mixture]))), dim=-1)

    def check(self, stems: Sequence[str] | None) -> None:
        """Raise UsageError unless `stems` is None or the enhancer's own stem."""
        if stems is not None and tuple(stems) != self.sources:
            wanted = ", ".join(stem for stem in stems if stem != self.stem)
            raise UsageError(f"{self.name} has no stem '{wanted}': it gives {self.stem}")

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """Blocks [B, 2, T'] to blocks [B, 1, 2, T'], `level.n_samples` in all; flat memory.

        Silence stays silence, and equal channels stay equal. Raises UsageError for another stem.
        """
        self.check(stems)
        gain = gain_into(level.loud, NATURAL)
        lanes = (Lanes(block * gain) for block in blocks)
        for made in self.enhanced(lanes, level, with_attenuation=False):
            yield made.enhanced[:, None] / gain

    @torch.inference_mode()
    def enhanced(
        self, lanes: Iterable[Lanes], level: Level, *, with_attenuation: bool = True
    ) -> Iterator[Enhanced]:
        """Enhance stems at the codec's rate; flat memory.

        Args:
            lanes: the stem, and the mixture for an encoder that takes it; silence stands for a
                mixture that is missing.
            level: of the stem; its `n_samples` are at the codec's rate.
            with_attenuation: also compute the attenuation, if the codec has band energies.

        Yields:
            Blocks of `level.n_samples` in all, on the CPU. The attenuation never adds energy.
        """
        if level.is_silent:
            for lane in lanes:
                yield Enhanced(torch.zeros_like(lane.stem))
            return
        stream = self._in_stereo if self.codec.n_channels == 2 else self._in_mono
        for made in stream(lanes, level, with_attenuation):
            yield map_lanes(lambda x: x.to("cpu", torch.float32), made)

    def _in_stereo(
        self, lanes: Iterable[Lanes], level: Level, with_attenuation: bool
    ) -> Iterator[Enhanced]:
        for made in self._through_codec(lanes, level.n_samples, with_attenuation):
            yield map_lanes(partial(keep_mono, is_mono=level.is_mono), made)

    def _in_mono(
        self, lanes: Iterable[Lanes], level: Level, with_attenuation: bool
    ) -> Iterator[Enhanced]:
        """Middle and side as items of one batch [2 B, 1, T'], the middle alone of mono stems.

        See `mssgen.audio.channels.to_items` for the reason.
        """
        is_mono = bool(level.is_mono.all())
        has_side = (~level.is_mono)[:, None, None]

        def items() -> Iterator[Lanes]:
            for lane in lanes:
                left, right = lane.stem[:, :1], lane.stem[:, 1:]
                middle = (left + right) / 2
                yield Lanes(middle if is_mono else torch.cat([middle, (left - right) / 2]))

        for made in self._through_codec(items(), level.n_samples, with_attenuation):
            if is_mono:
                yield Enhanced(made.enhanced.expand(-1, 2, -1))
            else:
                middle, side = made.enhanced.cpu().chunk(2)
                side = side * has_side
                yield Enhanced(torch.cat([middle + side, middle - side], dim=1))

    def _through_codec(
        self, lanes: Iterable[Lanes], n_samples: int, with_attenuation: bool
    ) -> Iterator[Enhanced]:
        """Encode and decode lanes of the codec's number of channels, [B, C, T'] each."""
        lanes = (map_lanes(lambda x: x.to(self._device), lane) for lane in lanes)
        codec = self.codec
        with_attenuation &= codec.n_band_dims > 0
        shapes_noise = codec.adds_noise and not self.has_own_noise
        if isinstance(codec, StemCodec) and (with_attenuation or shapes_noise):
            yield from self._by_spectra(codec, lanes, n_samples, with_attenuation)
            return
        has_scales = codec.scales(torch.ones(1, codec.n_channels, 1)) is not None
        scales: deque[Tensor] = deque()  # of segments that are encoded and not decoded yet
        latents = self._latents(lanes, scales)
        quantised = self._quantised(latents, n_samples)
        yield from map(
            Enhanced, stream_audio(codec, quantised, n_samples, scales if has_scales else None)
        )

    def _by_spectra(
        self, codec: StemCodec, lanes: Iterable[Lanes], n_samples: int, with_attenuation: bool
    ) -> Iterator[Enhanced]:
        """As `_through_codec`, for the stem codec: its decoder and encoder meet in spectra.

        The decoder's noise takes the fine structure of the stem's spectra, so that in each band
        only its energy changes; and the stem's spectra are lowered to the band energies of the
        latents. Those are not quantised: the quantiser's errors would be audible.
        """
        inverse = codec.decoder[1]
        assert isinstance(inverse, InverseSpectrum)

        def frames(lanes: Iterable[Lanes]) -> Iterator[_Frames]:
            return (_Frames(*pair) for pair in in_step(lanes, self._spectra, self._latents))

        def decoded(frames: Iterable[_Frames]) -> Iterator[Tensor]:
            latents = (frame.latents for frame in frames)
            return stream_spectra(codec, self._quantised(latents, n_samples))

        def shaped(frame: _Frames, decoded: Tensor) -> Enhanced:
            like = None if self.has_own_noise else frame.spectra
            filled = inverse.filled(decoded, like)
            if not with_attenuation:
                return Enhanced(filled)
            return Enhanced(
                filled, inverse.attenuated(frame.spectra, frame.latents[:, -codec.n_band_dims :])
            )

        def waveform(spectra: Iterable[Enhanced], lane: int) -> Iterator[Tensor]:
            return stream_waveform(codec, (present(each[lane]) for each in spectra), n_samples)

        def both(lanes: Iterable[Lanes]) -> Iterator[Enhanced]:
            spectra = (shaped(*pair) for pair in alongside(frames(lanes), decoded))
            n_signals = 2 if with_attenuation else 1
            stages = [partial(waveform, lane=lane) for lane in range(n_signals)]
            return (Enhanced(*made) for made in in_step(spectra, *stages))

        for lane, made in alongside(lanes, both):
            if made.attenuation is not None:  # the lowered stem, so far
                made = made._replace(attenuation=made.attenuation - lane.stem)
            yield made

    def _spectra(self, lanes: Iterable[Lanes]) -> Iterator[Tensor]:
        """The stem's spectra [B, F', N'], as the stem codec's encoder begins with them."""
        assert isinstance(self.codec, StemCodec)
        stems = (lane.stem for lane in lanes)
        return stream_latents(self.codec, stems, encoder=self.codec.encoder[0])

    def _latents(
        self, lanes: Iterable[Lanes], scales: deque[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """The encoder's latents [B, D, N']; the gain of each segment is appended to `scales`."""
        audio = map(_beside_mixture, lanes) if self.takes_mixture else (x.stem for x in lanes)
        return stream_latents(self.codec, audio, encoder=self.encoder.encoder, scales=scales)

    def _quantised(self, latents: Iterable[Tensor], n_samples: int) -> Iterator[Tensor]:
        """Latents [B, D, N'] to the sums of their code vectors [B, D, N'], by way of the codes."""
        n_frames = self.codec.n_frames_in_all(n_samples)
        predictions = self._predictions(latents, n_frames)
        if self.refiner is None:
            codes: Iterable[Tensor] = map(self._codes, predictions)
        elif not self.refiner.options.is_guided or self.encoder.options.gives_tokens:
            codes = self.refiner.stream(map(self._codes, predictions), n_frames)
        else:
            unrefined, guides = apart((self._codes(each), each.latents) for each in predictions)
            codes = self.refiner.stream(unrefined, n_frames, latents=guides)
        return map(self.codec.dequantize, codes)

    def _codes(self, prediction: Prediction) -> Tensor:
        return self.encoder.codes(prediction, self.n_codebooks)

    def _predictions(self, latents: Iterable[Tensor], n_frames: int) -> Iterator[Prediction]:
        """Latents [B, D, N'] through the encoder's head, in windows if it has a context."""
        if self.encoder.head_window_frames is None:
            yield from map(self.encoder.refine, latents)
            return
        reader = SlidingReader(latents, n_frames)
        for window in self.encoder.head_windows(n_frames):
            prediction = self.encoder.refine(reader.read(window.start, window.stop))
            yield prediction.frames(window.first - window.start, window.last - window.start)
            reader.forget(window.start)


def _beside_mixture(lane: Lanes) -> Tensor:
    """Channels [B, 4, T'] of stem and mixture; silence stands for a mixture that is missing."""
    mixture = torch.zeros_like(lane.stem) if lane.mixture is None else lane.mixture
    return torch.cat([lane.stem, mixture], dim=1)
