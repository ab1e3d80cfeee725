"""Kill runs at random moments, resume them, and compare the outputs with those of a quiet run.

    python tests/benchmarks/kill_and_resume.py --kills 50 --files 30

A tiny model separates excerpts of real music. In every round one or two processes work in one
output folder and are killed with SIGKILL, at moments that are spread over a whole run; as soon as a
folder is complete it is compared, and the next one begins. Processes are forked from one that has
imported everything, so that kills hit the work and not the start of Python.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[1]))

from mssgen.cli import app
from mssgen.cli.console import run
from mssgen.jobs.manifest import MANIFEST
from mssgen.jobs.status import read_status
from mssgen.leftovers import is_leftover
from mssgen.pipeline import load_separator

from support.models import EXCERPT, write_tiny_model


def main() -> None:
    """Print the figures; exit with an error at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each excerpt")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    numbers = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_tiny_model(Path("tiny"), segment=Fraction(1, 4))
        load_separator("./tiny")  # imports what is imported late
        write_music(given.files, given.seconds)
        began = time.monotonic()
        wait(start("quiet"))
        run_s = time.monotonic() - began
        expected = content("quiet")
        n_folders, n_kills, n_pairs = 1, 0, 0
        while n_kills < given.kills:
            folder = f"out{n_folders}"
            processes = [start(folder) for _ in range(numbers.choice((1, 1, 2)))]
            n_pairs += len(processes) == 2
            time.sleep(numbers.uniform(0, run_s / 4))
            n_killed = sum(kill(process) for process in processes)
            n_kills += n_killed
            if n_killed < len(processes) and is_complete(folder, given.files):
                compare(folder, expected)
                n_folders += 1
        folder = f"out{n_folders}"
        wait(start(folder))
        compare(folder, expected)
    print(
        f"{n_kills} kills in {n_folders} folders of {given.files} files ({n_pairs} times two runs "
        f"at once), a quiet run of {run_s:.1f} s: all outputs are complete and equal"
    )


def write_music(n_files: int, length_s: float) -> None:
    """music/00.wav, 01.wav, ...: excerpts from different places."""
    Path("music").mkdir()
    samples, rate = sf.read(EXCERPT)
    n_samples = int(length_s * rate)
    for index in range(n_files):
        first = index * max(0, len(samples) - n_samples) // n_files
        sf.write(f"music/{index:02}.wav", samples[first : first + n_samples], rate)


def start(folder: str) -> int:
    """Fork a process that separates all files into `folder`; returns its number."""
    process = os.fork()
    if process == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        words = ["separate", "music", "-m", "./tiny", "--precision", "fp32", "-o", folder]
        os._exit(run(lambda: app(words, standalone_mode=False), verbose=False))
    return process


def wait(process: int) -> None:
    """Wait for a run that must succeed."""
    _, status = os.waitpid(process, 0)
    if status != 0:
        sys.exit(f"a run that was not killed ended with {status}")


def kill(process: int) -> bool:
    """Kill a run; false if it had ended before."""
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        sys.exit(f"a run failed with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def content(folder: str) -> dict[str, bytes]:
    """All files but the manifest."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def is_complete(folder: str, n_files: int) -> bool:
    """Whether the manifest says that all files are done."""
    return read_status(Path(folder)).count("done") == n_files


def compare(folder: str, expected: dict[str, bytes]) -> None:
    """Exit with an error if outputs differ, or if drafts were left behind."""
    found = content(folder)
    left = [name for name in found if is_leftover(Path(name).name)]
    different = [name for name, data in expected.items() if found.get(name) != data]
    if left or different or len(found) != len(expected):
        sys.exit(f"{folder}: left {left}, different {different}")


if __name__ == "__main__":
    main()
