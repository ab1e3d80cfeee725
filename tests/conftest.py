"""What the tests share: tiny models of the real architecture, and short real music."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hubserver import HubServer
from numpy.typing import NDArray
from safetensors.torch import save_file

SHARED = Path(os.environ.get("MSSGEN_SHARED", Path(__file__).parents[2] / "shared"))
EXCERPT = Path(__file__).parent / "data" / "excerpt.flac"
TINY_OPTIONS = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "t_layers": 2,
    "t_heads": 2,
    "bottom_channels": 16,
    "dconv_mode": 3,
    "samplerate": 44100,
}


def write_tiny_model(folder: Path, *, segment: Fraction = Fraction(1, 2), seed: int = 0) -> Path:
    """A random HTDemucs of a few thousand weights in our checkpoint form; returns its folder."""
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(seed)
    network = HTDemucs(segment=segment, **TINY_OPTIONS)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    fraction = {"fraction": [segment.numerator, segment.denominator]}
    config = {
        "format_version": 1,
        "architecture": "htdemucs",
        "options": {**TINY_OPTIONS, "segment": fraction},
        "sample_rate": TINY_OPTIONS["samplerate"],
        "stems": TINY_OPTIONS["sources"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads cost such small networks more than they give."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _signals() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would the programs that tests start."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            ours = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            before[number] = signal.signal(number, ours)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder to pass as --model: the whole program runs on it in seconds."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def music() -> NDArray[np.float32]:
    """Three seconds of real music, [2, T] at 44.1 kHz."""
    import soundfile as sf

    samples, _ = sf.read(EXCERPT, frames=3 * 44100, dtype="float32")
    return np.ascontiguousarray(samples.T)


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The only hub that is in reach, an empty cache, and a token that it accepts."""
    import huggingface_hub

    from mssgen.checkpoints import hub

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.close_session()
    with HubServer({}) as running:
        template = hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            template.replace(hub.constants.ENDPOINT, running.url),
        )
        monkeypatch.setattr(hub.constants, "ENDPOINT", running.url)
        running.token = "hf_mine"
        yield running


def has_ffmpeg() -> bool:
    """Whether .stem.mp4 can be read, and stempeg and museval be imported."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def needs_ffmpeg() -> None:
    """Skip the test without it."""
    if not has_ffmpeg():
        pytest.skip("needs ffmpeg, which is not installed")


def shared(*parts: str) -> Path:
    """A file of the reference material; skips the test where that is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the reference material, which is not here")
    return path
