"""Naming layout of VampNet's checkpoints, and options inferred from shapes, for state dicts.

The files hold a full network and, for most of its matrices, the two factors of a low-rank update
(LoRA, Hu et al. 2021, arXiv 2106.09685), which the original adds to the matrix on entering eval
mode. It also saves in eval mode, so that in fine-tuned files the matrices already contain the
update and the original applies it twice; mssgen does the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mssgen.errors import shown
from mssgen.refiners.masked_transformer import MaskedTransformerOptions

State = Mapping[str, Tensor]

LICENCE = (
    "VampNet's models and all that is fine-tuned from them are CC BY-NC-SA 4.0: no commercial use"
)
_ALPHA = 1  # LoRA's alpha; with the rank 8 of all published files, updates are scaled by 1/8
# Frames in the 10 s and 3 s on which the coarse and the coarse-to-fine models were trained.
_WINDOWS = {"coarse": 575, "c2f": 173}
_COMPILED = "_orig_mod."  # prefix of all names if the model was compiled when saved
_FACTORS = (".lora_A", ".lora_B")
_OUTER = {
    "hidden": "embedding.special.MASK",
    "embedding.weight": "embedding.out_proj.weight",
    "embedding.bias": "embedding.out_proj.bias",
    "position_bias": "transformer.layers.0.self_attn.relative_attention_bias.weight",
    "norm.weight": "transformer.norm.weight",
    "classifier.direction": "classifier.layers.0.weight_v",
    "classifier.length": "classifier.layers.0.weight_g",
    "classifier.bias": "classifier.layers.0.bias",
}
_OF_A_LAYER = {
    "norm_attention.weight": "norm_1.weight",
    "attention_output.weight": "self_attn.fc.weight",
    "norm_feed_forward.weight": "norm_3.weight",
    "feed_forward_input.weight": "feed_forward.w_1.weight",
    "feed_forward_output.weight": "feed_forward.w_2.weight",
}
_ATTENTION = tuple(f"self_attn.{name}.weight" for name in ("w_qs", "w_ks", "w_vs"))


def is_vampnet(state: State) -> bool:
    """Whether the tensors are those of a VampNet network, not of its codec or anything else."""
    return any(key.removeprefix(_COMPILED) == _OUTER["hidden"] for key in state)


def merged(
    state: State, changes: State | None = None, *, with_lora: bool = True
) -> dict[str, Tensor]:
    """Tensors of a checkpoint with low-rank updates applied to each matrix W: W + B A / rank.

    Args:
        state: tensors of the checkpoint.
        changes: factors A and B from a separate file (`lora.pth`), which replace those in `state`.
        with_lora: False drops all updates.

    Raises:
        ValueError: a factor has no counterpart or matrix, or shapes do not match.
    """
    plain = {key.removeprefix(_COMPILED): value for key, value in state.items()}
    factors = {key: plain.pop(key) for key in list(plain) if key.endswith(_FACTORS)}
    factors |= {key.removeprefix(_COMPILED): value for key, value in (changes or {}).items()}
    for name in sorted({key.rpartition(".")[0] for key in factors}):
        try:
            a, b = (factors[name + ending].float() for ending in _FACTORS)
            weight = plain[f"{name}.weight"]
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None
        if (*b.shape, *a.shape) != (len(weight), len(a), len(a), weight.shape[-1]):
            raise ValueError(f"the low-rank update of '{name}' does not have its shape")
        if with_lora:
            plain[f"{name}.weight"] = weight.float() + b @ a * (_ALPHA / len(a))
    return plain


def infer_options(
    state: State, codebook_size: int, said: Mapping[str, Any]
) -> MaskedTransformerOptions:
    """Options that the shapes of a merged state determine.

    Args:
        state: from `merged`.
        codebook_size: V.
        said: the original's constructor arguments, as far as the file holds them.

    Raises:
        ValueError: the tensors are not those of a VampNet network, or contradict `said`.
        UsageError: the options contradict one another.
    """
    try:
        n_codebooks, codebook_dim = state[_OUTER["hidden"]].shape
        _, n_heads = state[_OUTER["position_bias"]].shape
        (width,) = state[_OUTER["norm.weight"]].shape
        (n_logits,) = state[_OUTER["classifier.bias"]].shape
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    if n_logits % codebook_size:
        raise ValueError(f"its {n_logits} logits do not fit codebooks of {codebook_size} codes")
    n_conditioning = n_codebooks - n_logits // codebook_size
    prefix = "transformer.layers."
    options = MaskedTransformerOptions(
        n_codebooks=n_codebooks,
        n_conditioning=n_conditioning,
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        n_layers=len({key.split(".")[2] for key in state if key.startswith(prefix)}),
        n_heads=n_heads,
        width=width,
        dropout=said.get("dropout", 0.1),
        window_frames=_WINDOWS["c2f" if n_conditioning else "coarse"],
    )
    found = {
        "n_codebooks": n_codebooks,
        "n_conditioning_codebooks": n_conditioning,
        "latent_dim": codebook_dim,
        "vocab_size": codebook_size,
        "n_layers": options.n_layers,
        "n_heads": n_heads,
        "embedding_dim": width,
        "r_cond_dim": 0,
    }
    for key, value in found.items():
        if said.get(key, value) != value:
            raise ValueError(f"it says {key} {shown(said[key])} but its tensors have {value}")
    return options


def to_native(state: State, options: MaskedTransformerOptions) -> dict[str, Tensor]:
    """State of a `MaskedTransformer` from a merged state, without the codec's codebooks.

    Raises:
        ValueError: a tensor is missing, unexpected or of a wrong shape.
    """
    left = dict(state)
    try:
        native = {name: left.pop(key) for name, key in _names(options.n_layers)}
        for index in range(options.n_layers):
            parts = [left.pop(f"transformer.layers.{index}.{name}") for name in _ATTENTION]
            native[f"layers.{index}.query_key_value.weight"] = torch.cat(parts)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    if left:
        raise ValueError(f"'{next(iter(left))}' belongs to no layer")
    native["embedding.weight"] = native["embedding.weight"].flatten(1)  # a convolution of one frame
    for key in ("direction", "length", "bias"):
        # The original's channels have the codebook as the fast index: v P + p for code v of p.
        channels = native[f"classifier.{key}"]
        channels = channels.reshape(len(channels), -1)
        by_code = channels.unflatten(0, (-1, options.n_predicted))
        native[f"classifier.{key}"] = by_code.transpose(0, 1).contiguous()
    native["classifier.bias"] = native["classifier.bias"].squeeze(-1)
    return native


def _names(n_layers: int) -> Iterator[tuple[str, str]]:
    """(our name, the original's) of all tensors that are renamed only."""
    yield from _OUTER.items()
    for index in range(n_layers):
        for ours, theirs in _OF_A_LAYER.items():
            yield f"layers.{index}.{ours}", f"transformer.layers.{index}.{theirs}"
