"""Runs that follow others: what exists is trusted if it was made from this input in this way."""

import itertools
import os
import random
import shutil
import signal
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from mssgen.events import Done, Event, Failed
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs import manifest
from mssgen.jobs.batch import separate_files
from mssgen.jobs.manifest import MANIFEST, read_entries
from mssgen.jobs.options import WriteOptions
from mssgen.outputs import plan_outputs

from support.models import EXCERPT, write_tiny_model
from support.program import Program, Result
from support.toys import SOURCES, ToyNetwork, toy_separator, write_tiny_encoder

RATE = 44_100


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny and other, two separators; bass, an encoder."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny", "other")):
        write_tiny_model(folder / name, segment=Fraction(1, 8), seed=seed)
    write_tiny_encoder(folder / "bass")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two albums with equal names of songs."""
    monkeypatch.chdir(tmp_path)
    for number, album in enumerate(("a1", "a2")):
        for place, name in enumerate(("01", "02")):
            excerpt(Path(album, f"{name}.wav"), start=4410 * (2 * number + place))
    return tmp_path


@pytest.fixture
def mssgen(here: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def excerpt(path: Path, *, start: int = 0, n_samples: int = 4410) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, _ = sf.read(EXCERPT, frames=n_samples, start=RATE + start)
    sf.write(path, samples, RATE)
    return path


def counts(result: Result) -> tuple[int, int, int]:
    done = result.events[-1]
    return done["n_done"], done["n_skipped"], done["n_failed"]


def content(folder: Path | str) -> dict[str, bytes]:
    """Of all files but the manifest."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class TestSeparate:
    @pytest.fixture
    def separate(self, mssgen: Program, models: Path) -> Any:
        def call(*words: str, model: str = "tiny") -> Result:
            return mssgen("separate", *words, "--model", models / model, "--json")

        return call

    def test_a_second_album_with_equal_names(self, separate: Any) -> None:
        assert counts(separate("a1", "-s", "bass")) == (2, 0, 0)
        before = content("separated")
        second = separate("a2", "-s", "bass")
        assert (second.code, counts(second)) == (1, (0, 0, 2))
        for event in second.events[:-1]:
            assert "made from another file" in event["message"]
            assert "a1" in event["message"]
        assert content("separated") == before
        assert counts(separate("a1", "-s", "bass")) == (0, 2, 0)
        assert counts(separate("a2", "-s", "bass", "--overwrite")) == (2, 0, 0)
        assert counts(separate("a2", "-s", "bass")) == (0, 2, 0)
        assert counts(separate("a1", "-s", "bass")) == (0, 0, 2)
        template = ("--template", "{parent}/{track}/{stem}.{ext}")
        assert counts(separate("a1", "a2", "-s", "bass", *template)) == (4, 0, 0)

    def test_what_changes_the_sound_is_named(self, separate: Any) -> None:
        words = ("a1", "-s", "bass")
        assert counts(separate(*words)) == (2, 0, 0)
        for change, option in (
            (("--shifts", "1"), "shifts"),
            (("--overlap", "0.5"), "overlap"),
            (("--precision", "fp32"), "precision"),
            (("--bit-depth", "24"), "bit_depth"),
            (("--mix-consistent",), "weights"),
        ):
            result = separate(*words, *change)
            assert counts(result) == (0, 0, 2)
            assert f"made with other options ({option}" in result.events[0]["message"]
        result = separate(*words, model="other")
        assert "made with other options (model)" in result.events[0]["message"]
        # What does not change it is no reason.
        assert counts(separate(*words, "--batch-size", "2", "--seed", "3")) == (0, 2, 0)

    def test_the_same_weights_elsewhere_are_the_same_model(
        self, separate: Any, models: Path
    ) -> None:
        assert counts(separate("a1", "-s", "bass")) == (2, 0, 0)
        shutil.copytree(models / "tiny", models / "copy")
        assert counts(separate("a1", "-s", "bass", model="copy")) == (0, 2, 0)
        shutil.rmtree(models / "copy")

    def test_no_model_is_loaded_for_what_exists(
        self, separate: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        separate("a1", "-s", "bass")

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("it was loaded")

        monkeypatch.setattr("mssgen.pipeline.build_separator", refuse)
        assert counts(separate("a1", "-s", "bass")) == (0, 2, 0)
        assert counts(separate("a2", "-s", "bass")) == (0, 0, 2)

    def test_a_list_in_parts_with_metrics(self, separate: Any) -> None:
        Path("a1/03.wav").write_text("no sound")
        words = ("a1", "-s", "bass", "--metrics", "run.prom")
        parts = [separate(*words, "--shard", f"{index}/2") for index in (1, 2)]
        assert sorted(counts(part) for part in parts) == [(1, 0, 0), (1, 0, 1)]
        assert "mssgen_songs_done_total 1\n" in Path("run.prom").read_text()
        assert counts(separate("a1", "-s", "bass", "--fail-fast", "--retries", "2")) == (0, 2, 1)
        wrong = separate("a1", "--shard", "3/2")
        assert (wrong.code, wrong.events[0]["event"]) == (2, "error")
        assert "--shard 3/2 is not a part" in wrong.err

    def test_sources_that_were_touched_edited_and_moved(self, separate: Any) -> None:
        separate("a1", "-s", "bass")
        os.utime("a1/01.wav", (1, 1))
        assert counts(separate("a1", "-s", "bass")) == (0, 2, 0)
        shutil.move("a1", "moved")
        assert counts(separate("moved", "-s", "bass")) == (0, 2, 0)
        excerpt(Path("moved/01.wav"), start=9999)
        edited = separate("moved", "-s", "bass")
        assert counts(edited) == (0, 1, 1)

    def test_more_stems_complete_a_song_and_fewer_are_there(self, separate: Any) -> None:
        assert counts(separate("a1", "-s", "bass", "-o", "o")) == (2, 0, 0)
        assert counts(separate("a1", "-s", "drums", "-o", "o")) == (2, 0, 0)
        assert counts(separate("a1", "-o", "o")) == (2, 0, 0)
        assert counts(separate("a1", "-s", "vocals", "-o", "o")) == (0, 2, 0)
        separate("a1", "-o", "whole")
        assert content("o") == content("whole")

    def test_files_that_are_empty_missing_changed_or_unknown(self, separate: Any) -> None:
        separate("a1")
        whole = content("separated")
        Path("separated/01/bass.wav").write_bytes(b"")
        Path("separated/02/drums.wav").unlink()
        assert counts(separate("a1")) == (2, 0, 0)
        assert content("separated") == whole
        Path("separated/01/bass.wav").write_bytes(b"mine")
        result = separate("a1")
        assert counts(result) == (0, 1, 1)
        assert "was changed after mssgen made it" in result.events[0]["message"]
        assert Path("separated/01/bass.wav").read_bytes() == b"mine"
        Path("separated", MANIFEST).unlink()
        result = separate("a1")
        assert counts(result) == (0, 0, 2)
        assert "there is no record of it" in result.events[0]["message"]
        assert counts(separate("a1", "--skip-existing")) == (0, 2, 0)

    def test_an_empty_file_of_one_song_is_no_obstacle(self, separate: Any) -> None:
        Path("separated/01").mkdir(parents=True)
        Path("separated/01/bass.wav").touch()
        assert counts(separate("a1/01.wav", "-s", "bass")) == (1, 0, 0)
        refused = separate("a1/01.wav", "-s", "bass")
        assert counts(refused) == (0, 0, 1)
        assert "made from this file with these options" in refused.events[0]["message"]

    @pytest.mark.parametrize("name", ["song.wav", "out/Song.FLAC", "x.mp3"])
    def test_an_output_folder_called_like_a_sound_file(self, separate: Any, name: str) -> None:
        result = separate("a1/01.wav", "-o", name)
        assert result.code == 2
        assert f"--output {name} is named like an audio file" in result.err
        assert not Path(name).exists()
        Path(name).mkdir(parents=True)
        assert separate("a1/01.wav", "-s", "bass", "-o", name).code == 0

    def test_a_failure_and_the_rest_are_recorded(self, separate: Any) -> None:
        Path("a1/03.wav").write_text("no sound")
        assert counts(separate("a1", "-s", "bass")) == (2, 0, 1)
        entries = read_entries(Path("separated", MANIFEST))
        last = {entry.about["input"]: entry for entry in entries}
        states = {name: entry.state for name, entry in last.items()}
        assert states == {"a1/01.wav": "done", "a1/02.wav": "done", "a1/03.wav": "failed"}
        assert "text, not sound" in last["a1/03.wav"].error
        done = last["a1/01.wav"]
        assert done.outputs[0].path == "01/bass.wav"
        assert done.outputs[0].size == Path("separated/01/bass.wav").stat().st_size
        assert done.seconds > 0


class TestEnhance:
    @pytest.fixture
    def enhance(self, mssgen: Program, models: Path) -> Any:
        for number, name in enumerate(("one", "two")):
            excerpt(Path(f"separated/{name}/bass.wav"), start=3000 * number)

        def call(*words: str) -> Result:
            return mssgen("enhance", *words, "--encoder", models / "bass", "--json")

        return call

    def test_two_songs_one_after_the_other(self, enhance: Any) -> None:
        for name in ("one", "two"):
            assert counts(enhance(f"separated/{name}")) == (1, 0, 0)
            assert counts(enhance(f"separated/{name}")) == (0, 1, 0)
        apart = content("enhanced")
        assert set(apart) == {"one/bass.wav", "two/bass.wav"}
        assert apart["one/bass.wav"] != apart["two/bass.wav"]
        assert counts(enhance("separated")) == (0, 2, 0)
        assert counts(enhance("separated/one/bass.wav", "-o", "single")) == (1, 0, 0)
        assert content("single") == {"one/bass.wav": apart["one/bass.wav"]}
        assert counts(enhance("separated", "-o", "both")) == (2, 0, 0)
        assert content("both") == apart

    def test_a_file_of_this_folder(self, enhance: Any) -> None:
        shutil.copy("separated/one/bass.wav", "stem.wav")
        assert enhance("stem.wav").code == 0
        assert enhance("./stem.wav", "-o", "again").code == 0
        assert set(content("enhanced")) == set(content("again")) == {"stem.wav"}

    def test_templates_keep_their_meaning(self, enhance: Any) -> None:
        for template, expected in (
            ("{track}.{ext}", "bass.wav"),
            ("{track}_{stem}.{ext}", "bass_bass.wav"),
            ("{parent}-{track}.{ext}", "one-bass.wav"),
        ):
            assert enhance("separated/one", "-o", expected[:-4], "--template", template).code == 0
            assert set(content(expected[:-4])) == {expected}

    def test_what_changes_the_sound_is_named(self, enhance: Any) -> None:
        assert counts(enhance("separated")) == (2, 0, 0)
        for change, option in (
            (("--blend", "fill"), "blend"),
            (("--mix", "0.5"), "mix"),
            (("--bit-depth", "24"), "bit_depth"),
        ):
            result = enhance("separated", *change)
            assert counts(result) == (0, 0, 2)
            assert f"made with other options ({option})" in result.events[0]["message"]
        excerpt(Path("song.wav"), start=500)
        excerpt(Path("other.wav"), start=600)
        assert counts(enhance("separated/one", "--mixture", "song.wav", "-o", "m")) == (1, 0, 0)
        assert counts(enhance("separated/one", "--mixture", "song.wav", "-o", "m")) == (0, 1, 0)
        result = enhance("separated/one", "--mixture", "other.wav", "-o", "m")
        assert "made with other options (mixture)" in result.events[0]["message"]

    def test_one_stem_in_two_formats_is_refused_alone(self, enhance: Any) -> None:
        samples, _ = sf.read("separated/one/bass.wav")
        sf.write("separated/one/bass.flac", samples, RATE)
        result = enhance("separated")
        assert (result.code, counts(result)) == (1, (1, 0, 2))
        assert "separated/one/bass.flac and separated/one/bass.wav" in result.events[0]["message"]
        assert set(content("enhanced")) == {"two/bass.wav"}
        excerpt(Path("song.wav"))
        both = enhance("separated/one", "--mixture", "song.wav")
        assert both.code == 2
        assert "bass.flac" in both.err


def test_codes_of_a_second_album(
    mssgen: Program, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("codec", "encode", "--n-codebooks", "2", "--json")
    for index in (1, 2):
        assert counts(mssgen(*words, "a1", "--shard", f"{index}/2")) == (1, 0, 0)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    with monkeypatch.context() as patched:
        patched.setattr("mssgen.codecs.loading.load_codec", refuse)
        assert counts(mssgen(*words, "a1")) == (0, 2, 0)
        assert counts(mssgen(*words, "a2")) == (0, 0, 2)
    more = mssgen("codec", "encode", "--n-codebooks", "3", "--json", "a1")
    assert "made with other options (n_codebooks)" in more.events[0]["message"]
    assert counts(mssgen("codec", "decode", "codes", "--json")) == (2, 0, 0)
    assert counts(mssgen("codec", "decode", "codes", "--json")) == (0, 2, 0)
    assert counts(mssgen("codec", "decode", "codes", "--json", "--bit-depth", "24")) == (0, 0, 2)
    twice = mssgen(*words, "a1", "a2", "-o", "both")
    assert counts(twice) == (0, 0, 4)
    assert "--template" not in twice.events[0]["message"]
    assert mssgen("codec", "encode", "a1/01.wav", "-o", "x.wav").code == 2
    assert mssgen("codec", "decode", "codes/01.codes", "-o", "x.codes").code == 2


class TestGain:
    """All outputs of a song are lowered alike, also when they are made in two runs."""

    def run(self, path: Path, folder: Path, stems: list[str]) -> tuple[Done, list[Event]]:
        events: list[Event] = []
        done = separate_files(
            find_tracks([str(path)]),
            toy_separator(ToyNetwork(gains=(0.5, 3.0, 0.25, 0.25))),
            plan_outputs(SOURCES, stems=stems),
            output_dir=folder,
            options=WriteOptions(existing="resume"),
            made_by=dict.fromkeys(SOURCES, "toy"),
            hook=events.append,
        )
        return done, events

    @pytest.fixture
    def song(self, tmp_path: Path) -> Path:
        samples = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
        sf.write(tmp_path / "song.wav", samples, 8000)
        return tmp_path / "song.wav"

    def test_what_was_written_louder_is_not_completed(self, song: Path, tmp_path: Path) -> None:
        assert self.run(song, tmp_path / "o", ["drums"])[0].n_done == 1
        before = content(tmp_path / "o")
        done, events = self.run(song, tmp_path / "o", ["drums", "bass"])
        assert done.n_failed == 1
        [failed] = [event for event in events if isinstance(event, Failed)]
        assert "lowered by another amount" in failed.message
        assert content(tmp_path / "o") == before

    def test_what_was_lowered_alike_is(self, song: Path, tmp_path: Path) -> None:
        self.run(song, tmp_path / "o", [])
        whole = content(tmp_path / "o")
        (tmp_path / "o/song/drums.wav").unlink()
        assert self.run(song, tmp_path / "o", [])[0].n_done == 1
        assert content(tmp_path / "o") == whole

    def test_a_separator_of_unknown_origin_is_never_taken_for_the_same(
        self, song: Path, tmp_path: Path
    ) -> None:
        for expected in ((1, 0), (0, 1)):
            done = separate_files(
                find_tracks([str(song)]),
                toy_separator(),
                plan_outputs(SOURCES),
                output_dir=tmp_path / "o",
                options=WriteOptions(existing="resume"),
            )
            assert (done.n_done, done.n_failed) == expected

    def test_a_source_that_changes_while_it_is_read(self, song: Path, tmp_path: Path) -> None:
        def edit(mixture: Any) -> None:
            song.write_bytes(song.read_bytes() + b"\0\0\0\0")

        done = separate_files(
            find_tracks([str(song)]),
            toy_separator(ToyNetwork(before=edit)),
            plan_outputs(SOURCES),
            output_dir=tmp_path / "o",
        )
        assert done.n_failed == 1
        assert content(tmp_path / "o") == {}


def separate_toy(folder: str) -> tuple[int, int, int]:
    """Separate music/ into a folder; returns the numbers of songs done, skipped and failed."""
    done = separate_files(
        find_tracks(["music"]),
        toy_separator(),
        plan_outputs(SOURCES),
        output_dir=folder,
        options=WriteOptions(existing="resume"),
        made_by=dict.fromkeys(SOURCES, "toy"),
    )
    return done.n_done, done.n_skipped, done.n_failed


def fork_and_die(folder: str, where: str, number: int) -> int:
    """Start a run in a process that is killed at its line `number` of the manifest, or in time.

    Returns its number; `where` is "before" the line, "within" it, "after" it, or "never".
    """
    process = os.fork()
    if process:
        return process
    append, lines = manifest._append, itertools.count(1)

    def dying(path: Path, line: bytes) -> None:
        is_here = next(lines) == number
        if is_here and where == "within":
            with path.open("ab") as file:
                file.write(line[: len(line) // 2])
        if is_here and where in ("before", "within"):
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, line)
        if is_here and where == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    manifest._append = dying
    separate_toy(folder)
    os._exit(0)


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two songs in music/; what an undisturbed run makes of them."""
    if not hasattr(os, "fork"):
        pytest.skip("no processes are forked here")
    monkeypatch.chdir(tmp_path)
    Path("music").mkdir()
    numbers = np.random.default_rng(0)
    for name in ("a", "b"):
        sf.write(f"music/{name}.wav", numbers.uniform(-0.5, 0.5, (6000, 2)), 8000)
    assert separate_toy("undisturbed") == (2, 0, 0)
    return content("undisturbed")


N_LINES = 6
"""Of a song: one when it starts, one before each of its four files gets its name, and the last."""


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_killed_at_any_line_it_resumes_to_the_same_bytes(
    music: dict[str, bytes], where: str
) -> None:
    for number in range(1, N_LINES + 1):
        folder = f"{where}{number}"
        _, status = os.waitpid(fork_and_die(folder, where, number), 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert separate_toy(folder)[2] == 0
        assert content(folder) == music, number
    assert separate_toy(folder) == (0, 2, 0)


def test_two_runs_that_are_killed_at_any_time(music: dict[str, bytes]) -> None:
    for _ in range(6):
        processes = [fork_and_die("out", "never", 0) for _ in range(2)]
        time.sleep(random.uniform(0, 0.5))
        for process in processes:
            os.kill(process, signal.SIGKILL)
            assert os.WEXITSTATUS(os.waitpid(process, 0)[1]) == 0
    assert separate_toy("out")[2] == 0
    assert separate_toy("out") == (0, 2, 0)
    assert content("out") == music
