"""What the tests share: tiny models of the real architecture, and short real music."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.hubserver import HubServer
from support.models import EXCERPT, write_tiny_model


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
