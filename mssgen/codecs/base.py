"""What every codec is: audio [B, C, T] <-> codes [B, K, N] by way of latents [B, D, N].

    audio -> encoder -> latents -> quantize -> codes -> dequantize -> latents -> decoder -> audio

Some codecs cut the audio into segments and scale each to unit power first (EnCodec 48 kHz). That is
part of this interface, so that a second, trained encoder can stand in for the codec's own and
everything around it stays the same.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.audio.levels import NATURAL, Range
from mssgen.errors import UsageError
from mssgen.streams import CrossFader


@dataclass(frozen=True)
class Codes:
    """Audio as tokens."""

    codes: Tensor
    """[B, K, N] int64, 0 <= code < V. Of a segmented codec the frames of all segments in a row."""
    n_samples: int
    """Length T of the audio at the codec's rate."""
    codec_id: str
    """`Codec.codec_id` of the codec that made them; no other can read them."""
    scale: Tensor | None = None
    """[B, G], the gain of each of G segments; None where the codec has none."""

    @property
    def n_codebooks(self) -> int:
        return self.codes.shape[1]


@dataclass(frozen=True)
class Reconstruction:
    """What a training step needs of a codec."""

    audio: Tensor
    """[B, C, T], with gradients to encoder and decoder (straight through the quantiser)."""
    codes: Tensor
    """[B, K, N]."""
    commitment: Tensor
    """The quantiser's own loss, a scalar."""
    coherent: Tensor | None = None
    """As `audio`, without noise that the decoder added; None where it adds none."""


class Codebook(Protocol):
    """One level of a residual quantiser, for losses on soft assignments."""

    @property
    def embedding(self) -> Tensor:
        """The code vectors as they are looked up, [V, E]."""
        ...

    def distances(self, residual: Tensor) -> Tensor:
        """Squared distance of each frame to each code vector: [B, D, N] -> [B, N, V]."""
        ...

    def expected(self, probabilities: Tensor) -> Tensor:
        """The mean code vector in latent space: [B, N, V] -> [B, D, N]."""
        ...

    def vectors(self, codes: Tensor) -> Tensor:
        """The code vectors in latent space: [B, N] -> [B, D, N]."""
        ...


class Codec(nn.Module, ABC):
    """A neural codec with residual vector quantisation.

    Built from keyword options alone (`type(codec)(**codec.options)` has the same shapes), loaded
    from a state dict. Quantising and decoding never change its state, also in train mode; only
    `forward` may (codebooks that learn by moving averages).
    """

    architecture: str
    """Which class: a word of `mssgen.codecs.loading`."""
    options: dict[str, Any]
    """The constructor's keyword values, plain enough for JSON."""
    name: str
    sample_rate: int
    """Hz."""
    n_channels: int
    hop_length: int
    """Samples a frame."""
    n_codebooks: int
    codebook_size: int
    latent_dim: int
    n_level_dims: int = 0
    """The last so many of D are logarithmic levels of bands, not of the waveform."""
    n_level_codebooks: int = 0
    """The first so many codebooks code these levels only, and no waveform."""
    encoder: nn.Module
    """[B, C, T] -> [B, D, ceil(T / hop_length)], T as `pad` leaves it."""
    decoder: nn.Module
    """[B, D, N] -> [B, C, about N * hop_length]."""
    quantizer: Any
    """The module that holds the codebooks."""
    segment_samples: int | None = None
    """Length of the segments that are coded one by one; None codes the whole in one."""
    segment_stride: int | None = None
    wanted_level: Range = NATURAL
    """Audio whose loud parts lie outside this range is coded at another level, see `coding`."""
    adds_noise: bool = False
    """Whether the decoder ends in an `InverseSpectrum` that does."""

    @property
    def frame_rate(self) -> float:
        """Frames a second, Hz."""
        return self.sample_rate / self.hop_length

    @property
    def bits_per_frame_and_codebook(self) -> int:
        return (self.codebook_size - 1).bit_length()

    def bandwidth_kbps(self, n_codebooks: int) -> float:
        """Bits a second of one item of the batch, in thousands."""
        return n_codebooks * self.bits_per_frame_and_codebook * self.frame_rate / 1000

    @cached_property
    def codec_id(self) -> str:
        """Family, rate, shape, hop, and a hash of what gives the codes their meaning.

        The hash covers quantiser and decoder, not the encoder: tokens of a fine-tuned encoder are
        the codec's own. It is taken when first asked for; a codec in training has no identity yet.
        """
        digest = hashlib.sha256()
        for part in (self.quantizer, self.decoder):
            for key, tensor in sorted(part.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        shape = f"{self.n_codebooks}x{self.codebook_size}"
        family = f"{self.architecture}-{self.sample_rate}"
        return f"{family}-{shape}-h{self.hop_length}-{digest.hexdigest()[:12]}"

    # The parts, one level each.

    @property
    @abstractmethod
    def codebooks(self) -> Sequence[Codebook]:
        """The K levels, first to last."""

    @abstractmethod
    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents [B, D, N] to codes [B, K, N] of the first `n_codebooks` levels (None: all)."""

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [B, K, N], K <= n_codebooks, to the sum of their code vectors [B, D, N]."""

    @abstractmethod
    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        """Encode, quantise and decode for training; audio [B, C, T] of at most one segment.

        `n_codebooks` limits the levels (quantiser dropout); codebooks that learn by statistics do
        so here, in train mode only.
        """

    def pad(self, audio: Tensor) -> Tensor:
        """What the encoder wants of the audio's length; nothing by default."""
        return audio

    def n_frames(self, n_samples: int) -> int:
        """Frames of one segment of `n_samples` samples."""
        return -(-n_samples // self.hop_length)

    def n_frames_in_all(self, n_samples: int) -> int:
        """Frames of audio of `n_samples` samples, the segments' in a row."""
        if self.segment_samples is None:
            return self.n_frames(n_samples)
        starts = range(0, n_samples, self.segment_stride or self.segment_samples)
        return sum(self.n_frames(min(self.segment_samples, n_samples - start)) for start in starts)

    # The whole way.

    def scales(self, audio: Tensor) -> Tensor | None:
        """The gain of each segment of [B, C, T], [B, G]; None for codecs that do not scale."""
        return None

    def latents(
        self, audio: Tensor, scale: Tensor | None = None, *, encoder: nn.Module | None = None
    ) -> Tensor:
        """Audio [B, C, T] to unquantised latents [B, D, N].

        Args:
            audio: full scale at 1, at the codec's rate.
            scale: as `scales` gives it, to divide by; that of another signal where two must share
                one level (a stem and its mixture). None takes the audio's own.
            encoder: used instead of the codec's own.
        """
        encoder = encoder or self.encoder
        if self.segment_samples is None:
            return encoder(self.pad(audio))
        scale = self.scales(audio) if scale is None else scale
        segments = list(self._segments(audio, scale))
        # All but the last few are of equal length and go through in one batch.
        n_full = sum(part.shape[-1] == self.segment_samples for part in segments)
        frames = []
        if n_full:
            full = encoder(self.pad(torch.stack(segments[:n_full], 1).flatten(0, 1)))
            frames.append(full.unflatten(0, (-1, n_full)).transpose(1, 2).flatten(2))
        frames += [encoder(self.pad(part)) for part in segments[n_full:]]
        return torch.cat(frames, dim=-1)

    def encode(self, audio: Tensor, n_codebooks: int | None = None) -> Codes:
        """Audio [B, C, T], T >= 1, to codes of the first `n_codebooks` levels (None: all)."""
        scale = self.scales(audio)
        codes = self.quantize(self.latents(audio, scale), n_codebooks)
        return Codes(codes, audio.shape[-1], self.codec_id, scale)

    def decode(self, codes: Codes) -> Tensor:
        """Codes to audio [B, C, T] of exactly `codes.n_samples`; UsageError for another codec's."""
        self.check(codes)
        return self.synthesize(self.dequantize(codes.codes), codes.n_samples, codes.scale)

    def synthesize(self, latents: Tensor, n_samples: int, scale: Tensor | None = None) -> Tensor:
        """Quantised latents [B, D, N] to audio [B, C, n_samples]."""
        if self.segment_samples is None or self.segment_stride is None:
            return _fitted(self.decoder(latents), n_samples)
        fader = CrossFader(self.segment_samples)
        first = 0
        for index, start in enumerate(range(0, n_samples, self.segment_stride)):
            length = min(self.segment_samples, n_samples - start)
            frames = latents[..., first : first + self.n_frames(length)]
            first += frames.shape[-1]
            audio = _fitted(self.decoder(frames), length)
            if scale is not None:
                audio = audio * scale[:, index, None, None]
            fader.add(audio, start)
        return fader.take(n_samples).to(latents.device)

    def sounds(
        self, latents: Tensor, n_samples: int, scale: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """`synthesize`; and the same without noise, of a decoder that has some: to be compared
        with a reference where phase counts."""
        return (self.synthesize(latents, n_samples, scale),)

    def check(self, codes: Codes) -> None:
        """Raise UsageError unless this codec can read `codes`."""
        if codes.codec_id != self.codec_id:
            raise UsageError(
                f"these codes were made by the codec {codes.codec_id} and {self.name} is "
                f"{self.codec_id}: decode them with the codec that made them"
            )
        n_frames, n_expected = codes.codes.shape[-1], self.n_frames_in_all(codes.n_samples)
        if (
            codes.n_codebooks > self.n_codebooks
            or n_frames != n_expected
            or (codes.codes.numel() and int(codes.codes.max()) >= self.codebook_size)
            or (codes.scale is not None and codes.scale.shape[1] != self._n_segments(codes))
        ):
            raise UsageError(
                f"these codes are damaged: {codes.n_codebooks} codebooks and {n_frames} frames do "
                f"not fit {self.name} and {codes.n_samples} samples; encode the song again"
            )

    def _n_segments(self, codes: Codes) -> int:
        """Segments that are coded one by one, each of which may have a gain."""
        if self.segment_samples is None:
            return 0
        return len(range(0, codes.n_samples, self.segment_stride or self.segment_samples))

    def truncate(self, codes: Codes, n_codebooks: int) -> Codes:
        """The same with the first `n_codebooks` levels only."""
        self.check_n_codebooks(n_codebooks)
        return replace(codes, codes=codes.codes[:, :n_codebooks])

    def check_n_codebooks(self, n_codebooks: int | None) -> int:
        """The number of levels to use; UsageError if there are not that many."""
        if n_codebooks is None:
            return self.n_codebooks
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise UsageError(
                f"{self.name} has {self.n_codebooks} codebooks: use 1 to {self.n_codebooks}, "
                f"not {n_codebooks}"
            )
        return n_codebooks

    def n_codebooks_for(self, bandwidth_kbps: float) -> int:
        """How many levels make up `bandwidth_kbps` (per coded channel); UsageError otherwise."""
        unit = self.bandwidth_kbps(1)
        n_codebooks = round(bandwidth_kbps / unit)
        close = abs(n_codebooks * unit - bandwidth_kbps) <= 0.05 * unit
        if not close or not 1 <= n_codebooks <= self.n_codebooks:
            raise UsageError(
                f"`bandwidth_kbps={bandwidth_kbps:g}` does not fit {self.name}: its codebooks have "
                f"{unit:g} kbps each, so use a multiple of that up to "
                f"{self.bandwidth_kbps(self.n_codebooks):g}"
            )
        return n_codebooks

    def freeze(self) -> "Codec":
        """Eval mode and no gradients for its own weights; returns itself."""
        return self.eval().requires_grad_(False)

    def _segments(self, audio: Tensor, scale: Tensor | None) -> Sequence[Tensor]:
        assert self.segment_samples is not None
        starts = range(0, audio.shape[-1], self.segment_stride or self.segment_samples)
        parts = [audio[..., start : start + self.segment_samples] for start in starts]
        if scale is None:
            return parts
        return [part / scale[:, index, None, None] for index, part in enumerate(parts)]


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """No autocast on the tensor's device: codes of nearby distances need all bits."""
    return torch.autocast(tensor.device.type, enabled=False)


def _fitted(audio: Tensor, n_samples: int) -> Tensor:
    """Cut or zero-padded to `n_samples` along the last axis."""
    return F.pad(audio, (0, n_samples - audio.shape[-1]))
