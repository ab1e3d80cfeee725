"""manifest.jsonl: what is trusted, what is not, and what a kill leaves of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mssgen.errors import UsageError
from mssgen.files import is_there
from mssgen.jobs.manifest import MANIFEST, Entry, InputFile, Manifest, Output, read_entries

OPTIONS = {"format": "wav", "shifts": 0}
MADE = {"weights": {"bass": 1.0}, "made_by": {"bass": {"model": ["0123"], "overlap": 0.25}}}


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(b"sound of a song")
    return path


def noted(folder: Path, song: Path, content: bytes = b"bass of it") -> tuple[Manifest, Path]:
    """A manifest that knows folder/song/bass.wav."""
    target = folder / "song" / "bass.wav"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    manifest = Manifest(folder)
    output = manifest.output(target, target, MADE)
    manifest.append(Entry("done", InputFile(song).record(), OPTIONS, (output,)))
    return manifest, target


def objection(folder: Path, song: Path, **changed: object) -> str:
    options = {**OPTIONS, **changed}
    return Manifest(folder).objection(folder / "song/bass.wav", InputFile(song), options, MADE)


def test_what_was_made_of_this_in_this_way_is_trusted(tmp_path: Path, song: Path) -> None:
    noted(tmp_path / "out", song)
    assert objection(tmp_path / "out", song) == ""


def test_every_difference_is_named(tmp_path: Path, song: Path) -> None:
    out = tmp_path / "out"
    manifest, target = noted(out, song)
    other = tmp_path / "other.wav"
    other.write_bytes(b"sound of b song")
    assert f"made from another file ({song})" in objection(out, other)
    assert "made with other options (shifts)" in objection(out, song, shifts=2)
    changed = {"weights": {"bass": 1.0}, "made_by": {"bass": {"model": ["9"], "overlap": 0.5}}}
    said = manifest.objection(target, InputFile(song), OPTIONS, changed)
    assert "made with other options (model, overlap)" in said
    stray = out / "song" / "drums.wav"
    stray.write_bytes(b"mine")
    assert "no record of it" in manifest.objection(stray, InputFile(song), OPTIONS, MADE)
    target.write_bytes(b"an edited bass")
    assert "changed after" in objection(out, song)


def test_a_touched_or_moved_source_is_the_same_and_an_edited_one_is_not(
    tmp_path: Path, song: Path
) -> None:
    out = tmp_path / "out"
    noted(out, song)
    os.utime(song, (1, 1))
    assert objection(out, song) == ""
    moved = song.rename(tmp_path / "moved.wav")
    assert objection(out, moved) == ""
    before = moved.stat()
    moved.write_bytes(b"sound of b song")  # as long as it was
    os.utime(moved, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "made from another file" in objection(out, moved)


def test_a_file_of_equal_size_and_time_is_not_fooled_by(tmp_path: Path, song: Path) -> None:
    out = tmp_path / "out"
    noted(out, song)
    about = song.stat()
    other = tmp_path / "replacement"
    other.write_bytes(b"sound of b song")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    os.replace(other, song)
    assert song.stat().st_mtime_ns == about.st_mtime_ns
    assert "made from another file" in objection(out, song)


def test_an_untouched_source_is_not_read(
    tmp_path: Path, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(tmp_path / "out", song)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("mssgen.files.sha256_of", refuse)
    assert objection(tmp_path / "out", song) == ""


def test_an_announced_file_is_known_by_its_content(tmp_path: Path, song: Path) -> None:
    """A kill between the announcement and the rename leaves the file that was there before."""
    out = tmp_path / "out"
    manifest, target = noted(out, song)
    announced = Output("song/bass.wav", 10, "0" * 64, {**MADE, "weights": {}})
    manifest.append(Entry("writing", InputFile(song).record(), OPTIONS, (announced,)))
    made = Manifest(out).made(target)
    assert made is not None
    assert made.entry.state == "done"
    assert objection(out, song) == ""
    target.write_bytes(b"ssab of it")  # neither the old one nor the new
    assert "no record of it" in objection(out, song)


def test_cut_anywhere_it_can_be_read_and_goes_on(tmp_path: Path, song: Path) -> None:
    out = tmp_path / "out"
    noted(out, song)
    noted(out, song)
    whole = (out / MANIFEST).read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole)):
        (out / MANIFEST).write_bytes(whole[:end])
        known = len(read_entries(out / MANIFEST))
        assert known == (end >= first - 1) + (end >= len(whole) - 1), end
        if end % 97 == 0:
            noted(out, song)
            assert len(read_entries(out / MANIFEST)) == known + 1, end
            assert objection(out, song) == ""
            lines = (out / MANIFEST).read_bytes().splitlines()
            assert json.loads(lines[-1])["state"] == "done"


@pytest.mark.parametrize(
    "garbage", [b"\0" * 4000, b'{"mssgen_manifest":2,"new":1}\n', b'{"mssgen_manifest":1}\n']
)
def test_what_it_cannot_understand_is_passed_over(
    tmp_path: Path, song: Path, garbage: bytes
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MANIFEST).write_bytes(garbage)
    noted(out, song)
    assert len(read_entries(out / MANIFEST)) == 1
    for damage in ({"options": []}, {"outputs": [{"path": 1}]}, {"source": {"path": "x"}}):
        with (out / MANIFEST).open("a") as file:
            line = {"mssgen_manifest": 1, "state": "done", "source": None, "options": {}}
            file.write(json.dumps({**line, "outputs": [], **damage}) + "\n")
    assert len(read_entries(out / MANIFEST)) == 1


def test_a_file_of_another_program_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"audio_filepath": "a.wav"}\n')
    with pytest.raises(
        UsageError, match=r"manifest\.jsonl is a file of another program.*`output_dir`"
    ):
        Manifest(tmp_path)
    victim = tmp_path / "victim"
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / MANIFEST).symlink_to(victim)
    with pytest.raises(UsageError, match="is a link"):
        Manifest(tmp_path / "o")
    assert not victim.exists()


def test_names_that_are_not_text(tmp_path: Path, song: Path) -> None:
    out = tmp_path / "out"
    manifest, target = noted(out, song)
    odd = os.fsdecode(b"caf\xe9 \xe6\x9b\xb2\n")
    output = replace(manifest.output(target, target, MADE), path=f"{odd}/bass.wav")
    manifest.append(Entry("done", None, {"name": odd}, (output,)))
    assert read_entries(out / MANIFEST)[-1].outputs[0].path == f"{odd}/bass.wav"


def test_processes_that_append_at_once_tear_no_line(tmp_path: Path) -> None:
    program = """
import sys
from mssgen.jobs.manifest import Entry, Manifest
manifest = Manifest(sys.argv[1])
for number in range(40):
    manifest.append(Entry("failed", None, {"who": sys.argv[2], "n": number}, error="x" * 5000))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out"), str(who)])
        for who in range(3)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    entries = read_entries(tmp_path / "out" / MANIFEST)
    found = sorted((entry.options["who"], entry.options["n"]) for entry in entries)
    assert found == [(str(who), number) for who in range(3) for number in range(40)]
    assert len((tmp_path / "out" / MANIFEST).read_bytes().splitlines()) == 120


def test_an_empty_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("x")
    assert [is_there(tmp_path / name) for name in ("empty", "full", "absent", ".")] == [
        False,
        True,
        False,
        True,
    ]
