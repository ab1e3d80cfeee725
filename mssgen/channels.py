"""Between the channels of a recording and the stereo that separators work on."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# 5.1 in the order of wav files: L R C LFE Ls Rs. ITU-R BS.775-3, annex 4; LFE is left out there.
_HALF_POWER = 0.5**0.5
_ITU_51 = ((1, 0, _HALF_POWER, 0, _HALF_POWER, 0), (0, 1, _HALF_POWER, 0, 0, _HALF_POWER))


def n_mixed(n_channels: int, *, downmix: bool) -> int:
    """How many channels are left after `downmixed`."""
    return min(n_channels, 2) if downmix else n_channels


def downmixed(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix [C, T] with more than two channels to stereo [2, T], without overshoot.

    Six channels are taken for 5.1 (ITU-R BS.775-3, scaled so that full scale stays full scale); of
    others the even ones go left and the odd ones right, averaged.
    """
    n_channels = len(block)
    if n_channels <= 2:
        return block
    if n_channels == 6:
        gains = np.array(_ITU_51, np.float32)
    else:
        gains = np.zeros((2, n_channels), np.float32)
        gains[0, ::2] = gains[1, 1::2] = 1
    return np.asarray(gains / gains.sum(axis=1, keepdims=True) @ block, np.float32)


def to_pairs(block: NDArray[np.float32]) -> Tensor:
    """[C, T] -> [B, 2, T]: channels in pairs; a channel without partner is doubled."""
    if len(block) % 2:
        block = np.concatenate([block, block[-1:]])
    return torch.from_numpy(block).unflatten(0, (-1, 2))


def from_pairs(stems: Tensor, n_channels: int) -> NDArray[np.float32]:
    """[B, S, 2, T] -> [S, C, T], the inverse of `to_pairs`; a doubled channel is averaged."""
    if n_channels % 2:
        stems = stems.clone()
        stems[-1, :, 0] = stems[-1].mean(dim=1)
    flat = stems.transpose(0, 1).flatten(1, 2)
    return np.ascontiguousarray(flat[:, :n_channels].numpy())


def keep_mono(stereo: Tensor, is_mono: Tensor) -> Tensor:
    """Stereo [B, ..., 2, T] with equal channels in the items [B] that are mono."""
    if not bool(is_mono.any()):
        return stereo
    middle = stereo.mean(dim=-2, keepdim=True)
    chosen = is_mono.to(stereo.device).view(-1, *[1] * (stereo.dim() - 1))
    return torch.where(chosen, middle, stereo)


def to_items(block: NDArray[np.float32], n_channels: int) -> Tensor:
    """Channels [C, T] as items [B, n_channels, T] for a codec of one channel or two.

    A mono codec gets each pair as middle (L + R) / 2 and side (L - R) / 2: most of a stem is in the
    middle, which then has one set of codes and stays where it is, while errors of a left and a
    right of their own would let it wander. A last channel without partner stays as it is.
    """
    if n_channels == 2:
        return to_pairs(block)
    items = torch.from_numpy(block).clone()
    n_paired = len(items) // 2 * 2
    left, right = items[0:n_paired:2].clone(), items[1:n_paired:2].clone()
    items[0:n_paired:2], items[1:n_paired:2] = (left + right) / 2, (left - right) / 2
    return items[:, None]


def from_items(items: Tensor, n_channels: int) -> NDArray[np.float32]:
    """[B, 1 or 2, T] -> [n_channels, T], the inverse of `to_items`."""
    if items.shape[1] == 2:
        return from_pairs(items[:, None], n_channels)[0]
    channels = items[:, 0].clone()
    n_paired = len(channels) // 2 * 2
    middle, side = items[0:n_paired:2, 0], items[1:n_paired:2, 0]
    channels[0:n_paired:2], channels[1:n_paired:2] = middle + side, middle - side
    return np.ascontiguousarray(channels.numpy())
