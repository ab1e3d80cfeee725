"""A DC offset told from bass: the level at which a recording rests."""

import torch
from torch import Tensor

_BLOCK_SAMPLES = 1024
_FEW_BLOCKS, _ENOUGH_BLOCKS = 10, 20


class RestLevel:
    """Finds the offset of each channel of a stream; memory is 43 numbers a second and channel.

    The mean of a drum hit is not an offset: taking it away would make a step of the silence around
    the hit. So the offset is the smaller of two estimates that an offset moves alike, the mean and
    the median of the means of short blocks; it is 0 where their signs differ. In less than half a
    second bass is not told from an offset, so there is none, unless it is above what moves.
    """

    def __init__(self) -> None:
        self._held = torch.zeros(0)
        self._means: list[Tensor] = []

    def add(self, block: Tensor) -> None:
        """Append samples [B, C, T'] in fp64."""
        held = torch.cat([self._held, block], dim=-1) if self._held.numel() else block
        n_whole = held.shape[-1] // _BLOCK_SAMPLES * _BLOCK_SAMPLES
        if n_whole:
            self._means.append(held[..., :n_whole].unflatten(-1, (-1, _BLOCK_SAMPLES)).mean(-1))
        self._held = held[..., n_whole:].clone()

    def offset(self, mean: Tensor, std: Tensor) -> Tensor:
        """[B, C] from mean and deviation [B, C] of all that was added."""
        n_blocks = sum(part.shape[-1] for part in self._means)
        is_long = (n_blocks - _FEW_BLOCKS) / (_ENOUGH_BLOCKS - _FEW_BLOCKS)
        # 1 at twice the deviation, and for a constant.
        is_plain = (mean.abs() / std.clamp_min(1e-30) - 1).clamp(0, 1)
        trust = is_plain.clamp_min(min(1.0, max(0.0, is_long)))
        if not self._means:
            return trust * mean
        median = torch.cat(self._means, dim=-1).median(dim=-1).values
        agreed = torch.where(mean * median > 0, torch.minimum(mean.abs(), median.abs()), 0.0)
        # A constant channel rests at its mean, to the last bit.
        return torch.where(std == 0, mean, trust * agreed * mean.sign())
