"""Low-rank training: the matrices of a network stay fixed, and low-rank changes are learned.

    W + B A / rank,  A [rank, n_in] initially random, B [n_out, rank] initially zero

LoRA, Hu et al. 2021 (arXiv 2106.09685), with VampNet's scale (alpha 1).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_PARTS = ".parametrizations."


class LowRankChange(nn.Module):
    """Maps a matrix [n_out, n_in] to the matrix plus its learned change."""

    def __init__(self, n_out: int, n_in: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, n_in))
        self.b = nn.Parameter(torch.zeros(n_out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a / len(self.a)


def add_low_rank(network: nn.Module, rank: int) -> None:
    """Freeze `network`, and add a trainable change to every linear layer in its `layers`."""
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and name.startswith("layers."):
            change = LowRankChange(module.out_features, module.in_features, rank)
            parametrize.register_parametrization(module, "weight", change.to(module.weight))


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict with every change added to its matrix."""
    state = {key: value for key, value in network.state_dict().items() if _PARTS not in key}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weight = module.weight
            assert isinstance(weight, Tensor)
            state[f"{name}.weight"] = weight.detach()
    return state
