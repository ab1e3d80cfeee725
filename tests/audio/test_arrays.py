"""Arrays and processes that Python programs have: a result, or an error of ours."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mssgen
from mssgen.errors import MssgenError, UsageError
from mssgen.separators.base import Separator


@pytest.fixture(scope="module")
def separator(tiny_model: Path) -> Separator:
    return mssgen.load_separator(str(tiny_model), precision="fp32")


X = 0.1 * np.random.default_rng(0).standard_normal((2, 9_000)).astype(np.float32)
PLAIN = X.copy()
PLAIN.flags.writeable = False


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("samples", "rate", "as_plain"),
    [
        (X[::-1], 44_100, lambda x: x[::-1]),
        (X[:, ::-1], 44_100, lambda x: x[:, ::-1]),
        (np.asfortranarray(X), 44_100, lambda x: x),
        (PLAIN, 44_100, lambda x: x),
        (np.frombuffer(X.tobytes(), np.float32).reshape(2, -1), 44_100, lambda x: x),
        (X.astype(np.float64), 44_100.0, lambda x: x),
        (X.astype(">f4"), np.float32(44_100), lambda x: x),
        (X.tolist(), np.int64(44_100), lambda x: x),
        (torch.from_numpy(X.copy()).double(), torch.tensor(44_100), lambda x: x),
        (torch.from_numpy(X.copy()).T.contiguous().T, 44_100, lambda x: x),
        (X[0, ::-1], 44_100, lambda x: x[:1, ::-1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays_of_any_form(samples: Any, rate: Any, as_plain: Any, separator: Separator) -> None:
    found = mssgen.separate(samples, rate, separator=separator, stems=["bass"])["bass"]
    plain = np.ascontiguousarray(as_plain(X))
    expected = mssgen.separate(plain, 44_100, separator=separator, stems=["bass"])["bass"]
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float16, torch.bfloat16, torch.float16], ids=str)
def test_half_precision(kind: Any, separator: Separator) -> None:
    samples = torch.from_numpy(X).to(kind) if isinstance(kind, torch.dtype) else X.astype(kind)
    found = mssgen.separate(samples, 44_100, separator=separator, stems=["bass"])["bass"]
    assert tuple(found.shape) == X.shape


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (X, "44100"),
        (X, b"44100"),
        (X, None),
        (X, 44_100.5),
        (X, float("nan")),
        (X, float("inf")),
        (X, 0),
        (X, -44_100),
        (X, 10**400),
        (X, [44_100]),
        ((X * 2**15).astype(np.int16), 44_100),
        (torch.zeros(2, 100, dtype=torch.int16), 44_100),
        (X > 0, 44_100),
        (X + 1j, 44_100),
        (torch.from_numpy(X) + 1j, 44_100),
        (torch.zeros(2, 100).to_sparse(), 44_100),
        ([[0.1, 0.2], [0.3]], 44_100),
        (["a", "b"], 44_100),
        (None, 44_100),
        (b"RIFF", 44_100),
        ({"left": X}, 44_100),
        (0.5, 44_100),
        (np.zeros((0, 0)), 44_100),
        (np.zeros((1, 2, 3)), 44_100),
        (X.T, 44_100),
    ],
    ids=str,
)
def test_what_is_not_sound_is_a_wrong_call(samples: Any, rate: Any, separator: Separator) -> None:
    with pytest.raises(UsageError):
        mssgen.separate(samples, rate, separator=separator, stems=["bass"])


def test_samples_beyond_fp32_are_told(separator: Separator) -> None:
    with pytest.raises(MssgenError, match="holds invalid samples"):
        mssgen.separate(np.full((2, 99), 1e300), 44_100, separator=separator)


def _separate_here(samples: NDArray[np.float32], separator: Separator, results: Any) -> None:
    results.put(mssgen.separate(samples, 44_100, separator=separator, stems=["bass"])["bass"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_is_forked_after_loading_separates(separator: Separator) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        samples = np.tile(X, (1, 8))
        # The parent has used its threads: those of torch, and those that share a batch.
        expected = mssgen.separate(samples, 44_100, separator=separator, stems=["bass"])["bass"]
        torch.ones(2000, 2000) @ torch.ones(2000, 2000)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        process = context.Process(target=_separate_here, args=(samples, separator, results))
        process.start()
        try:
            found = results.get(timeout=60)
        finally:
            process.kill()
            process.join()
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(found, expected, atol=1e-5)
