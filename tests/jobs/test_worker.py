"""A worker: songs that come into a folder or as lines of JSON, and how it ends."""

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from mssgen.cli.signals import first_sigterm
from mssgen.errors import CheckpointError, UsageError
from mssgen.events import Done, Event, Failed, Skipped, Start, Warned
from mssgen.inputs.tracks import Track, tracks_in
from mssgen.jobs import watch
from mssgen.jobs.batch import Group
from mssgen.jobs.claims import claim_file
from mssgen.jobs.manifest import MANIFEST, InputFile, Manifest, read_entries
from mssgen.jobs.metrics import Metered
from mssgen.jobs.options import RunOptions, WriteOptions
from mssgen.jobs.orders import work_off
from mssgen.jobs.song_record import SEPARATE, SongRecord
from mssgen.jobs.status import read_status
from mssgen.jobs.watch import Arrivals, watch_folder
from mssgen.jobs.worker import Worker
from mssgen.leftovers import claim
from mssgen.outputs import plan_outputs
from mssgen.separators.base import Separator

from support.program import Program
from support.toys import SOURCES, ToyNetwork, toy_separator

RATE = 8000
OUT = Path("out")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in/ beside the output folder out/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mssgen.jobs.tally._MAX_PAUSE_S", 0.0)
    Path("in").mkdir()
    return tmp_path


def write(name: str, *, seed: int = 0, n_samples: int = 2000) -> str:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_samples, 2))
    sf.write(name, samples, RATE)
    return name


class Bench:
    """A worker on a toy network, which ends when `n` songs are done with or after some seconds."""

    def __init__(self, n: int, before: Callable[[Any], None] | None = None, **how: Any) -> None:
        self.events: list[Event] = []
        self.n_loaded, self.n = 0, n
        self.network = ToyNetwork(before=before)
        self.end = time.monotonic() + how.pop("seconds", 60.0)
        hook = how.pop("hook", self.events.append)
        group = Group((), self.load, plan_outputs(SOURCES, stems=["bass"]), self.made, "toy")
        self.worker = Worker(group, stop=self.stop, hook=hook, run=RunOptions(**how))

    made = dict.fromkeys(SOURCES, "toy")

    def load(self) -> Separator:
        self.n_loaded += 1
        return toy_separator(self.network)

    def stop(self) -> bool:
        done = self.worker.done
        n_over = done.n_done + done.n_skipped + done.n_failed
        return n_over >= self.n or time.monotonic() > self.end

    def watch(self, existing: str = "resume") -> Done:
        options = WriteOptions(existing=existing)
        watch_folder(self.worker, Path("in"), OUT, options, interval_s=0.01)
        return self.worker.done

    def of_kind(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def counts(done: Done) -> tuple[int, int, int]:
    return done.n_done, done.n_skipped, done.n_failed


class TestArrivals:
    def test_a_file_that_grows_is_not_taken(self) -> None:
        song, arrivals = Path("in/song.wav"), Arrivals(0.0)
        for size in (1, 2, 3):
            song.write_bytes(b"x" * size)
            assert arrivals.due(tracks_in(Path("in"), OUT)) == []
        [track] = arrivals.due(tracks_in(Path("in"), OUT))
        assert (track.path, track.name) == ("in/song.wav", "song")
        # It is handed out once; again when it has changed, or if it was not settled, much later.
        assert arrivals.due([track]) == []
        arrivals.settle([track])
        song.write_bytes(b"other")
        assert arrivals.due([track]) == []
        assert arrivals.due([track]) == [track]

    def test_it_has_to_rest_for_a_while(self) -> None:
        arrivals = Arrivals(1000.0)
        write("in/song.wav")
        assert [arrivals.due(tracks_in(Path("in"), OUT)) for _ in range(3)] == [[], [], []]

    def test_only_songs_are_found(self) -> None:
        for name in ("a.wav", ".hidden.wav", "b.wav.part", "list.txt"):
            write_text(f"in/{name}")
        Path("in/out/a").mkdir(parents=True)
        write_text("in/out/a/bass.wav")
        Path("in/album").mkdir()
        write_text("in/album/c.mp3")
        found = tracks_in(Path("in"), Path("in/out"))
        assert [track.name for track in found] == ["a", "album/c"]


def write_text(name: str) -> None:
    Path(name).write_text("no sound")


class TestWatch:
    def test_songs_that_are_there_and_songs_that_come(self) -> None:
        write("in/a.wav")

        def more(_: Any) -> None:
            if not Path("in/b.wav").exists():
                write("b.wav", seed=1)
                os.rename("b.wav", "in/b.wav")

        bench = Bench(2, more)
        assert counts(bench.watch()) == (2, 0, 0)
        assert bench.n_loaded == 1
        assert [(event.index, event.total) for event in bench.of_kind(Start)] == [(1, 1), (2, 2)]
        assert Path("out/b/bass.wav").exists()
        assert counts(Bench(2).watch()) == (0, 2, 0)

    def test_a_failure_is_not_tried_again_until_the_file_changes(self) -> None:
        write_text("in/a.wav")
        assert counts(Bench(1).watch()) == (0, 0, 1)
        [entry] = read_entries(OUT / MANIFEST)
        assert (entry.state, entry.source is None) == ("failed", False)
        bench = Bench(1)
        assert counts(bench.watch()) == (0, 1, 0)
        assert "it failed before and has not changed" in bench.of_kind(Skipped)[0].reason
        assert bench.n_loaded == 0
        write("in/a.wav")
        assert counts(Bench(1).watch()) == (1, 0, 0)
        assert read_status(OUT).count("failed") == 0

    def test_a_song_that_kills_its_workers_is_given_up(self) -> None:
        path = write("in/a.wav")
        for _ in range(watch.MAX_KILLS - 1):
            begin(path)
        assert counts(Bench(1).watch()) == (1, 0, 0)
        os.remove("out/a/bass.wav")
        for _ in range(watch.MAX_KILLS):
            begin(path)
        bench = Bench(1)
        assert counts(bench.watch()) == (0, 0, 1)
        [failed] = bench.of_kind(Failed)
        assert "3 times its worker was killed" in failed.message
        assert [song.state for song in read_status(OUT).songs] == ["failed"]

    def test_a_song_that_another_worker_has_is_left_to_it(self) -> None:
        path = write("in/a.wav")
        write("in/b.wav")
        OUT.mkdir()
        claimed = claim_file(OUT, OUT / "a" / "bass.wav")
        lock = claim(claimed)
        assert lock is not None
        for _ in range(watch.MAX_KILLS):
            begin(path, claimed.name)
        assert counts(Bench(1).watch()) == (1, 0, 0)
        assert not Path("out/a").exists()
        lock.release()

    def test_another_version_of_a_song(self) -> None:
        write("in/a.wav")
        Bench(1).watch()
        write("in/a.wav", n_samples=500)
        bench = Bench(1)
        assert counts(bench.watch()) == (0, 0, 1)
        assert "in/a.wav has changed since" in bench.of_kind(Failed)[0].message
        assert counts(Bench(1).watch("update")) == (1, 0, 0)
        assert len(sf.read("out/a/bass.wav")[0]) == 500
        assert counts(Bench(1).watch("update")) == (0, 1, 0)

    def test_it_stops_between_two_songs(self) -> None:
        for name in "abc":
            write(f"in/{name}.wav")
        bench = Bench(9, lambda _: setattr(bench, "n", 0))
        assert counts(bench.watch()) == (1, 0, 0)
        assert (bench.worker.done.n_left, sorted(os.listdir("out"))) == (2, ["a", MANIFEST])

    def test_one_wrong_song_does_not_end_it(self) -> None:
        """It would be its own output, which ends other runs before they begin."""
        os.symlink(os.path.abspath("out/x/bass.wav"), "in/x.wav")
        OUT.joinpath("x").mkdir(parents=True)
        write("out/x/bass.wav")
        write("in/y.wav")
        bench = Bench(2)
        assert counts(bench.watch()) == (1, 0, 1)
        assert "would replace the input" in bench.of_kind(Failed)[0].message

    def test_a_model_that_cannot_be_loaded_does(self) -> None:
        write("in/a.wav")
        bench = Bench(1)

        def load() -> Separator:
            raise CheckpointError("damaged")

        group = Group((), load, plan_outputs(SOURCES, stems=["bass"]), bench.made)
        bench.worker = Worker(group, stop=bench.stop)
        with pytest.raises(CheckpointError):
            bench.watch()

    def test_a_folder_that_is_out_of_reach_is_waited_for(self) -> None:
        seen: list[Event] = []
        looks = iter([1, 1, 1])

        def rename(event: Event) -> None:
            seen.append(event)
            os.rename("away", "in")

        os.rename("in", "away")
        bench = Bench(1)
        with pytest.raises(UsageError, match="`watch` in is not a folder"):
            bench.watch()
        os.rename("away", "in")
        write("in/a.wav")

        def stop() -> bool:
            if next(looks, None):
                os.rename("in", "away")
                next(looks), next(looks)
            return counts(bench.worker.done) != (0, 0, 0) or time.monotonic() > bench.end

        bench.worker._stop = stop
        watch_folder(bench.worker, Path("in"), OUT, WriteOptions(), interval_s=0.01, hook=rename)
        assert [type(event) for event in seen] == [Warned]
        assert counts(bench.worker.done) == (1, 0, 0)

    @pytest.mark.parametrize("output", ["in", "."])
    def test_it_does_not_watch_its_outputs(self, output: str) -> None:
        with pytest.raises(UsageError, match="so that stems would be separated again"):
            watch_folder(Bench(1).worker, Path("in"), Path(output), WriteOptions())


def begin(path: str, claim: str = "none") -> None:
    """What a killed worker leaves in the manifest."""
    record = SongRecord(Manifest(OUT), SEPARATE, Track(path, "a"), {})
    record.opened()
    record.started({"run": "x", "index": 1, "total": 1, "duration_s": 1.0, "claim": claim})


def test_attempts_are_those_at_the_file_as_it_is() -> None:
    path = write("in/a.wav")
    begin(path)
    manifest = Manifest(OUT)
    known = manifest.attempts(SEPARATE, InputFile(path))
    assert known is not None
    assert known.n_unfinished == 1
    assert manifest.attempts("enhance", InputFile(path)) is None
    write(path, n_samples=3)
    assert manifest.attempts(SEPARATE, InputFile(path)) is None
    os.truncate(OUT / MANIFEST, 0)  # by its owner, who wants to begin anew
    manifest.refresh()
    write(path)
    assert manifest.attempts(SEPARATE, InputFile(path)) is None


class Orders:
    """Lines through a pipe to a worker, and its answers."""

    def __init__(self, bench: Bench, *lines: str) -> None:
        reader, writer = os.pipe()
        data = "".join(line + "\n" for line in lines).encode()
        feeder = threading.Thread(target=self.feed, args=(writer, data))
        feeder.start()
        self.answers: list[dict[str, Any]] = []
        work_off(bench.worker, reader, OUT, WriteOptions(existing="resume"), self.answers.append)
        os.close(reader)
        feeder.join()

    @staticmethod
    def feed(writer: int, data: bytes) -> None:
        with open(writer, "wb") as file:
            try:
                file.write(data)
                file.flush()
            except BrokenPipeError:
                pass


class TestOrders:
    def test_each_gets_an_answer(self) -> None:
        write("in/a.wav")
        write_text("in/text.wav")
        bench = Bench(99)
        answers = Orders(
            bench,
            '{"path": "in/a.wav", "id": 7}',
            "",
            '{"path": "in/a.wav", "id": 8}',
            '{"path": "in/a.wav", "output": "other", "format": "flac"}',
            '{"path": "in/a.wav", "output": "other", "format": "mp4"}',
            '{"path": "in/text.wav"}',
            '{"path": "in/a.wav"',
            '{"path": 3}',
            '{"path": "in/a.wav", "colour": 1}',
            '{"path": "-"}',
            "[]",
        ).answers
        assert [answer["id"] for answer in answers[:2]] == [7, 8]
        assert answers[0]["written"] == ["out/a/bass.wav"]
        assert answers[2]["written"] == ["other/a/bass.flac"]
        states = [answer["state"] for answer in answers]
        assert states == ["done", "skipped", "done", *["failed"] * 7]
        errors = [answer["error"] for answer in answers[3:]]
        for error, words in zip(
            errors,
            [
                "mp4",
                "in/text.wav is text",
                "line 7: it is not JSON",
                "must be a string",
                "unknown option 'colour'",
                "must name a file",
                'not an object such as {"path"',
            ],
            strict=True,
        ):
            assert words in error
        assert (bench.n_loaded, counts(bench.worker.done)) == (1, (2, 1, 7))

    def test_it_ends_after_the_current_song(self) -> None:
        write("in/a.wav")
        bench = Bench(1)
        lines = ['{"path": "in/a.wav"}', '{"path": "in/a.wav", "output": "b"}'] * 3
        assert len(Orders(bench, *lines).answers) == 1

    def test_metrics_count_all_rounds(self) -> None:
        write("in/a.wav")
        write_text("in/b.wav")
        bench = Bench(9, hook=Metered(lambda _: None, Path("m.prom")))
        lines = [json.dumps({"path": f"in/{name}.wav", "output": name}) for name in "aab"]
        Orders(bench, *lines, '{"path": "in/a.wav"}')
        found = dict(
            line.split() for line in Path("m.prom").read_text().splitlines() if line[0] != "#"
        )
        names = ("songs_done_total", "songs_skipped_total", "songs_failed_total")
        names += ("audio_seconds_total", "songs_queued")
        assert [float(found[f"mssgen_{name}"]) for name in names] == [2, 1, 1, 0.5, 0]

    def test_nothing_is_kept_open_and_little_in_memory(self) -> None:
        """The short form of tests/benchmarks/worker_memory.py."""
        write("in/a.wav")
        bench = Bench(99, hook=lambda _: None)
        sizes = []

        def measured() -> Iterator[tuple[int, int, int]]:
            gc.collect()
            yield len(os.listdir("/proc/self/fd")), threading.active_count(), len(gc.get_objects())

        for index in range(21):
            name = write(f"in/{index}.wav", seed=index)
            bench.worker.round([Track(name, str(index))], OUT, WriteOptions(existing="resume"))
            if index in (10, 20):
                sizes += measured()
        (n_open, n_threads, n_objects), after = sizes
        assert after[:2] == (n_open, n_threads)
        assert after[2] - n_objects < 10 * 100
        assert counts(bench.worker.done) == (21, 0, 0)


class TestProgram:
    def test_sigterm_ends_it_after_the_current_song(
        self, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in "ab":
            write(f"in/{name}.wav")

        def kill() -> None:
            while not (OUT / MANIFEST).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        killer = threading.Thread(target=kill)
        killer.start()
        how = ("-m", tiny_model, "--stem", "bass", "--interval", "0.1", "-o", "out")
        result = Program(capsys)("worker", "--watch", "in", *how, "--json")
        killer.join()
        assert result.code == 0
        [done] = [event for event in result.events if event["event"] == "done"]
        assert (done["n_done"], done["n_left"]) == (1, 1)
        assert read_status(OUT).count("running") == 0
        assert sorted(os.listdir("out")) == ["a", MANIFEST]
        assert os.listdir("out/a") == ["bass.wav"]

    def test_orders_from_a_file(self, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write("in/a.wav")
        Path("jobs").write_text('{"path": "in/a.wav", "id": "x"}\n{"path": "in/none.wav"}')
        how = ("-m", tiny_model, "--stem", "bass", "-o", "out", "-q")
        result = Program(capsys)("worker", "--jobs", "jobs", *how)
        assert result.code == 1
        first, second = result.events
        assert (first["event"], first["id"], first["state"]) == ("job", "x", "done")
        assert "does not exist" in second["error"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ((), "name a folder with --watch, or a file of songs with --jobs"),
            (("--watch", "in", "--jobs", "-"), "name a folder with --watch, or"),
            (("--watch", "none", "-m", "tiny"), "--watch none is not a folder"),
            (("--jobs", "none"), "--jobs none cannot be read"),
            (("--watch", "in", "-o", "-"), "cannot write to standard output"),
            (("--watch", "in", "--overwrite", "--skip-existing"), "contradict each other"),
        ],
    )
    def test_wrong_calls(
        self,
        words: tuple[str, ...],
        said: str,
        tiny_model: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = tuple(str(tiny_model) if word == "tiny" else word for word in words)
        result = Program(capsys)("worker", "-m", tiny_model, *words)
        assert (result.code, said in result.err) == (2, True), result.err


def test_a_second_sigterm_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does: the song that is worked on is left without a trace but its line."""
    monkeypatch.setattr("mssgen.cli.signals._received.number", None)
    write("in/a.wav")

    def kill(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    bench = Bench(1, kill)
    with first_sigterm() as is_asked, pytest.raises(SystemExit) as ended:
        bench.watch()
    assert (is_asked(), ended.value.code) == (True, 128 + signal.SIGTERM)
    assert not any(path.is_file() for path in OUT.rglob("*") if path.name != MANIFEST)
    assert [song.state for song in read_status(OUT).songs] == ["interrupted"]
    assert counts(Bench(1).watch()) == (1, 0, 0)
