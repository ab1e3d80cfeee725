"""What a user meets when something is wrong: one sentence, an exit code, and no half files.

Wrong calls, absent devices and closed pipes stand in `test_cli_separate`.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from mssgen.checkpoints import hub
from mssgen.cli import app
from mssgen.cli.console import run
from mssgen.cli.reporters import reporter
from mssgen.events import Done, Failed
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.manifest import MANIFEST

from support.models import EXCERPT, write_tiny_model

RATE = 44_100
NOBODY = 65_534


@dataclass(frozen=True)
class Result:
    code: int
    err: str

    def check_failure(self, *parts: str, code: int = 1) -> None:
        """One line for people, which names `parts`, and the exit code."""
        assert self.code == code, self.err
        assert self.err.startswith("mssgen: ")
        assert self.err.count("\n") == 1
        for part in parts:
            assert part in self.err
        for word in ("unexpected", "Traceback", "Error:"):
            assert word not in self.err


Program = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("failures") / "tiny", segment=Fraction(1, 4))


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of music, 16 bit."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    samples, _ = sf.read(EXCERPT, frames=RATE, start=RATE)
    sf.write(path, samples, RATE)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and a temporary folder that must be empty in the end."""
    temporary, folder = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir()
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(folder)
    yield folder
    assert not list(temporary.iterdir())


@pytest.fixture
def cli(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Program:
    """`mssgen separate` in this process, without a hub."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(here / "no-cache"))

    def call(*words: str) -> Result:
        chosen = () if "--model" in words else ("--model", str(model))
        arguments = ["separate", "--stem", "bass", *chosen, *words]
        code = run(lambda: app(arguments, standalone_mode=False), verbose=False)
        captured = capsys.readouterr()
        assert captured.out == ""
        return Result(code, captured.err)

    return call


def start(model: Path, *words: str, **how: Any) -> "subprocess.Popen[bytes]":
    """The same in a process of its own."""
    arguments = ["-m", "mssgen", "separate", *words, "--stem", "bass", "--model", str(model)]
    return subprocess.Popen(
        [sys.executable, *arguments, "--threads", "1", "--precision", "fp32"],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    )


def finish(process: "subprocess.Popen[bytes]") -> Result:
    _, err = process.communicate(timeout=120)
    return Result(process.returncode, err.decode())


def files() -> set[str]:
    found = (path for path in Path().rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.as_posix() for path in found}


# Bad inputs.


def missing(path: Path, song: Path) -> None:
    pass


def empty(path: Path, song: Path) -> None:
    path.touch()


def text(path: Path, song: Path) -> None:
    path.write_text("These are the words of the song, not its sound.\n" * 9)


def cut(path: Path, song: Path) -> None:
    samples, _ = sf.read(song)
    sf.write(path, samples, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def not_a_number(path: Path, song: Path) -> None:
    samples, _ = sf.read(song, dtype="float32")
    samples[RATE // 2, 0] = np.nan
    sf.write(path, samples, RATE, subtype="FLOAT")


def infinite(path: Path, song: Path) -> None:
    samples, _ = sf.read(song, dtype="float32")
    samples[RATE // 2, 1] = -np.inf
    sf.write(path, samples, RATE, subtype="FLOAT")


def without_samples(path: Path, song: Path) -> None:
    sf.write(path, np.zeros((0, 2)), RATE)


def link_to_nowhere(path: Path, song: Path) -> None:
    path.symlink_to("nowhere")


BAD_INPUTS: list[tuple[str, Callable[[Path, Path], None], str, str]] = [
    ("bad.wav", missing, "does not exist", "check its spelling"),
    ("bad.wav", link_to_nowhere, "does not exist", "check its spelling"),
    ("bad.wav", empty, "is empty", "get a new copy"),
    ("bad.wav", text, "is text, not sound", "give a sound file"),
    ("bad.wav", not_a_number, "NaN", "at 0.500 s; repair it"),
    ("bad.wav", infinite, "infinite", "at 0.500 s; repair it"),
    ("bad.wav", without_samples, "holds no samples", "choose another file"),
]


@pytest.mark.parametrize(
    ("name", "make", "reason", "cure"),
    BAD_INPUTS,
    ids=[f"{make.__name__}-{name}" for name, make, *_ in BAD_INPUTS],
)
def test_bad_input(
    cli: Program,
    song: Path,
    name: str,
    make: Callable[[Path, Path], None],
    reason: str,
    cure: str,
) -> None:
    make(Path(name), song)
    before = files()
    cli(name).check_failure(f"mssgen: {name} ", reason, cure)
    assert files() == before
    # In company the others are done, and the summary names this one.
    result = cli(name, str(song), "-o", "company")
    assert result.code == 1
    assert f"1 done, 0 skipped, 1 failed: {name}" in result.err
    assert files() - before == {"company/song/bass.wav"}


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "caf", "w64", "au", "mp3"])
def test_a_cut_song_is_separated_with_a_warning(cli: Program, song: Path, suffix: str) -> None:
    cut(Path(name := f"cut.{suffix}"), song)
    cli(name, "--strict").check_failure(f"mssgen: {name} ", "cut short", "copy")
    result = cli(name)
    assert result.code == 0
    assert f"mssgen: warning: {name} is cut short: it holds " in result.err
    n_samples = sf.info(song).frames
    assert 0 < sf.info("separated/cut/bass.wav").frames < n_samples


def test_an_ogg_without_its_end_is_separated_with_a_warning(cli: Program, song: Path) -> None:
    # A stream that was cut at a page is whole as far as its format can tell.
    samples, _ = sf.read(EXCERPT, frames=8 * RATE)
    sf.write("song.ogg", samples, RATE)
    data = Path("song.ogg").read_bytes()
    Path("song.ogg").write_bytes(data[: data.rindex(b"OggS")])
    result = cli("song.ogg")
    assert result.code == 0
    assert (
        "mssgen: warning: song.ogg has no end mark: it may be cut short" in result.err.splitlines()
    )


def test_a_folder_without_sound(cli: Program) -> None:
    Path("papers").mkdir()
    Path("papers", "notes.txt").write_text("Nothing to hear.")
    cli("papers").check_failure("papers holds no sound files", "name a folder that does")


def test_libraries_keep_their_remarks_to_themselves(here: Path, model: Path, song: Path) -> None:
    cut(Path("cut.mp3"), song)  # libmpg123 would write its own warnings to standard error
    result = finish(start(model, "cut.mp3"))
    assert result.code == 0
    assert all(line.startswith("mssgen: ") for line in result.err.splitlines()), result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_folder_is_no_song(here: Path, song: Path) -> None:
    shutil.copy(song, "song.wav")
    os.mkfifo("pipe.wav")  # nobody writes into it: reading it would never end
    assert [track.name for track in find_tracks(["."])] == ["song"]


# Odd inputs that are no failures.


def test_silence_gives_silence_and_a_warning(cli: Program) -> None:
    sf.write("silence.wav", np.zeros((RATE, 2)), RATE)
    result = cli("silence.wav")
    assert result.code == 0
    warning = "mssgen: warning: silence.wav: the mixture is silent, and so are its stems"
    assert warning in result.err.splitlines()
    samples, _ = sf.read("separated/silence/bass.wav")
    assert samples.shape == (RATE, 2)
    assert not samples.any()


def test_names_of_any_kind(cli: Program, song: Path) -> None:
    names = ["🎸 曲.wav", "-dash.wav", "new\nline.wav", "\x1b[31mred.wav", "[b] {stem} %s.wav"]
    names += ["n" * 250 + ".wav", os.fsdecode(b"no-text-\xff.wav")]
    for name in names:
        shutil.copy(song, name)
    assert cli(".", "-o", "found").code == 0
    assert files() - set(names) == {f"found/{name[:-4]}/bass.wav" for name in names}
    assert cli("--overwrite", "--", "-dash.wav").code == 0
    Path("new\nline.wav").write_bytes(b"")
    cli("new\nline.wav").check_failure("line.wav is empty")
    cli("n" * 300 + ".wav").check_failure("more than 255 bytes", code=2)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 100, 5_000])
def test_the_shortest_songs(cli: Program, song: Path, rate: int, n_samples: int) -> None:
    samples, _ = sf.read(song, frames=n_samples)
    sf.write("short.wav", samples, rate)
    assert cli("short.wav", "--residual").code == 0
    for output in ("bass", "residual"):
        samples, out_rate = sf.read(f"separated/short/{output}.wav")
        assert samples.shape == (n_samples, 2)
        assert out_rate == rate
        assert np.isfinite(samples).all()


# Models.


def test_a_model_that_is_not_here_while_offline(cli: Program, song: Path) -> None:
    cli(str(song), "--model", "htdemucs_ft", "--offline").check_failure(
        "htdemucs_ft is not on this machine", "offline", "mssgen models pull htdemucs_ft"
    )
    assert not files()


def test_a_damaged_model(cli: Program, model: Path, song: Path) -> None:
    shutil.copytree(model, "damaged")
    weights = Path("damaged", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    cli(str(song), "--model", "./damaged").check_failure("damaged/model.safetensors")
    assert not Path("separated").exists()


SMALL_MEMORY = """
import resource, sys
import torch
from demucs import htdemucs
from mssgen.jobs import batch
from mssgen.cli import main

torch.set_num_threads(1)
torch.nn.functional.conv1d(torch.zeros(1, 1, 64), torch.zeros(1, 1, 8))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory in use is not known")
def test_not_even_one_segment_fits(tmp_path: Path, here: Path, song: Path) -> None:
    model = write_tiny_model(tmp_path / "long", segment=Fraction(47))
    words = ["separate", str(song), "--model", str(model), "--precision", "fp32", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-c", SMALL_MEMORY, *words, "--batch-size", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    Result(result.returncode, result.stderr).check_failure(
        str(song), "memory on cpu is too small for one segment", "close other programs"
    )
    assert not files()


# Disks and permissions.


@pytest.mark.skipif(os.name == "nt", reason="no file size limits here")
@pytest.mark.parametrize("clip", ["rescale", "none"])
def test_a_stem_that_the_disk_does_not_hold(here: Path, model: Path, song: Path, clip: str) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    words = (str(song), "--quiet", "--clip", clip)
    result = finish(start(model, *words, preexec_fn=limit))
    result.check_failure("separated/song/bass.wav cannot be written", "choose another --output")
    assert not files()


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = here / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("container", ["wav", "flac", "caf"])
def test_a_full_disk(cli: Program, song: Path, small_disk: Path, container: str) -> None:
    cli(str(song), "-o", "disk", "--quiet", "-f", container).check_failure(
        f"disk/song/bass.{container} cannot be written: the disk is full", "free some space"
    )
    assert not files()


def test_a_full_disk_costs_the_songs_that_do_not_fit(
    cli: Program, song: Path, small_disk: Path
) -> None:
    samples, _ = sf.read(song, frames=2000)
    for name in ("a", "c"):
        sf.write(f"{name}.wav", samples, RATE)
    shutil.copy(song, "b.wav")
    words = ("a.wav", "b.wav", "c.wav", "-o", "disk")
    full = cli(*words)
    assert full.code == 1
    assert "2 done, 0 skipped, 1 failed: b.wav" in full.err
    assert "disk/b/bass.wav cannot be written: the disk is full" in full.err
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    resumed = cli(*words)
    assert resumed.code == 0
    assert "1 done, 2 skipped, 0 failed" in resumed.err
    assert files() - {"a.wav", "b.wav", "c.wav"} == {f"disk/{name}/bass.wav" for name in "abc"}


def test_a_full_temporary_folder(
    cli: Program, song: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
    cli("-", "--quiet").check_failure(
        f"standard input does not fit into the temporary folder {small_disk}", "set TMPDIR"
    )
    assert not files()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_standard_output(here: Path, model: Path, song: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start(model, str(song), "-o", "-", "--quiet", stdout=full)
    finish(process).check_failure("standard output cannot be written")


@pytest.fixture
def as_nobody(
    cli: Program, model: Path, song: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    """The program of a user without rights, in a folder that everyone may enter."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no POSIX permissions here")
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="open-"))
    (folder / "temporary").mkdir()
    shutil.copytree(model, folder / "tiny")
    for path in (folder, folder / "temporary", *(folder / "tiny").iterdir()):
        path.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(folder)
    # What is imported late may lie where the user may not look.
    assert cli(str(song), "--model", "./tiny", "-o", "first").code == 0
    shutil.rmtree("first")
    user = os.geteuid()

    def call(*words: str) -> Result:
        if user == 0:
            os.seteuid(NOBODY)
        try:
            return cli(*words, "--model", "./tiny", "--quiet")
        finally:
            os.seteuid(user)

    yield call
    assert not list((folder / "temporary").iterdir())
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read(as_nobody: Program, song: Path) -> None:
    shutil.copy(song, "locked.wav")
    Path("locked.wav").chmod(0)
    as_nobody("locked.wav").check_failure("locked.wav cannot be read", "change its permissions")
    assert not Path("separated").exists()


def test_a_folder_that_may_not_be_read(as_nobody: Program, song: Path) -> None:
    Path("locked").mkdir()
    shutil.copy(song, "locked")
    Path("locked").chmod(0)
    as_nobody("locked").check_failure("locked cannot be read", "change its permissions")
    assert not Path("separated").exists()
    Path("locked").chmod(0o755)


def test_a_folder_that_may_not_be_written(as_nobody: Program, song: Path) -> None:
    shutil.copy(song, "song.wav")
    Path("song.wav").chmod(0o444)
    Path("locked").mkdir(mode=0o555)
    as_nobody("song.wav", "-o", "locked").check_failure(
        "locked/song/bass.wav cannot be written: there is no permission", "another --output"
    )
    assert not list(Path("locked").iterdir())


# Interruptions.


@pytest.fixture
def running(here: Path, model: Path, song: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """A process in the middle of a song, with a part of a stem on the disk."""

    def until_it_writes(*words: str) -> "subprocess.Popen[bytes]":
        samples, rate = sf.read(song)
        sf.write("long.wav", np.tile(samples, (300, 1)), rate)
        process = start(model, "long.wav", "--json", *words)
        assert process.stdout is not None
        for line in process.stdout:
            if b'"progress"' in line:
                return process
        raise AssertionError(process.communicate()[1].decode())

    return until_it_writes


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_leaves_no_stem_and_the_old_one(
    running: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    old = Path("separated", "long", "bass.wav")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"an older stem")
    process = running("--overwrite")
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert old.read_bytes() == b"an older stem"
    assert all(path.name.startswith(".mssgen-") for path in old.parent.iterdir() if path != old)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_run_that_waits_for_its_input_can_be_stopped(
    here: Path, model: Path, song: Path, number: signal.Signals, code: int
) -> None:
    process = start(model, "-", "--verbose", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(song.read_bytes()[:100_000])
    process.stdin.flush()
    waited_s = 0.0
    temporary = Path(os.environ["TMPDIR"])
    while not list(temporary.glob("*/input")) and waited_s < 60:
        time.sleep(0.1)
        waited_s += 0.1
    process.send_signal(number)
    try:
        assert process.wait(10) == code
    finally:
        process.kill()
        process.communicate()
    assert not files()


def test_a_track_that_failed_twice_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(as_json=False, quiet=False, verbose=False) as hook:
        hook(Failed("song", "sdr could not be measured"))
        hook(Failed("song", "sir could not be measured"))
        hook(Done(n_done=1, n_skipped=0, n_failed=1, elapsed_s=1.0))
    assert "1 done, 0 skipped, 1 failed: song (1.0 s)" in capsys.readouterr().err
