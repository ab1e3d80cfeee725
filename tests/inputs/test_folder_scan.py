"""What is taken from folders, and what is told of the rest."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mssgen.errors import AudioError
from mssgen.inputs.tracks import find_tracks

from support.models import needs_ffmpeg, shared
from support.program import Program, Result

NOBODY = 65_534


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """A fifth of a second of noise, outside the folder that is searched."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(9_000)
    sf.write(tmp_path / "song.wav", noise, 44_100)
    return tmp_path / "song.wav"


@pytest.fixture
def music(tmp_path: Path, song: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one song."""
    folder = tmp_path / "music"
    folder.mkdir()
    shutil.copy(song, folder / "plain.wav")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mssgen(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def names() -> list[str]:
    return [track.name for track in find_tracks(["."])]


def files(result: Result) -> list[str]:
    """The paths that `info --json` described."""
    return [event["path"] for event in result.events if event["event"] == "sound"]


def warnings(result: Result) -> list[str]:
    return [event["message"] for event in result.events if event["event"] == "warning"]


def test_names_that_begin_with_dots_are_songs(music: Path, song: Path, mssgen: Program) -> None:
    Path("...And Justice for All").mkdir()
    for name in ("...And Justice for All/01.wav", "...Ready for It.wav", "..two.wav"):
        shutil.copy(song, name)
    result = mssgen("info", ".", "--json")
    assert files(result) == [
        *("...Ready for It.wav", "..two.wav", "plain.wav"),
        "...And Justice for All/01.wav",
    ]
    assert (result.code, warnings(result)) == (0, [])


def test_hidden_sound_is_left_out_with_a_word(music: Path, song: Path, mssgen: Program) -> None:
    Path(".old").mkdir()
    Path(".git").mkdir()
    for name in (".secret.wav", "._plain.wav", "._gone.wav", ".old/a.wav"):
        shutil.copy(song, name)
    result = mssgen("info", ".", "--json")
    assert files(result) == ["plain.wav"]
    # The resource fork of a song that is there surprises nobody.
    [warning] = warnings(result)
    assert warning == "left out: 2 hidden files (._gone.wav, .secret.wav); 1 hidden folder (.old)"
    assert "warning: left out: 2 hidden files" in mssgen("info", ".").err


def test_links_to_folders_are_followed_and_loops_end(music: Path, song: Path) -> None:
    elsewhere = music.parent / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    shutil.copy(song, elsewhere / "deep" / "x.wav")
    Path("album").symlink_to("../elsewhere")
    (elsewhere / "up").symlink_to(music)
    (elsewhere / "deep" / "self").symlink_to(elsewhere / "deep")
    Path("a link to a real place").symlink_to("real")
    Path("real").mkdir()
    shutil.copy(song, "real/y.wav")
    assert names() == ["plain", "album/deep/x", "real/y"]


def test_the_output_is_left_out_behind_a_link_too(music: Path, song: Path) -> None:
    Path("separated/song").mkdir(parents=True)
    shutil.copy(song, "separated/song/bass.wav")
    Path("last").symlink_to("separated/song")
    tracks = find_tracks(["."], output_dir=Path("separated"))
    assert [track.name for track in tracks] == ["plain"]


def test_what_only_surprises_is_told(music: Path, song: Path, mssgen: Program) -> None:
    Path("nowhere.wav").symlink_to("/does/not/exist.wav")
    Path("album").symlink_to("../gone")
    os.mkfifo("pipe.wav")
    shutil.copy(song, "no suffix")
    for name in ("cover.jpg", "notes.txt", "README", "song.wav.asd"):
        Path(name).write_text("no sound")
    result = mssgen("info", ".", "--json")
    assert files(result) == ["plain.wav"]
    [warning] = warnings(result)
    assert warning == (
        "left out: 2 broken links (album, nowhere.wav); 1 sound file without a suffix (no suffix); "
        "1 pipe or device (pipe.wav)"
    )


def test_examples_are_few(music: Path, song: Path, mssgen: Program) -> None:
    for number in range(9):
        shutil.copy(song, f".{number}.wav")
    [warning] = warnings(mssgen("info", ".", "--json"))
    assert warning == "left out: 9 hidden files (.0.wav, .1.wav, .2.wav, ...)"


def test_a_folder_of_hidden_songs_only(music: Path, song: Path, mssgen: Program) -> None:
    Path("sub").mkdir()
    shutil.copy(song, "sub/.a.wav")
    result = mssgen("info", "sub")
    assert result.code == 1
    assert "sub holds no sub" not in result.err
    assert "(left out: 1 hidden file (sub/.a.wav)); name a folder" in result.err


def test_spaces_at_the_end_of_a_name(music: Path, song: Path) -> None:
    shutil.copy(song, "tail.wav ")
    assert names() == ["plain", "tail"]


@pytest.mark.parametrize("suffix", ["wv", "tta", "mka", "mkv", "mov", "mp2", "ac3", "avi", "m4b"])
def test_formats_of_ffmpeg_are_taken(suffix: str, music: Path, song: Path, mssgen: Program) -> None:
    needs_ffmpeg()
    made = subprocess.run(["ffmpeg", "-v", "error", "-i", song, f"b.{suffix}"], check=False)
    assert made.returncode == 0
    assert files(mssgen("info", ".", "--json")) == [f"b.{suffix}", "plain.wav"]


def test_a_video_without_sound_does_not_fail_the_folder(
    music: Path, song: Path, mssgen: Program
) -> None:
    needs_ffmpeg()
    picture = ["-f", "lavfi", "-i", "color=size=16x16:duration=0.2"]
    for name in ("film.mp4", "film.mkv"):
        subprocess.run(["ffmpeg", "-v", "error", *picture, name], check=True)
    result = mssgen("info", ".", "--json")
    assert (result.code, files(result)) == (0, ["plain.wav"])
    assert warnings(result) == ["left out: 2 videos without sound (film.mkv, film.mp4)"]


def test_videos_without_ffmpeg(
    music: Path, mssgen: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    Path("film.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    Path("song.wv").write_bytes(b"wvpk" + bytes(100))
    result = mssgen("info", ".", "--json")
    assert warnings(result) == ["left out: 1 video, which needs ffmpeg (film.mkv)"]
    [error] = [event for event in result.events if event["event"] == "error"]
    assert error["track"] == "song.wv"
    assert "WavPack, which needs ffmpeg" in error["message"]


def test_a_case_of_ours_with_a_delay(music: Path, mssgen: Program) -> None:
    needs_ffmpeg()
    shutil.copy(shared("cases", "delayed.mkv"), "delayed.mkv")
    assert files(mssgen("info", ".", "--json")) == ["delayed.mkv", "plain.wav"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")
def test_an_unreadable_folder_fails_alone(
    song: Path, mssgen: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    mssgen("info", song)  # all is loaded, which the other user may not do
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:  # in reach of the other user
        monkeypatch.chdir(place)
        shutil.copy(song, "plain.wav")
        Path("lost+found").mkdir(mode=0)
        Path(place).chmod(0o755)
        if user == 0:
            os.seteuid(NOBODY)
        try:
            result = mssgen("info", ".", "--json")
            alone = mssgen("info", "lost+found")
        finally:
            os.seteuid(user)
            Path("lost+found").chmod(0o755)
            monkeypatch.undo()
    assert (result.code, files(result)) == (1, ["plain.wav"])
    [error] = [event for event in result.events if event["event"] == "error"]
    assert error["track"] == "lost+found"
    assert (
        "lost+found cannot be read (permission denied); change its permissions" in error["message"]
    )
    assert alone.code == 1
    assert "lost+found cannot be read" in alone.err


OWN = {
    "pairs.json": '{"format_version": 1, "mssgen_version": "1"}',
    "manifest.json": '{"format_version": 1, "mssgen_version": "1"}',
    "evaluation.json": '{"versions": {"mssgen": "1"}}',
    "run.json": '{"versions": {"mssgen": "1"}}',
    "index.html": '<meta name="generator" content="mssgen report">',
    "manifest.jsonl": "{}",
}


@pytest.mark.parametrize("mark", OWN)
def test_folders_that_mssgen_wrote_are_no_songs(
    mark: str, music: Path, song: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("made")
    (folder / "inner").mkdir(parents=True)
    shutil.copy(song, folder / "inner" / "bass.wav")
    (folder / mark).write_text(OWN[mark])
    assert names() == ["plain"]
    # Unless the folder itself is named, or the stems of `separate` are what is wanted.
    assert [track.name for track in find_tracks(["made"])] == ["inner/bass"]
    stems = [track.name for track in find_tracks(["."], skip_outputs=False)]
    assert stems == (["plain", "made/inner/bass"] if mark == "manifest.jsonl" else ["plain"])
    result = Program(capsys)("separate", ".", "--stem", "nonsense")
    assert result.code == 2
    told = "warning: left out: 1 folder that mssgen wrote: name it to take it (made)"
    assert told in result.err


def test_outputs_beside_their_songs_are_no_songs(
    music: Path, song: Path, tiny_model: Path, mssgen: Program
) -> None:
    """Whether the folder is named, found in a list, or reached through a link."""
    template = ("-s", "bass", "-m", tiny_model, "-o", ".", "--template", "{track}_{stem}.{ext}")
    assert mssgen("separate", ".", *template).code == 0
    Path("names").write_text(".\n")
    (music.parent / "link").symlink_to(music)
    for inputs in (["."], ["--list", "names"], ["../link"], [music]):
        again = mssgen("separate", *inputs, *template, "--json")
        assert [event["event"] for event in again.events] == ["warning", "skipped", "done"]
        [told] = warnings(again)
        assert "left out: 1 file that mssgen wrote: name it to take it (" in told
        assert told.endswith("plain_bass.wav)")
    named = find_tracks(["plain_bass.wav"], output_dir=Path())
    assert [track.name for track in named] == ["plain_bass"]


def test_the_output_folder_is_left_out_with_a_word(
    music: Path, song: Path, mssgen: Program
) -> None:
    Path("separated").mkdir()
    shutil.copy(song, "separated/mine.wav")
    result = mssgen("separate", ".", "--stem", "nonsense")
    assert "left out: 1 output folder (separated)" in result.err
    inside = find_tracks(["separated"], output_dir=Path("separated"))
    assert [track.name for track in inside] == ["mine"]


def test_codes_are_decoded_wherever_they_lie(music: Path, mssgen: Program) -> None:
    Path("codes").mkdir()
    Path("codes/a.codes").write_text("no codes")
    Path("codes/manifest.jsonl").write_text("{}")
    result = mssgen("codec", "decode", ".", "--json")
    assert result.events[0]["track"] == "codes/a.codes"


def test_the_files_of_others_are_no_marks(music: Path, song: Path) -> None:
    Path("site").mkdir()
    shutil.copy(song, "site/a.wav")
    Path("site/index.html").write_text("<html>my site</html>")
    Path("site/manifest.json").write_text('{"name": "my site"}')
    assert names() == ["plain", "site/a"]


def test_stems_beside_their_songs_are_no_songs(music: Path, song: Path, mssgen: Program) -> None:
    """After `separate . -o .` the folder holds songs and stems."""
    for name in ("plain/bass.wav", "plain_vocals.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(song, name)
    outputs = [{"path": "plain/bass.wav"}, {"path": "plain_vocals.wav"}]
    Path("manifest.jsonl").write_text("damaged\n" + json.dumps({"outputs": outputs}) + "\n")
    for output in (Path("."), Path("elsewhere"), None):
        assert [track.path for track in find_tracks(["."], output_dir=output)] == ["plain.wav"]
    assert "2 files that mssgen wrote: name one" in warnings(mssgen("info", "--json", "."))[0]
    assert len(find_tracks(["."], skip_outputs=False)) == 3
    assert [track.path for track in find_tracks(["plain"])] == ["plain/bass.wav"]
    # A folder of outputs alone was named to take them.
    Path("plain.wav").unlink()
    assert len(find_tracks(["."])) == 2
    with pytest.raises(AudioError, match="2 files that mssgen wrote"):
        find_tracks(["."], output_dir=Path())
