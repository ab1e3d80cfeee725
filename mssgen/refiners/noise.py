"""Counter-based random numbers, which do not depend on batches or on how a signal is cut.

Each number is a hash of the seed, the item, the frame's index in the whole signal and the stream
(the purpose of the number), not the next state of a generator. The hash is the output function of
SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_BITS = 23  # one less than fp32 has, so that u < 1 and u * x < x also after rounding


class FrameNoise:
    """Random numbers for M windows of N frames.

    Args:
        seed: seed of all numbers.
        keys: for each window, the key of its item; items with the same key have the same noise.
        starts: for each window, the index of its first frame in the whole signal.
        n_frames: N.
        device: device of the numbers; the constructor copies data to it, the methods do not.
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
        """Uniform numbers [M, N] in fp32, 0 <= u < 1, independent for each `stream`."""
        bits = _mix(self._places + _signed((stream + 1) * _GOLDEN))
        return _shifted(bits, 64 - _BITS).float() * 2.0**-_BITS

    def gumbel(self, stream: int) -> Tensor:
        """Numbers [M, N] in fp32 from the standard Gumbel distribution."""
        half = 2.0 ** -(_BITS + 1)
        return -torch.log(-torch.log(self.uniform(stream) + half))


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's output function of int64 values taken as 64 bits; products wrap around."""
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, n_bits: int) -> Tensor:
    """Logical shift to the right; torch's own is arithmetic and repeats the sign bit."""
    return (values >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _mixed(number: int) -> int:
    """`_mix` of one number."""
    return int(_mix(torch.tensor(_signed(number))))


def _signed(number: int) -> int:
    """The int64 with the same lowest 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
