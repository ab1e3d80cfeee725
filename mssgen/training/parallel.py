"""Devices and processes, by Lightning Fabric: one, several, or several machines under torchrun.

Modules stay what they are. Gradients are averaged by hand once a step instead of by
DistributedDataParallel, which allows neither the several forward and backward passes of adversarial
training nor calls of other methods than `forward`; EnCodec's authors train that way too.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mssgen.devices import choose_device
from mssgen.errors import UsageError
from mssgen.extras import require

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def open_fabric(device: str, n_devices: int, precision: str) -> "Fabric":
    """Join the processes of this run, or be its only one.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        n_devices: number of processes on this machine; ignored under torchrun, which sets it.
        precision: "32-true" or "bf16-mixed".

    Raises UsageError if the device or the extra `train` is missing.
    """
    lightning = require("lightning_fabric", "train", "training")
    # It logs every process that joins; the hook receives their number.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    chosen = choose_device(device)
    n_nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        n_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        n_nodes = int(os.environ["WORLD_SIZE"]) // n_devices
    n_present = torch.cuda.device_count() if chosen.type == "cuda" else n_devices
    if not 1 <= n_devices <= n_present:
        raise UsageError(f"`n_devices={n_devices}` is out of range; this machine has {n_present}")
    is_one = n_devices * n_nodes == 1
    devices: Any = [chosen.index] if is_one and chosen.index is not None else n_devices
    fabric: Fabric = lightning.Fabric(
        accelerator=chosen.type,
        devices=devices,
        num_nodes=n_nodes,
        strategy="auto" if is_one else "ddp",
        precision=precision,
    )
    fabric.launch()
    return fabric


def seed_step(*numbers: int) -> None:
    """Seed torch, NumPy and Python with `numbers`, such as (seed, step, rank).

    The randomness of a step thus depends on these numbers only: a resumed run needs no saved
    generator state, and validation does not affect training.
    """
    import random

    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what third-party modules draw from)
    torch.manual_seed(seed)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes in place; all must have used the same parameters."""
    if are_several():
        _together([each.grad for each in parameters if each.grad is not None], average)


def share_state(tensors: Iterable[Tensor]) -> None:
    """Copy weights or buffers of the first process to all others, in place."""
    if are_several():
        _together([each.data for each in tensors], broadcast)


def autocast_forward(fabric: "Fabric", module: nn.Module) -> None:
    """Make `module.forward` compute in the run's precision; inputs and outputs stay float32.

    Unlike Fabric's wrapper this does not round the input: audio needs more than bf16's 8 bits.
    """
    forward = module.forward

    def in_precision(*args: Any, **kwargs: Any) -> Any:
        with fabric.autocast():
            return _to_float32(forward(*args, **kwargs))

    module.forward = in_precision


def _together(tensors: Sequence[Tensor], exchange: Callable[[Tensor], Tensor]) -> None:
    """Exchange many small tensors in place, in one message per data type."""
    for dtype in sorted({each.dtype for each in tensors}, key=str):
        alike = [each for each in tensors if each.dtype == dtype]
        # Collectives do not support bool.
        flat = torch.cat([each.flatten() for each in alike])
        is_bool = dtype == torch.bool
        received = exchange(flat.to(torch.uint8) if is_bool else flat)
        parts = received.to(dtype).split([each.numel() for each in alike])
        for each, part in zip(alike, parts, strict=True):
            each.copy_(part.view_as(each))


def _to_float32(value: Any) -> Any:
    """`value` with its half-precision tensors as float32, in tuples, lists, dicts, dataclasses."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_to_float32(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{each.name: _to_float32(getattr(value, each.name)) for each in fields(value)}
        )
    return value


def average(tensor: Tensor) -> Tensor:
    """The mean over all processes, in place; unchanged if there is only one."""
    if are_several():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def broadcast(tensor: Tensor) -> Tensor:
    """The values of the first process, in place."""
    if are_several():
        dist.broadcast(tensor, src=0)
    return tensor


def are_several() -> bool:
    """Whether this run has several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
