"""The refiner's network: codes of which some are hidden, to logits of the hidden ones.

    codes [B, K, N] -> code vectors [B, K E, N] -> transformer over frames -> logits [B, P, N, V]

A frame's K codes are one position of a bidirectional transformer. The first codebooks only
condition, the last P are predicted. Coarse, coarse-to-fine, and translation with the input's codes
beside are options of this one network.

Source: VampNet, Flores García et al. 2023 (arXiv 2307.04686), whose checkpoints it loads (see
`layouts`), with the attention of T5, Raffel et al. 2020 (arXiv 1910.10683, section 2.1).
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.base import Codec
from mssgen.errors import UsageError
from mssgen.recipes.schema import Codebooks, CodebookSize, Width

# Distances in frames from which a new bucket of the position bias begins: one each up to 8, then
# two an octave, 8 * 16^(k / 8) rounded up; beyond the last all share one.
_BUCKET_STARTS = (*range(1, 9), 12, 16, 23, 32, 46, 64, 91)
_N_BUCKETS = 2 * (len(_BUCKET_STARTS) + 1)  # for what comes before, and for what comes after
_MAX_ATTENTION_BIASES = 2**26  # 256 MB; VampNet's have up to 2**23


@dataclass(frozen=True)
class MaskedTransformerOptions:
    """Which network; the defaults are VampNet's coarse-to-fine. Contradictions raise UsageError."""

    n_codebooks: Codebooks = 14
    """K, those of the input included."""
    n_conditioning: Annotated[int, Field(ge=0, le=255)] = 4
    """The first so many are never predicted."""
    n_input: Annotated[int, Field(ge=0, le=255)] = 0
    """The first so many of those are levels of another signal, the separated stem that the codes
    are to improve; the others are levels of the codes themselves."""
    codebook_size: CodebookSize = 1024
    """V, the codec's."""
    codebook_dim: Width = 8
    """E, the codec's."""
    n_layers: Annotated[int, Field(ge=1, le=256)] = 16
    n_heads: Annotated[int, Field(ge=1, le=256)] = 20
    width: Width = 1280
    """D, a multiple of `n_heads`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of attention weights, inside the feed-forward parts and of what each part adds."""
    window_frames: Annotated[int, Field(ge=1, le=2**13)] = 173
    """What it was trained on, and is shown at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.n_input <= self.n_conditioning < self.n_codebooks:
            raise UsageError(
                f"of {self.n_codebooks} codebooks {self.n_conditioning} cannot condition, and "
                f"{self.n_input} of these be the input's: leave one to predict at least"
            )
        if self.n_heads < 1 or self.width < 1 or self.width % self.n_heads:
            raise UsageError(
                f"{self.n_heads} attention heads do not divide the width {self.width}: choose "
                "another n_heads"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")
        if min(self.codebook_size, self.codebook_dim, self.n_layers, self.window_frames) < 1:
            raise UsageError("a refiner's layers, window_frames and codebooks are at least 1 each")
        if self.n_heads * self.window_frames**2 > _MAX_ATTENTION_BIASES:
            raise UsageError(
                f"{self.n_heads} attention heads on window_frames {self.window_frames} would fill "
                "memory: choose fewer or a shorter window"
            )

    @property
    def n_predicted(self) -> int:
        """P."""
        return self.n_codebooks - self.n_conditioning

    @property
    def n_levels(self) -> int:
        """Levels of the codes themselves, given or predicted."""
        return self.n_codebooks - self.n_input

    @property
    def n_kept(self) -> int:
        """Levels of the codes themselves that condition."""
        return self.n_conditioning - self.n_input

    @property
    def levels(self) -> tuple[int, ...]:
        """The codec's level that each codebook is."""
        return (*range(self.n_input), *range(self.n_levels))


class MaskedTransformer(nn.Module):
    """Codes [B, K, N] with `mask_token` where they are hidden, to logits [B, P, N, V].

    The codec's code vectors are part of the state but learn nothing; `codec_id` says whose they
    are. Built by itself the vectors are zeros: `for_codec` takes them from a codec.
    """

    codebooks: Tensor  # [K, V, E]

    def __init__(self, options: MaskedTransformerOptions, codec_id: str = "") -> None:
        super().__init__()
        self.options, self.codec_id = options, codec_id
        n_codebooks, width = options.n_codebooks, options.width
        shape = (n_codebooks, options.codebook_size, options.codebook_dim)
        self.register_buffer("codebooks", torch.zeros(shape))
        self.hidden = nn.Parameter(torch.empty(n_codebooks, options.codebook_dim))
        self.embedding = nn.Linear(n_codebooks * options.codebook_dim, width)
        self.position_bias = nn.Parameter(torch.empty(_N_BUCKETS, options.n_heads))
        self.layers = nn.ModuleList(
            Layer(width, options.n_heads, options.dropout) for _ in range(options.n_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.classifier = Classifier(width, options.n_predicted, options.codebook_size)
        if not self.hidden.is_meta:  # where arithmetic loads torch's compiler, for seconds
            nn.init.normal_(self.hidden)
            nn.init.normal_(self.position_bias)
            with torch.no_grad():
                self.classifier.length.copy_(self.classifier.direction.norm(dim=-1, keepdim=True))

    @classmethod
    def for_codec(cls, codec: Codec, options: MaskedTransformerOptions) -> "MaskedTransformer":
        """A network with fresh weights for `codec`, whose sizes replace those of `options`.

        Each level's vectors are scaled to unit power: those of late levels are small, and would
        hardly be heard beside the early ones.

        Raises UsageError where the codec has too few codebooks.
        """
        codec.check_n_codebooks(max(options.n_levels, options.n_input))
        vectors = codebook_vectors(codec, options.levels)
        vectors /= vectors.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-12)
        _, codebook_size, codebook_dim = vectors.shape
        options = replace(options, codebook_size=codebook_size, codebook_dim=codebook_dim)
        network = cls(options, codec.codec_id)
        network.codebooks.copy_(vectors)
        return network

    @property
    def mask_token(self) -> int:
        """The code that stands for a hidden one: V."""
        return self.options.codebook_size

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [B, K, N] int64 to logits [B, P, N, V] of the last P codebooks."""
        return self.classifier(self.frames(codes))

    def latents(self, codes: Tensor) -> Tensor:
        """The vectors of codes [B, K, N], one codebook's below the other's: [B, K E, N]."""
        tables = torch.cat([self.codebooks, self.hidden[:, None].to(self.codebooks)], dim=1)
        first = torch.arange(len(tables), device=codes.device) * tables.shape[1]
        vectors = F.embedding(codes + first[:, None], tables.flatten(0, 1))  # [B, K, N, E]
        return vectors.transpose(2, 3).flatten(1, 2)

    def frames(self, codes: Tensor, biases: Tensor | None = None) -> Tensor:
        """What the transformer makes of codes [B, K, N]: [B, N, D], for the classifier.

        `biases` are `attention_biases(N)`, for who asks more than once.
        """
        frames = self.embedding(self.latents(codes).mT)
        biases = self.attention_biases(codes.shape[-1]) if biases is None else biases
        for layer in self.layers:
            frames = layer(frames, biases)
        return self.norm(frames)

    def freeze(self) -> "MaskedTransformer":
        """Eval mode and no gradients; returns itself."""
        return self.eval().requires_grad_(False)

    def attention_biases(self, n_frames: int) -> Tensor:
        """[1, H, N, N] of N frames' places, the same in all layers."""
        distances = torch.arange(1 - n_frames, n_frames, device=self.position_bias.device)
        biases = self.position_bias[position_buckets(distances)].T  # [H, 2 N - 1]
        index = torch.arange(n_frames, device=distances.device)
        # Of key j to query i the distance is j - i.
        return biases[:, index[None, :] - index[:, None] + n_frames - 1][None]


class Layer(nn.Module):
    """Attention and a gated feed-forward part on frames [B, N, D], each after a norm."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self._n_heads, self._dropout = n_heads, dropout
        self.norm_attention = nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.norm_feed_forward = nn.RMSNorm(width, eps=1e-6)
        self.feed_forward_input = nn.Linear(width, 4 * width, bias=False)
        self.feed_forward_output = nn.Linear(2 * width, width, bias=False)

    def forward(self, frames: Tensor, bias: Tensor) -> Tensor:
        """`bias` [1, H, N, N] is added before the softmax."""
        frames = frames + self._drop(self._attend(self.norm_attention(frames), bias))
        return frames + self._drop(self._feed_forward(self.norm_feed_forward(frames)))

    def _attend(self, frames: Tensor, bias: Tensor) -> Tensor:
        heads = self.query_key_value(frames).unflatten(-1, (3, self._n_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [B, H, N, D / H] each
        attended = F.scaled_dot_product_attention(
            query, key, value, bias, self._dropout if self.training else 0.0
        )
        return self.attention_output(attended.transpose(1, 2).flatten(2))

    def _feed_forward(self, frames: Tensor) -> Tensor:
        linear, gate = self.feed_forward_input(frames).chunk(2, dim=-1)
        return self.feed_forward_output(self._drop(linear * F.gelu(gate, approximate="tanh")))

    def _drop(self, frames: Tensor) -> Tensor:
        return F.dropout(frames, self._dropout, self.training)


class Classifier(nn.Module):
    """Frames [B, N, D] to logits; each code's weights are a direction and a length of their own.

    Weight norm: Salimans and Kingma 2016 (arXiv 1602.07868).
    """

    def __init__(self, width: int, n_predicted: int, codebook_size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)  # as torch draws a linear layer
        self.direction = nn.Parameter(
            torch.empty(n_predicted, codebook_size, width).uniform_(-bound, bound)
        )
        self.length = nn.Parameter(torch.empty(n_predicted, codebook_size, 1))
        self.bias = nn.Parameter(torch.empty(n_predicted, codebook_size).uniform_(-bound, bound))

    def forward(self, frames: Tensor) -> Tensor:
        """[B, P, N, V]."""
        levels = range(len(self.direction))
        return torch.stack([self.level(frames, level) for level in levels], dim=1)

    def level(self, frames: Tensor, level: int, weight: Tensor | None = None) -> Tensor:
        """[B, N, V] of one predicted codebook: all of them at once are large.

        `weight` is `weight(level)`, for who asks more than once.
        """
        weight = self.weight(level) if weight is None else weight
        return F.linear(frames, weight.to(frames), self.bias[level].to(frames))

    def weight(self, level: int) -> Tensor:
        """[V, D] of one predicted codebook, in the parameters' precision."""
        direction = self.direction[level].float()
        norm = direction.norm(dim=-1, keepdim=True)
        return (self.length[level].float() * direction / norm).to(self.direction)


def position_buckets(distances: Tensor) -> Tensor:
    """T5's buckets 0 to 31 of distances in frames, positive ahead: exact near, coarse far away."""
    buckets = (distances > 0) * (_N_BUCKETS // 2)
    for start in _BUCKET_STARTS:  # a tensor of them would be a copy that a GPU waits for
        buckets = buckets + (distances.abs() >= start)
    return buckets


def codebook_vectors(codec: Codec, levels: tuple[int, ...]) -> Tensor:
    """The codec's vectors of `levels`, [len(levels), V, E], as they are looked up.

    E is that of the widest codebook; the others are filled up with zeros.
    """
    tables = [codec.codebooks[level].embedding.detach().cpu().float() for level in levels]
    width = max(table.shape[-1] for table in tables)
    return torch.stack([F.pad(table, (0, width - table.shape[-1])) for table in tables])
