"""Which files belong together, in every layout, and how they are made to fit."""

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from mssgen.errors import AudioError, UsageError
from mssgen.evaluation.pairing import ONLY_STEM, Pairing, find_recordings, pair
from mssgen.evaluation.recordings import Recording, fitted, load_track
from mssgen.library.stem_mp4 import STREAMS
from mssgen.library.stems import SoundFile

from support.models import needs_ffmpeg

RATE = 8000


def write(path: Path, *, n_samples: int = 800, n_channels: int = 2, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(path)))
    samples = random.normal(0, 0.1, (n_samples, n_channels))
    sf.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def found(pairing: Pairing, system: int = 0) -> dict[str, list[str]]:
    return {key: list(stems) for key, stems in pairing.systems[system].estimates.items()}


@pytest.mark.parametrize(
    ("reference", "estimate", "key", "stem"),
    [
        ("song/bass.wav", "song/bass.wav", "song", "bass"),
        ("song/bass.wav", "song/Bass.flac", "song", "bass"),
        ("test/song/lead.wav", "song/lead.wav", "test/song", "lead"),
        ("song/bass.wav", "htdemucs/test/song/bass.wav", "song", "bass"),
        ("bass/song.wav", "song/bass.wav", "song", "bass"),
        ("song.wav", "song.flac", "song", ONLY_STEM),
        ("train/song.wav", "song.wav", "train/song", ONLY_STEM),
        ("bass.wav", "bass.wav", "R", "bass"),
        ("bass.wav", "song/bass.wav", "R", "bass"),
    ],
)
def test_layouts_fit_each_other(
    tmp_path: Path, reference: str, estimate: str, key: str, stem: str
) -> None:
    write(tmp_path / "R" / reference)
    write(tmp_path / "A" / estimate)
    pairing = pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"))
    assert found(pairing) == {key: [stem]}
    assert pairing.notes == ()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")], ids="-".join)
def test_names_pair_however_their_letters_are_composed(
    tmp_path: Path, forms: tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]]
) -> None:
    for folder, form in zip(("R", "A"), forms, strict=True):
        for name in ("test/Café/bass.wav", "test/Café/öd.wav", "Plain/bass.wav"):
            write(tmp_path / folder / unicodedata.normalize(form, name))
    pairing = pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"))
    cafe = unicodedata.normalize(forms[0], "test/Café")
    assert found(pairing) == {"Plain": ["bass"], cafe: ["bass", "öd"]}
    assert pairing.notes == ()


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    reference, estimate = write(tmp_path / "vocals.wav"), write(tmp_path / "mine.flac")
    pairing = pair({"mine": str(estimate)}, str(reference), mixture=str(estimate))
    assert list(pairing.systems[0].estimates.values()) == [
        {"vocals": Recording((SoundFile(estimate),))}
    ]
    assert pairing.tracks[0].mixture is not None
    with pytest.raises(UsageError, match="two folders or two files"):
        pair({"mine": str(estimate)}, str(tmp_path))


def test_musdb18_streams_are_stems(tmp_path: Path) -> None:
    needs_ffmpeg()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "song.stem.mp4").write_bytes(b"not opened yet")
    assert list(find_recordings(tmp_path)["train/song"]) == list(STREAMS)


def test_moisesdb_stems_are_sums(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "song" / "bass" / f"{name}.wav")
    (tmp_path / "song" / "data.json").write_text(
        '{"stems": [{"stemName": "bass", "tracks": [{"id": "a", "extension": "wav"},'
        ' {"id": "b", "extension": "wav"}]}]}'
    )
    stems = find_recordings(tmp_path)["song"]
    assert list(stems) == ["bass"]
    total, _ = stems["bass"].read()
    parts = [Recording((file,)).read()[0] for file in stems["bass"].files]
    np.testing.assert_array_equal(total, parts[0] + parts[1])


def test_what_has_no_partner_is_told(tmp_path: Path) -> None:
    for name in ("one/bass", "one/drums", "two/bass", "two/drums", "two/vocals"):
        write(tmp_path / "R" / f"{name}.wav")
    for name in ("one/bass", "one/drums", "one/hum", "three/bass"):
        write(tmp_path / "A" / f"{name}.wav")
    pairing = pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"))
    notes = {(note.track, note.note) for note in pairing.notes}
    assert notes == {
        ("one", "hum has no reference and was left out"),
        ("three", "this track has no reference and was left out"),
        ("", "no estimates of vocals in any track"),
        ("two", "no estimate of bass, drums"),
    }


def test_mixtures_come_from_the_references_or_a_folder_of_their_own(tmp_path: Path) -> None:
    for name in ("R/one/bass", "R/two/bass", "R/one/mixture", "A/one/bass", "A/one/mixture"):
        write(tmp_path / f"{name}.wav")
    write(tmp_path / "M" / "two.wav")
    inside = pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"))
    assert [track.mixture is not None for track in inside.tracks] == [True, False]
    given_one = pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"), mixture=str(tmp_path / "M"))
    assert [track.mixture is not None for track in given_one.tracks] == [False, True]
    assert "the track has no mixture" in {note.note for note in given_one.notes}
    assert found(inside) == {"one": ["bass"]}


def test_the_output_is_not_searched(tmp_path: Path) -> None:
    write(tmp_path / "A" / "one" / "bass.wav")
    write(tmp_path / "A" / "out" / "cache" / "x.wav")
    assert list(find_recordings(tmp_path / "A", exclude=tmp_path / "A" / "out")) == ["one"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["R/one/bass.wav"], "does not exist"),
        (["R/one/bass.wav", "A/two/notes.txt"], "holds no sound files"),
        (["R/one/bass.wav", "A/one/drums.wav"], "must have the same names"),
        (["R/one/mixture.wav", "A/one/drums.wav"], "mixtures only"),
        (["R/one/bass.wav", "R/one/bass.flac", "A/one/bass.wav"], "keep one"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        path = tmp_path / name
        if path.suffix == ".txt":
            path.parent.mkdir(parents=True)
            path.write_text("no sound")
        else:
            write(path)
    with pytest.raises(UsageError, match=message):
        pair({"A": str(tmp_path / "A")}, str(tmp_path / "R"))


def recording(path: Path) -> Recording:
    return Recording((SoundFile(path),))


def test_rates_channels_and_lengths_are_made_to_fit(tmp_path: Path) -> None:
    references = {
        "bass": recording(write(tmp_path / "bass.wav", n_channels=1)),
        "drums": recording(write(tmp_path / "drums.wav")),
    }
    estimates = {
        "bass": recording(write(tmp_path / "e1.wav", n_samples=700)),
        "drums": recording(write(tmp_path / "e2.wav", n_samples=2 * 900, rate=2 * RATE)),
    }
    song = load_track("song", references, estimates, references["bass"])
    assert song.sample_rate == RATE
    shapes = {audio.shape for part in (song.references, song.estimates) for audio in part.values()}
    assert shapes == {(2, 800)}
    assert song.mixture is not None
    assert song.mixture.shape == (2, 800)
    np.testing.assert_array_equal(song.references["bass"][0], song.references["bass"][1])
    assert not song.estimates["bass"][:, 700:].any()
    assert set(song.notes) == {
        "the estimate of drums was resampled from 16000 to 8000 Hz",
        "the reference of bass has 1 channel and was doubled",
        "the mixture has 1 channel and was doubled",
        "the estimate of bass was 100 samples too short and was padded with zeros",
        "the estimate of drums was 100 samples too long and was cut",
    }


def test_silence_is_told(tmp_path: Path) -> None:
    sf.write(tmp_path / "zeros.wav", np.zeros((100, 2)), RATE)
    zeros = recording(tmp_path / "zeros.wav")
    song = load_track("song", {"bass": zeros}, {"bass": zeros})
    assert song.notes == ("the reference of bass is all zeros", "the estimate of bass is all zeros")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good = recording(write(tmp_path / "good.wav"))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nothing of the kind")
    with pytest.raises(AudioError, match=r"bad\.wav"):
        load_track("song", {"bass": good}, {"bass": recording(bad)})
    with pytest.raises(AudioError, match=r"gone\.wav"):
        recording(tmp_path / "gone.wav").fingerprint()


def test_a_fingerprint_sees_changes_but_not_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", n_samples=100_000)
    before = recording(path).fingerprint()
    moved = path.rename(tmp_path / "b.wav")
    assert recording(moved).fingerprint() == before
    about = moved.stat()
    data = bytearray(moved.read_bytes())
    data[len(data) // 2 + 5] ^= 1
    moved.write_bytes(data)
    import os

    os.utime(moved, ns=(about.st_atime_ns, about.st_mtime_ns))  # as copies that keep times do
    assert recording(moved).fingerprint() != before


@given(st.integers(1, 6), st.integers(1, 2), st.integers(0, 30), st.integers(1, 30))
def test_fitted_has_the_shape_that_is_asked_for(
    n_channels: int, n_wanted: int, n_samples: int, length: int
) -> None:
    audio = np.ones((n_channels, n_samples), np.float32)
    assert fitted(audio, n_wanted, length).shape == (n_wanted, length)
