"""Tracks on disk: every layout is found, and any part of a stem reads like the whole."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.reading import open_source
from mssgen.audio.resampling import resample
from mssgen.errors import AudioError, UsageError
from mssgen.library.check import check_library
from mssgen.library.stems import SoundFile, open_library, read_at, to_channels

from support.denied import deny
from support.models import needs_ffmpeg

RATE = 8000
STEMS = ("drums", "bass", "other", "vocals")
Audio = NDArray[np.float32]


def sound(path: Path, *, seconds: float = 1.0, rate: int = RATE, n_channels: int = 2) -> Audio:
    """Write noise of this name's own as float wav (or what the suffix says); returns [C, T]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(list("/".join(path.parts[-2:]).encode()))
    audio = numbers.uniform(-0.2, 0.2, (n_channels, round(seconds * rate))).astype(np.float32)
    subtype = {"wav": "FLOAT", "flac": "PCM_24"}.get(path.suffix[1:])
    sf.write(path, audio.T, rate, subtype)
    return audio


def moises(folder: Path, stems: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps({"song": "Song", "stems": stems}))


def test_musdb18_hq_with_splits_at_any_depth(tmp_path: Path) -> None:
    stems = {stem: sound(tmp_path / f"db/train/A - B/{stem}.wav") for stem in STEMS}
    for stem in STEMS:
        sound(tmp_path / f"db/test/C/{stem}.flac")
    mixture = sound(tmp_path / "db/test/C/mixture.flac")
    sound(tmp_path / "db/.hidden/D/bass.wav")

    library = open_library(tmp_path)

    assert [track.key for track in library.tracks] == ["db/test/C", "db/train/A - B"]
    test, train = library.tracks
    assert (test.split, train.split) == ("test", "train")
    assert sorted(train.files) == sorted(STEMS)
    assert (train.sample_rate, train.duration_s, train.n_samples(RATE * 2)) == (RATE, 1.0, 16000)
    read = train.read("bass", 100, 50, sample_rate=RATE, n_channels=2)
    np.testing.assert_array_equal(read, stems["bass"][:, 100:150])
    mixed = train.read("mixture", 100, 50, sample_rate=RATE, n_channels=2)
    np.testing.assert_allclose(mixed, sum(stems.values())[:, 100:150], atol=1e-6)
    read = test.read("mixture", 0, 8000, sample_rate=RATE, n_channels=2)
    np.testing.assert_allclose(read, mixture, atol=1e-6)
    assert [track.key for track in open_library(tmp_path, split="train").tracks] == [train.key]
    assert library.without_test().tracks == (train,)


def test_a_folder_can_be_one_track(tmp_path: Path) -> None:
    sound(tmp_path / "Song" / "Bass.WAV")
    (track,) = open_library(tmp_path / "Song").tracks
    assert (track.key, track.split) == ("Song", "")
    assert track.has("bass")
    assert track.has("mixture")
    assert not track.has("vocals")
    silence = track.read("vocals", 0, 10, sample_rate=RATE, n_channels=1)
    np.testing.assert_array_equal(silence, np.zeros((1, 10)))


def test_every_sound_file_of_a_track_is_a_stem(tmp_path: Path) -> None:
    names = ("bass", "violin", "kick in", "lead vox 2")
    stems = {name: sound(tmp_path / "A" / f"{name}.wav") for name in names}
    (tmp_path / "A" / "notes.txt").write_text("x")

    (track,) = open_library(tmp_path).tracks

    assert set(track.files) == set(names)
    mixed = track.read("mixture", 0, RATE, sample_rate=RATE, n_channels=2)
    np.testing.assert_allclose(mixed, sum(stems.values()), atol=1e-6)
    for name, audio in stems.items():
        assert track.has(name)
        read = track.read(name, 0, RATE, sample_rate=RATE, n_channels=2)
        np.testing.assert_array_equal(read, audio)
    rest = track.read("other", 0, RATE, sample_rate=RATE, n_channels=2)
    np.testing.assert_allclose(rest, sum(stems.values()) - stems["bass"], atol=1e-6)


def test_a_mixture_file_is_no_stem(tmp_path: Path) -> None:
    for name in ("kick", "violin"):
        sound(tmp_path / "A" / f"{name}.flac")
    mixture = sound(tmp_path / "A" / "mixture.wav")
    (track,) = open_library(tmp_path).tracks
    assert set(track.files) == {"kick", "violin"}
    mixed = track.read("mixture", 0, RATE, sample_rate=RATE, n_channels=2)
    np.testing.assert_array_equal(mixed, mixture)


def test_files_of_unknown_names_are_stems_where_they_are_equally_long(tmp_path: Path) -> None:
    for name in ("cello", "harp"):
        sound(tmp_path / "quartet" / f"{name}.wav")
        sound(tmp_path / "album" / f"{name}.wav", seconds=len(name) / 4)
    (track,) = open_library(tmp_path).tracks
    assert (track.key, set(track.files)) == ("quartet", {"cello", "harp"})


def test_other_is_what_a_model_does_not_name(tmp_path: Path) -> None:
    stems = {
        name: sound(tmp_path / "A" / f"{name}.wav")
        for name in ("bass", "other", "guitar", "piano", "violin")
    }
    library = open_library(tmp_path)
    for named, expected in (
        (("drums", "bass", "other", "vocals"), ("other", "guitar", "piano", "violin")),
        (("drums", "bass", "other", "vocals", "guitar", "piano"), ("other", "violin")),
        (tuple(stems), ("other",)),
    ):
        (track,) = library.naming(named).tracks
        assert set(track.parts("other")) == set(expected)
        read = track.read("other", 0, RATE, sample_rate=RATE, n_channels=2)
        np.testing.assert_allclose(read, sum(stems[name] for name in expected), atol=1e-6)


def test_moisesdb_keeps_its_stems_and_sums_their_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "moisesdb_v0.1" / "uuid"
    kick = sound(folder / "drums" / "1.wav")
    snare = sound(folder / "drums" / "2.wav", seconds=0.5)
    bass = sound(folder / "bass" / "3.wav", n_channels=1)
    guitar = sound(folder / "guitar" / "4.wav")
    organ = sound(folder / "other_keys" / "5.wav")
    listed = {"drums": "12", "bass": "3", "guitar": "4", "other_keys": "5"}
    stems = [
        {"stemName": stem, "tracks": [{"id": n, "extension": "wav", "trackType": "x"} for n in ids]}
        for stem, ids in listed.items()
    ]
    moises(folder, stems)

    (track,) = open_library(tmp_path).tracks

    assert track.key == "moisesdb_v0.1/uuid"
    assert {stem: len(files) for stem, files in track.files.items()} == {
        "drums": 2,
        "bass": 1,
        "guitar": 1,
        "other_keys": 1,
    }
    padded = np.pad(snare, ((0, 0), (0, RATE // 2)))
    whole = {stem: track.read(stem, 0, RATE, sample_rate=RATE, n_channels=2) for stem in STEMS}
    alone = track.read("guitar", 0, RATE, sample_rate=RATE, n_channels=2)
    np.testing.assert_array_equal(alone, guitar)
    np.testing.assert_allclose(whole["drums"], kick + padded, atol=1e-6)
    np.testing.assert_allclose(whole["other"], guitar + organ, atol=1e-6)
    np.testing.assert_allclose(whole["bass"], bass.repeat(2, axis=0), atol=1e-6)
    np.testing.assert_array_equal(whole["vocals"], 0)
    mixed = track.read("mixture", 0, RATE, sample_rate=RATE, n_channels=2)
    np.testing.assert_allclose(mixed, sum(whole.values()), atol=1e-6)


@pytest.mark.parametrize(
    ("stem", "identity"), [("bass", "../../bass/3"), ("bass", "/a"), ("..", "3"), ("", "3")]
)
def test_moisesdb_never_leads_out_of_its_folder(tmp_path: Path, stem: str, identity: str) -> None:
    listed = [{"stemName": stem, "tracks": [{"id": identity, "extension": "wav"}]}]
    moises(tmp_path / "uuid", listed)
    with pytest.raises(AudioError, match="does not list stems"):
        open_library(tmp_path)


def test_damaged_moisesdb(tmp_path: Path) -> None:
    (tmp_path / "uuid").mkdir()
    (tmp_path / "uuid" / "data.json").write_text("{")
    with pytest.raises(AudioError, match=r"data\.json is damaged"):
        open_library(tmp_path)


@pytest.fixture(scope="module")
def stem_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as MUSDB18 has them: tones whose level tells the stream."""
    needs_ffmpeg()
    stempeg = pytest.importorskip("stempeg", reason="reads and writes .stem.mp4")
    path = tmp_path_factory.mktemp("musdb18") / "train" / "A - B.stem.mp4"
    path.parent.mkdir()
    rate = 44_100
    tone = np.sin(np.arange(2 * rate) * 0.05)[:, None] * np.ones(2)
    levels = np.array([1.0, 0.4, 0.3, 0.2, 0.1])
    writer = stempeg.StreamsWriter(codec="aac", bitrate=128000)
    stempeg.write_stems(str(path), levels[:, None, None] * tone * 0.5, rate, writer=writer)
    return path


def test_musdb18_stem_mp4(stem_mp4: Path) -> None:
    (track,) = open_library(stem_mp4.parents[1]).tracks
    assert (track.key, track.split) == ("train/A - B", "train")
    assert (track.sample_rate, track.duration_s) == (44_100, 2.0)
    found = {
        stem: np.abs(track.read(stem, 30_000, 4410, sample_rate=44_100, n_channels=2)).max()
        for stem in ("mixture", *STEMS)
    }
    expected = {"mixture": 0.5, "drums": 0.2, "bass": 0.15, "other": 0.1, "vocals": 0.05}
    assert found == pytest.approx(expected, rel=0.05)


def test_a_part_of_a_stem_mp4_is_that_part_of_the_whole(stem_mp4: Path) -> None:
    (track,) = open_library(stem_mp4.parents[1]).tracks
    whole = track.files["bass"][0].read(0, 88_200)
    np.testing.assert_array_equal(track.files["bass"][0].read(12_345, 700), whole[:, 12345:13045])
    end = track.files["bass"][0].read(88_000, 1000)
    np.testing.assert_array_equal(end[:, 200:], 0)
    np.testing.assert_array_equal(end[:, :200], whole[:, 88_000:])


def test_stem_mp4_needs_stempeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "A.stem.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "stempeg", None)
    with pytest.raises(
        UsageError, match=r"pip install 'stempeg.*pip install '\.\[train\]'` in a checkout"
    ):
        open_library(tmp_path)


def test_stem_mp4_needs_ffmpeg(tmp_path: Path) -> None:
    if importlib.util.find_spec("stempeg") is None:
        pytest.skip("reads .stem.mp4 by the package stempeg, which is not installed")
    (tmp_path / "A.stem.mp4").write_bytes(b"x")
    # In a new process, as it looks for ffmpeg once, when it is imported.
    call = [sys.executable, "-m", "mssgen", "data", "check", str(tmp_path)]
    done = subprocess.run(call, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "A.stem.mp4 needs ffmpeg and ffprobe: install them" in done.stderr


def test_a_damaged_stem_mp4(tmp_path: Path) -> None:
    needs_ffmpeg()
    pytest.importorskip("stempeg", reason="reads .stem.mp4")
    (tmp_path / "A.stem.mp4").write_bytes(b"not a film")
    (track,) = open_library(tmp_path).tracks
    with pytest.raises(AudioError, match=r"A\.stem\.mp4"):
        track.read("bass", 0, 10, sample_rate=RATE, n_channels=2)


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ([], None, "holds no tracks: a folder per song with its stems"),
        (["A/song.wav"], None, "holds no tracks"),
        (["A/bass.wav", "A/bass.flac"], None, "holds bass twice"),
        (["A/bass.wav"], "train", "no tracks below a folder train"),
        (["A/bass.wav"], "training", "use one of train, valid, test"),
        (["A/bass.wav", "pairs.json"], None, "holds separated stems"),
    ],
)
def test_what_is_no_library(
    tmp_path: Path, files: list[str], split: str | None, message: str
) -> None:
    for file in files:
        if file.endswith(".json"):
            (tmp_path / file).write_text("{}")
        else:
            sound(tmp_path / file)
    with pytest.raises(UsageError, match=message):
        open_library(tmp_path, split=split)


def test_a_folder_that_cannot_be_read_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "song" / "bass.wav")
    (tmp_path / "closed").mkdir()
    deny(monkeypatch, tmp_path / "closed")
    library = open_library(tmp_path)
    assert [track.key for track in library.tracks] == ["song"]
    assert list(library.unreadable) == [str(tmp_path / "closed")]
    first = check_library(library).findings[0]
    assert (first.track, first.fault) == (str(tmp_path / "closed"), "damaged")
    shutil.rmtree(tmp_path / "song")
    with pytest.raises(UsageError, match=r"closed cannot be read \(Permission denied\)"):
        open_library(tmp_path)
    deny(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        open_library(tmp_path)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    sound(tmp_path / "a" / "one" / "bass.wav")
    sound(tmp_path / "b" / "two" / "bass.wav")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    keys = [track.key for track in open_library(tmp_path).tracks]
    assert keys == ["a/one", "a/to_b/two", "b/to_a/one", "b/two"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        open_library(tmp_path / "nothing")


def test_pairs_inside_a_library_are_no_tracks(tmp_path: Path) -> None:
    sound(tmp_path / "A" / "bass.wav")
    sound(tmp_path / "pairs" / "A" / "bass.wav")
    (tmp_path / "pairs" / "pairs.json").write_text("{}")
    assert [track.key for track in open_library(tmp_path).tracks] == ["A"]


def test_tracks_to_test_on_are_not_for_training(tmp_path: Path) -> None:
    sound(tmp_path / "test" / "A" / "bass.wav")
    with pytest.raises(UsageError, match="holds test tracks only"):
        open_library(tmp_path).without_test()


def test_fingerprint_follows_the_files_and_not_the_place(tmp_path: Path) -> None:
    sound(tmp_path / "one" / "A" / "bass.wav")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (one,), (two,) = (open_library(tmp_path / name).tracks for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    sound(tmp_path / "two" / "A" / "bass.wav", seconds=2)
    assert open_library(tmp_path / "two").tracks[0].fingerprint != one.fingerprint


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("start", "length"), [(0, 1), (777, 3000), (7990, 100), (9000, 5)])
def test_a_segment_is_that_part_of_the_file(
    tmp_path: Path, suffix: str, start: int, length: int
) -> None:
    sound(tmp_path / f"song.{suffix}")
    with open_source(tmp_path / f"song.{suffix}") as source:
        whole = np.concatenate(list(source.blocks()), axis=1)
        assert source.n_samples == whole.shape[1]
        found = source.segment(start, length)
    padded = np.pad(whole, ((0, 0), (0, 20_000)))
    np.testing.assert_array_equal(found, padded[:, start : start + length])


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    sound(tmp_path / "song.flac", seconds=4)
    data = (tmp_path / "song.flac").read_bytes()
    (tmp_path / "song.flac").write_bytes(data[: len(data) // 2])
    with (
        pytest.raises(AudioError, match=r"cut short: it holds .* s of the 4\.000 s"),
        open_source(tmp_path / "song.flac", strict=True),
    ):
        pass


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    audio = np.zeros((2, RATE), np.float32)
    audio[0, 4000] = np.nan
    sf.write(tmp_path / "bass.wav", audio.T, RATE, "FLOAT")
    with pytest.raises(AudioError, match=r"the first at 0\.500 s"):
        read_at(SoundFile(tmp_path / "bass.wav"), 3900, 200, RATE, 2)


@settings(max_examples=25, deadline=None)
@given(
    rates=st.sampled_from([(44100, 24000), (44100, 48000), (8000, 44100), (11025, 8000)]),
    start=st.integers(0, 6000),
    length=st.integers(1, 3000),
)
def test_resampled_parts_match_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rates: tuple[int, int], start: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("rates") / "song.wav"
    audio = sound(path, seconds=0.3, rate=rates[0])
    whole = np.concatenate(list(resample([audio], 2, *rates)), axis=1)
    found = read_at(SoundFile(path), start, length, rates[1], 2)
    assert found.shape == (2, length)
    # Beyond the end the two differ: there the whole has stopped and the part rings out.
    n_within = max(0, whole.shape[1] - start)
    expected = np.pad(whole, ((0, 0), (0, 10_000)))[:, start : start + length]
    np.testing.assert_allclose(found[:, :n_within], expected[:, :n_within], atol=1e-6)


def test_channels() -> None:
    stereo = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    np.testing.assert_array_equal(to_channels(stereo, 1), [[2.0, 1.0]])
    np.testing.assert_array_equal(to_channels(stereo[:1], 2), [[1.0, 2.0], [1.0, 2.0]])
    assert to_channels(np.ones((6, 3), np.float32), 2).shape == (2, 3)
    assert to_channels(np.ones((6, 3), np.float32), 1).shape == (1, 3)
