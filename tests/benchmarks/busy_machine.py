"""CPU time of `mssgen separate` on one second of music, beside busy programs and without them.

    python tests/benchmarks/busy_machine.py [--runs 3] [--seconds 1] [--options "--precision fp32"]

Two endless loops (one per core, if there are more) run beside every second run. One second is a
lone segment, the case in which threads share each step and may wait for one another. "spinning" is
the same with OMP_WAIT_POLICY=active, which is how torch waits by default. Prints CPU and wall
time of each run, and the median ratio of the pairs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import soundfile as sf
from speed_vs_demucs import EXCERPT, Cost, run


@contextmanager
def busy_loops(n_loops: int) -> Iterator[None]:
    """Keep CPUs busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_loops)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--policies", nargs="+", default=["ours", "spinning"])
    parser.add_argument("--options", default="", help="more options for mssgen")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        song = Path(temporary) / "song.wav"
        music, rate = sf.read(EXCERPT, dtype="float32")
        n_samples = int(arguments.seconds * rate)
        sf.write(song, np.resize(music, (n_samples, music.shape[1])), rate, "PCM_16")
        command = [sys.executable, "-m", "mssgen", "separate", str(song), "--overwrite"]
        command += ["-o", f"{temporary}/stems", *arguments.options.split()]
        run(command)  # into the file cache
        for policy in arguments.policies:
            if policy == "spinning":
                os.environ["OMP_WAIT_POLICY"] = "active"
            pairs: list[tuple[Cost, Cost]] = []
            for _ in range(arguments.runs):
                alone, beside = (
                    _beside(n_loops, command) for n_loops in (0, max(2, os.cpu_count() or 2))
                )
                pairs.append((alone, beside))
                print(
                    f"{policy}: alone {alone.cpu_s:.1f} s CPU, {alone.wall_s:.1f} s wall; beside "
                    f"busy loops {beside.cpu_s:.1f} s CPU, {beside.wall_s:.1f} s wall",
                    flush=True,
                )
            ratios = [beside.cpu_s / alone.cpu_s for alone, beside in pairs]
            print(
                f"{policy}: {statistics.median(ratios):.2f} of the CPU time alone "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def _beside(n_loops: int, command: list[str]) -> Cost:
    with busy_loops(n_loops) if n_loops else nullcontext():
        return run(command)


if __name__ == "__main__":
    main()
