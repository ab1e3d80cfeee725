"""Network of a refiner, from partly masked codes to logits of the masked ones.

    codes [B, K, N] -> entries [B, K E, N] -> transformer over frames -> logits [B, P, N, V]

The K codes of a frame are one position of a bidirectional transformer. The first codebooks are
conditioning only, the last P are predicted. Coarse, coarse-to-fine (c2f), and translation from the
codes of another signal are options of this network.

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

# First distance in frames of each bucket of the position bias: one bucket per frame up to 8, then
# two per octave, 8 * 16^(k / 8) rounded up; the last bucket has no end.
_BUCKET_STARTS = (*range(1, 9), 12, 16, 23, 32, 46, 64, 91)
_N_BUCKETS = 2 * (len(_BUCKET_STARTS) + 1)  # for earlier and for later frames
_MAX_ATTENTION_BIASES = 2**26  # 256 MB; VampNet's networks have up to 2**23


@dataclass(frozen=True)
class MaskedTransformerOptions:
    """Options of a `MaskedTransformer`; the defaults are VampNet's coarse-to-fine network.

    Contradictions raise UsageError.
    """

    n_codebooks: Codebooks = 14
    """K, the number of codebooks the network takes, including `n_input`."""
    n_conditioning: Annotated[int, Field(ge=0, le=255)] = 4
    """Number of leading codebooks that are never predicted, including `n_input`."""
    n_input: Annotated[int, Field(ge=0, le=255)] = 0
    """Number of leading codebooks that hold codes of another signal, the estimated stem to be
    refined; the others hold the refined codes themselves."""
    codebook_size: CodebookSize = 1024
    """V of the codec."""
    codebook_dim: Width = 8
    """E of the codec, that of its widest codebook."""
    n_layers: Annotated[int, Field(ge=1, le=256)] = 16
    """Number of transformer layers."""
    n_heads: Annotated[int, Field(ge=1, le=256)] = 20
    """Number of attention heads."""
    width: Width = 1280
    """Width D of the transformer, a multiple of `n_heads`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout probability of attention weights, in feed-forward layers and of their outputs."""
    window_frames: Annotated[int, Field(ge=1, le=2**13)] = 173
    """Length in frames of the windows in training and sampling."""

    def __post_init__(self) -> None:
        if not 0 <= self.n_input <= self.n_conditioning < self.n_codebooks:
            raise UsageError(
                f"n_codebooks {self.n_codebooks}, n_conditioning {self.n_conditioning} and n_input "
                f"{self.n_input} do not fit: use n_input <= n_conditioning < n_codebooks, to leave "
                "one to predict"
            )
        if self.n_heads < 1 or self.width < 1 or self.width % self.n_heads:
            raise UsageError(
                f"{self.n_heads} attention heads do not divide the width {self.width}: choose "
                "another n_heads"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")
        if min(self.codebook_size, self.codebook_dim, self.n_layers, self.window_frames) < 1:
            raise UsageError("a refiner's layers, window_frames and codebooks must be at least 1")
        if self.n_heads * self.window_frames**2 > _MAX_ATTENTION_BIASES:
            raise UsageError(
                f"{self.n_heads} attention heads with window_frames {self.window_frames} need too "
                "much memory: choose fewer heads or a shorter window"
            )

    @property
    def n_predicted(self) -> int:
        """P, the number of predicted codebooks."""
        return self.n_codebooks - self.n_conditioning

    @property
    def n_output(self) -> int:
        """Number of codebooks of the refined codes, kept or predicted."""
        return self.n_codebooks - self.n_input

    @property
    def n_kept(self) -> int:
        """Number of codebooks of the refined codes that are given, not predicted."""
        return self.n_conditioning - self.n_input

    @property
    def codebook_indices(self) -> tuple[int, ...]:
        """Index in the codec of each of the K codebooks."""
        return (*range(self.n_input), *range(self.n_output))


class MaskedTransformer(nn.Module):
    """Codes [B, K, N] with `mask_token` where hidden, to logits [B, P, N, V].

    The codec's codebooks are a buffer of the network, not trained; `codec_id` identifies the codec.
    The constructor fills them with zeros, `for_codec` with those of a codec.
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
        if not self.hidden.is_meta:  # arithmetic on it would load torch's compiler, for seconds
            nn.init.normal_(self.hidden)
            nn.init.normal_(self.position_bias)
            with torch.no_grad():
                self.classifier.length.copy_(self.classifier.direction.norm(dim=-1, keepdim=True))

    @classmethod
    def for_codec(cls, codec: Codec, options: MaskedTransformerOptions) -> "MaskedTransformer":
        """Network with fresh weights for `codec`, whose codebook sizes replace those of `options`.

        The entries of each codebook are scaled to unit power, as those of later codebooks are small
        and would hardly contribute.

        Raises:
            UsageError: the codec has too few codebooks.
        """
        codec.check_n_codebooks(max(options.n_output, options.n_input))
        vectors = codebook_vectors(codec, options.codebook_indices)
        vectors /= vectors.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-12)
        _, codebook_size, codebook_dim = vectors.shape
        options = replace(options, codebook_size=codebook_size, codebook_dim=codebook_dim)
        network = cls(options, codec.codec_id)
        network.codebooks.copy_(vectors)
        return network

    @property
    def mask_token(self) -> int:
        """Code that replaces hidden codes, V."""
        return self.options.codebook_size

    def forward(self, codes: Tensor) -> Tensor:
        """Logits [B, P, N, V] of the last P codebooks, from codes [B, K, N] int64."""
        return self.classifier(self.frames(codes))

    def latents(self, codes: Tensor) -> Tensor:
        """Entries of codes [B, K, N], concatenated over codebooks: [B, K E, N]."""
        tables = torch.cat([self.codebooks, self.hidden[:, None].to(self.codebooks)], dim=1)
        first = torch.arange(len(tables), device=codes.device) * tables.shape[1]
        vectors = F.embedding(codes + first[:, None], tables.flatten(0, 1))  # [B, K, N, E]
        return vectors.transpose(2, 3).flatten(1, 2)

    def frames(self, codes: Tensor, biases: Tensor | None = None) -> Tensor:
        """Output [B, N, D] of the transformer for codes [B, K, N], the classifier's input.

        `biases`: `attention_biases(N)`, to avoid computing them in every call.
        """
        frames = self.embedding(self.latents(codes).mT)
        biases = self.attention_biases(codes.shape[-1]) if biases is None else biases
        for layer in self.layers:
            frames = layer(frames, biases)
        return self.norm(frames)

    def freeze(self) -> "MaskedTransformer":
        """Switch to eval mode and disable gradients; returns self."""
        return self.eval().requires_grad_(False)

    def attention_biases(self, n_frames: int) -> Tensor:
        """Relative position biases [1, H, N, N] of H heads for N frames, shared by all layers."""
        distances = torch.arange(1 - n_frames, n_frames, device=self.position_bias.device)
        biases = self.position_bias[position_buckets(distances)].T  # [H, 2 N - 1]
        index = torch.arange(n_frames, device=distances.device)
        # The distance from query i to key j is j - i.
        return biases[:, index[None, :] - index[:, None] + n_frames - 1][None]


class Layer(nn.Module):
    """Pre-norm self-attention and gated feed-forward layer on frames [B, N, D]."""

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
        """Frames [B, N, D]; `bias` [1, H, N, N] is added to the attention scores."""
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
    """Frames [B, N, D] to logits, linear, with weight norm per code.

    Source: Salimans and Kingma 2016 (arXiv 1602.07868).
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
        """Logits [B, P, N, V] of all predicted codebooks."""
        places = range(len(self.direction))
        return torch.stack([self.logits(frames, place) for place in places], dim=1)

    def logits(self, frames: Tensor, place: int, weight: Tensor | None = None) -> Tensor:
        """Logits [B, N, V] of one predicted codebook, which saves memory.

        `place` is its index among the P predicted ones; `weight`: `weight(place)`, to avoid
        computing it in every call.
        """
        weight = self.weight(place) if weight is None else weight
        return F.linear(frames, weight.to(frames), self.bias[place].to(frames))

    def weight(self, place: int) -> Tensor:
        """Weights [V, D] of one predicted codebook, in the precision of the parameters."""
        direction = self.direction[place].float()
        norm = direction.norm(dim=-1, keepdim=True)
        return (self.length[place].float() * direction / norm).to(self.direction)


def position_buckets(distances: Tensor) -> Tensor:
    """T5's position buckets, 0 to 31, of distances in frames (positive: later frames)."""
    buckets = (distances > 0) * (_N_BUCKETS // 2)
    for start in _BUCKET_STARTS:  # a tensor would need a copy to the GPU, which synchronises
        buckets = buckets + (distances.abs() >= start)
    return buckets


def codebook_vectors(codec: Codec, indices: tuple[int, ...]) -> Tensor:
    """Entries of the codec's codebooks at `indices`, [len(indices), V, E] in fp32 on the CPU.

    E is that of the widest codebook; the others are zero-padded.
    """
    tables = [codec.codebooks[index].embedding.detach().cpu().float() for index in indices]
    width = max(table.shape[-1] for table in tables)
    return torch.stack([F.pad(table, (0, width - table.shape[-1])) for table in tables])
