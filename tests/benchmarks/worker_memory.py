"""Give a worker many short songs, and follow its memory, open files and threads.

    python tests/benchmarks/worker_memory.py --songs 500
    python tests/benchmarks/worker_memory.py --songs 500 --watch

A tiny model separates excerpts of real music into four stems. The worker is the program itself: it
reads orders from a pipe, or watches a folder into which the songs are renamed, one after another.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[1]))

from mssgen.jobs.manifest import MANIFEST

from support.models import EXCERPT, ROOT, write_tiny_model

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print a line every tenth of the songs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each song")
    parser.add_argument("--watch", action="store_true", help="watch a folder; else read orders")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_tiny_model(Path("tiny"), segment=Fraction(1, 4))
        Path("in").mkdir()
        source = ["--watch", "in", "--interval", "0.1"] if given.watch else ["--jobs", "-"]
        words = ["worker", *source, "-m", "./tiny", "--precision", "fp32", "-o", "out", "-q"]
        with subprocess.Popen(
            [sys.executable, "-m", "mssgen", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        ) as worker:
            for index in range(1, given.songs + 1):
                write_song(index, given.seconds)
                if given.watch:
                    wait_for(index)
                else:
                    order(worker, index)
                if index % max(1, given.songs // 10) == 0:
                    print(f"{index:4} songs: {state(worker.pid)}", flush=True)
            worker.send_signal(signal.SIGTERM)
            worker.communicate()
        if worker.returncode != 0:
            sys.exit(f"the worker ended with {worker.returncode}")


def write_song(index: int, length_s: float) -> None:
    """in/INDEX.wav, an excerpt from a place of its own; complete when it gets its name."""
    about = sf.info(EXCERPT)
    n_samples = int(length_s * about.samplerate)
    start = index * 997 % (about.frames - n_samples)
    samples, rate = sf.read(EXCERPT, start=start, frames=n_samples)
    sf.write("draft.wav", samples, rate)
    os.rename("draft.wav", f"in/{index}.wav")


def order(worker: "subprocess.Popen[str]", index: int) -> None:
    """Send one order and wait for its answer."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps({"path": f"in/{index}.wav", "id": index}) + "\n")
    worker.stdin.flush()
    answer = json.loads(worker.stdout.readline())
    if (answer["id"], answer["state"]) != (index, "done"):
        sys.exit(f"wrong answer: {answer}")


def wait_for(index: int) -> None:
    """Wait until the manifest says that so many songs are done."""
    manifest = Path("out", MANIFEST)
    while not manifest.exists() or manifest.read_text().count('"state":"done"') < index:
        time.sleep(0.02)


def state(process: int) -> str:
    """Resident memory, open files and threads of a process (Linux)."""
    folder = Path("/proc", str(process))
    memory = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES / 2**20
    n_files, n_threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
    return f"{memory:.1f} MiB, {n_files} open files, {n_threads} threads"


if __name__ == "__main__":
    main()
