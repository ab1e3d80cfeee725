"""What a power cut, a kill and a second process leave of the files."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mssgen import files, leftovers
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import StemWriter
from mssgen.checkpoints.folders import new_folder, other_files
from mssgen.errors import AudioError, CheckpointError, MssgenError
from mssgen.files import is_there, put, recover, swap, whole_file, whole_folder, write_text
from mssgen.leftovers import Lock, hidden_name, scratch_folder, sweep, sweep_scratch

DEAD = 2**22 + 1  # above the highest number that Linux gives a process
FS_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, b"\2\0\0\0"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order; both are done."""
    made: list[tuple[str, str]] = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def noting_sync(descriptor: int) -> None:
        made.append(("sync", os.path.realpath(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def noting(function: object) -> object:
        def rename_noted(one: Path, other: Path) -> None:
            made.append(("rename", str(other)))
            function(one, other)  # type: ignore[operator]

        return rename_noted

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", noting(replace))
    monkeypatch.setattr(os, "rename", noting(rename))
    return made


def write_stem(target: Path, n_samples: int = 1000, **options: str) -> Path:
    encoding = Encoding(options.get("container", "wav"), options.get("bit_depth", "16"))
    with StemWriter(
        target,
        sample_rate=8000,
        n_channels=1,
        n_samples=n_samples,
        encoding=encoding,
        clip="none",
    ) as writer:
        writer.write(np.sin(np.arange(n_samples, dtype=np.float32))[None] / 2)
        return writer.finish()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["file", "stem", "text"])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, calls: list[tuple[str, str]], kind: str
) -> None:
    target = tmp_path / "out" / "x.wav"
    if kind == "file":
        with whole_file(target) as draft:
            draft.write_bytes(b"abc")
    elif kind == "stem":
        write_stem(target)
    else:
        write_text(target, "abc")
    (first, synced), *rest = calls
    assert first == "sync"
    assert Path(synced).parent == target.parent
    assert leftovers.is_leftover(Path(synced).name)
    assert rest == [("rename", str(target)), ("sync", str(target.parent))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with new_folder(tmp_path / "model") as draft:
        (draft / "codec").mkdir()
        (draft / "codec" / "config.json").write_text("{}")
        (draft / "config.json").write_text("{}")
    index = calls.index(("rename", str(tmp_path / "model")))
    synced = {Path(path).relative_to(draft).as_posix() for _, path in calls[:index]}
    assert synced == {".", "config.json", "codec", "codec/config.json"}
    assert calls[index + 1 :] == [("sync", str(tmp_path))]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def fail(error: type[BaseException], place: Path) -> None:
        place.write_text("half")
        raise error

    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), whole_file(tmp_path / "x") as draft:
            fail(error, draft)
        with pytest.raises(error), whole_folder(tmp_path / "folder") as folder:
            fail(error, folder / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_disk_that_fails_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks say only when they are synced that they are full."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = "x.wav cannot be written: the disk is full"
    with pytest.raises(AudioError, match=said):
        write_stem(tmp_path / "x.wav")
    with pytest.raises(MssgenError, match=said):
        write_text(tmp_path / "x.wav", "abc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_stem(tmp_path / "x.wav")
        write_text(tmp_path / "x.json", "{}")
        with new_folder(tmp_path / "model") as draft:
            (draft / "config.json").write_text("{}")
    finally:
        os.umask(before)
    for name in ("x.wav", "x.json", "model/config.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_empty_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("x")
    assert not is_there(tmp_path / "empty")
    assert not is_there(tmp_path / "none")
    assert is_there(tmp_path / "full")
    assert is_there(tmp_path)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_older_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "x") as draft:
            (draft / "file").write_text(text)
        assert (tmp_path / "x" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_target_is_there_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call exchanges both names; where there is none, the next start finds the old folder."""
    draft, target = tmp_path / hidden_name(), tmp_path / "x"
    for place, text in ((draft, "new"), (target, "old")):
        place.mkdir()
        (place / "file").write_text(text)
    if not files._exchange(draft, target):
        pytest.skip("this disk cannot exchange two names")
    assert (target / "file").read_text() == "new"
    assert (draft / "file").read_text() == "old"

    class Killed(BaseException):
        pass

    def kill_after(one: Path, other: Path) -> None:
        os.replace(one, other)
        raise Killed

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", kill_after)
    with pytest.raises(Killed):
        swap(draft, target)
    monkeypatch.undo()
    assert not target.exists()
    recover(target)
    assert (target / "file").read_text() == "new"


def run_until_killed(code: str, *arguments: Path | str) -> None:
    """Run Python that says when it is in the middle, and kill it there."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        process.wait()


HALF = """
import sys, time
from pathlib import Path
from mssgen.files import whole_file, whole_folder
from mssgen.leftovers import scratch_folder
place = Path(sys.argv[1])
with whole_file(place / "a") as a, whole_folder(place / "b") as b, scratch_folder() as c:
    for path in (a, b / "x", c / "x"):
        path.write_text("half")
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept on Windows")
def test_the_next_run_removes_what_a_kill_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, out = tmp_path / "tmp", tmp_path / "out"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    run_until_killed(HALF, out)
    assert len(list(out.iterdir())) == 2
    assert len(list(scratch.iterdir())) == 1
    write = "import sys; from pathlib import Path; from mssgen.files import write_text;"
    write += "write_text(Path(sys.argv[1]) / 'z', 'z')"
    subprocess.run([sys.executable, "-c", write, str(out)], check=True)
    assert [path.name for path in out.iterdir()] == ["z"]
    assert not list(scratch.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_what_is_alive_or_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".mssgen-notes", ".mssgen-0123456789ab.txt", "mssgen-x", ".x-abcdefgh"):
        (tmp_path / name).touch()
    (tmp_path / f"mssgen-{os.getpid()}-x").mkdir()
    (tmp_path / f"mssgen-{DEAD}-x").mkdir()
    link = tmp_path / hidden_name()
    link.symlink_to(tmp_path / ".mssgen-notes")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with whole_file(tmp_path / "a") as a, whole_folder(tmp_path / "b") as b, scratch_folder() as c:
        before = set(tmp_path.iterdir())
        sweep(tmp_path)
        sweep_scratch.cache_clear()
        sweep_scratch()
        assert set(tmp_path.iterdir()) == before - {tmp_path / f"mssgen-{DEAD}-x"}
        assert a.is_file()
        assert b.is_dir()
        assert c.is_dir()


def test_a_forked_child_keeps_no_lock(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no processes are forked here")
    lock, other = Lock(tmp_path), Lock(tmp_path)
    assert lock.take(where_unknown=False)
    assert not other.take(where_unknown=False)
    process = subprocess.Popen(["sleep", "30"])
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        time.sleep(0.2)
        lock.release()
        assert other.take(where_unknown=False)
    finally:
        other.release()
        for number in (child, process.pid):
            os.kill(number, signal.SIGKILL)
        os.waitpid(child, 0)
        process.wait()


def test_left_overs_block_nothing(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as draft:
        (draft / "config.json").write_text('{"format_version": 1}')
    (tmp_path / "model" / hidden_name()).touch()
    assert other_files(tmp_path / "model") == []
    with new_folder(tmp_path / "model", overwrite=True) as draft:
        (draft / "config.json").write_text('{"format_version": 1, "x": 1}')
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    (tmp_path / "model" / "mine.txt").touch()
    with (
        pytest.raises(CheckpointError, match=r"holds mine\.txt"),
        new_folder(tmp_path / "model", overwrite=True),
    ):
        pass


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(image, folder) of an ext4 disk of its own, mounted on the folder."""
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mkfs.ext4")):
        pytest.skip("needs root and mkfs.ext4")
    image, folder = tmp_path / "ext4.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(48 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True).returncode:
        pytest.skip("this machine cannot mount a disk from a file")
    try:
        yield image, folder
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)


def test_a_power_cut(disk: tuple[Path, Path]) -> None:
    image, folder = disk
    stem = write_stem(folder / "song" / "bass.wav")
    flac = write_stem(folder / "song" / "bass.flac", container="flac")
    text = write_text(folder / "scores.jsonl", "abc\n")
    with new_folder(folder / "model") as draft:
        (draft / "config.json").write_text("{}")
    with new_folder(folder / "model2") as draft:
        (draft / "config.json").write_text('{"format_version": 1}')
    with new_folder(folder / "model2", overwrite=True) as draft:
        (draft / "config.json").write_text('{"format_version": 1, "x": 2}')
    (folder / "draft").write_text("abc\n")
    os.replace(folder / "draft", folder / "unsynced")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
    except OSError as error:
        pytest.skip(f"this kernel cannot cut the power of a disk ({error})")
    finally:
        os.close(descriptor)
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    written = [stem, flac, text, folder / "model/config.json", folder / "model2/config.json"]
    assert {path: path.read_bytes() for path in written} == {path: before[path] for path in written}
    # Or the cut was none.
    unsynced = folder / "unsynced"
    assert not unsynced.exists() or unsynced.read_bytes() != before[unsynced]


def test_put_replaces(tmp_path: Path) -> None:
    (tmp_path / "draft").write_text("new")
    (tmp_path / "x").write_text("old")
    put(tmp_path / "draft", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "new"
