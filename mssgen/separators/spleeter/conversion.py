"""Released Spleeter weights under the names of `network.Spleeter`.

Deezer's TensorFlow checkpoints number the layers of all stems in one row, in the order in which
they were made; torch and ONNX conversions have a file per stem with k2-fsa's names. The activations
are in no checkpoint: they follow from the number of stems (Deezer's configuration files).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mssgen.errors import CheckpointError
from mssgen.separators.spleeter.network import N_LEVELS

RELEASED: tuple[dict[str, Any], ...] = (
    {"sources": ["vocals", "accompaniment"], "activation": "relu"},
    {"sources": ["vocals", "drums", "bass", "other"], "activation": "elu"},
    {
        "sources": ["vocals", "piano", "drums", "bass", "other"],
        "activation": "elu",
        "softmax": True,
    },
)
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_CONV = {"kernel": "weight", "bias": "bias"}


def from_tensorflow(variables: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(options, state dict) from a TensorFlow checkpoint's variables.

    Raises CheckpointError if a variable is missing or left over.
    """
    n_convs = sum(name.endswith("/kernel") and "transpose" not in name for name in variables)
    options = next(
        (row for row in RELEASED if len(row["sources"]) * (N_LEVELS + 1) == n_convs), None
    )
    if options is None:
        raise CheckpointError(
            f"holds {n_convs} convolutions, but Spleeter has {N_LEVELS + 1} per stem and "
            f"{', '.join(str(len(row['sources'])) for row in RELEASED)} stems"
        )
    waiting = dict(variables)
    state: dict[str, Tensor] = {}
    for index in range(len(options["sources"])):
        for theirs, ours, parts in _layers(index):
            for part, name in parts.items():
                value = waiting.pop(f"{theirs}/{part}", None)
                if value is None:
                    raise CheckpointError(f"lacks the variable '{theirs}/{part}' of Spleeter")
                if value.dim() == 4:  # [height, width, a, b] -> [b, a, height, width]
                    value = value.permute(3, 2, 0, 1).contiguous()
                if ours is not None:
                    state[f"stems.{index}.{ours}.{name}"] = value
    if waiting:
        raise CheckpointError(f"has the variable '{min(waiting)}', which Spleeter has not")
    return _with_widths(options, state), state


def _with_widths(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    widths = [len(state[f"stems.0.down.{level}.bias"]) for level in range(N_LEVELS)]
    return {**options, "widths": widths}


def _layers(stem: int) -> Iterator[tuple[str, str | None, dict[str, str]]]:
    """Yield (TensorFlow's layer, ours or None if it is not used, names of its variables)."""

    def numbered(kind: str, number: int) -> str:
        return f"{kind}_{number}" if number else kind

    for level in range(N_LEVELS):
        conv = numbered("conv2d", stem * (N_LEVELS + 1) + level)
        norm = numbered("batch_normalization", stem * 2 * N_LEVELS + level)
        yield conv, f"down.{level}", _CONV
        # The innermost level's norm is in the checkpoint, but its result is not used.
        yield norm, f"down_norm.{level}" if level < N_LEVELS - 1 else None, _NORM
        up = numbered("conv2d_transpose", stem * N_LEVELS + level)
        norm = numbered("batch_normalization", stem * 2 * N_LEVELS + N_LEVELS + level)
        yield up, f"up.{level}", _CONV
        yield norm, f"up_norm.{level}", _NORM
    yield numbered("conv2d", stem * (N_LEVELS + 1) + N_LEVELS), "head", _CONV


def from_stems(
    states: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(options, state dict) from one state dict per stem with k2-fsa's names, by stem.

    Raises CheckpointError if the stems are not those of a released model or a tensor is missing.
    """
    options = next((row for row in RELEASED if set(row["sources"]) == set(states)), None)
    if options is None:
        known = "; ".join(", ".join(row["sources"]) for row in RELEASED)
        raise CheckpointError(
            f"holds the stems {', '.join(states)}, but Spleeter's models have {known}"
        )
    names = dict(_names_per_stem())
    state = {}
    for index, stem in enumerate(options["sources"]):
        for theirs, ours in names.items():
            if theirs not in states[stem]:
                raise CheckpointError(f"lacks the tensor '{theirs}' of the stem {stem}")
            state[f"stems.{index}.{ours}"] = states[stem][theirs]
    return _with_widths(options, state), state


def _names_per_stem() -> Iterator[tuple[str, str]]:
    """Yield (k2-fsa's name, ours) of each tensor of one stem."""
    for level in range(N_LEVELS):
        number = level or ""
        layers = [
            (f"conv{number}", f"down.{level}", _CONV),
            (f"up{level + 1}", f"up.{level}", _CONV),
        ]
        layers.append((f"bn{level + N_LEVELS - 1}", f"up_norm.{level}", _NORM))
        if level < N_LEVELS - 1:
            layers.append((f"bn{number}", f"down_norm.{level}", _NORM))
        for theirs, ours, parts in layers:
            yield from ((f"{theirs}.{name}", f"{ours}.{name}") for name in parts.values())
    yield from ((f"up7.{name}", f"head.{name}") for name in _CONV.values())
