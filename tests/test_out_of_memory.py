"""Whoever says in whatever words that memory ran out: one sentence, and no file is blamed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import mssgen
from mssgen.cli.console import run
from mssgen.errors import CheckpointError, OutOfMemoryError
from mssgen.memory import is_out_of_memory
from mssgen.separators.demucs import DemucsSeparator

from support.models import write_tiny_model


def primitive() -> None:
    """As oneDNN says it."""
    raise RuntimeError("could not create a primitive descriptor for a convolution")


def no_memory() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


FAILURES: list[Callable[[], object]] = [
    lambda: torch.empty(2**50),
    lambda: np.empty(2**58),
    lambda: bytearray(2**62),
    primitive,
    no_memory,
]


@pytest.mark.parametrize("fail", FAILURES, ids=["torch", "numpy", "python", "oneDNN", "system"])
def test_all_words_for_it_are_known(
    fail: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)
    assert run(fail, verbose=False) == 1
    err = capsys.readouterr().err
    assert err.startswith("mssgen: memory ran out while loading or computing: close other programs")
    assert err.count("\n") == 1


def test_other_errors_are_not() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(FileNotFoundError(errno.ENOENT, "No such file"))


def test_a_network_that_cannot_run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    separator = mssgen.load_separator(str(tiny_model), precision="fp32")
    assert isinstance(separator, DemucsSeparator)
    monkeypatch.setattr(type(separator.members[0].network), "__call__", lambda *_: primitive())
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 9_000))
    with pytest.raises(OutOfMemoryError, match="too small for one segment"):
        mssgen.separate(samples, 44_100, separator=separator)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_loading_blames_no_file(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    # A file that needs more than the process may have, and is not damaged.
    from safetensors.torch import load_file, save_file

    state = load_file(model / "model.safetensors")
    save_file({**state, "extra": torch.zeros(2**26)}, model / "model.safetensors")
    source = (
        "import resource, sys, mssgen\n"
        "import mssgen.separators.htdemucs.network, mssgen.separators.original, safetensors.torch\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**26, -1))\n"
        f"mssgen.load_separator({str(model)!r})"
    )
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert b"OutOfMemoryError: memory ran out while" in result.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_program_with_too_little_memory(tmp_path: Path, tiny_model: Path) -> None:
    sf.write(tmp_path / "song.wav", np.zeros(9_000), 44_100)
    source = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (400_000_000, -1))\n"
        f"sys.argv[1:] = ['separate', 'song.wav', '-m', {str(tiny_model)!r}]\n"
        "from mssgen.cli import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=False, cwd=tmp_path
    )
    assert result.returncode != 0
    assert result.stderr.startswith(b"mssgen: ") or b"mssgen: ended before" in result.stderr
    assert b"unexpected" not in result.stderr


def test_a_damaged_file_is_still_damaged(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        mssgen.load_separator(str(model))
