"""What the processes of one training run share: a mean, or what the first of them has."""

import torch.distributed as dist
from torch import Tensor


def average(tensor: Tensor) -> Tensor:
    """The mean over all processes, in place; as it is where there is one process only."""
    if are_several():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def broadcast(tensor: Tensor) -> Tensor:
    """The first process' values everywhere, in place."""
    if are_several():
        dist.broadcast(tensor, src=0)
    return tensor


def are_several() -> bool:
    """Whether this run has other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
