"""Measures the DC offset of a recording without mistaking bass for it."""

import torch
from torch import Tensor

_BLOCK_SAMPLES = 1024
_FEW_BLOCKS, _ENOUGH_BLOCKS = 10, 20


class RestLevel:
    """DC offset of each channel of a stream; keeps one number per 1024 samples and channel.

    The mean alone is not the offset: subtracting the mean of a drum hit would turn the silence
    around it into a step. So the offset is the smaller of two estimates, the mean and the median of
    block means, and 0 if their signs differ. In less than half a second bass cannot be told from an
    offset, so the estimate is 0 there unless it exceeds the standard deviation.
    """

    def __init__(self) -> None:
        self._held = torch.zeros(0)
        self._means: list[Tensor] = []

    def add(self, block: Tensor) -> None:
        """Add the next samples [B, C, T'] in fp64."""
        held = torch.cat([self._held, block], dim=-1) if self._held.numel() else block
        n_whole = held.shape[-1] // _BLOCK_SAMPLES * _BLOCK_SAMPLES
        if n_whole:
            self._means.append(held[..., :n_whole].unflatten(-1, (-1, _BLOCK_SAMPLES)).mean(-1))
        self._held = held[..., n_whole:].clone()

    def offset(self, mean: Tensor, std: Tensor) -> Tensor:
        """DC offset [B, C], given the mean and standard deviation [B, C] of all samples added."""
        n_blocks = sum(part.shape[-1] for part in self._means)
        is_long = (n_blocks - _FEW_BLOCKS) / (_ENOUGH_BLOCKS - _FEW_BLOCKS)
        # 0 up to one standard deviation, 1 from two on and for a constant.
        is_plain = (mean.abs() / std.clamp_min(1e-30) - 1).clamp(0, 1)
        trust = is_plain.clamp_min(min(1.0, max(0.0, is_long)))
        if not self._means:
            return trust * mean
        median = torch.cat(self._means, dim=-1).median(dim=-1).values
        agreed = torch.where(mean * median > 0, torch.minimum(mean.abs(), median.abs()), 0.0)
        # The offset of a constant channel is exactly its mean.
        return torch.where(std == 0, mean, trust * agreed * mean.sign())
