"""The signals of one stem on their way through an enhancer, side by side and in step."""

from typing import NamedTuple

from torch import Tensor


class Lanes(NamedTuple):
    """A block of each signal, [B, 2, T'] fp32 with the same T'; None where there is none.

    B counts the pairs of channels of a recording, or stems of a batch.
    """

    stem: Tensor
    """The separated stem."""
    mixture: Tensor | None = None
    """The mixture that the stem was separated from."""
    enhanced: Tensor | None = None
    """The output of the codec's decoder."""
    attenuation: Tensor | None = None
    """Added to the stem, it lowers each band to the band energy that the encoder predicts."""


def present(signal: Tensor | None) -> Tensor:
    """A lane that must be there at this stage."""
    assert signal is not None
    return signal
