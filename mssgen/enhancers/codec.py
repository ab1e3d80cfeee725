"""A trained stem encoder at work: sound to codes of the clean stem, and those to sound.

    audio --encoder--> codes --refiner (optional)--> better codes --decoder--> audio

It has the form of a separator with one stem. Trained on mixtures it is one; trained on separated
stems it takes such a stem and gives a better one.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from mssgen.audio.channels import keep_mono
from mssgen.audio.levels import NATURAL, gain_into
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.codecs.streaming import stream_attenuated, stream_audio, stream_latents
from mssgen.encoders.stem_encoder import Prediction, StemEncoder
from mssgen.errors import UsageError
from mssgen.refiners.refine import Refiner
from mssgen.separators.base import Level, measure_level
from mssgen.streams import SlidingReader, align


class CodecEnhancer:
    """See `mssgen.separators.base.Separator`; `sources` is the one stem that was learned.

    Args:
        encoder: in eval mode, with its codec, on one device.
        name: shown to users.
        n_codebooks: take that many levels from the encoder; None: those that were learned.
        refiner: rewrites its codes; the decoder gets the levels that this gives. Guided, it keeps
            to the encoder's latents; to the codes, where the encoder predicts these instead.
        has_own_noise: leave the decoder's noise as it is; else it has the fine structure of what
            came in, whose level in each band alone is changed.

    Raises:
        UsageError: the codec has not so many levels, or the refiner is for another codec or needs
            more levels.
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
        self.stem, self.hears_song = encoder.options.stem, encoder.options.takes_mixture
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
        """Raise UsageError where other stems than its own are wanted."""
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

        Silence gives silence, and equal channels stay equal. Raises UsageError for another stem.
        """
        self.check(stems)
        gain = gain_into(level.loud, NATURAL)
        heard = blocks if gain == 1 else (block * gain for block in blocks)
        for block in self._stream(heard, level, is_lowered=False):
            yield block[:, :1] / gain

    def stream_both(
        self, blocks: Iterable[Tensor], level: Level, song: Iterable[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """As `stream`, to blocks [B, 2, 2, T']: what the codec makes of the stem, and what is to be
        added to the stem so that no band is louder than the encoder says. That only takes away,
        and is nothing where the codec has no levels of bands.

        `song`, blocks [B, 2, T'] of the same length, is for an encoder that hears it; None: it is
        not at hand.
        """
        yield from self._stream(blocks, level, song, is_lowered=self.codec.n_band_dims > 0)

    def _stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        song: Iterable[Tensor] | None = None,
        *,
        is_lowered: bool,
    ) -> Iterator[Tensor]:
        """Blocks [B, 2, 2, T']; see `stream_both`."""
        if level.is_silent:
            for block in blocks:
                yield torch.zeros_like(block)[:, None].expand(-1, 2, -1, -1)
            return
        stream: Iterable[Tensor]
        if self.codec.n_channels == 2:
            stream = map(
                partial(keep_mono, is_mono=level.is_mono),
                self._stream_items(blocks, level.n_samples, song, is_lowered=is_lowered),
            )
        elif bool(level.is_mono.all()):
            middles = (block.mean(dim=1, keepdim=True) for block in blocks)
            stream = (
                item.expand(-1, -1, 2, -1) for item in self._stream_items(middles, level.n_samples)
            )
        else:
            stream = self._stream_mid_side(blocks, level)
        for stereo in stream:
            yield stereo.to("cpu", torch.float32)

    def _stream_mid_side(self, blocks: Iterable[Tensor], level: Level) -> Iterator[Tensor]:
        """Middle and side as items of one batch; see `mssgen.audio.channels.to_items`."""

        def items() -> Iterator[Tensor]:
            for block in blocks:
                left, right = block.unbind(dim=1)
                yield torch.cat([left + right, left - right])[:, None] / 2

        has_side = (~level.is_mono)[:, None, None]
        for item in self._stream_items(items(), level.n_samples):
            middle, side = item[:, :, 0].cpu().chunk(2)
            side = side * has_side
            yield torch.stack([middle + side, middle - side], dim=2)

    def _stream_items(
        self,
        blocks: Iterable[Tensor],
        n_samples: int,
        song: Iterable[Tensor] | None = None,
        *,
        is_lowered: bool = False,
    ) -> Iterator[Tensor]:
        """Blocks [B, C, T'] as the codec wants them to blocks [B, 2, C, T']; see `stream_both`."""
        scales: deque[Tensor] = deque()
        heard: Iterable[Tensor] = (block.to(self._device) for block in blocks)
        like, change = None, None
        if self.codec.adds_noise and not self.has_own_noise:
            heard, like = itertools.tee(heard)
        if is_lowered:
            heard, stem, again = itertools.tee(heard, 3)
        if self.hears_song:
            heard = _with_song(heard, song)
        latents: Iterable[Tensor] = stream_latents(
            self.codec, heard, encoder=self.encoder.encoder, scales=scales
        )
        if is_lowered:
            assert isinstance(self.codec, StemCodec)
            latents, told = itertools.tee(latents)
            lowered = stream_attenuated(self.codec, stem, told, n_samples)
            change = (after - before for after, before in align([lowered, again]))
        codes = self._stream_codes(latents, self.codec.n_frames_in_all(n_samples))
        quantised = (self.codec.dequantize(block) for block in codes)
        has_scales = self.codec.scales(torch.ones(1, self.codec.n_channels, 1)) is not None
        sound = stream_audio(
            self.codec, quantised, n_samples, scales if has_scales else None, like=like
        )
        if change is None:
            for block in sound:
                yield torch.stack([block, torch.zeros_like(block)], dim=1)
        else:
            for pair in align([sound, change]):
                yield torch.stack(list(pair), dim=1)

    def _stream_codes(self, latents: Iterable[Tensor], n_frames: int) -> Iterator[Tensor]:
        """Latents [B, D, N'], `n_frames` in all, to codes for the decoder."""
        predictions = self._predictions(latents, n_frames)
        if self.refiner is None:
            return map(self._codes, predictions)
        if not self.refiner.options.is_guided or self.encoder.options.gives_tokens:
            return self.refiner.stream(map(self._codes, predictions), n_frames)
        predictions, heard = itertools.tee(predictions)
        sound = (prediction.latents for prediction in heard)
        return self.refiner.stream(map(self._codes, predictions), n_frames, latents=sound)

    def _codes(self, prediction: Prediction) -> Tensor:
        return self.encoder.codes(prediction, self.n_codebooks)

    def _predictions(self, latents: Iterable[Tensor], n_frames: int) -> Iterator[Prediction]:
        """Latents [B, D, N'] through the head, in windows if it looks around."""
        if self.encoder.head_window_frames is None:
            yield from map(self.encoder.refine, latents)
            return
        reader = SlidingReader(latents, n_frames)
        for window in self.encoder.head_windows(n_frames):
            prediction = self.encoder.refine(reader.read(window.start, window.stop))
            yield prediction.frames(window.first - window.start, window.last - window.start)
            reader.forget(window.start)


def _with_song(blocks: Iterable[Tensor], song: Iterable[Tensor] | None) -> Iterator[Tensor]:
    """Blocks [B, C, T'] of a stem to [B, 2 C, T'], the song behind it; silence stands for none."""
    if song is None:
        for block in blocks:
            yield torch.cat([block, torch.zeros_like(block)], dim=1)
    else:
        for stem, mixture in align([blocks, song]):
            yield torch.cat([stem, mixture.to(stem)], dim=1)
