"""int8 weights with one fp16 scale per output channel.

Stored form: a tensor `X` in int8 has `X.scale` in fp16 beside it, with the same number of axes and
length 1 on all but the output-channel axis, so that `weight = X.float() * X.scale.float()`. That
axis is 0, and 1 for transposed convolutions. Tensors that are small, or have one axis, stay fp16.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mssgen.errors import CheckpointError

SCALE = ".scale"
# Smaller tensors stay fp16, among them HTDemucs' U-Nets, which determine its precision: int8 moved
# the SDR of a stem by up to 0.064 dB with a limit of 2**16, and by 0.043 dB with this one.
MIN_VALUES = 600_000
_MAX_INT8 = 127
_SMALLEST_SCALE = 2.0**-24  # the smallest fp16 above zero


def channel_axis(key: str) -> int:
    """Index of the output-channel axis of the weight named `key`."""
    return 1 if key.endswith("conv_tr.weight") else 0


def quantize_state(state: Mapping[str, Tensor], min_values: int = MIN_VALUES) -> dict[str, Tensor]:
    """The stored form of a floating-point state dict.

    Tensors with fewer than `min_values` values are stored as fp16. Raises CheckpointError for NaN
    or infinity.
    """
    stored: dict[str, Tensor] = {}
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"tensor '{key}' contains NaN or infinity: get the weights again")
        if value.ndim < 2 or value.numel() < min_values:
            stored[key] = value.half().contiguous()
        else:
            stored[key], stored[key + SCALE] = _quantize(value.float(), channel_axis(key))
    return stored


def dequantize_state(stored: Mapping[str, Tensor], path: Path | None = None) -> dict[str, Tensor]:
    """The inverse of `quantize_state`: int8 tensors become float32, others are unchanged.

    `path` is named in error messages.
    """
    scales = {key + SCALE for key, value in stored.items() if value.dtype == torch.int8}
    state: dict[str, Tensor] = {}
    for key, value in stored.items():
        if key in scales:
            continue
        if value.dtype == torch.int8:
            scale = stored.get(key + SCALE)
            if (
                scale is None
                or not scale.is_floating_point()
                or scale.ndim != value.ndim
                or any(n not in (1, m) for n, m in zip(scale.shape, value.shape, strict=True))
            ):
                raise CheckpointError(
                    f"{path or 'the checkpoint'} has no matching scale for the int8 tensor "
                    f"'{key}': get the file again"
                )
            value = value.float().mul_(scale.float())
        state[key] = value
    return state


def _quantize(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(int8 weight, fp16 scale) of a float32 weight; a channel's largest magnitude becomes 127.

    Clipping the largest values for finer steps gained only 0.015 dB on HTDemucs.
    """
    others = [a for a in range(weight.ndim) if a != axis]
    scale = weight.abs().amax(others, keepdim=True) / _MAX_INT8
    # Quantise with the scale as stored, which is rounded to fp16.
    scale = scale.clamp(min=_SMALLEST_SCALE).half()
    steps = (weight / scale.float()).round_().clamp_(-_MAX_INT8, _MAX_INT8)
    return steps.to(torch.int8).contiguous(), scale.contiguous()
