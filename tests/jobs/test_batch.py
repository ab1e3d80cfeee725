"""Songs to files: what is written where, what is left alone, and what a failure costs."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from mutagen.flac import FLAC, Picture
from numpy.typing import NDArray
from torch import Tensor

import mssgen
from mssgen.errors import UsageError
from mssgen.events import Done, Event, Failed, Progress, Skipped, Start, Warned, Written
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.batch import separate_files
from mssgen.jobs.manifest import MANIFEST
from mssgen.jobs.options import WriteOptions
from mssgen.outputs import plan_outputs

from support.models import EXCERPT
from support.toys import SOURCES, ToyNetwork, toy_separator

RATE = 8000
Audio = NDArray[np.float32]
PLAN = plan_outputs(SOURCES)


def song(path: Path, *, n_samples: int = 8000, peak: float = 0.5, subtype: str = "PCM_16") -> Path:
    """A sound file whose noise has exactly this peak; another one for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(list(path.name.encode()))
    samples = numbers.uniform(-1, 1, (n_samples, 2))
    sf.write(path, samples * (peak / np.abs(samples).max()), RATE, subtype)
    return path


def run(
    inputs: Sequence[Path | str], folder: Path, *, gains: Sequence[float] | None = None, **how: Any
) -> tuple[Done, list[Event]]:
    """Separate with the toy network; the options are those of WriteOptions."""
    events: list[Event] = []
    network = how.pop("network", None) or ToyNetwork(**({"gains": gains} if gains else {}))
    plan = how.pop("plan", PLAN)
    done = separate_files(
        find_tracks([str(path) for path in inputs], output_dir=folder),
        toy_separator(network),
        plan,
        output_dir=folder,
        options=WriteOptions(**how),
        hook=events.append,
    )
    return done, events


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def files(folder: Path) -> set[str]:
    """Everything below the folder, hidden files too, but for the manifest."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {MANIFEST}


def stems_of(*tracks: str) -> set[str]:
    return {f"{track}/{stem}.wav" for track, stem in itertools.product(tracks, SOURCES)}


def read(path: Path) -> Audio:
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return np.ascontiguousarray(samples.T)


def test_several_files_and_a_folder_keep_their_names(tmp_path: Path) -> None:
    song(tmp_path / "one.wav")
    song(tmp_path / "music/two.wav")
    song(tmp_path / "music/album/three.flac")
    done, events = run([tmp_path / "one.wav", tmp_path / "music"], tmp_path / "out")
    assert (done.n_done, done.n_skipped, done.n_failed) == (3, 0, 0)
    assert files(tmp_path / "out") == stems_of("one", "two", "album/three")
    assert events[-1] == done


def test_stems_are_those_of_the_python_api(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav", subtype="FLOAT")
    run([path], tmp_path / "out")
    expected = mssgen.separate(path, separator=toy_separator())
    for stem in SOURCES:
        np.testing.assert_array_equal(read(tmp_path / f"out/song/{stem}.wav"), expected[stem])


def test_events_come_in_order(tmp_path: Path) -> None:
    one, two = song(tmp_path / "one.wav"), song(tmp_path / "two.wav")
    _, events = run([one, two], tmp_path / "out")
    kinds = [type(event) for event in events if not isinstance(event, Progress)]
    assert kinds == [Start, *[Written] * 4, Start, *[Written] * 4, Done]
    assert [event.track for event in events[:-1]] == sorted(
        (event.track for event in events[:-1]), key=[str(one), str(two)].index
    )
    start = events[0]
    assert start == Start(str(one), 1.0, RATE, 2, "cpu", "fp32", index=1, total=2)
    assert [event.stem for event in of_kind(events, Written)[:4]] == list(SOURCES)
    assert all(event.path.is_file() for event in of_kind(events, Written))
    progress = [event.done_s for event in of_kind(events, Progress) if event.track == str(one)]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


class TestNames:
    def test_two_songs_of_one_name_are_refused_and_the_others_are_done(
        self, tmp_path: Path
    ) -> None:
        inputs = [song(tmp_path / f"{name}.wav") for name in ("a/song", "b/song", "c/tune")]
        done, events = run(inputs, tmp_path / "out")
        assert (done.n_done, done.n_failed) == (1, 2)
        assert files(tmp_path / "out") == stems_of("tune")
        failed = of_kind(events, Failed)
        assert [event.track for event in failed] == [str(path) for path in inputs[:2]]
        for event in failed:
            assert f"{inputs[0]} and {inputs[1]} would both be written" in event.message
            assert "`template` '{parent}/{track}/{stem}.{ext}'" in event.message
        done, _ = run(inputs, tmp_path / "out", template="{parent}/{track}/{stem}.{ext}")
        assert done.n_done == 3
        assert files(tmp_path / "out") == stems_of("tune", "a/song", "b/song", "c/tune")

    def test_two_formats_of_one_song_are_told_apart_by_their_suffix(self, tmp_path: Path) -> None:
        inputs = [song(tmp_path / "song.wav"), song(tmp_path / "song.flac")]
        done, events = run(inputs, tmp_path / "out")
        assert done.n_failed == 2
        template = "{track}.{trackext}/{stem}.{ext}"
        assert f"`template` '{template}'" in of_kind(events, Failed)[0].message
        assert run(inputs, tmp_path / "out", template=template)[0].n_done == 2

    def test_a_song_whose_folder_is_a_link_out_is_refused_alone(self, tmp_path: Path) -> None:
        inputs = [song(tmp_path / "one.wav"), song(tmp_path / "two.wav")]
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/one").symlink_to("../elsewhere")
        done, events = run(inputs, tmp_path / "out")
        assert (done.n_done, done.n_failed) == (1, 1)
        [failed] = of_kind(events, Failed)
        assert failed.track == str(inputs[0])
        assert "a link leads out" in failed.message
        assert files(tmp_path / "out") == stems_of("two")
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_a_template_without_stem_is_refused(self, tmp_path: Path) -> None:
        path = song(tmp_path / "song.wav")
        with pytest.raises(UsageError, match=r"written twice.*\{stem\}"):
            run([path], tmp_path / "out", template="{track}.{ext}")

    def test_trackext_tells_songs_apart(self, tmp_path: Path) -> None:
        inputs = [song(tmp_path / "song.wav"), song(tmp_path / "song.flac")]
        run(inputs, tmp_path / "out", template="{track}_{trackext}_{stem}.{ext}")
        assert len(files(tmp_path / "out")) == 8
        assert (tmp_path / "out/song_flac_bass.wav").is_file()

    @pytest.mark.parametrize("existing", ["overwrite", "skip", "refuse"])
    def test_an_input_is_never_replaced(self, tmp_path: Path, existing: str) -> None:
        first, second = song(tmp_path / "first.wav"), song(tmp_path / "bass.wav")
        before = second.read_bytes()
        with pytest.raises(UsageError, match=r"would replace the input .*bass\.wav"):
            run(
                [first, second],
                tmp_path,
                template="{stem}.{ext}",
                existing=existing,
                plan=plan_outputs(SOURCES, stems=["bass"]),
            )
        assert second.read_bytes() == before

    def test_nothing_leaves_the_folder(self, tmp_path: Path) -> None:
        path = song(tmp_path / "song.wav")
        with pytest.raises(UsageError, match="`template`"):
            run([path], tmp_path / "out", template="../{stem}.{ext}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "soft"}, "`clip='soft'` is unknown"),
        ({"container": "mp4"}, "`container='mp4'` is unknown"),
        ({"bit_depth": "8"}, "`bit_depth='8'` is unknown"),
        ({"container": "flac", "bit_depth": "32f"}, "cannot hold `bit_depth='32f'`"),
        ({"container": "opus", "sample_rate": 44_100}, "`container='opus'` cannot hold 44100 Hz"),
        ({"sample_rate": 0}, "`sample_rate=0` is out of range"),
        ({"sample_rate": 200_000}, "8000 to 192000"),
        ({"existing": "keep"}, "`existing='keep'` is unknown"),
    ],
)
def test_wrong_options_are_found_before_any_song(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WriteOptions(**options)


class TestFailures:
    def test_one_bad_song_does_not_stop_the_others(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.wav"
        bad.write_text("this is no sound at all")
        nan = tmp_path / "nan.wav"
        sf.write(nan, np.full((8000, 2), np.nan), RATE, "FLOAT")
        inputs = [bad, song(tmp_path / "one.wav"), tmp_path / "absent.wav", nan]
        inputs += [song(tmp_path / "two.wav")]
        done, events = run(inputs, tmp_path / "out")
        assert (done.n_done, done.n_failed) == (2, 3)
        assert files(tmp_path / "out") == stems_of("one", "two")
        failed = of_kind(events, Failed)
        assert [event.track for event in failed] == [str(bad), str(inputs[2]), str(nan)]
        assert "text, not sound" in failed[0].message
        assert "does not exist" in failed[1].message
        assert "NaN" in failed[2].message

    def test_an_error_in_the_middle_leaves_nothing(self, tmp_path: Path) -> None:
        network = ToyNetwork()

        def fail(mixture: Tensor) -> None:
            if network.n_calls == 5:
                network.before = None
                raise RuntimeError("the machine is tired")

        network.before = fail
        inputs = [song(tmp_path / "one.wav"), song(tmp_path / "two.wav")]
        done, events = run(inputs, tmp_path / "out", network=network)
        assert (done.n_done, done.n_failed) == (1, 1)
        [failed] = of_kind(events, Failed)
        assert failed.message == "unexpected RuntimeError: the machine is tired"
        assert files(tmp_path / "out") == stems_of("two")

    def test_an_interruption_in_the_middle_leaves_nothing(self, tmp_path: Path) -> None:
        network = ToyNetwork()

        def interrupt(mixture: Tensor) -> None:
            if network.n_calls == 5:
                raise KeyboardInterrupt

        network.before = interrupt
        inputs = [song(tmp_path / "one.wav"), song(tmp_path / "two.wav")]
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "out", network=network)
        assert files(tmp_path / "out") == set()

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        _, events = run([song(tmp_path / "one.wav")], tmp_path / "out")
        [failed] = of_kind(events, Failed)
        assert "cannot be written" in failed.message

    def test_a_rate_that_the_format_lacks_fails_that_song(self, tmp_path: Path) -> None:
        path = tmp_path / "odd.wav"
        sf.write(path, np.zeros((9000, 2)), 9000)
        done, events = run([path, song(tmp_path / "one.wav")], tmp_path / "out", container="opus")
        assert (done.n_done, done.n_failed) == (1, 1)
        assert "`sample_rate=12000`" in of_kind(events, Failed)[0].message


class TestExistingOutputs:
    def test_refused_with_the_cure(self, tmp_path: Path) -> None:
        path = song(tmp_path / "song.wav")
        run([path], tmp_path / "out")
        (tmp_path / "out/song/bass.wav").write_text("mine")
        done, events = run([path], tmp_path / "out")
        assert done.n_failed == 1
        [failed] = of_kind(events, Failed)
        assert "`existing='overwrite'`" in failed.message
        assert "`existing='skip'`" in failed.message
        assert (tmp_path / "out/song/bass.wav").read_text() == "mine"

    def test_overwritten(self, tmp_path: Path) -> None:
        path = song(tmp_path / "song.wav")
        run([path], tmp_path / "out")
        expected = (tmp_path / "out/song/bass.wav").read_bytes()
        (tmp_path / "out/song/bass.wav").write_text("old")
        done, _ = run([path], tmp_path / "out", existing="overwrite")
        assert done.n_done == 1
        assert (tmp_path / "out/song/bass.wav").read_bytes() == expected

    def test_an_empty_file_is_no_output(self, tmp_path: Path) -> None:
        """What a power cut left of files that were never forced to the disk."""
        path = song(tmp_path / "song.wav")
        run([path], tmp_path / "out")
        whole = {stem: stem.read_bytes() for stem in sorted(tmp_path.glob("out/song/*.wav"))}
        for stem in list(whole)[::2]:
            stem.write_bytes(b"")
        done, _ = run([path], tmp_path / "out", existing="skip")
        assert (done.n_done, done.n_skipped, done.n_failed) == (1, 0, 0)
        assert {stem: stem.read_bytes() for stem in whole} == whole

    def test_complete_songs_are_skipped_without_reading_them(self, tmp_path: Path) -> None:
        one, two = song(tmp_path / "one.wav"), song(tmp_path / "two.wav")
        run([one], tmp_path / "out")
        one.write_text("no sound any more")
        network = ToyNetwork()
        done, events = run([one, two], tmp_path / "out", existing="skip", network=network)
        assert (done.n_done, done.n_skipped, done.n_failed) == (1, 1, 0)
        assert [event.track for event in of_kind(events, Skipped)] == [str(one)]
        assert files(tmp_path / "out") == stems_of("one", "two")

    @pytest.mark.parametrize("kept", SOURCES)
    def test_missing_outputs_are_added_at_the_gain_of_all(self, tmp_path: Path, kept: str) -> None:
        """One stem is over full scale; the others are lowered with it, also when it is kept."""
        path = song(tmp_path / "song.wav", peak=1.0)
        gains = (0.5, 3.0, 0.25, 0.25)
        run([path], tmp_path / "out", gains=gains)
        first = {stem: (tmp_path / f"out/song/{stem}.wav").read_bytes() for stem in SOURCES}
        for stem in SOURCES:
            if stem != kept:
                (tmp_path / f"out/song/{stem}.wav").unlink()
        (tmp_path / f"out/song/{kept}.wav").write_text("mine")
        _, events = run([path], tmp_path / "out", gains=gains, existing="skip")
        assert {event.stem for event in of_kind(events, Written)} == set(SOURCES) - {kept}
        for stem in SOURCES:
            expected = b"mine" if stem == kept else first[stem]
            assert (tmp_path / f"out/song/{stem}.wav").read_bytes() == expected


class TestClipping:
    GAINS = (0.5, 3.0, 0.25, 0.25)

    @pytest.fixture
    def loud(self, tmp_path: Path) -> Path:
        """Float samples to 1.5 times full scale."""
        return song(tmp_path / "loud.wav", peak=1.5, subtype="FLOAT")

    def written(self, loud: Path, **how: Any) -> tuple[dict[str, Audio], list[Any]]:
        folder = loud.parent / "out"
        _, events = run([loud], folder, gains=self.GAINS, **how)
        assert not of_kind(events, Failed)
        return {s: read(folder / f"loud/{s}.wav") for s in SOURCES}, of_kind(events, Warned)

    def expected(self, loud: Path) -> dict[str, Audio]:
        return mssgen.separate(loud, separator=toy_separator(ToyNetwork(gains=self.GAINS)))

    def test_rescale_lowers_all_stems_alike_and_says_by_how_much(self, loud: Path) -> None:
        stems, warnings = self.written(loud, bit_depth="16")
        exact = self.expected(loud)
        over = np.abs(exact["bass"]).max()
        assert over > 4
        for stem in SOURCES:
            np.testing.assert_allclose(stems[stem], exact[stem] / over, atol=2**-12)
        [warning] = warnings
        assert f"{20 * np.log10(over):.1f} dB over full scale" in warning.message
        assert "lowered" in warning.message

    def test_clamp_cuts_and_says_so(self, loud: Path) -> None:
        stems, warnings = self.written(loud, bit_depth="24", clip="clamp")
        exact = self.expected(loud)
        for stem in SOURCES:
            np.testing.assert_allclose(stems[stem], np.clip(exact[stem], -1, 1), atol=2**-22)
        assert "clipped" in warnings[0].message

    def test_none_saturates_in_integers(self, loud: Path) -> None:
        stems, warnings = self.written(loud, bit_depth="24", clip="none")
        np.testing.assert_allclose(
            stems["bass"], np.clip(self.expected(loud)["bass"], -1, 1), atol=2**-22
        )
        assert len(warnings) == 1

    @pytest.mark.parametrize("clip", ["rescale", "none"])
    def test_float_keeps_everything(self, loud: Path, clip: str) -> None:
        stems, warnings = self.written(loud, clip=clip)  # float, as the input
        exact = self.expected(loud)
        for stem in SOURCES:
            np.testing.assert_array_equal(stems[stem], exact[stem])
        assert not warnings

    def test_quiet_stems_stay_as_they_are(self, tmp_path: Path) -> None:
        path = song(tmp_path / "quiet.wav", peak=0.9)
        _, events = run([path], tmp_path / "out", bit_depth="24")
        assert not of_kind(events, Warned)
        exact = mssgen.separate(path, separator=toy_separator())["bass"]
        np.testing.assert_allclose(read(tmp_path / "out/quiet/bass.wav"), exact, atol=2**-22)

    def test_rescaled_two_stems_still_sum_to_the_mixture(self, tmp_path: Path) -> None:
        path = song(tmp_path / "song.wav", peak=0.99)
        plan = plan_outputs(SOURCES, two_stems="bass")
        run([path], tmp_path / "out", plan=plan, gains=self.GAINS, bit_depth="24")
        total = read(tmp_path / "out/song/bass.wav") + read(tmp_path / "out/song/no_bass.wav")
        mixture = read(path)
        gain = float((total * mixture).sum() / (mixture * mixture).sum())
        assert 0.2 < gain < 0.5
        np.testing.assert_allclose(total, mixture * gain, atol=2**-20)


def test_silence_is_said(tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    sf.write(path, np.zeros((4000, 2)), RATE)
    done, events = run([path], tmp_path / "out")
    assert done.n_done == 1
    assert "silent" in of_kind(events, Warned)[0].message
    assert not read(tmp_path / "out/silent/bass.wav").any()


def test_tags_and_cover_go_into_the_stems(tmp_path: Path) -> None:
    path = song(tmp_path / "song.flac")
    tagged = FLAC(path)
    tagged["title"], tagged["artist"] = "War of freedom", "Sectoid"
    cover = Picture()
    cover.type, cover.mime, cover.data = 3, "image/png", b"\x89PNG cover"
    tagged.add_picture(cover)
    tagged.save()
    run([path], tmp_path / "out", container="flac")
    stem = FLAC(tmp_path / "out/song/bass.flac")
    assert stem["title"] == ["War of freedom (bass)"]
    assert stem["artist"] == ["Sectoid"]
    assert stem.pictures[0].data == cover.data


def test_rate_and_channels_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "surround.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (9001, 6)), 16_000, "PCM_24")
    for name, how, expected in (
        ("same", {}, (16_000, 9001, 6, "PCM_24")),
        ("mixed", {"downmix": True}, (16_000, 9001, 2, "PCM_24")),
        ("slow", {"sample_rate": 8000, "bit_depth": "16"}, (8000, 4501, 6, "PCM_16")),
    ):
        done, _ = run([path], tmp_path / name, **how)
        assert done.n_done == 1
        info = sf.info(tmp_path / name / "surround/vocals.wav")
        assert (info.samplerate, info.frames, info.channels, info.subtype) == expected


def test_the_next_song_is_read_while_this_one_runs(tmp_path: Path) -> None:
    """The first song waits in the network until the second, a pipe, has been opened for reading."""
    import os

    first, pipe = song(tmp_path / "first.wav"), tmp_path / "second.wav"
    os.mkfifo(pipe)
    is_read = threading.Event()

    def feed() -> None:
        with open(pipe, "wb") as stream:  # blocks until someone reads
            is_read.set()
            stream.write(EXCERPT.read_bytes())

    def wait(mixture: Tensor) -> None:
        assert is_read.wait(20), "the second song was not opened in time"

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    network = ToyNetwork(before=wait, segment_samples=40_000)
    done, events = run([first, pipe], tmp_path / "out", network=network)
    feeder.join(5)
    assert not of_kind(events, Failed)
    assert done.n_done == 2
