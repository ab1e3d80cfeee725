"""`mssgen status` and the file of --metrics, while a run goes on and afterwards."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mssgen.errors import MssgenError
from mssgen.events import Done, Failed, Progress, Skipped, Start
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import Group, separate_groups
from mssgen.jobs.manifest import MANIFEST, Manifest
from mssgen.jobs.metrics import Metered
from mssgen.jobs.song_record import SEPARATE, SongRecord
from mssgen.jobs.status import read_status
from mssgen.outputs import plan_outputs

from support.models import EXCERPT
from support.program import Program
from support.toys import SOURCES, ToyNetwork, toy_separator


@pytest.fixture
def mssgen(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def separate(names: list[str], before: Any = None) -> Done:
    network = ToyNetwork(sample_rate=44_100, segment_samples=44_100, before=before)
    tracks = [Track(name, Path(name).stem) for name in names]
    plan = plan_outputs(SOURCES, stems=["bass"])
    return separate_groups([Group(tracks, lambda: toy_separator(network), plan)], output_dir="out")


def test_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mssgen: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.wav").write_text("no sound")
    names = ["a.flac", "text.wav", "b.flac", "c.flac"]
    for name in names:
        if name != "text.wav":
            os.symlink(EXCERPT, name)  # one song by three names
    seen: list[dict[str, Any]] = []
    told: list[str] = []

    def look(_: Any) -> None:
        seen.append(json.loads(mssgen("status", "out", "--json").out))
        told.append(mssgen("status", "out").out)

    assert separate(names, look).n_done == 3
    first = seen[0]
    [song] = first["songs"]
    assert (song["song"], song["state"]) == ("a.flac", "running")
    assert (first["n_running"], first["n_queued"], first["left_s"]) == (1, 3, None)
    assert "speed not known yet" in told[0]
    last, lines = seen[-1], told[-1].splitlines()
    assert (last["n_done"], last["n_failed"], last["n_queued"]) == (0, 1, 0)
    assert last["left_s"] >= 0
    assert last["speed"] > 0
    assert re.search(r"failed: text.wav is text, not sound", told[-1])
    assert any(line.startswith("running: c.flac (") for line in lines)
    after = read_status(Path("out"))
    assert (after.count("running"), after.n_queued, after.left_s) == (0, 0, None)
    assert mssgen("status", "out").out.startswith("1 done, 1 failed, 0 running, 0 interrupted")


def test_a_run_that_was_killed(tmp_path: Path, mssgen: Program) -> None:
    record = SongRecord(Manifest(tmp_path), SEPARATE, Track(str(EXCERPT), "x"), {})
    record.opened()
    record.started({"run": "x", "index": 1, "total": 9, "duration_s": 3.0, "claim": "none"})
    status = read_status(tmp_path)
    assert [song.state for song in status.songs] == ["interrupted"]
    assert (status.n_queued, status.speed) == (0, 0)
    assert f"interrupted: {EXCERPT}" in mssgen("status", tmp_path).out


def test_a_folder_without_a_manifest(tmp_path: Path, mssgen: Program) -> None:
    with pytest.raises(MssgenError, match=f"holds no {MANIFEST}"):
        read_status(tmp_path / "none")
    assert mssgen("status", tmp_path).code == 1


def numbers(path: Path) -> dict[str, float]:
    lines = path.read_text().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return {name.removeprefix("mssgen_"): float(value) for name, value in pairs}


def test_metrics_follow_the_run(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    events: list[Any] = []
    hook = Metered(events.append, path)
    assert numbers(path)["songs_done_total"] == 0
    hook(Skipped("a"))
    hook(Start("b", 30.0, 44_100, 2, "cpu", "fp32", index=2, total=5))
    assert numbers(path)["songs_queued"] == 4
    hook(Progress("b", 3.0, 30.0))
    hook(Start("c", 10.0, 44_100, 2, "cpu", "fp32", index=3, total=5))
    hook(Failed("c", "broken"))
    hook(Start("d", 20.0, 44_100, 2, "cpu", "fp32", index=4, total=5))
    found = numbers(path)
    assert found.pop("elapsed_seconds") >= 0
    assert found == {
        "songs_done_total": 1,
        "songs_skipped_total": 1,
        "songs_failed_total": 1,
        "audio_seconds_total": 30,
        "songs_queued": 2,
    }
    hook(Done(3, 1, 1, 9.0, audio_s=60.0))
    assert numbers(path)["audio_seconds_total"] == 60
    assert numbers(path)["songs_queued"] == 0
    assert len(events) == 7
    assert [each.name for each in tmp_path.iterdir()] == ["m.prom"]


def test_metrics_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MssgenError, match="cannot be written"):
        Metered(lambda _: None, tmp_path)
