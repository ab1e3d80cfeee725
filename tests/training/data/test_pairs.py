"""`mssgen data pairs`: every mixture is separated once, and only of the library it belongs to."""

import json
import shutil
import signal
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

import mssgen
from mssgen.cli.console import run
from mssgen.cli.data import app
from mssgen.errors import UsageError
from mssgen.events import Done, Event, Failed, Progress, Skipped, Start, Written
from mssgen.library.stems import open_library
from mssgen.training.data.datasets import DataOptions, SegmentDataset
from mssgen.training.data.pairs import make_pairs, open_pairs

from support.denied import deny
from support.models import EXCERPT, write_tiny_model

RATE = 44_100
SOURCES = ("drums", "bass", "other", "vocals")
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("pairs") / "tiny", segment=Fraction(1, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with a mixture, one whose mixture is the sum, one to test on; 0.3 s of music each."""
    root = tmp_path / "library"
    audio, _ = sf.read(EXCERPT, frames=RATE * 3 // 10, start=RATE, dtype="float32")
    for name in ("train/A", "train/B", "test/C"):
        (root / name).mkdir(parents=True)
        for place, stem in enumerate(SOURCES):
            sf.write(root / name / f"{stem}.flac", np.roll(audio, 999 * place, axis=0) / 4, RATE)
    sf.write(root / "train/A/mixture.flac", audio, RATE)
    return root


def make(folder: Path, output: Path, model: Path, **how: Any) -> tuple[Done, list[Event]]:
    events: list[Event] = []
    library = open_library(folder, split="train")
    done = make_pairs(library, output, model=str(model), hook=events.append, **how)
    return done, events


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def read(path: Path) -> Audio:
    return np.ascontiguousarray(sf.read(path, dtype="float32", always_2d=True)[0].T)


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_every_mixture_is_separated(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    done, events = make(folder, output, model)

    assert (done.n_done, done.n_skipped, done.n_failed) == (2, 0, 0)
    assert files(output) == {"pairs.json"} | {
        f"train/{name}/{stem}.wav" for name in "AB" for stem in SOURCES
    }
    assert [event.track for event in of_kind(events, Start)] == ["train/A", "train/B"]
    assert of_kind(events, Done) == [done]
    assert len(of_kind(events, Written)) == 8
    mixtures = {"A": read(folder / "train/A/mixture.flac")}
    mixtures["B"] = sum(read(folder / f"train/B/{stem}.flac") for stem in SOURCES)
    for name, mixture in mixtures.items():
        expected = mssgen.separate(mixture, RATE, model=str(model))
        for stem in SOURCES:
            path = output / f"train/{name}/{stem}.wav"
            assert (sf.info(path).subtype, sf.info(path).samplerate) == ("FLOAT", RATE)
            np.testing.assert_allclose(read(path), expected[stem], atol=1e-6)
    manifest = json.loads((output / "pairs.json").read_text())
    assert manifest["model"] == "tiny"
    assert manifest["mssgen_version"] == mssgen.__version__
    assert len(manifest["sha256"]) == 1
    assert sorted(manifest["tracks"]) == ["train/A", "train/B"]


def test_a_second_run_does_nothing(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    make(folder, output, model, stems=["bass"])
    before = {name: (output / name).stat().st_mtime_ns for name in files(output)}
    done, events = make(folder, output, model, stems=["bass"])
    assert (done.n_done, done.n_skipped) == (0, 2)
    assert {type(event) for event in events} == {Skipped, Done}
    assert {name: (output / name).stat().st_mtime_ns for name in files(output)} == before
    # Another stem is added, and what is there is kept.
    done, events = make(folder, output, model, stems=["bass", "drums"])
    assert done.n_done == 2
    assert {event.stem for event in of_kind(events, Written)} == {"drums"}
    done, events = make(folder, output, model, stems=["bass"], overwrite=True)
    assert done.n_done == 2
    assert {event.stem for event in of_kind(events, Written)} == {"bass"}
    assert (output / "train/A/drums.wav").exists()


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.track == "train/B":
            raise KeyboardInterrupt

    library = open_library(folder, split="train")
    with pytest.raises(KeyboardInterrupt):
        make_pairs(library, output, model=str(model), stems=["bass"], hook=interrupt)
    assert files(output) == {"pairs.json", "train/A/bass.wav"}
    _, events = make(folder, output, model, stems=["bass"])
    assert [event.track for event in of_kind(events, Start)] == ["train/B"]
    assert files(output) == {"pairs.json", "train/A/bass.wav", "train/B/bass.wav"}


def test_a_killed_run_leaves_no_half_file(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    script = f"""
import os, signal
from pathlib import Path
from mssgen.events import Progress
from mssgen.library.stems import open_library
from mssgen.training.data.pairs import make_pairs

def die(event):
    if isinstance(event, Progress) and event.track == "train/B":
        os.kill(os.getpid(), signal.SIGKILL)

library = open_library(Path({str(folder)!r}), split="train")
make_pairs(library, Path({str(output)!r}), model={str(model)!r}, stems=["bass"], hook=die)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    visible = {name for name in files(output) if "/." not in name}
    assert visible == {"pairs.json", "train/A/bass.wav"}
    make(folder, output, model, stems=["bass"])
    fresh, _ = make(folder, tmp_path / "fresh", model, stems=["bass"])
    assert fresh.n_done == 2
    for name in "AB":
        path = Path("train") / name / "bass.wav"
        np.testing.assert_array_equal(read(output / path), read(tmp_path / "fresh" / path))


def test_a_track_that_changed_is_separated_again(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    make(folder, output, model, stems=["bass", "drums"])
    audio = read(folder / "train/A/mixture.flac")
    sf.write(folder / "train/A/mixture.flac", audio[:, : audio.shape[1] // 2].T, RATE)
    options = DataOptions(segment_s=0.1, n_valid_tracks=0)
    how: dict[str, Any] = {"sample_rate": RATE, "n_channels": 2, "pairs": output}
    with pytest.raises(UsageError, match=r"made from another library: its train/A differs"):
        SegmentDataset(open_library(folder), options, **how)
    _, events = make(folder, output, model, stems=["bass"])
    assert [event.track for event in of_kind(events, Start)] == ["train/A"]
    assert read(output / "train/A/bass.wav").shape[1] == audio.shape[1] // 2
    assert not (output / "train/A/drums.wav").exists()  # it was of the old track
    assert SegmentDataset(open_library(folder), options, **how)[0].input.shape == (2, RATE // 10)


def test_one_bad_track_does_not_stop_the_others(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    (folder / "train/A/mixture.flac").write_text("no music")
    (folder / "train/A0").mkdir()
    (folder / "train/A0/bass.wav").write_text("no music")
    done, events = make(folder, output, model, stems=["bass"])
    assert (done.n_done, done.n_failed) == (1, 2)
    assert [event.track for event in of_kind(events, Failed)] == ["train/A", "train/A0"]
    assert files(output) == {"pairs.json", "train/B/bass.wav"}


def test_a_folder_that_cannot_be_read_fails_and_the_others_go_on(
    folder: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train/closed").mkdir()
    deny(monkeypatch, folder / "train/closed")
    done, events = make(folder, tmp_path / "pairs", model, stems=["bass"])
    assert (done.n_done, done.n_failed) == (2, 1)
    (failure,) = of_kind(events, Failed)
    assert failure.track == str(folder / "train/closed")
    assert "cannot be read (Permission denied)" in failure.message


def test_segments_of_pairs(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    make(folder, output, model, stems=["bass"])
    options = DataOptions(segment_s=0.1, n_valid_tracks=0)
    data = SegmentDataset(
        open_library(folder), options, sample_rate=RATE, n_channels=2, pairs=output
    )
    for index in range(4):
        item = data[index]
        name, place = item.key.split("/bass@")
        start = int(place.split("+")[0])
        for audio, path in (
            (item.input, output / name / "bass.wav"),
            (item.target, folder / name / "bass.flac"),
        ):
            np.testing.assert_array_equal(audio.numpy(), read(path)[:, start : start + 4410])


def test_pairs_of_another_model_are_kept_apart(folder: Path, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "pairs"
    make(folder, output, model, stems=["bass"])
    other = write_tiny_model(tmp_path / "other", segment=Fraction(1, 8), seed=1)
    with pytest.raises(UsageError, match="stems separated by tiny, not other; choose another"):
        make(folder, output, other, stems=["bass"])
    done, _ = make(folder, output, other, stems=["bass"], overwrite=True)
    assert done.n_done == 2
    assert json.loads((output / "pairs.json").read_text())["model"] == "other"


def test_nothing_is_written_among_other_files(folder: Path, model: Path) -> None:
    before = files(folder)
    with pytest.raises(UsageError, match="holds other files than pairs; choose another `output`"):
        make(folder, folder, model)
    with pytest.raises(UsageError, match="holds other files than pairs"):
        make(folder, folder / "train/A/bass.flac", model)
    assert files(folder) == before


def test_what_a_kill_left_blocks_nothing(folder: Path, tmp_path: Path, model: Path) -> None:
    """Of the first file of all, which says whose folder this is."""
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / ".mssgen-0123456789ab.part").write_text("{")
    done, _ = make(folder, tmp_path / "pairs", model, stems=["bass"])
    assert done.n_failed == 0
    assert not list((tmp_path / "pairs").glob(".*"))


def test_pairs_of_names_that_another_system_composed(
    folder: Path, tmp_path: Path, model: Path
) -> None:
    output, apart = tmp_path / "pairs", unicodedata.normalize("NFD", "train/Café")
    (folder / "train/B").rename(folder / "train/Café")
    make(folder, output, model, stems=["bass"])
    (output / "train/Café").rename(output / apart)
    (folder / "train/Café").rename(folder / apart)
    tracks = open_library(folder, split="train").tracks
    found = open_pairs(output, tracks, "bass")
    assert set(found) == {"train/A", apart}
    (folder / apart).rename(folder / "train/Café")
    tracks = open_library(folder, split="train").tracks
    assert set(open_pairs(output, tracks, "bass")) == {"train/A", "train/Café"}


def test_missing_pairs(folder: Path, tmp_path: Path, model: Path) -> None:
    tracks = open_library(folder, split="train").tracks
    output = tmp_path / "pairs"
    with pytest.raises(UsageError, match=r"holds no pairs\.json; make separated stems"):
        open_pairs(output, tracks, "bass")
    make(folder, output, model, stems=["bass"])
    assert sorted(open_pairs(output, tracks, "bass")) == ["train/A", "train/B"]
    with pytest.raises(UsageError, match=r"no separated drums of train/A; .* with `stems=drums`"):
        open_pairs(output, tracks, "drums")
    shutil.copytree(folder / "train/B", folder / "train/D")
    with pytest.raises(UsageError, match="no separated bass of train/D"):
        open_pairs(output, open_library(folder, split="train").tracks, "bass")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[]", "another version"), ('{"format_version": 9}', "another")],
)
def test_a_manifest_that_is_none(folder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "pairs.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        open_pairs(tmp_path / "pairs", open_library(folder).tracks, "bass")


def test_a_wrong_stem_is_found_before_any_work(folder: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="kazoo"):
        make(folder, tmp_path / "pairs", model, stems=["kazoo"])
    assert not (tmp_path / "pairs").exists()


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *words: object) -> Result:
    """`mssgen data`, in this process."""
    arguments = [str(word) for word in words]
    code = run(lambda: app(arguments, standalone_mode=False), verbose=False)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def test_command(
    folder: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("pairs", folder, "--output", tmp_path / "pairs", "--model", model, "--stem", "bass")
    result = call(capsys, *words, "--json")
    assert result.code == 0, result.err
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["track"] for event in events if event["event"] == "written"] == [
        "train/A",
        "train/B",
    ]
    assert events[-1]["event"] == "done"
    result = call(capsys, *words)
    assert result.code == 0
    assert "0 done, 2 skipped, 0 failed" in result.err
    assert call(capsys, *words, "--split", "test", "--quiet").code == 0
    assert (tmp_path / "pairs/test/C/bass.wav").exists()


def test_exit_codes_of_the_command(
    folder: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "pairs", "--model", model, "--stem", "bass")
    result = call(capsys, "pairs", tmp_path / "nothing", *output)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "is not a folder" in result.err
    result = call(capsys, "pairs", folder, *output, "--split", "training", "--json")
    assert result.code == 2
    assert json.loads(result.out)["event"] == "error"
    assert call(capsys, "pairs", folder, "--model", model).code == 2
    (folder / "train/A/mixture.flac").write_text("no music")
    result = call(capsys, "pairs", folder, *output)
    assert result.code == 1
    assert "train/A" in result.err


def test_an_excerpt_of_each_track_is_enough(folder: Path, tmp_path: Path, model: Path) -> None:
    long = np.tile(read(folder / "train/A/mixture.flac"), 12)  # 3.6 s
    for name in "AB":
        for path in (folder / "train" / name).glob("*.flac"):
            sf.write(path, np.tile(read(path), 12).T, RATE)
    assert long.shape[1] > 3 * RATE
    output = tmp_path / "pairs"
    make(folder, output, model, stems=("bass",), excerpt_s=1)

    pair = read(output / "train/A/bass.wav")
    assert pair.shape == (2, RATE)
    with pytest.raises(UsageError, match="another `excerpt_s`"):
        make(folder, output, model, stems=("bass",))
    options = DataOptions(segment_s=0.5, min_level_db=-200, n_valid_tracks=1)
    data = SegmentDataset(
        open_library(folder), options, sample_rate=RATE, n_channels=2, pairs=output
    )
    assert data.tracks[0].duration_s == 1
    item = data[3]
    start = int(item.key.split("@")[1].split("+")[0])
    key = data.tracks[0].key
    np.testing.assert_array_equal(
        item.input.numpy(), read(output / key / "bass.wav")[:, start : start + RATE // 2]
    )
    whole = read(folder / key / "bass.flac")
    wanted = item.target.numpy()
    places = [
        s for s in range(3) if np.array_equal(whole[:, s * RATE + start :][:, : RATE // 2], wanted)
    ]
    assert len(places) == 1


def test_too_short_an_excerpt_is_refused(folder: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="use 1 or more"):
        make(folder, tmp_path / "pairs", model, excerpt_s=0)
