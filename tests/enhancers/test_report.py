"""What an enhance run says that it did, and stems enhanced from files into files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import mssgen
from mssgen.errors import UsageError
from mssgen.events import Enhanced, Event
from mssgen.inputs.tracks import Track, find_tracks

from support.program import Program
from support.toys import write_tiny_encoder

RATE = 8000


@pytest.fixture
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Track]:
    monkeypatch.chdir(tmp_path)
    write_tiny_encoder(tmp_path / "encoder")
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 2))
    sf.write("bass.wav", noise, RATE)
    sf.write("song.wav", 2 * noise, RATE)
    return find_tracks(["bass.wav"])


def test_files_are_enhanced(songs: list[Track]) -> None:
    enhancer = mssgen.load_enhancer(encoder="encoder", device="cpu")
    assert enhancer.blend.mode == "full"  # an encoder of one's own is heard
    events: list[Event] = []
    done = mssgen.enhance_files(songs, enhancer, mixture="song.wav", hook=events.append)
    assert (done.n_done, done.n_failed) == (1, 0)
    made = mssgen.enhance("bass.wav", mixture="song.wav", enhancer=enhancer)
    np.testing.assert_allclose(sf.read("enhanced/bass.wav")[0].T, made, atol=1e-4)
    (told,) = (event for event in events if isinstance(event, Enhanced))
    assert told.stem == enhancer.stem
    assert told.taken_away_db >= 0
    with pytest.raises(UsageError, match="2 inputs are bass stems"):
        mssgen.enhance_files(songs * 2, enhancer, mixture="song.wav")


def test_a_line_says_what_was_done(songs: list[Track], capsys: pytest.CaptureFixture[str]) -> None:
    mssgen_program = Program(capsys)
    words = ("enhance", "bass.wav", "--encoder", "encoder", "--overwrite")
    done = mssgen_program(*words)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if " taken away, " in line)
    assert line.startswith("mssgen: bass: ")
    assert line.endswith(" added")
    none = mssgen_program(*words, "--mix", "0")
    assert "mssgen: bass: nothing taken away, nothing added" in none.err.splitlines()
    lines = mssgen_program(*words, "--json").out.splitlines()
    (event,) = (each for each in map(json.loads, lines) if each["event"] == "enhanced")
    assert {*event} == {"event", "track", "stem", "taken_away_db", "added_db"}
