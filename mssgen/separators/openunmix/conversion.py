"""Released Open-Unmix weights, a state dict per stem, under the names of `network.OpenUnmix`."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mssgen.errors import CheckpointError

_SEGMENT_WINDOWS = 256  # 24 s at the published sizes, to give the recurrent layers context
_NEEDED = re.compile(r"(input|output)_(mean|scale)|(fc|bn)[123]\..*|lstm\..*")
_UNUSED = "num_batches_tracked"  # a counter for training; so are tables that can be computed


def from_stems(
    states: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(options, state dict) from one state dict per stem, by stem."""
    order = ("vocals", "drums", "bass", "other")
    stems = sorted(states, key=lambda stem: order.index(stem) if stem in order else len(order))
    state = {
        f"stems.{index}.{key}": value
        for index, stem in enumerate(stems)
        for key, value in states[stem].items()
        if isinstance(key, str) and _NEEDED.fullmatch(key) and not key.endswith(_UNUSED)
    }
    for index, stem in enumerate(stems):
        if f"stems.{index}.output_mean" not in state:
            raise CheckpointError(f"lacks the tensor 'output_mean' of the stem {stem}")
    n_fft = 2 * (state["stems.0.output_mean"].numel() - 1)
    options = {"sources": stems, "n_fft": n_fft, "segment_samples": _SEGMENT_WINDOWS * n_fft}
    return options, state
