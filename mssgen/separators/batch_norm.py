"""Batch norm for networks that only run: without the step counter, which conversions drop."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.Module):
    """Normalises each channel by stored statistics; [B, C, ...] -> the same shape."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the norm."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
