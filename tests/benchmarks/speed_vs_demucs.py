"""Time the whole `mssgen separate` process against the `demucs` command, in turn, in one run.

    python tests/benchmarks/speed_vs_demucs.py [--seconds 60] [--runs 3] [--weights CHECKPOINT]

Both read the same wav and write four 16-bit stems; demucs runs at `--shifts 0 --overlap 0.25` with
the same weights (packed into a local repo for it; from the full checkpoint if one is given, else
from the shipped int8 one). Prints wall time, CPU time and peak memory of each and the ratios pair
by pair, then how far the stems agree. Needs the demucs command (installed with mssgen).
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from mssgen.checkpoints.formats import read_checkpoint
from mssgen.checkpoints.resolving import embedded_checkpoint

EXCERPT = Path(__file__).parents[1] / "data" / "excerpt.flac"
STEMS = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(command: list[str]) -> Cost:
    """Run a command to its end; raises if it fails."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{log.read().decode()}")
    wall_s = time.monotonic() - started
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_demucs_repo(folder: Path, checkpoint_path: Path) -> str:
    """Pack a checkpoint as a local repo of demucs; returns the signature."""
    from demucs.htdemucs import HTDemucs

    checkpoint = read_checkpoint(checkpoint_path)
    state = {key: tensor.half() for key, tensor in checkpoint.state.items()}
    package = {"klass": HTDemucs, "args": (), "kwargs": dict(checkpoint.options), "state": state}
    folder.mkdir()
    torch.save({**package, "training_args": {}}, folder / "package")
    digest = hashlib.sha256((folder / "package").read_bytes()).hexdigest()
    (folder / "package").rename(folder / f"955717e8-{digest[:8]}.th")
    return "955717e8"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--input", type=Path, default=EXCERPT, help="repeated to --seconds")
    parser.add_argument("--weights", type=Path, default=embedded_checkpoint("htdemucs"))
    parser.add_argument("--options", default="", help="more options for mssgen")
    arguments = parser.parse_args()

    bin_dir = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        music, rate = sf.read(arguments.input, dtype="float32")
        n_samples = int(arguments.seconds * rate)
        song = folder / "song.wav"
        sf.write(song, np.resize(music, (n_samples, music.shape[1])), rate, "PCM_16")
        signature = write_demucs_repo(folder / "repo", arguments.weights)
        theirs = [str(bin_dir / "demucs"), "-n", signature, "--repo", str(folder / "repo")]
        theirs += ["--shifts", "0", "--overlap", "0.25", "-o", str(folder / "theirs"), str(song)]
        ours = [str(bin_dir / "mssgen"), "separate", str(song), "-o", str(folder / "ours")]
        ours += ["--overwrite", "--model", str(arguments.weights), *arguments.options.split()]
        pairs = []
        for number in range(arguments.runs):
            pair = run(ours), run(theirs)
            pairs.append(pair)
            for name, cost in zip(("mssgen", "demucs"), pair, strict=True):
                print(
                    f"run {number + 1} {name}: {cost.wall_s:6.1f} s wall, {cost.cpu_s:6.1f} s CPU, "
                    f"{cost.peak_mb:5.0f} MB",
                    flush=True,
                )
        for field in ("wall_s", "cpu_s", "peak_mb"):
            ratios = [getattr(a, field) / getattr(b, field) for a, b in pairs]
            median = statistics.median(ratios)
            print(f"{field} ratio: {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        for stem in STEMS:
            mine, _ = sf.read(folder / "ours" / "song" / f"{stem}.wav")
            other, _ = sf.read(folder / "theirs" / signature / "song" / f"{stem}.wav")
            if mine.shape != other.shape:
                raise SystemExit(f"{stem}: {mine.shape} against {other.shape}")
            error = np.sum((mine - other) ** 2) + 1e-12
            print(f"{stem}: agrees to {10 * np.log10(np.sum(other**2) / error):.1f} dB")


if __name__ == "__main__":
    main()
