"""A second encoder for a frozen codec, from an estimated stem or a mixture to the clean stem.

Its output is trained to match the latents or codes of the codec's own encoder for the clean stem:

    audio -> encoder -> latents -> head (optional) -> better latents, or logits of codes

The codec's quantiser and decoder turn them into audio. The thesis' "frozen codec with warm encoder"
(section 6.2.1) and its variants are options of this module.
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
from mssgen.encoders.mixture_aware import MixtureAwareEncoder
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, StemName, Width

_MAX_WINDOW_FRAMES = 2**14  # the memory of attention grows with its square
Input = Literal["separated", "separated+mixture", "mixture", "noisy", "clean"]


@dataclass(frozen=True)
class StemEncoderOptions:
    """Options of a `StemEncoder`; contradictions raise UsageError."""

    stem: StemName = "bass"
    """Name of the stem that the encoder outputs."""
    input: Input = "separated"
    """Input signal: a separator's estimate of the stem, the estimate and the mixture (stem codec
    only), the mixture, the clean stem with added noise, or the clean stem."""
    encoder: Literal["frozen", "warm", "random"] = "warm"
    """The codec's own encoder, not trained; a copy trained from its weights; or one trained from
    random weights."""
    head: Literal["none", "dense", "transformer"] = "none"
    """Network after the encoder, see `mssgen.encoders.heads`."""
    head_output: Literal["latents", "tokens"] = "latents"
    """Output of a transformer head: latents, or logits of codes; a dense head always gives logits.
    """
    head_codebooks: Codebooks | None = None
    """Number of codebooks for which the head outputs logits; None: all."""
    hidden_size: Width = 256
    """Number of hidden units of the dense head."""
    n_layers: Annotated[int, Field(ge=1, le=64)] = 3
    """Number of transformer layers."""
    n_heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Number of attention heads, a divisor of the codec's latent_dim."""
    is_causal: bool = False
    """Whether each frame attends only to itself and earlier frames."""
    is_residual: bool = True
    """Whether the transformer's output, initially zero, is added to the latents; False: as in the
    thesis, it replaces them."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the transformer."""
    context_s: Annotated[float, Field(gt=0, le=600)] = 16.0
    """Length in seconds of the transformer's window, equal to that of training segments."""
    n_target_codebooks: Codebooks | None = None
    """Number of codebooks whose summed entries are the target; None: all, or the unquantised
    latents of the clean stem, depending on the loss."""

    def __post_init__(self) -> None:
        if self.encoder == "frozen" and self.head == "none":
            raise UsageError(
                "encoder = 'frozen' with head = 'none' has nothing to train: use a head, "
                "or encoder = 'warm'"
            )
        if self.head_codebooks is not None and not self.gives_tokens:
            raise UsageError(
                "head_codebooks needs a head that outputs tokens: head = 'dense', or "
                "'transformer' with head_output = 'tokens'"
            )
        if self.gives_tokens and self.n_target_codebooks is not None:
            n_tokens, n_target = self.head_codebooks, self.n_target_codebooks
            if n_tokens is None or n_tokens > n_target:
                raise UsageError(
                    f"the head outputs tokens of {n_tokens or 'all'} codebooks but the target has "
                    f"{n_target}: set head_codebooks to {n_target} or less"
                )
        if self.context_s <= 0:
            raise UsageError(f"context_s must be more than 0, not {self.context_s:g}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")

    @property
    def takes_mixture(self) -> bool:
        """Whether the input is stem and mixture, as channels [B, 2 C, T] with the stem first."""
        return self.input == "separated+mixture"

    @property
    def gives_tokens(self) -> bool:
        """Whether the head outputs logits of codes."""
        return self.head == "dense" or (self.head == "transformer" and self.head_output == "tokens")


@dataclass(frozen=True)
class Prediction:
    """Output of a stem encoder."""

    latents: Tensor
    """[B, D, N] from the head if it outputs latents, else from the encoder; with `bands_only`, the
    last `Codec.n_band_dims` dimensions only."""
    logits: Tensor | None
    """[B, K, N, V] for the first K codebooks; None without a head that outputs logits."""

    def items(self, first: int, last: int) -> "Prediction":
        """Prediction of batch items `first` to `last`, exclusive."""
        logits = None if self.logits is None else self.logits[first:last]
        return Prediction(self.latents[first:last], logits)

    def frames(self, first: int, last: int) -> "Prediction":
        """Prediction of frames `first` to `last`, exclusive."""
        logits = None if self.logits is None else self.logits[:, :, first:last]
        return Prediction(self.latents[..., first:last], logits)


class StemEncoder(nn.Module):
    """Audio [B, C, T] to a `Prediction` of the clean stem in a codec's latent space.

    The codec is not a submodule: `to` does not move it, and state dicts do not hold its weights.

    Args:
        codec: frozen; its encoder is copied.
        options: None: the defaults.

    Raises:
        UsageError: the options do not fit the codec.
    """

    codec: Codec

    def __init__(self, codec: Codec, options: StemEncoderOptions | None = None) -> None:
        super().__init__()
        options = options or StemEncoderOptions()
        # Bypasses nn.Module.__setattr__, which would register it as a submodule.
        self.__dict__["codec"] = codec
        self.options = options
        for n_codebooks in (options.head_codebooks, options.n_target_codebooks):
            codec.check_n_codebooks(n_codebooks)
        self.encoder = _copy_of_encoder(codec, is_fresh=options.encoder == "random")
        if options.takes_mixture:
            if not isinstance(codec, StemCodec):
                raise UsageError(
                    f'input "separated+mixture" needs a codec of the architecture stem, which '
                    f'{codec.name} is not: use "separated"'
                )
            assert isinstance(self.encoder, nn.Sequential)
            self.encoder = MixtureAwareEncoder(self.encoder)
        self.encoder.requires_grad_(options.encoder != "frozen")
        if isinstance(self.encoder, MixtureAwareEncoder):
            self.encoder.freeze_bands()
        if (self.head_window_frames or 0) > _MAX_WINDOW_FRAMES:
            raise UsageError(
                f"context_s {options.context_s:g} is {self.head_window_frames} frames of "
                f"{codec.name}: choose a context of at most {_MAX_WINDOW_FRAMES} frames"
            )
        self.head = _build_head(codec, options)
        # The copy is in eval mode like the codec, in which cuDNN's LSTM has no backward pass.
        self.train()

    def forward(
        self, audio: Tensor, scale: Tensor | None = None, *, bands_only: bool = False
    ) -> Prediction:
        """Prediction for audio.

        Args:
            audio: [B, C, T] at the codec's rate, or [B, 2 C, T] if `options.takes_mixture`.
            scale: gains of the segments as in `Codec.latents`; None: the audio's own.
            bands_only: predict only the latents of band energies, a small part of the work; only
                if `options.takes_mixture`.
        """
        if bands_only:
            assert isinstance(self.encoder, MixtureAwareEncoder)
            return Prediction(self.encoder.band_latents(self.codec.pad(audio)), None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.encoder != "frozen"):
            latents = self.codec.latents(audio, scale, encoder=self.encoder)
        return self.refine(latents)

    def refine(self, latents: Tensor) -> Prediction:
        """Apply only the head, in windows, to latents [B, D, N] of the encoder."""
        if self.head is None:
            return Prediction(latents, None)
        parts = []
        for window in self.head_windows(latents.shape[-1]):
            output = self.head(latents[..., window.start : window.stop])
            length = window.last - window.first
            # Axis 2 holds the frames of latents [B, D, N] and of logits [B, K, N, V].
            parts.append(output.narrow(2, window.first - window.start, length))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return (
            Prediction(latents, joined) if self.options.gives_tokens else Prediction(joined, None)
        )

    @property
    def head_window_frames(self) -> int | None:
        """Length in frames of the transformer's windows; None for other heads."""
        if self.options.head != "transformer":
            return None
        codec, context_samples = self.codec, self.options.context_s * self.codec.sample_rate
        if codec.segment_samples is None:
            return max(1, round(context_samples / codec.hop_length))
        # Frames of overlapping segments are concatenated: more than context_s * frame_rate.
        n_segments = -(-context_samples // (codec.segment_stride or codec.segment_samples))
        return int(n_segments) * codec.n_frames(codec.segment_samples)

    def head_windows(self, n_frames: int) -> Iterator[Window]:
        """Windows of `refine` on `n_frames` frames, for streams that are to give equal results."""
        yield from windows(n_frames, self.head_window_frames or n_frames)

    @property
    def n_codebooks(self) -> int:
        """Number of trained codebooks: those of the logits, or of the target."""
        options = self.options
        limit = options.head_codebooks if options.gives_tokens else options.n_target_codebooks
        return self.codec.check_n_codebooks(limit)

    def codes(self, prediction: Prediction, n_codebooks: int | None = None) -> Tensor:
        """Codes [B, K, N] of a prediction, for the first `n_codebooks` codebooks.

        Latents are quantised. Logits give the most likely code; codebooks beyond those of the
        logits quantise the residual of the latents, which helps only if latents were trained too.

        Args:
            prediction: for all latent dimensions.
            n_codebooks: None: the trained codebooks.

        Raises:
            UsageError: the codec has fewer codebooks.
        """
        n_codebooks = self.codec.check_n_codebooks(n_codebooks or self.n_codebooks)
        if prediction.logits is None:
            return self.codec.quantize(prediction.latents, n_codebooks)
        codes = prediction.logits[:, :n_codebooks].argmax(dim=-1)
        residual = prediction.latents
        others = []
        if codes.shape[1] < n_codebooks:
            residual = residual - self.codec.dequantize(codes)
        for codebook in self.codec.codebooks[codes.shape[1] : n_codebooks]:
            others.append(codebook.distances(residual).argmin(dim=-1))
            residual = residual - codebook.vectors(others[-1])
        return torch.cat([codes, torch.stack(others, dim=1)], dim=1) if others else codes

    def train(self, mode: bool = True) -> "StemEncoder":
        """Set train or eval mode of all but a frozen encoder, which stays in eval mode."""
        super().train(mode)
        if self.options.encoder == "frozen":
            self.encoder.eval()
        return self


def _build_head(codec: Codec, options: StemEncoderOptions) -> nn.Module | None:
    """Head with fresh weights; None for `head` "none"."""
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
    """Encoder of the codec's architecture, with a copy of its weights or with fresh ones."""
    source = type(codec)(**codec.options).encoder if is_fresh else codec.encoder
    # Weight norm stores its last result as a tensor with gradient history, which deepcopy refuses;
    # a detached copy does, as the next forward pass replaces it.
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in source.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor)
    }
    encoder = copy.deepcopy(source, memo)
    is_meta = next(encoder.parameters()).is_meta
    return encoder if is_meta else encoder.to(codec.device)
