"""From what the user names to songs."""

from pathlib import Path

import pytest

from mssgen.errors import AudioError, UsageError
from mssgen.inputs.tracks import Track, find_tracks


@pytest.fixture
def music_folder(tmp_path: Path) -> Path:
    """A folder with albums, and with things that are no songs."""
    names = ["b.wav", "a.FLAC", "album/2.mp3", "album/1.ogg", "album/side b/x.aiff"]
    others = ["notes.txt", "cover.jpg", ".hidden.wav", ".cache/y.wav", "album/.mssgen-0.part"]
    for name in (*names, *others):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "music"


def names(tracks: list[Track]) -> list[str]:
    return [track.name for track in tracks]


def test_folders_are_searched_and_keep_their_tree(music_folder: Path) -> None:
    tracks = find_tracks([str(music_folder)])
    assert names(tracks) == ["a", "b", "album/1", "album/2", "album/side b/x"]
    assert tracks[0] == Track(str(music_folder / "a.FLAC"), "a")


def test_files_are_named_by_their_stem_whatever_their_suffix(tmp_path: Path) -> None:
    tracks = find_tracks([str(tmp_path / "song.v2.wav"), "odd.xyz", "none"])
    assert names(tracks) == ["song.v2", "odd", "none"]
    assert [track.suffix for track in tracks] == ["wav", "xyz", ""]


def test_standard_input() -> None:
    [track] = find_tracks(["-"])
    assert (track.path, track.name, track.label) == ("-", "stdin", "standard input")


def test_a_file_is_taken_once(
    music_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.wav").symlink_to(music_folder / "b.wav")
    monkeypatch.chdir(music_folder)
    tracks = find_tracks(["b.wav", str(music_folder / "b.wav"), "../link.wav", "./", "-", "-"])
    assert names(tracks) == ["b", "a", "album/1", "album/2", "album/side b/x", "stdin"]


def test_outputs_of_the_last_run_are_no_songs(
    music_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = music_folder / "separated" / "a" / "bass.wav"
    stem.parent.mkdir(parents=True)
    stem.touch()
    monkeypatch.chdir(music_folder)
    assert "separated/a/bass" in names(find_tracks(["."]))
    assert "separated/a/bass" not in names(find_tracks(["."], output_dir=Path("separated")))
    # Unless they are what the user asks for.
    assert names(find_tracks(["separated"], output_dir=Path("separated"))) == ["a/bass"]
    assert names(find_tracks([str(stem)], output_dir=Path("separated"))) == ["bass"]


def test_a_list_has_one_path_a_line(music_folder: Path, tmp_path: Path) -> None:
    lines = ["\ufeff# my songs", "", f"  {music_folder / 'b.wav'}  ", "#other.wav", "späte.wav"]
    listed = tmp_path / "songs.txt"
    listed.write_text("\r\n".join(lines), encoding="utf-8")
    tracks = find_tracks(["first.wav"], list_file=str(listed))
    assert names(tracks) == ["first", "b", "späte"]


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n\n")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (empty, "names no files"),
        (binary, "not UTF-8"),
        (tmp_path / "absent.txt", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(UsageError, match=message):
            find_tracks([], list_file=str(path))


def test_no_input_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="no input"):
        find_tracks([])


def test_a_folder_without_sound(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(AudioError, match="holds no sound files"):
        find_tracks([str(tmp_path)])
