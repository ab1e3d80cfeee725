"""Channels of a recording as stereo pairs for separators and as items for codecs, and back."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.audio.encodings import AudioInfo
from mssgen.audio.speakers import Layout, pairs_of, usual_layout

# Gains of each speaker into left and right of a stereo downmix; the LFE is left out. From ITU-R
# BS.775-3, annex 4, extended to other speakers (front as front, above as below).
_HALF_POWER = 0.5**0.5
_TO_STEREO = {
    "L": (1.0, 0.0),
    "C": (_HALF_POWER, _HALF_POWER),
    "Lc": (1.0, 0.0),
    "Ls": (_HALF_POWER, 0.0),
    "Lb": (_HALF_POWER, 0.0),
    "Cb": (0.5, 0.5),
    "T": (0.5, 0.5),
    "TL": (_HALF_POWER, 0.0),
    "TC": (0.5, 0.5),
    "TLb": (_HALF_POWER, 0.0),
    "TCb": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}


def n_mixed(n_channels: int, *, downmix: bool) -> int:
    """Number of channels of the mixture: at most 2 with `downmix`, else `n_channels`."""
    return min(n_channels, 2) if downmix else n_channels


def downmixed(block: NDArray[np.float32], layout: Layout = ()) -> NDArray[np.float32]:
    """Downmix [C, T] to stereo [2, T] without exceeding full scale; one or two channels stay.

    Known speakers use the gains of ITU-R BS.775-3, scaled so that full scale stays full scale. Six
    channels without a layout are taken as 5.1; otherwise even channels are averaged into the left
    and odd ones into the right.
    """
    n_channels = len(block)
    if n_channels <= 2:
        return block
    if n_channels == 6 and not layout:
        layout = usual_layout(n_channels, "wav")
    gains = np.array([_to_stereo(name) for name in layout], np.float64).T
    if not layout or not gains.any(axis=1).all():
        gains = np.zeros((2, n_channels))
        gains[0, ::2] = 1 / ((n_channels + 1) // 2)
        gains[1, 1::2] = 1 / (n_channels // 2)
    gains = (gains / gains.sum(axis=1).max()).astype(np.float32)
    return np.asarray(gains @ block, np.float32)


def _to_stereo(name: str) -> tuple[float, float]:
    if name in _TO_STEREO:
        return _TO_STEREO[name]
    left, right = _TO_STEREO[name.replace("R", "L")]
    return right, left


def to_pairs(block: NDArray[np.float32], layout: Layout = ()) -> Tensor:
    """Group channels [C, T] into stereo pairs [B, 2, T]; a channel without a partner is doubled.

    Pairs are those of the speakers (`mssgen.audio.speakers.pairs_of`); of unknown channels the
    first and the second, and so on.
    """
    pairs = pairs_of(layout, len(block))
    if pairs == tuple((n, n + 1) for n in range(0, len(block), 2)):
        return torch.from_numpy(block).unflatten(0, (-1, 2))
    return torch.from_numpy(block[[channel for pair in pairs for channel in pair]]).unflatten(
        0, (-1, 2)
    )


def from_pairs(stems: Tensor, n_channels: int, layout: Layout = ()) -> NDArray[np.float32]:
    """Stems [B, S, 2, T] of each pair to [S, C, T]: undo `to_pairs`, averaging doubled channels."""
    result = np.empty((stems.shape[1], n_channels, stems.shape[-1]), np.float32)
    for (left, right), pair in zip(pairs_of(layout, n_channels), stems.numpy(), strict=True):
        if left == right:
            result[:, left] = pair.mean(axis=1)
        else:
            result[:, left], result[:, right] = pair[:, 0], pair[:, 1]
    return result


def keep_mono(stereo: Tensor, is_mono: Tensor) -> Tensor:
    """Average left and right of stereo [B, ..., 2, T] where `is_mono` [B] is true."""
    if not bool(is_mono.any()):
        return stereo
    middle = stereo.mean(dim=-2, keepdim=True)
    chosen = is_mono.to(stereo.device).view(-1, *[1] * (stereo.dim() - 1))
    return torch.where(chosen, middle, stereo)


def to_items(block: NDArray[np.float32], n_channels: int, layout: Layout = ()) -> Tensor:
    """Channels [C, T] as items [B, n_channels, T] for a mono (1) or stereo (2) codec.

    For a mono codec each pair becomes mid (L + R) / 2 and side (L - R) / 2: most of a stem is in
    the mid signal, and coding errors in separate left and right channels would make it wander in
    the stereo image. A channel without a partner stays as it is.
    """
    if n_channels == 2:
        return to_pairs(block, layout)
    items = torch.from_numpy(block).clone()
    for left, right in _real_pairs(layout, len(block)):
        middle, side = (items[left] + items[right]) / 2, (items[left] - items[right]) / 2
        items[left], items[right] = middle, side
    return items[:, None]


def from_items(items: Tensor, n_channels: int, layout: Layout = ()) -> NDArray[np.float32]:
    """Codec items [B, 1 or 2, T] back to channels [n_channels, T]: undo `to_items`."""
    if items.shape[1] == 2:
        return from_pairs(items[:, None], n_channels, layout)[0]
    channels = items[:, 0].clone()
    for left, right in _real_pairs(layout, n_channels):
        middle, side = items[left, 0], items[right, 0]
        channels[left], channels[right] = middle + side, middle - side
    return np.ascontiguousarray(channels.numpy())


def _real_pairs(layout: Layout, n_channels: int) -> list[tuple[int, int]]:
    return [(left, right) for left, right in pairs_of(layout, n_channels) if left != right]


def mixture_blocks(
    blocks: Iterator[NDArray[np.float32]], info: AudioInfo, *, downmix: bool
) -> Iterator[NDArray[np.float32]]:
    """Blocks [C, T'] of the input, downmixed to [2, T'] if `downmix`."""
    return (downmixed(block, info.layout) for block in blocks) if downmix else blocks


def mixed_layout(info: AudioInfo, *, downmix: bool) -> Layout:
    """Speaker layout of the mixture and its stems after `downmix`; () if unknown."""
    return ("L", "R") if downmix and info.n_channels > 2 else info.layout
