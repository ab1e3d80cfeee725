"""Peak memory of `mssgen separate` on a short and on a long file: flat, or growing?

    python tests/benchmarks/memory_vs_length.py [--minutes 1 60] [--model htdemucs]

Separates the excerpt, repeated to each length, in a process of its own and prints peak memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import soundfile as sf
from speed_vs_demucs import EXCERPT, run


def write_song(path: Path, minutes: float) -> None:
    """Repeat the excerpt to the wanted length, block by block."""
    music, rate = sf.read(EXCERPT, dtype="int16")
    n_left = int(minutes * 60 * rate)
    with sf.SoundFile(path, "w", rate, music.shape[1], "PCM_16") as file:
        while n_left:
            n_block = min(n_left, len(music))
            file.write(music[:n_block])
            n_left -= n_block


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60])
    parser.add_argument("--model", default="htdemucs")
    parser.add_argument("--options", default="", help="more options for mssgen")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for minutes in arguments.minutes:
            song = Path(folder) / "song.wav"
            write_song(song, minutes)
            command = [str(Path(sys.executable).parent / "mssgen"), "separate", str(song)]
            command += ["-o", f"{folder}/out", "--overwrite", "--model", arguments.model]
            cost = run([*command, *arguments.options.split()])
            print(
                f"{minutes:g} min: {cost.peak_mb:.0f} MB, {cost.wall_s:.0f} s wall, "
                f"{minutes * 60 / cost.wall_s:.1f} × real time",
                flush=True,
            )


if __name__ == "__main__":
    main()
