"""Random weights in the form of VampNet's released checkpoints."""

import math
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]


SIZES = {"n": 3, "p": 2, "v": 6, "e": 2, "d": 8, "h": 2, "layers": 2}


def vampnet_state(seed: int = 0) -> State:
    """A network of VampNet's in its own names, and the factors of its low-rank changes."""
    torch.manual_seed(seed)
    n, p, v, e, d, h = (SIZES[key] for key in "npvedh")
    state = {
        "embedding.special.MASK": torch.randn(n, e),
        "embedding.out_proj.weight": torch.randn(d, n * e, 1),
        "embedding.out_proj.bias": torch.randn(d),
        "transformer.layers.0.self_attn.relative_attention_bias.weight": torch.randn(32, h),
        "transformer.norm.weight": torch.randn(d),
        "classifier.layers.0.bias": torch.randn(v * p),
        "classifier.layers.0.weight_g": torch.rand(v * p, 1, 1) + 0.5,
        "classifier.layers.0.weight_v": torch.randn(v * p, d, 1),
    }
    shapes = {f"self_attn.{name}": (d, d) for name in ("w_qs", "w_ks", "w_vs", "fc")}
    shapes |= {"feed_forward.w_1": (4 * d, d), "feed_forward.w_2": (d, 2 * d)}
    for index in range(SIZES["layers"]):
        layer = f"transformer.layers.{index}."
        state |= {f"{layer}{name}.weight": torch.rand(d) + 0.5 for name in ("norm_1", "norm_3")}
        for name, (n_out, n_in) in shapes.items():
            state[f"{layer}{name}.weight"] = torch.randn(n_out, n_in) / math.sqrt(n_in)
            if name != "self_attn.w_ks":
                state[f"{layer}{name}.lora_A"] = torch.randn(8, n_in)
                state[f"{layer}{name}.lora_B"] = torch.randn(n_out, 8)
    return state


def write_vampnet(path: Path, state: State, **said: object) -> Path:
    torch.save({"state_dict": state, "metadata": {"kwargs": {"n_codebooks": 3, **said}}}, path)
    return path
