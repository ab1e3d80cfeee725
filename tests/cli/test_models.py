"""`mssgen models`, through the program's own entry: exit codes, tables and JSON."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mssgen.checkpoints import hub
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import embedded_dir
from mssgen.cli.console import run
from mssgen.cli.models import app

from support.hubserver import Fault, HubServer

MMI = REGISTRY["hdemucs_mmi"].files[0].name  # its hash is not known, so any bytes will do
Result = tuple[int, str, str]


@pytest.fixture
def models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Run a command in this process, with an empty hub cache: (exit code, stdout, stderr)."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "40")  # a pipe has lines of any length

    def call(*arguments: str) -> Result:
        code = run(lambda: app(list(arguments), standalone_mode=False), verbose=False)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own: huggingface_hub reads its settings on import."""
    return subprocess.run(
        [sys.executable, "-m", "mssgen", "models", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
    )


def test_list_shows_where_every_model_is(models: Callable[..., Result]) -> None:
    code, out, _ = models("list")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert list(rows) == list(REGISTRY)
    assert rows["htdemucs"].split()[1] == "separate"
    assert rows["encodec_24khz"].split()[1] == "codec"
    assert "601 MB" in rows["vampnet_codec"]
    assert "embedded" in rows["htdemucs"]
    assert "51 MB" in rows["htdemucs"]
    assert "on the hub" in rows["htdemucs_ft"]
    assert "336 MB" in rows["htdemucs_ft"]
    assert "guitar piano" in rows["htdemucs_6s"]
    assert "unknown" in rows["hdemucs_mmi"]
    assert all(word in rows["scnet_small"] for word in ("by hand", "none stated", "9.03 on the"))
    assert "53 stems" in rows["bs_roformer_mega"]


def test_list_as_json_says_the_same(models: Callable[..., Result]) -> None:
    code, out, _ = models("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["htdemucs"]["where"] == "embedded"
    assert rows["htdemucs_6s"]["stems"][-1] == "piano"
    assert rows["hdemucs_mmi"]["size_bytes"] is None


def test_info_prints_both_statements_about_the_licence(models: Callable[..., Result]) -> None:
    code, out, _ = models("info", "htdemucs")
    text = " ".join(out.split())
    assert code == 0
    assert "model card on the hub carried the tag `mit`" in text
    assert "facebookresearch/demucs#327" in text
    assert str(REGISTRY["htdemucs"].files[0].sha256) in text


def test_info_says_where_a_model_comes_from(models: Callable[..., Result]) -> None:
    facts = json.loads(models("info", "scnet_xl_ihf", "--json")[1])
    assert facts["licence"] == "none stated"
    assert facts["origin"].startswith("ZFTurbo, trained on MUSDB18-HQ only")
    assert facts["sdr"].startswith("10.08 on the MUSDB18-HQ test set")
    code, _, err = models("pull", "scnet_small")
    assert code == 1
    assert "download https://github.com/" in err


def test_info_says_what_is_not_known(models: Callable[..., Result]) -> None:
    _, out, _ = models("info", "hdemucs_mmi")
    assert "downloads are not checked" in out
    assert "not pinned" in out
    assert "unverified" in out
    facts = json.loads(models("info", "hdemucs_mmi", "--json")[1])
    assert (facts["revision"], facts["files"][0]["sha256"]) == (None, None)


def test_info_of_a_codec_has_no_stems(models: Callable[..., Result]) -> None:
    code, out, _ = models("info", "encodec_48khz")
    text = " ".join(out.split())
    assert code == 0
    assert "stage codec" in text
    assert "48000 Hz" in text
    assert "CC BY-NC 4.0" in text
    assert "stems" not in text
    assert "model.safetensors (unknown), sha256" in text


def test_quantize_takes_separators_only(models: Callable[..., Result], tmp_path: Path) -> None:
    code, _, err = models("quantize", "dac_44khz", str(tmp_path / "out"))
    assert code == 2
    assert "dac_44khz is a codec, not a separator" in err


@pytest.mark.parametrize("command", ["info", "path", "pull", "verify"])
def test_an_unknown_name_is_a_wrong_call(models: Callable[..., Result], command: str) -> None:
    code, _, err = models(command, "htdemucs_tf")
    assert code == 2
    assert "did you mean htdemucs_ft" in err
    assert len(err.splitlines()) == 1


def test_path_of_what_ships_and_of_what_is_not_here(models: Callable[..., Result]) -> None:
    code, out, _ = models("path", "htdemucs")
    assert (code, Path(out.strip())) == (0, embedded_dir() / "htdemucs")
    assert json.loads(models("path", "htdemucs", "--json")[1])["where"] == "embedded"
    code, out, err = models("path", "htdemucs_6s")
    assert (code, out) == (1, "")
    assert "mssgen models pull htdemucs_6s" in err


def test_verify_checks_the_embedded_checkpoint(models: Callable[..., Result]) -> None:
    code, out, _ = models("verify", "--json")
    assert code == 0
    shipped = [name for name, bundle in REGISTRY.items() if bundle.embedded]
    assert [(row["name"], row["status"]) for row in json.loads(out)] == [
        (name, "ok") for name in shipped
    ]
    code, _, err = models("verify", "htdemucs_6s")
    assert code == 1
    assert "missing" in err


def test_verify_finds_a_flipped_bit(
    models: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "weights" / "htdemucs"
    copy.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        content = bytearray((embedded_dir() / "htdemucs" / name).read_bytes())
        if name == "model.safetensors":
            content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    monkeypatch.setattr("mssgen.checkpoints.resolving.embedded_dir", lambda: copy.parent)
    code, out, err = models("verify", "htdemucs")
    assert code == 1
    assert "damaged" in out
    assert "reinstall mssgen" in err


def test_pull_of_what_ships_downloads_nothing(models: Callable[..., Result]) -> None:
    code, out, _ = models("pull", "htdemucs")
    assert code == 0
    assert "comes with mssgen" in out


def test_pull_then_everything_works_offline(tmp_path: Path) -> None:
    """The environment variables of the hub, over the whole program."""
    body = b"weights" * 1000
    with HubServer({MMI: body}) as server:
        server.faults["HEAD"].append(Fault(503, {"Retry-After": "0"}))
        environment = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_secret",
        }
        first = _program("pull", "hdemucs_mmi", "--json", **environment)
        assert first.returncode == 0, first.stderr
        assert first.stderr == ""
        (path,) = json.loads(first.stdout)[0]["paths"]
        assert Path(path).read_bytes() == body
        assert Path(path).is_relative_to(tmp_path / "home")
        sent = {headers["authorization"] for _, _, headers in server.requests}
        assert sent == {"Bearer hf_secret"}
    # The server is gone now.
    again = _program("path", "hdemucs_mmi", **environment)
    assert (again.returncode, again.stdout.strip()) == (0, path)
    listed = _program("list", "--json", **environment)
    where = {row["name"]: row["where"] for row in json.loads(listed.stdout)}
    assert where["hdemucs_mmi"] == "cached"


def test_hf_hub_offline_forbids_the_network(tmp_path: Path) -> None:
    with HubServer({}) as server:
        found = _program(
            "pull",
            "htdemucs_6s",
            HF_ENDPOINT=server.url,
            HF_HOME=str(tmp_path),
            HF_HUB_OFFLINE="1",
        )
        assert found.returncode == 1
        assert "HF_HUB_OFFLINE" in found.stderr
        assert len(found.stderr.splitlines()) == 1
        assert not server.requests


def test_one_failed_pull_does_not_stop_the_others(tmp_path: Path) -> None:
    with HubServer({MMI: b"fine"}) as server:
        found = _program(
            "pull",
            "htdemucs_6s",
            "hdemucs_mmi",
            HF_ENDPOINT=server.url,
            HF_HOME=str(tmp_path),
        )
    assert found.returncode == 1
    assert "hdemucs_mmi: ready" in found.stdout
    assert "htdemucs_6s" in found.stderr
    assert "404" in found.stderr


def test_quantize_from_a_config(models: Callable[..., Result], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.randn(1000, 800), "b": torch.randn(64)}, tmp_path / "bare.safetensors")
    source, target = str(tmp_path / "bare.safetensors"), tmp_path / "out"
    code, _, err = models("quantize", source, str(target))
    assert code == 1
    assert "config.json" in err
    config: dict[str, Any] = {"format_version": 1, "architecture": "htdemucs"}
    config["options"] = {"sources": ["a"]}
    (tmp_path / "my.json").write_text(json.dumps(config))
    extra = ("--config", str(tmp_path / "my.json"), "--model", "htdemucs", "--json")
    code, out, _ = models("quantize", source, str(target), *extra)
    assert code == 0
    assert json.loads(out)["n_int8_tensors"] == 1
    written = json.loads((target / "config.json").read_text())
    digest = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    assert written["sha256"] == digest
    assert models("quantize", source, str(target), *extra)[0] == 1  # it exists now
    assert models("quantize", source, str(target), *extra, "--overwrite")[0] == 0


def test_quantize_of_what_is_int8_already(models: Callable[..., Result], tmp_path: Path) -> None:
    code, _, err = models("quantize", "htdemucs", str(tmp_path / "out"))
    assert code == 2
    assert "--original" in err


def test_nothing_but_quantize_loads_torch() -> None:
    code = (
        "import sys; from mssgen.cli.models import app\n"
        "for words in (['list'], ['info', 'htdemucs'], ['path', 'htdemucs'], ['verify']):\n"
        "    app(words, standalone_mode=False)\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'numpy', 'demucs')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert found.returncode == 0, found.stderr
