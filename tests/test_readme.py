"""The commands of the README work as they are written."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from typer.main import get_command

from mssgen.checkpoints import hub
from mssgen.cli import app
from mssgen.cli.console import run
from mssgen.codecs.loading import save_codec

from support.hubserver import HubServer
from support.models import EXCERPT
from support.toys import tiny_codec, write_tiny_encoder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The front page first, then the page of each room whose commands a user types.
ROOMS = [
    ROOT / "mssgen" / room / "README.md" for room in ("codecs", "training", "evaluation", "jobs")
]
PAGES = "\n".join([README, *(page.read_text(encoding="utf-8") for page in ROOMS)])
# What a test cannot run: it needs the network, a GPU or minutes. It is parsed all the same.
NOT_RUN = (
    "data render",
    "models pull",
    "models quantize",
    "models path",
    "mssgen worker",
    "--device cuda",
    "--device mps",
)
# One after the other: each takes what the one before left.
STORY = ("data pairs", "train encoder", "models export", "models push", "mssgen enhance ")
EVALUATION = ("mssgen evaluate", "mssgen report", "mssgen compare", "mssgen info")
# What makes a training run short.
BRIEF = (
    *("train.steps=2", "train.batch_size=1", "train.n_workers=0", "train.warmup_steps=0"),
    *("data.segment_s=0.3", "data.n_valid_tracks=1", "loss.residual_levels=2"),
)
SOUND = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus", ".caf", ".w64")


def commands() -> list[str]:
    """Each `mssgen ...` in the fenced console, bash, sh and shell blocks, also within pipes."""
    found = []
    for block in re.findall(r"^```(?:console|bash|sh|shell)\n(.*?)^```", PAGES, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            plain = re.sub(r"\s#.*", "", line.strip().removeprefix("$ "))
            for part in re.split(r"&&|\|\||[|;]", plain):
                if re.match(r"\s*mssgen(\s|$)", part):
                    found.append(" ".join(part.split()))
    return list(dict.fromkeys(found))


def words_of(command: str) -> list[str]:
    """The arguments, without redirections."""
    return shlex.split(re.sub(r"\s\d?[<>]+\s*\S+", "", command))[1:]


def parsed(words: list[str]) -> dict[str, Any]:
    """What typer understands, by parameter; raises its error for what it does not."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    assert not (words and hasattr(command, "commands") and not words[0].startswith("-")), words
    context: Any = command.make_context("mssgen", list(words))
    return dict(context.params)


def is_help(words: list[str]) -> bool:
    return not {"-h", "--help", "--version", "--show-completion"}.isdisjoint(words)


def test_the_front_page_stays_short() -> None:
    assert len(README.split()) <= 1300


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOMS]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page}: {link}"


def test_the_readme_shows_the_main_job() -> None:
    assert any(command.startswith("mssgen separate ") for command in commands())


def test_what_does_not_exist_is_found() -> None:
    """The two tests below rest on this."""
    with pytest.raises(Exception, match="--frob"):
        parsed(["separate", "song.wav", "--frob"])
    with pytest.raises(AssertionError, match="refine"):
        parsed(["refine", "song.wav"])


# README commands are read when the tests are collected; the test above fails if there are none.
@pytest.mark.parametrize("command", commands() or ["mssgen separate song.wav"])
def test_every_command_is_understood(command: str) -> None:
    words = words_of(command)
    if not is_help(words):
        parsed(words)


@pytest.mark.parametrize(
    "command",
    [
        c
        for c in commands()
        if not any(word in c for word in (*NOT_RUN, *STORY, *EVALUATION, "codec "))
    ]
    or ["mssgen separate song.wav"],
)
def test_every_command_runs(
    command: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder where the inputs that it names are real music, with a small model."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    words = words_of(command)
    separates = words[:1] == ["separate"] and not is_help(words)
    if separates:
        words = prepared(words, tiny_model)
    if "bass-encoder" in words:
        write_tiny_encoder(Path("bass-encoder"))
    code = run(lambda: app(words, standalone_mode=False), verbose=False)
    assert code == 0, capsys.readouterr().err
    if separates:
        folder = Path(parsed(words)["output"])
        assert any(path.suffix for path in folder.rglob("*")), "nothing was written"


def test_the_examples_work_one_after_the_other(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one folder, as they are typed: what one writes is in no other's way."""
    monkeypatch.chdir(tmp_path)
    excerpt(Path("stem.wav"))
    left_out = ("vampnet_codec", "bass-encoder", "--encoder`")
    told = [c for c in commands() if c.startswith(("mssgen separate ", "mssgen enhance "))]
    told = [c for c in told if not any(word in c for word in left_out)]
    assert len(told) > 7
    for command in told:
        words = words_of(command)
        if words[0] == "separate":
            words = prepared(words, tiny_model)
        code = run(lambda words=words: app(words, standalone_mode=False), verbose=False)
        assert code == 0, (command, capsys.readouterr().err)
    assert Path("enhanced/stem.wav").is_file()
    assert {path.name for path in Path("enhanced/song").iterdir()} == {
        f"{stem}.wav" for stem in ("bass", "drums", "other", "vocals")
    }


def prepared(words: list[str], model: Path) -> list[str]:
    """Make what the command reads, and give it a small model; pipes become files."""
    words = ["piped.wav" if word == "-" else word for word in words]
    given = parsed(words)
    inputs = list(given["inputs"] or [])
    if given["list_file"]:
        Path(given["list_file"]).write_text("listed.wav\n")
        inputs.append("listed.wav")
    for name in inputs:
        is_file = name.lower().endswith(SOUND)
        for pattern in [name] if is_file else [f"{name}/one.wav", f"{name}/two.flac"]:
            excerpt(Path(pattern.replace("*", "any")))
    expanded = [name.replace("*", "any") for name in words]
    if given["output"] == "piped.wav":
        expanded += ["--output", "separated"]
    return [*expanded, "--model", str(model)]


def test_codecs_and_training_run_as_told(
    tiny_model: Path,
    hub_server: HubServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order and in one folder, with small models, short runs and a hub on this machine."""
    monkeypatch.chdir(tmp_path)
    excerpt(Path("song.wav"))
    excerpt(Path("stem.wav"))
    for stem in ("drums", "bass", "other", "vocals"):
        excerpt(Path(f"Stems/song/{stem}.wav"))
        excerpt(Path(f"stems/song/{stem}.wav"))
        for track in ("one", "two"):
            excerpt(Path(f"Tracks/{track}/{stem}.wav"))
    save_codec(tiny_codec(), tmp_path / "tiny")
    told = [c for c in commands() if any(word in c for word in (*STORY, "mssgen codec "))]
    told = [c for c in told if not (c.startswith("mssgen separate") or "vampnet_codec" in c)]
    assert {word for word in STORY if any(word in c for c in told)} == set(STORY)
    for command in told:
        words = ["./tiny" if w in ("dac_44khz", "encodec_24khz") else w for w in words_of(command)]
        if words[:2] == ["data", "pairs"]:
            words += ["--model", str(tiny_model)]
        if words[0] == "train":
            words += [word for setting in BRIEF for word in ("--set", setting)]
        code = run(lambda words=words: app(words, standalone_mode=False), verbose=False)
        assert code == 0, (command, capsys.readouterr().err)
    assert Path("analysis/index.html").is_file()
    assert Path("enhanced/song/bass.wav").is_file()
    assert list(hub_server.repos) == ["OWNER/NAME"]


def test_evaluations_run_as_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("song.wav", "other.wav"):
        excerpt(Path(name))
    for folder in ("separated", "enhanced", "Tracks"):
        for stem in ("drums", "bass"):
            excerpt(Path(f"{folder}/one/{stem}.wav"))
    told = [c for c in commands() if c.startswith(EVALUATION)]
    assert {word for word in EVALUATION if any(word in c for c in told)} == set(EVALUATION)
    for command in told:
        code = run(lambda words=words_of(command): app(words, standalone_mode=False), verbose=False)
        assert code == 0, (command, capsys.readouterr().err)
    assert Path("scores/summary.md").is_file()
    assert Path("report/index.html").is_file()


def excerpt(path: Path) -> None:
    """A second of real music in the format of its name; nothing outside the folder."""
    assert not path.is_absolute(), f"{path} in the README names one machine's file"
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, rate = sf.read(EXCERPT, frames=44_100)
    if path.suffix == ".opus":
        sf.write(path, samples, 48_000, "OPUS", format="OGG")
    else:
        sf.write(path, samples, rate)


def test_the_install_lines_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.search(r"pip install \.(\s|$)", README), "the first line installs"
    extras = re.findall(r"pip install[^\n]*\.\[([\w,]+)\]", PAGES)
    assert "test" in ",".join(extras).split(",")
    for group in extras:
        assert set(group.split(",")) <= set(project["optional-dependencies"])
