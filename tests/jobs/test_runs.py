"""Long lists: parts of them on several machines, two runs in one folder, and other tries."""

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from mssgen.errors import OutOfMemoryError, UsageError
from mssgen.events import Done, Event, Failed, Progress, Skipped, Start, Warned
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.batch import separate_files
from mssgen.jobs.claims import check_sharing, claim_file, claimed
from mssgen.jobs.manifest import MANIFEST, read_entries
from mssgen.jobs.options import RunOptions, Shard, WriteOptions
from mssgen.jobs.passing import is_passing
from mssgen.leftovers import Lock, claim, sweep
from mssgen.outputs import plan_outputs

from support.toys import SOURCES, ToyNetwork, toy_separator

RATE = 8000


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six songs in music/, of 0.25 s to 1.5 s."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mssgen.jobs.tally._MAX_PAUSE_S", 0.0)
    numbers = np.random.default_rng(0)
    Path("music").mkdir()
    for index in range(6):
        samples = numbers.uniform(-0.5, 0.5, (2000 * (index + 1), 2))
        sf.write(f"music/{index}.wav", samples, RATE)
    return tmp_path


def run(
    *,
    network: ToyNetwork | None = None,
    output: str = "out",
    inputs: Sequence[str] = ("music",),
    **how: Any,
) -> tuple[Done, list[Event]]:
    events: list[Event] = []
    done = separate_files(
        find_tracks(inputs),
        toy_separator(network),
        plan_outputs(SOURCES, stems=["bass"]),
        output_dir=output,
        options=WriteOptions(existing=how.pop("existing", "resume")),
        made_by=dict.fromkeys(SOURCES, "toy"),
        run=RunOptions(**how),
        hook=events.append,
    )
    return done, events


def counts(done: Done) -> tuple[int, int, int, int]:
    return done.n_done, done.n_skipped, done.n_failed, done.n_left


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def calling(action: Callable[[], None], at: int = 1) -> ToyNetwork:
    """A network that does something before its call number `at`."""
    network = ToyNetwork()

    def before(_: Any) -> None:
        if network.n_calls == at - 1:
            network.n_calls += 1
            action()

    network.before = before
    return network


class TestShards:
    @given(st.lists(st.integers(0, 10**9), max_size=40), st.integers(1, 9))
    def test_every_input_is_in_one_part_and_parts_are_balanced(
        self, sizes: list[int], n: int
    ) -> None:
        parts = [Shard(index, n).take(sizes) for index in range(1, n + 1)]
        assert sorted(itertools.chain(*parts)) == list(range(len(sizes)))
        totals = [sum(max(1, sizes[index]) for index in part) for part in parts]
        # Graham's bound for list scheduling.
        assert max(totals) - min(totals) <= max([1, *sizes])

    @pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/2/3", " 1/2"])
    def test_what_is_no_part(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"`shard=.*not a part such as 1/8"):
            Shard.parse(text)

    def test_the_parts_together_are_the_whole(self, music: Path) -> None:
        dones = [run(shard=Shard.parse(f"{index}/3")) for index in (1, 2, 3)]
        assert sum(done.n_done for done, _ in dones) == 6
        for done, events in dones:
            assert [event.total for event in of_kind(events, Start)] == [done.n_done] * done.n_done
        assert counts(run()[0]) == (0, 6, 0, 0)

    def test_songs_of_one_name_in_two_parts_are_refused(self, music: Path) -> None:
        os.makedirs("more")
        os.rename("music/5.wav", "more/4.wav")
        for index in (1, 2):
            _, events = run(shard=Shard(index, 2), inputs=("music", "more"))
            [failed] = of_kind(events, Failed)
            assert "would both be written" in failed.message
        assert not Path("out/4").exists()

    def test_a_disk_without_locks_cannot_be_shared(
        self, music: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_sharing(Path("out"))

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        monkeypatch.setattr("mssgen.leftovers.fcntl.flock", refuse)
        with pytest.raises(UsageError, match=r"has no locks.*each `shard` its own `output_dir`"):
            run(shard=Shard(1, 2))
        assert counts(run()[0]) == (6, 0, 0, 0)
        assert {path.name for path in Path("out").iterdir()} == {MANIFEST, *"012345"}


class TestTwoRuns:
    def test_what_another_run_is_writing_is_left_to_it(self, music: Path) -> None:
        Path("out").mkdir()
        lock = claim(claim_file(Path("out"), Path("out/2/bass.wav")))
        assert lock is not None
        done, events = run()
        assert counts(done) == (5, 1, 0, 0)
        [skipped] = of_kind(events, Skipped)
        assert (skipped.track, skipped.reason) == (
            "music/2.wav",
            "another run of mssgen is writing its outputs",
        )
        lock.release()
        assert counts(run()[0]) == (1, 5, 0, 0)

    def test_what_another_run_has_written_since_is_complete(self, music: Path) -> None:
        """The other run works on all but the song that this one has begun, and the one that it has
        opened ahead."""
        others: list[Done] = []
        done, _ = run(network=calling(lambda: others.append(run()[0])))
        assert sum(done.n_done for done in (done, *others)) == 6
        assert others[0].n_done >= 4
        entries = [entry for entry in read_entries(Path("out", MANIFEST)) if entry.state == "done"]
        assert len(entries) == 6

    def test_another_source_of_the_same_name_is_not_overwritten(self, music: Path) -> None:
        """It was no obstacle when the run began."""
        sf.write("3.wav", np.zeros((2000, 2)), RATE)
        done, events = run(network=calling(lambda: void(run(inputs=["3.wav"]))))
        assert counts(done) == (5, 0, 1, 0)
        [failed] = of_kind(events, Failed)
        assert "out/3/bass.wav exists and was made from another file" in failed.message
        assert not sf.read("out/3/bass.wav")[0].any()

    def test_claims_end_with_their_run_and_leave_nothing(self, music: Path) -> None:
        target = Path("out/song/bass.wav")
        with claimed(Path("out"), [target]) as is_ours:
            assert is_ours
            with claimed(Path("out"), [target, Path("out/song/drums.wav")]) as other:
                assert not other
            sweep(Path("out"))  # of a third run
            assert claim_file(Path("out"), target).exists()
        assert not list(Path("out").iterdir())
        claim_file(Path("out"), target).touch()  # what a killed run leaves
        with claimed(Path("out"), [target]) as is_ours:
            assert is_ours
        assert not list(Path("out").iterdir())

    def test_a_sweep_is_no_other_run(self, music: Path) -> None:
        path = claim_file(music, music / "bass.wav")
        path.touch()
        sweeper = Lock(path)
        assert sweeper.take(where_unknown=False)
        path.unlink()
        lock = claim(path)
        assert lock is not None
        assert lock.is_at(path)
        lock.release()
        sweeper.release()


def void(_: object) -> None:
    pass


class TestFailures:
    def test_fail_fast_stops_at_the_first(self, music: Path) -> None:
        Path("music/2.wav").write_text("no sound")
        done, events = run(fail_fast=True)
        assert counts(done) == (2, 0, 1, 3)
        assert isinstance(events[-1], Done)
        # What is refused from the start counts as well, before anything is done.
        done, _ = run(fail_fast=True, existing="refuse")
        assert (done.n_done, done.n_failed) == (0, 2)

    def test_a_passing_cause_is_tried_again_after_the_others(self, music: Path) -> None:
        def fail() -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        done, events = run(network=calling(fail), n_retries=1)
        assert counts(done) == (6, 0, 0, 0)
        started = [event.track for event in of_kind(events, Start)]
        assert started[0] == started[-1] == "music/0.wav"
        assert [event.index for event in of_kind(events, Start)] == [1, 1, 2, 3, 4, 5, 6]
        [warning] = of_kind(events, Warned)
        assert "Input/output error (tried again later, 1 of 1)" in warning.message
        assert read_entries(Path("out", MANIFEST))[-1].state == "done"

    def test_it_fails_in_the_end(self, music: Path) -> None:
        def fail(_: Any) -> None:
            raise OutOfMemoryError("memory is too small")

        done, events = run(network=ToyNetwork(before=fail), n_retries=2, inputs=["music/0.wav"])
        assert counts(done) == (0, 0, 1, 0)
        assert len(of_kind(events, Warned)) == 2

    def test_a_broken_file_is_not_tried_again(self, music: Path) -> None:
        Path("music/2.wav").write_text("no sound")
        done, events = run(n_retries=5)
        assert counts(done) == (5, 0, 1, 0)
        assert not of_kind(events, Warned)

    def test_an_input_that_is_pulled_fails_alone(self, music: Path) -> None:
        done, events = run(network=calling(lambda: os.unlink("music/0.wav")), n_retries=1)
        assert counts(done) == (5, 0, 1, 0)
        [warning], [failed] = of_kind(events, Warned), of_kind(events, Failed)
        assert "was changed while it was read, and nothing was written" in warning.message
        assert "does not exist" in failed.message
        assert not Path("out/0/bass.wav").exists()

    def test_an_input_that_is_copied_while_others_are_done_is_whole(self, music: Path) -> None:
        def copy() -> None:
            sf.write("music/5.wav", np.zeros((500, 2)), RATE)

        done, _ = run(network=calling(copy))
        assert counts(done) == (6, 0, 0, 0)
        assert len(sf.read("out/5/bass.wav")[0]) == 500

    def test_causes(self) -> None:
        hidden = UsageError("it cannot be read")
        hidden.__context__ = OSError(errno.ESTALE, "stale")
        assert is_passing(hidden)
        assert is_passing(MemoryError())
        assert not is_passing(OSError(errno.ENOSPC, "full"))
        assert not is_passing(FileNotFoundError(errno.ENOENT, "none"))
        assert not is_passing(UsageError("wrong"))


def test_progress_is_that_of_the_run(music: Path) -> None:
    _, events = run()
    progress = of_kind(events, Progress)
    assert {event.total for event in progress} == {6}
    assert [event.index for event in progress] == sorted(event.index for event in progress)
    assert all(event.left_s is not None and event.left_s >= 0 for event in progress)
    assert progress[-1].left_s == 0
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.device, done.precision) == ("cpu", "fp32")
    assert done.audio_s == pytest.approx(sum(0.25 * (index + 1) for index in range(6)))
