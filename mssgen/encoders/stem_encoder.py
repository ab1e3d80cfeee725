"""A second encoder for a frozen codec: it hears a separated stem, or the whole mixture, and gives
the latents or tokens that the codec's own encoder gives for the clean stem.

    audio -> encoder -> latents -> head (optional) -> better latents, or logits of codes

The codec's quantiser and decoder turn them into sound. The thesis' "frozen codec with warm encoder"
(section 6.2.1) and all its variants are options of this one module.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.encoders.heads import DenseHead, TransformerHead, Window, windows
from mssgen.encoders.song_hearing import SongHearingEncoder
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, StemName, Width

_MAX_WINDOW_FRAMES = 2**14  # attention takes memory by the square of it
Input = Literal["separated", "separated+mixture", "mixture", "noisy", "clean"]


@dataclass(frozen=True)
class StemEncoderOptions:
    """Which stem encoder; contradictions raise UsageError."""

    stem: StemName = "bass"
    """What comes out."""
    input: Input = "separated"
    """What goes in: the stem as a separator gives it, that and the mixture (with the stem codec
    only), the mixture, the stem with noise, or as it is."""
    encoder: Literal["frozen", "warm", "random"] = "warm"
    """The codec's own, which stays as it is; one that learns from its weights; or from fresh ones.
    """
    head: Literal["none", "dense", "transformer"] = "none"
    head_output: Literal["latents", "tokens"] = "latents"
    """Of a transformer; a dense head always gives tokens."""
    head_codebooks: Codebooks | None = None
    """Tokens of that many levels; None of all."""
    hidden_size: Width = 256
    """Of the dense head."""
    n_layers: Annotated[int, Field(ge=1, le=64)] = 3
    """Of the transformer."""
    n_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Of the transformer; they divide the codec's latent_dim."""
    is_causal: bool = False
    """Whether the transformer looks back only."""
    is_residual: bool = True
    """Whether the transformer adds to the latents, from nothing at first; False: the plain form."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the transformer, 0 to 1."""
    context_s: Annotated[float, Field(gt=0, le=600)] = 16.0
    """What the transformer sees at once, seconds; the length of the segments it is trained on."""
    n_target_codebooks: Codebooks | None = None
    """The target is the sum of the first so many levels of the clean stem's codes; None: of all,
    or the latents before quantising."""

    def __post_init__(self) -> None:
        if self.encoder == "frozen" and self.head == "none":
            raise UsageError(
                "encoder = 'frozen' with head = 'none' has nothing to learn: give it a head, "
                "or encoder = 'warm'"
            )
        if self.head_codebooks is not None and not self.gives_tokens:
            raise UsageError(
                "head_codebooks needs a head that gives tokens: head = 'dense', or 'transformer' "
                "with head_output = 'tokens'"
            )
        if self.gives_tokens and self.n_target_codebooks is not None:
            n_tokens, n_target = self.head_codebooks, self.n_target_codebooks
            if n_tokens is None or n_tokens > n_target:
                raise UsageError(
                    f"the head gives tokens of {n_tokens or 'all'} levels and the target has "
                    f"{n_target}: set head_codebooks to {n_target} or less"
                )
        if self.context_s <= 0:
            raise UsageError(f"context_s must be more than 0, not {self.context_s:g}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")

    @property
    def hears_song(self) -> bool:
        """Whether it hears the mixture beside the stem: [B, 2 C, T], the stem first."""
        return self.input == "separated+mixture"

    @property
    def gives_tokens(self) -> bool:
        """Whether the head gives logits."""
        return self.head == "dense" or (self.head == "transformer" and self.head_output == "tokens")


@dataclass(frozen=True)
class Prediction:
    """What a stem encoder gives."""

    latents: Tensor
    """[B, D, N]: of the head that gives latents, else of the encoder. Levels alone: [B, D', N]."""
    logits: Tensor | None
    """[B, K, N, V] of the first K levels; None without a head that gives tokens."""

    def items(self, first: int, last: int) -> "Prediction":
        """Those of items `first` to `last` of the batch."""
        logits = None if self.logits is None else self.logits[first:last]
        return Prediction(self.latents[first:last], logits)

    def frames(self, first: int, last: int) -> "Prediction":
        """Those of frames `first` to `last`."""
        logits = None if self.logits is None else self.logits[:, :, first:last]
        return Prediction(self.latents[..., first:last], logits)


class StemEncoder(nn.Module):
    """Audio [B, C, T] to a `Prediction` of the clean stem in a codec's latent space.

    The codec is used but is no part of the module: it keeps its place on its device, and its
    weights are in no state dict of this.

    Raises:
        UsageError: the options do not fit the codec.
    """

    codec: Codec

    def __init__(self, codec: Codec, options: StemEncoderOptions | None = None) -> None:
        super().__init__()
        options = options or StemEncoderOptions()
        # Past nn.Module.__setattr__, which would make it a part of this module.
        self.__dict__["codec"] = codec
        self.options = options
        for n_codebooks in (options.head_codebooks, options.n_target_codebooks):
            codec.check_n_codebooks(n_codebooks)
        self.encoder = _copy_of_encoder(codec, is_fresh=options.encoder == "random")
        if options.hears_song:
            if not isinstance(codec, StemCodec):
                raise UsageError(
                    f'input "separated+mixture" needs a codec of the architecture stem, and '
                    f'{codec.name} is none: use "separated"'
                )
            assert isinstance(self.encoder, nn.Sequential)
            self.encoder = SongHearingEncoder(self.encoder)
        self.encoder.requires_grad_(options.encoder != "frozen")
        if isinstance(self.encoder, SongHearingEncoder):
            self.encoder.keep_levels()
        if (self.head_window_frames or 0) > _MAX_WINDOW_FRAMES:
            raise UsageError(
                f"context_s {options.context_s:g} is {self.head_window_frames} frames of "
                f"{codec.name} at once: choose one of {_MAX_WINDOW_FRAMES} frames at most"
            )
        self.head = _build_head(codec, options)
        # The copy has the codec's eval mode, in which cuDNN's LSTM cannot go backward.
        self.train()

    def forward(
        self, audio: Tensor, scale: Tensor | None = None, *, levels_alone: bool = False
    ) -> Prediction:
        """Predict from audio [B, C, T], with the song behind it [B, 2 C, T].

        Args:
            audio: at the codec's rate.
            scale: as in `Codec.latents`; None takes the audio's.
            levels_alone: the levels of bands only, of an encoder that hears the song, and nothing
                of the rest, which is nearly all of the work.
        """
        if levels_alone:
            assert isinstance(self.encoder, SongHearingEncoder)
            return Prediction(self.encoder.level_latents(self.codec.pad(audio)), None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.encoder != "frozen"):
            latents = self.codec.latents(audio, scale, encoder=self.encoder)
        return self.refine(latents)

    def refine(self, latents: Tensor) -> Prediction:
        """The head alone: the encoder's latents [B, D, N] to the prediction of all N frames."""
        if self.head is None:
            return Prediction(latents, None)
        parts = []
        for window in self.head_windows(latents.shape[-1]):
            output = self.head(latents[..., window.start : window.stop])
            # The frame axis is the last of latents, the last but one of logits.
            axis = 2
            length = window.last - window.first
            parts.append(output.narrow(axis, window.first - window.start, length))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return (
            Prediction(latents, joined) if self.options.gives_tokens else Prediction(joined, None)
        )

    @property
    def head_window_frames(self) -> int | None:
        """The most frames that the head sees at once; None where it goes frame by frame."""
        if self.options.head != "transformer":
            return None
        codec, context_samples = self.codec, self.options.context_s * self.codec.sample_rate
        if codec.segment_samples is None:
            return max(1, round(context_samples / codec.hop_length))
        # The frames of overlapping segments stand in a row, more of them than the rate says.
        n_segments = -(-context_samples // (codec.segment_stride or codec.segment_samples))
        return int(n_segments) * codec.n_frames(codec.segment_samples)

    def head_windows(self, n_frames: int) -> Iterator[Window]:
        """How `refine` cuts `n_frames` frames; a stream that does the same gives the same."""
        yield from windows(n_frames, self.head_window_frames or n_frames)

    @property
    def n_codebooks(self) -> int:
        """Levels that were learned: those of the logits, or of the target."""
        options = self.options
        limit = options.head_codebooks if options.gives_tokens else options.n_target_codebooks
        return self.codec.check_n_codebooks(limit)

    def codes(self, prediction: Prediction, n_codebooks: int | None = None) -> Tensor:
        """The prediction as codes [B, K, N] of the first `n_codebooks` levels.

        None takes the levels that were learned. Latents are quantised. Logits give the most likely
        code of their levels; levels beyond them quantise what those leave of the latents, which is
        of use only where the latents were trained too.
        """
        n_codebooks = self.codec.check_n_codebooks(n_codebooks or self.n_codebooks)
        if prediction.logits is None:
            return self.codec.quantize(prediction.latents, n_codebooks)
        codes = prediction.logits[:, :n_codebooks].argmax(dim=-1)
        residual = prediction.latents
        levels = []
        if codes.shape[1] < n_codebooks:
            residual = residual - self.codec.dequantize(codes)
        for codebook in self.codec.codebooks[codes.shape[1] : n_codebooks]:
            level = codebook.distances(residual).argmin(dim=-1)
            residual = residual - codebook.vectors(level)
            levels.append(level)
        return torch.cat([codes, torch.stack(levels, dim=1)], dim=1) if levels else codes

    def train(self, mode: bool = True) -> "StemEncoder":
        """A frozen encoder stays in eval mode."""
        super().train(mode)
        if self.options.encoder == "frozen":
            self.encoder.eval()
        return self


def _build_head(codec: Codec, options: StemEncoderOptions) -> nn.Module | None:
    tokens = None
    if options.gives_tokens:
        tokens = (codec.check_n_codebooks(options.head_codebooks), codec.codebook_size)
    if options.head == "dense" and tokens is not None:
        return DenseHead(codec.latent_dim, options.hidden_size, *tokens)
    if options.head == "none":
        return None
    return TransformerHead(
        codec.latent_dim,
        n_layers=options.n_layers,
        n_heads=options.n_heads,
        tokens=tokens,
        is_causal=options.is_causal,
        is_residual=options.is_residual,
        dropout=options.dropout,
    )


def _copy_of_encoder(codec: Codec, *, is_fresh: bool) -> nn.Module:
    """An encoder of the codec's own form, with its weights or with fresh ones."""
    source = type(codec)(**codec.options).encoder if is_fresh else codec.encoder
    # Weight norm leaves its last result beside the weights as a tensor with a history, which cannot
    # be copied; the next pass replaces it.
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in source.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor)
    }
    encoder = copy.deepcopy(source, memo)
    is_meta = next(encoder.parameters()).is_meta
    return encoder if is_meta else encoder.to(next(codec.parameters()).device)
