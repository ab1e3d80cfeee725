"""Chance as a function of what it is for: the same whatever else is computed beside, or before.

A generator with a state gives numbers by turns, so that they depend on the batch and on how a song
is cut. Here each number is a hash of the seed, the item, the frame's place in the song and what is
drawn there. The hash is the output function of SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators").
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_BITS = 23  # of a number; with fp32's 24 there is room for less than 1 times anything


class FrameNoise:
    """Uniform numbers for windows of songs.

    Args:
        seed: of all.
        keys: of the item that each of M windows is from; items of one key have the same noise.
        starts: the place in its song of each window's first frame.
        n_frames: N, of all windows.
        device: where the numbers are wanted; nothing is copied there after this.
    """

    def __init__(
        self,
        seed: int,
        keys: Sequence[int],
        starts: Sequence[int],
        n_frames: int,
        device: torch.device | str = "cpu",
    ) -> None:
        items = torch.tensor([_signed(_mixed(seed) + key) for key in keys], dtype=torch.int64)
        places = torch.tensor(list(starts))[:, None] + torch.arange(n_frames)
        self._places = _mix(_mix(items)[:, None] + places * _signed(_GOLDEN)).to(device)

    def uniform(self, stream: int) -> Tensor:
        """[M, N] fp32, 0 <= u < 1; another `stream` gives others."""
        bits = _mix(self._places + _signed((stream + 1) * _GOLDEN))
        return _shifted(bits, 64 - _BITS).float() * 2.0**-_BITS

    def gumbel(self, stream: int) -> Tensor:
        """[M, N] fp32 of the standard Gumbel distribution."""
        half = 2.0 ** -(_BITS + 1)
        return -torch.log(-torch.log(self.uniform(stream) + half))


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's output function of int64 seen as 64 bits; products wrap around."""
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, n_bits: int) -> Tensor:
    """To the right, with zeros from the left: torch's own shift repeats the sign."""
    return (values >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _mixed(number: int) -> int:
    return int(_mix(torch.tensor(_signed(number))))


def _signed(number: int) -> int:
    """The int64 of the same last 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
