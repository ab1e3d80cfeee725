"""What is said where a package is missing must work: mssgen is in no package index."""

import re
from pathlib import Path

import pytest

from mssgen.errors import UsageError
from mssgen.extras import missing, require

from support.program import Program

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "mssgen").rglob("*.py"))


def test_a_package_that_is_there_is_imported() -> None:
    assert require("json.decoder", "evaluate", "this test").JSONDecoder


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("scipy.stats", "scipy>=1.13", "evaluate"),
        ("PIL", "pillow>=10", "evaluate"),
        ("dac.model", "descript-audio-codec==1.0.0", "codecs"),
        ("lightning_fabric", "lightning-fabric<3,>=2.5", "train"),
        ("absent_package.sub", "absent_package", "train"),
    ],
)
def test_a_missing_package_is_told_with_what_installs_it(
    module: str, package: str, extra: str
) -> None:
    said = str(missing(module, extra, "this test"))
    name = re.split("[<>=]", package)[0]
    assert said.startswith(f"the package {name} is not installed, and this test needs it: run ")
    assert f"`pip install '.[{extra}]'` in a checkout of mssgen" in said
    found = re.search(r"`pip install '([^'.]\S*)'`", said)
    assert found is not None
    assert found[1].startswith(name)
    assert "\n" not in said


def test_require_refuses_with_that_sentence() -> None:
    with pytest.raises(UsageError, match="the package absent_package is not installed, and it all"):
        require("absent_package.sub", "train", "it all")


def test_no_message_sends_people_to_an_index_without_mssgen() -> None:
    for path in SOURCES:
        assert not re.search(r"pip install [\"']?mssgen", path.read_text()), path


def test_models_path_blames_no_option_that_nobody_gave(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mssgen.checkpoints import hub

    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    result = Program(capsys)("models", "path", "htdemucs_6s")
    assert result.code == 1
    assert "--offline" not in result.err
    assert "run `mssgen models pull htdemucs_6s` online" in result.err


@pytest.mark.parametrize("name", ["./x", "../x", "/x"])
def test_a_path_is_suggested_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = Program(capsys)("models", "info", name)
    assert result.code == 2
    assert f"such as {name})" in result.err
