"""Interface of all codecs: audio [B, C, T] <-> latents [B, D, N] <-> codes [B, K, N].

    audio -> encoder -> latents -> quantize -> codes -> dequantize -> latents -> decoder -> audio

Some codecs first cut the audio into segments and scale each to unit power (EnCodec 48 kHz). The
interface covers that too, so that a separately trained encoder can replace the codec's own.

Axes: B batch items, C channels, T samples, D latent dimensions, N frames, K codebooks, V entries of
a codebook, E dimensions of an entry, G segments.
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
    """Audio coded with one codec."""

    codes: Tensor
    """[B, K, N] int64, 0 <= code < V; segmented codecs concatenate the frames of all segments."""
    n_samples: int
    """Length T of the audio in samples, at the codec's sample rate."""
    codec_id: str
    """`Codec.codec_id` of the codec that made the codes; only that codec can decode them."""
    scale: Tensor | None = None
    """[B, G] linear gain of each segment; None if the codec does not scale."""

    @property
    def n_codebooks(self) -> int:
        """Number of codebooks K of these codes."""
        return self.codes.shape[1]


@dataclass(frozen=True)
class Reconstruction:
    """Output of a codec's training pass."""

    audio: Tensor
    """[B, C, T], differentiable in encoder and decoder (straight-through quantiser)."""
    codes: Tensor
    """[B, K, N] int64."""
    commitment: Tensor
    """Scalar loss of the quantiser: commitment, plus codebook loss if codebooks have gradients."""
    coherent: Tensor | None = None
    """[B, C, T]: `audio` without the noise that the decoder adds; None if it adds none."""


class Codebook(Protocol):
    """One codebook of a residual quantiser, with what losses on soft assignments need."""

    @property
    def embedding(self) -> Tensor:
        """Entries in the space of the lookup, [V, E]."""
        ...

    def distances(self, residual: Tensor) -> Tensor:
        """Squared distance of each frame to each entry: [B, D, N] -> [B, N, V]."""
        ...

    def expected(self, probabilities: Tensor) -> Tensor:
        """Mean entry in latent space, weighted by probabilities [B, N, V]: [B, D, N]."""
        ...

    def vectors(self, codes: Tensor) -> Tensor:
        """Entries of codes [B, N] in latent space: [B, D, N]."""
        ...


class Codec(nn.Module, ABC):
    """A neural codec with residual vector quantisation (RVQ).

    Built from keyword options alone: `type(codec)(**codec.options)` has the same shapes and fresh
    weights. Quantising and decoding never change the state, not even in train mode; `forward` may
    (codebooks that are learned by moving averages).
    """

    architecture: str
    """Key of the class in config.json: "seanet", "dac" or "stem"."""
    options: dict[str, Any]
    """Keyword arguments of the constructor, serialisable as JSON."""
    name: str
    """Name for messages."""
    sample_rate: int
    """Hz."""
    n_channels: int
    """C of the audio that is coded in one item: 1 or 2."""
    hop_length: int
    """Samples per frame."""
    n_codebooks: int
    """K, the number of codebooks."""
    codebook_size: int
    """V, the number of entries of a codebook."""
    latent_dim: int
    """D, the number of latent dimensions."""
    n_band_dims: int = 0
    """Number of latent dimensions, the last of D, that hold logarithmic band energies."""
    n_level_codebooks: int = 0
    """Number of codebooks, the first of K, that code band energies only, not the waveform."""
    encoder: nn.Module
    """[B, C, T] -> [B, D, ceil(T / hop_length)], for a T that `pad` returns."""
    decoder: nn.Module
    """[B, D, N] -> [B, C, about N * hop_length]."""
    quantizer: Any
    """Module that holds the codebooks."""
    segment_samples: int | None = None
    """Length in samples of independently coded segments; None codes the whole signal at once."""
    segment_stride: int | None = None
    """Samples from the start of one segment to the next; None if there are no segments."""
    level_range: Range = NATURAL
    """Range of loud-part levels (linear RMS) to which `coding` brings the audio by a gain."""
    loudness_lufs: float | None = None
    """Integrated loudness to which `coding` brings the audio instead, with peaks of at most 1."""
    adds_noise: bool = False
    """Whether the decoder ends in an `InverseSpectrum` that adds noise."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bits_per_frame_and_codebook(self) -> int:
        """Bits that index one codebook entry, ceil(log2 V)."""
        return (self.codebook_size - 1).bit_length()

    def bandwidth_kbps(self, n_codebooks: int) -> float:
        """Bit rate of the first `n_codebooks` codebooks for one batch item, kbit/s."""
        return n_codebooks * self.bits_per_frame_and_codebook * self.frame_rate / 1000

    @cached_property
    def codec_id(self) -> str:
        """Identity of the code space: architecture, sample rate, K x V, hop and a hash of weights.

        The hash covers quantiser and decoder, not the encoder, so that codes of a fine-tuned
        encoder stay readable. It is computed on first access and cached: read it only once
        training has ended.
        """
        digest = hashlib.sha256()
        for part in (self.quantizer, self.decoder):
            for key, tensor in sorted(part.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        shape = f"{self.n_codebooks}x{self.codebook_size}"
        family = f"{self.architecture}-{self.sample_rate}"
        return f"{family}-{shape}-h{self.hop_length}-{digest.hexdigest()[:12]}"

    # The stages of the codec

    @property
    @abstractmethod
    def codebooks(self) -> Sequence[Codebook]:
        """The K codebooks, in coding order."""

    @abstractmethod
    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents [B, D, N] to codes [B, K, N] of the first `n_codebooks` codebooks (None: all).

        Raises:
            UsageError: the codec has fewer codebooks.
        """

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [B, K, N], K <= n_codebooks, to the sum of their entries [B, D, N]."""

    @abstractmethod
    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> Reconstruction:
        """Encode, quantise and decode audio [B, C, T] of at most one segment, for training.

        `n_codebooks` limits the number of codebooks (quantiser dropout; None: all). Codebooks that
        are learned by moving averages are updated here, in train mode only.
        """

    def pad(self, audio: Tensor) -> Tensor:
        """Zero-pad audio [B, C, T] to a length that the encoder accepts; by default unchanged."""
        return audio

    def n_frames(self, n_samples: int) -> int:
        """Number of frames of a segment of `n_samples` samples."""
        return -(-n_samples // self.hop_length)

    def n_frames_in_all(self, n_samples: int) -> int:
        """Number of frames of audio of `n_samples` samples, summed over its segments."""
        if self.segment_samples is None:
            return self.n_frames(n_samples)
        starts = range(0, n_samples, self.segment_stride or self.segment_samples)
        return sum(self.n_frames(min(self.segment_samples, n_samples - start)) for start in starts)

    # From audio to codes and back

    def scales(self, audio: Tensor) -> Tensor | None:
        """Gains [B, G] of the segments of audio [B, C, T], linear; None if the codec has none."""
        return None

    def latents(
        self, audio: Tensor, scale: Tensor | None = None, *, encoder: nn.Module | None = None
    ) -> Tensor:
        """Audio [B, C, T] to unquantised latents [B, D, N].

        Args:
            audio: samples at the codec's rate, full scale at 1.
            scale: [B, G] from `scales`, by which segments are divided; pass that of another signal
                where two must keep their ratio (a stem and its mixture). None: the audio's own.
            encoder: replaces the codec's own encoder; None: the codec's own.
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
        """Audio [B, C, T], T >= 1, to codes of the first `n_codebooks` codebooks (None: all).

        Raises:
            UsageError: the codec has fewer codebooks.
        """
        scale = self.scales(audio)
        codes = self.quantize(self.latents(audio, scale), n_codebooks)
        return Codes(codes, audio.shape[-1], self.codec_id, scale)

    def decode(self, codes: Codes) -> Tensor:
        """Codes to audio [B, C, T] with T = `codes.n_samples`.

        Raises:
            UsageError: the codes are damaged or were made by another codec.
        """
        self.check(codes)
        return self.synthesize(self.dequantize(codes.codes), codes.n_samples, codes.scale)

    def synthesize(self, latents: Tensor, n_samples: int, scale: Tensor | None = None) -> Tensor:
        """Quantised latents [B, D, N] to audio [B, C, n_samples], times `scale` [B, G] if given."""
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
        """`synthesize`, followed by the same audio without noise if the decoder adds noise.

        Losses that depend on phase compare the version without noise. Each is [B, C, n_samples].
        """
        return (self.synthesize(latents, n_samples, scale),)

    def check(self, codes: Codes) -> None:
        """Raise UsageError if `codes` are damaged or were made by another codec."""
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
                f"not fit {self.name} and {codes.n_samples} samples; encode the audio again"
            )

    def _n_segments(self, codes: Codes) -> int:
        """Number of independently coded segments, each with one gain; 0 without segments."""
        if self.segment_samples is None:
            return 0
        return len(range(0, codes.n_samples, self.segment_stride or self.segment_samples))

    def truncate(self, codes: Codes, n_codebooks: int) -> Codes:
        """`codes` with the first `n_codebooks` codebooks only.

        Raises:
            UsageError: the codec has fewer codebooks.
        """
        self.check_n_codebooks(n_codebooks)
        return replace(codes, codes=codes.codes[:, :n_codebooks])

    def check_n_codebooks(self, n_codebooks: int | None) -> int:
        """Number of codebooks to use: `n_codebooks`, or all of them for None.

        Raises:
            UsageError: it is not from 1 to K.
        """
        if n_codebooks is None:
            return self.n_codebooks
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise UsageError(
                f"{self.name} has {self.n_codebooks} codebooks: use 1 to {self.n_codebooks}, "
                f"not {n_codebooks}"
            )
        return n_codebooks

    def n_codebooks_for(self, bandwidth_kbps: float) -> int:
        """Number of codebooks that have the bit rate `bandwidth_kbps` (kbit/s per batch item).

        Raises:
            UsageError: it is not within 5 % of a codebook from a whole number of codebooks, or the
                codec has fewer.
        """
        unit = self.bandwidth_kbps(1)
        n_codebooks = round(bandwidth_kbps / unit)
        close = abs(n_codebooks * unit - bandwidth_kbps) <= 0.05 * unit
        if not close or not 1 <= n_codebooks <= self.n_codebooks:
            raise UsageError(
                f"`bandwidth_kbps={bandwidth_kbps:g}` does not fit {self.name}: each codebook "
                f"takes {unit:g} kbit/s, so use a multiple of that up to "
                f"{self.bandwidth_kbps(self.n_codebooks):g}"
            )
        return n_codebooks

    def freeze(self) -> "Codec":
        """Switch to eval mode and disable gradients of the weights; returns self."""
        return self.eval().requires_grad_(False)

    def _segments(self, audio: Tensor, scale: Tensor | None) -> Sequence[Tensor]:
        """Segments of audio [B, C, T], divided by their gains `scale` [B, G] if given."""
        assert self.segment_samples is not None
        starts = range(0, audio.shape[-1], self.segment_stride or self.segment_samples)
        parts = [audio[..., start : start + self.segment_samples] for start in starts]
        if scale is None:
            return parts
        return [part / scale[:, index, None, None] for index, part in enumerate(parts)]


def plain_options(given: dict[str, Any]) -> dict[str, Any]:
    """`Codec.options` from `locals()` of a constructor: without self, and tuples as lists."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if key not in ("self", "__class__")
    }


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Context that disables autocast on the tensor's device.

    Half precision would swap codes whose distances are close.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def _fitted(audio: Tensor, n_samples: int) -> Tensor:
    """`audio` [..., T] trimmed or zero-padded to [..., n_samples]."""
    return F.pad(audio, (0, n_samples - audio.shape[-1]))
