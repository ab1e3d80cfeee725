"""The mixture of a stem, found in the manifest that `separate` left beside it."""

import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import soundfile as sf

from mssgen.files import sha256_of
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.manifest import MANIFEST, read_entries
from mssgen.jobs.mixtures import MixtureFinder

from support.models import EXCERPT, write_tiny_model
from support.program import Program, Result
from support.toys import write_tiny_encoder

RATE = 44_100


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """music/one.wav and two.wav, their bass and drums in separated/; tiny and bass, models."""
    folder = tmp_path_factory.mktemp("mixtures")
    write_tiny_model(folder / "tiny", segment=Fraction(1, 8))
    write_tiny_encoder(folder / "bass")
    (folder / "music").mkdir()
    for number, name in enumerate(("one", "two")):
        samples, _ = sf.read(EXCERPT, frames=4410, start=RATE + 4410 * number)
        sf.write(folder / f"music/{name}.wav", samples, RATE)
    return folder


@pytest.fixture
def mssgen(
    separated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    program = Program(capsys)
    monkeypatch.chdir(separated)
    if not Path("separated").exists():
        stems = ("-s", "bass", "-s", "drums")
        assert program("separate", "music", "-m", separated / "tiny", *stems).code == 0
    shutil.copytree("separated", tmp_path / "separated")
    monkeypatch.chdir(tmp_path)
    return program


@pytest.fixture
def music(separated: Path) -> Path:
    return separated / "music"


def mixtures(folder: str) -> tuple[dict[str, str], list[str]]:
    """Mixture by path of the stem, and the problems."""
    finder = MixtureFinder()
    tracks = find_tracks([folder], skip_outputs=False)
    found = {track.path: finder.find(track) for track in tracks}
    return {path: file.path for path, file in found.items() if file is not None}, finder.problems


def warnings(result: Result) -> list[str]:
    return [event["message"] for event in result.events if event["event"] == "warning"]


def test_a_folder_of_songs_is_enhanced_beside_their_mixtures(
    mssgen: Program, music: Path, separated: Path
) -> None:
    words = ("--encoder", separated / "bass", "--json")
    found = mssgen("enhance", "separated", *words)
    assert (found.code, warnings(found)) == (0, [])
    written = [event["path"] for event in found.events if event["event"] == "written"]
    assert written == ["enhanced/one/bass.wav", "enhanced/two/bass.wav"]
    # The same as with each mixture given by name: outputs made one way are complete for the other.
    given = ("--mixture", music / "two.wav")
    again = mssgen("enhance", "separated/two/bass.wav", "separated/two", *words, *given)
    assert [event["event"] for event in again.events] == ["skipped", "done"]
    assert mssgen("enhance", "separated/two", *words, *given, "-o", "named").code == 0
    for name in ("enhanced", "named"):
        made = read_entries(Path(name, MANIFEST))[-1].outputs[0].made
        assert made["mixture"] == sha256_of(music / "two.wav")
    assert Path("enhanced/two/bass.wav").read_bytes() == Path("named/two/bass.wav").read_bytes()
    # An enhanced stem was not separated from the file that it was made of.
    assert mixtures("enhanced") == ({}, [])


def test_every_stem_has_its_own(mssgen: Program, music: Path) -> None:
    found, problems = mixtures("separated")
    assert problems == []
    assert found == {
        f"separated/{song}/{stem}.wav": str(music / f"{song}.wav")
        for song in ("one", "two")
        for stem in ("bass", "drums")
    }
    shutil.move("separated", "moved")
    Path("link").symlink_to("moved/one")
    assert set(mixtures("link")[0]) == {"link/bass.wav", "link/drums.wav"}


def test_a_mixture_that_is_gone_or_has_changed_is_told_and_not_used(
    mssgen: Program, music: Path, separated: Path
) -> None:
    kept = {path: path.read_bytes() for path in music.iterdir()}
    try:
        one, two = sorted(kept)
        one.unlink()
        two.write_bytes(kept[two][:-2] + b"\1\1")
        found, problems = mixtures("separated")
        assert found == {}
        assert len(problems) == 2
        assert f"the mixture {one} is not there" in problems[0]
        assert f"the mixture {two} has changed" in problems[1]
        result = mssgen("enhance", "separated/one", "--encoder", separated / "bass", "--json")
        assert result.code == 0
        [warning] = warnings(result)
        assert "so it is not used: name the mixture with --mixture" in warning
        made = read_entries(Path("enhanced", MANIFEST))[-1].outputs[0].made
        assert "mixture" not in made
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def test_stems_that_were_edited_or_are_unknown_have_none(mssgen: Program) -> None:
    with Path("separated/one/bass.wav").open("ab") as file:
        file.write(b"edited")
    shutil.copy("separated/one/drums.wav", "separated/two/copy.wav")
    found, problems = mixtures("separated")
    assert set(found) == {"separated/one/drums.wav", "separated/two/bass.wav"} | {
        "separated/two/drums.wav"
    }
    [problem] = problems
    assert "separated/one/bass.wav was changed after it was separated" in problem
    Path("separated", MANIFEST).write_text("of another program\n")
    assert mixtures("separated") == ({}, [])


def test_a_mixture_of_another_length_fails_its_stem(
    mssgen: Program, music: Path, separated: Path
) -> None:
    samples, _ = sf.read(music / "one.wav")
    sf.write("short.wav", samples[:4000], RATE)
    words = ("--encoder", separated / "bass", "--mixture")
    result = mssgen("enhance", "separated/one", *words, "short.wav")
    assert result.code == 1
    assert "give the mixture that the stem was separated from" in result.err
    assert mssgen("enhance", "separated/one", *words, "none.wav").code == 1
    assert mssgen("enhance", "separated", *words, "short.wav").code == 2
    assert not Path("enhanced").exists()
