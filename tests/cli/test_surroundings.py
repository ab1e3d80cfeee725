"""The program in odd surroundings: closed streams, strict encodings, signals, dying libraries."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

PROGRAM = [sys.executable, "-m", "mssgen"]
UNIX = pytest.mark.skipif(os.name == "nt", reason="streams and signals of Unix")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a song."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    sf.write("song.wav", 0.1 * np.random.default_rng(0).standard_normal(9_000), 44_100)
    return tmp_path


def call(*words: str, **how: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*PROGRAM, *words], capture_output=True, check=False, **how)


def shell(line: str) -> "subprocess.CompletedProcess[bytes]":
    """With "mssgen" as the program."""
    script = f'mssgen() {{ "{sys.executable}" -m mssgen "$@"; }}\n{line}'
    return subprocess.run(["sh", "-c", script], capture_output=True, check=False)


def sentence(err: bytes, *parts: str) -> None:
    """One line of ours with these parts."""
    text = err.decode()
    assert text.startswith("mssgen: ")
    assert text.count("\n") == 1
    for part in parts:
        assert part in text
    assert "unexpected" not in text


@pytest.mark.parametrize("encoding", ["latin1", "ascii", "utf-8:strict"])
@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_names_that_standard_output_cannot_encode(encoding: str, as_json: bool) -> None:
    names = ["日本.wav"]
    if sys.platform != "darwin":
        names.append(os.fsdecode(b"caf\xe9.wav"))
    for name in names:
        Path(name).write_bytes(Path("song.wav").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = call("info", *names, *(["--json"] if as_json else []), env=environment)
    assert result.returncode == 0, result.stderr
    if as_json:
        events = [json.loads(line) for line in result.stdout.decode("ascii").splitlines()]
        assert [event["path"] for event in events] == names
    else:
        assert result.stdout.count(b"file  ") == len(names)
        assert "日本.wav".encode() in result.stdout or b"\\u65e5\\u672c.wav" in result.stdout


def test_compare_in_a_latin_1_terminal() -> None:
    Path("日本.wav").write_bytes(Path("song.wav").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "latin1"}
    result = call("compare", "日本.wav", "song.wav", env=environment)
    assert result.returncode == 0, result.stderr
    assert b"the same, sample by sample" in result.stdout


@UNIX
def test_closed_streams() -> None:
    result = shell("mssgen info - <&-")
    assert (result.returncode, result.stdout) == (2, b"")
    sentence(result.stderr, "standard input is closed")
    result = shell("mssgen info song.wav >&-")
    assert result.returncode == 1
    sentence(result.stderr, "standard output cannot be written (it is closed)")
    result = shell("mssgen separate song.wav --stem bass --two-stems bass -o - >&-")
    assert result.returncode == 2
    result = shell("mssgen info song.wav 2>&-")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"44100 Hz" in result.stdout
    assert shell("mssgen info absent.wav <&- >&- 2>&-").returncode == 1


@UNIX
def test_sound_to_a_closed_output(tiny_model: Path) -> None:
    result = shell(f"mssgen separate song.wav -s bass -m '{tiny_model}' -o - >&-")
    assert result.returncode == 2
    sentence(result.stderr, "-o - writes to standard output, which is closed")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["info song.wav", "info song.wav --json", "models list"])
def test_full_streams(words: str) -> None:
    result = shell(f"mssgen {words} > /dev/full")
    assert result.returncode == 1
    sentence(result.stderr, "standard output cannot be written", os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_error_changes_no_exit_code() -> None:
    assert shell("mssgen info song.wav 2> /dev/full").returncode == 0
    assert shell("mssgen info absent.wav 2> /dev/full").returncode == 1


@UNIX
def test_a_reader_that_goes_away_is_no_failure() -> None:
    result = shell("{ mssgen models list --json; echo $? > code; } | head -c 1")
    assert (Path("code").read_text(), result.stderr) == ("0\n", b"")


@UNIX
def test_a_deleted_working_folder(here: Path) -> None:
    (here / "gone").mkdir()
    code = (
        "import os, sys\nfrom mssgen.cli import main\n"
        f"os.rmdir({str(here / 'gone')!r})\nsys.argv[1:] = ['info', 'song.wav']\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, cwd=here / "gone"
    )
    assert result.returncode == 2
    sentence(result.stderr, "the current folder no longer exists")


DYING = """
import ctypes, os, sys
from mssgen.cli import streams
streams.prepare(hush_libraries=True)
os.write(2, b"LIBRARY: last words\\n")
{end}
"""


@UNIX
@pytest.mark.parametrize(
    ("end", "is_told"),
    [
        ("os.abort()", True),
        ("ctypes.CDLL(None).exit(2)", True),
        ("os.kill(os.getpid(), 11)", True),
        ("streams.end()", False),
    ],
    ids=["abort", "exit", "segfault", "in order"],
)
def test_the_last_words_of_a_dying_library_are_shown(end: str, is_told: bool) -> None:
    result = subprocess.run(
        [sys.executable, "-c", DYING.format(end=end)], capture_output=True, check=False
    )
    text = result.stderr.decode()
    assert ("LIBRARY: last words" in text) == is_told
    assert ("mssgen: ended unexpectedly" in text) == is_told
    assert bool(result.returncode) == is_told


SIGNALLED = """
import os, signal, sys, time
from mssgen.cli import signals
from mssgen.cli.console import run
from mssgen.errors import CheckpointError
signals.install()
def command():
    {body}
sys.exit(run(command, verbose=False))
"""
SWALLOWED = """try:
        os.kill(os.getpid(), signal.{name}); time.sleep(5)
    except BaseException:
        {then}"""


@UNIX
@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)], ids=str
)
@pytest.mark.parametrize(
    "then",
    ["raise CheckpointError('model.safetensors is damaged')", "return 0", "signals.check()"],
    ids=["as an error", "as success", "asked"],
)
def test_a_signal_that_a_library_swallows_is_not_lost(name: str, code: int, then: str) -> None:
    source = SIGNALLED.format(body=SWALLOWED.format(name=name, then=then))
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert result.returncode == code, result.stderr
    if name == "SIGINT":
        sentence(result.stderr, "interrupted; finished files are complete")
    else:
        assert result.stderr == b""


@UNIX
def test_a_signal_that_is_swallowed_while_data_load_ends_a_training() -> None:
    body = """try:
        os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)
    except BaseException:
        pass
    from mssgen.cli.reporters import reporter
    from mssgen.events import Began
    with reporter(as_json=False, quiet=True, verbose=False) as hook:
        hook(Began(*[None] * 6))
        os._exit(0)"""
    source = SIGNALLED.format(body=body)
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert result.returncode == 143, result.stderr


@UNIX
def test_a_signal_waits_for_an_import(here: Path) -> None:
    (here / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)\n"
        "open('imported', 'w').close()\n"
    )
    source = SIGNALLED.format(body="sys.path.insert(0, '.'); import slow; time.sleep(5)")
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert result.returncode == 130, result.stderr
    assert Path("imported").exists()


@UNIX
def test_an_ignored_signal_stays_ignored() -> None:
    body = "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGHUP); return 7"
    ignored = "import signal\nfor n in (2, 1): signal.signal(n, signal.SIG_IGN)\n"
    source = ignored + SIGNALLED.format(body=body)
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (7, b"")
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # what conftest promises
