"""Lists of inputs: what find, players and editors write."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mssgen.errors import UsageError
from mssgen.inputs.lists import read_list
from mssgen.inputs.tracks import find_tracks

from support.program import Program


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a song in it and an album beside it."""
    folder = tmp_path / "here"
    (tmp_path / "album").mkdir()
    folder.mkdir()
    sf.write(folder / "a.wav", 0.1 * np.ones(4_410), 44_100)
    shutil.copy(folder / "a.wav", tmp_path / "album" / "s.wav")
    monkeypatch.chdir(folder)
    return folder


def listed(content: bytes, name: str = "songs.txt") -> list[str]:
    Path(name).write_bytes(content)
    return read_list(name)


def test_null_bytes_divide_names(here: Path) -> None:
    names = [" a b ", "two\nlines.wav", "#1.wav", "c.wav"]
    for name in names:
        shutil.copy("a.wav", name)
    assert listed("\0".join([*names, ""]).encode()) == names


def test_a_playlist_names_files_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    playlist = Path("../album/p.m3u8")
    playlist.write_text("#EXTM3U\n#EXTINF:1,Somebody - Song\ns.wav\n")
    assert read_list(str(playlist)) == ["../album/s.wav"]
    result = Program(capsys)("info", "--list", playlist, "--json")
    assert (result.code, result.events[0]["path"]) == (0, "../album/s.wav")


def test_the_current_folder_comes_first() -> None:
    shutil.copy("a.wav", "../album/a.wav")
    Path("../album/p.m3u").write_text("a.wav\n")
    assert read_list("../album/p.m3u") == ["a.wav"]


def test_pls_playlists() -> None:
    Path("../album/p.pls").write_text(
        "[playlist]\nNumberOfEntries=2\nFile1=s.wav\nTitle1=x\nLength1=1\nFile2=/no/t.wav\n"
    )
    assert read_list("../album/p.pls") == ["../album/s.wav", "/no/t.wav"]


def test_addresses_and_paths_of_other_systems(here: Path) -> None:
    shutil.copy("a.wav", "100 % ü.wav")
    address = (here / "100 % ü.wav").as_uri()
    lines = [address, "..\\album\\s.wav", "file:///no/x%20y.wav", "100%20%25%20%C3%BC.wav"]
    assert listed("\r\n".join(lines).encode()) == [
        *(str(here / "100 % ü.wav"), "../album/s.wav", "/no/x y.wav", "100 % ü.wav")
    ]


def test_names_that_end_in_a_space() -> None:
    shutil.copy("a.wav", "sp.wav ")
    assert listed(b"sp.wav \n a.wav  \nabsent \n") == ["sp.wav ", "a.wav", "absent"]


def test_only_line_ends_divide_lines() -> None:
    for name in ("x\x0by.wav", "x\u2028y.wav", "x\x85y.wav"):
        shutil.copy("a.wav", name)
        assert listed(f"{name}\na.wav\n".encode()) == [name, "a.wav"]
    assert listed(b"a.wav\rb.wav\r") == ["a.wav", "b.wav"]


def test_a_comment_that_is_a_file_is_one() -> None:
    shutil.copy("a.wav", "#1 hit.wav")
    assert listed(b"#1 hit.wav\n#2 hit.wav\n") == ["#1 hit.wav"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_names_of_any_bytes(here: Path) -> None:
    name = b"caf\xe9.wav"
    shutil.copy("a.wav", os.fsdecode(name))
    assert listed(name + b"\na.wav\n") == [os.fsdecode(name), "a.wav"]
    assert listed(name + b"\0a.wav\0") == [os.fsdecode(name), "a.wav"]
    # A playlist in the encoding of Windows, of files that are not.
    shutil.copy("a.wav", "na\u00efve.wav")
    assert listed("naïve.wav\n".encode("cp1252")) == ["naïve.wav"]
    assert listed("naïve.wav\n".encode("utf-16")) == ["naïve.wav"]


def test_a_list_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.wav\0")))
    assert Program(capsys)("info", "--list", "-", "--json").events[0]["path"] == "a.wav"
    with pytest.raises(UsageError, match="reads already"):
        find_tracks(["-"], list_file="-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input, which is closed"):
        find_tracks([], list_file="-")


def test_binary_data_is_no_list() -> None:
    with pytest.raises(UsageError, match="not a list but binary data"):
        read_list("a.wav")
