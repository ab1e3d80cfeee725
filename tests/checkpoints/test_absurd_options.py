"""A config.json that asks for the absurd is refused in a sentence, or does no harm."""

import os
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="no limits of memory and time here")
if not os.path.exists("/proc/self/statm"):
    pytest.skip("the memory in use cannot be read here", allow_module_level=True)

from support import absurd

MODELS = {model.name: model for model in absurd.models()}
HARMLESS = ("loaded", "refused")


@pytest.mark.parametrize("name", MODELS)
def test_absurd_options_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    step = 113 if len(MODELS[name].options) > 12 else 37
    outcomes = dict(absurd.sweep(MODELS[name], tmp_path, n_mixed=20, step=step))
    assert len(outcomes) > 5
    assert {what: o for what, o in outcomes.items() if o.kind not in HARMLESS} == {}
    assert any(outcome.kind == "refused" for outcome in outcomes.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MODELS)
def test_all_absurd_options_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    outcomes = dict(absurd.sweep(MODELS[name], tmp_path, n_mixed=300))
    assert {what: o for what, o in outcomes.items() if o.kind not in HARMLESS} == {}
    assert any(outcome.kind == "loaded" for outcome in outcomes.values())


def test_the_limits_tell_harm_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def hang(folder: Path) -> None:
        while True:
            pass

    def fill(folder: Path) -> None:
        torch.ones(2**30).sum()

    def fail(folder: Path) -> None:
        raise ValueError("no sentence of ours")

    monkeypatch.setattr(absurd, "CPU_S", 1)
    assert absurd.attempt(hang, tmp_path).kind == "hang"
    assert absurd.attempt(fill, tmp_path).kind == "memory"
    assert absurd.attempt(fail, tmp_path).kind == "unexpected"
    assert absurd.attempt(lambda folder: None, tmp_path).kind == "loaded"
