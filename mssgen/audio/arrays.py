"""Validation and conversion of sample arrays and sample rates that callers pass in."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from mssgen.audio.reading import MAX_RATE, MIN_RATE
from mssgen.errors import UsageError


def as_rate(rate: object) -> int:
    """Convert a number of any type to a sample rate in Hz; UsageError if it is not a valid rate."""
    if rate is None:
        raise UsageError("samples need their rate: pass `sample_rate` in Hz")
    try:
        # Strings are refused: "44100" is more likely a mistake than a rate.
        number = math.nan if isinstance(rate, str | bytes) else float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not number.is_integer():  # nor are NaN and infinity
        raise UsageError(f"sample_rate {rate!r:.80} must be a whole number of Hz, such as 44100")
    if number < MIN_RATE or number > MAX_RATE:
        raise UsageError(f"sample_rate {rate} is out of range; use {MIN_RATE} to {MAX_RATE} Hz")
    return int(number)


def as_samples(samples: object) -> NDArray[np.float32]:
    """Convert floats [C, T] or [T] to fp32 [C, T], contiguous and writable.

    Takes arrays of any strides and byte order, read-only arrays, tensors on any device, and lists.
    Raises UsageError for integers and other types, whose full scale is not known.
    """
    try:
        if isinstance(samples, torch.Tensor):
            tensor = samples.detach().cpu().resolve_conj().resolve_neg()
            samples = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"samples must be an array [C, T] of floats: {error}") from error
    if array.dtype.kind != "f":
        cure = " (divide 16-bit integers by 32768)" if array.dtype.kind in "iu" else ""
        raise UsageError(
            f"samples must be floats with full scale at 1, not {array.dtype}{cure}: convert them"
        )
    if array.ndim not in (1, 2) or not array.size:
        raise UsageError(f"samples must be [C, T] and not empty, not {list(array.shape)}")
    with np.errstate(over="ignore"):  # infinite samples are reported later, with their position
        return np.require(np.atleast_2d(array), np.float32, ["C", "W"])
