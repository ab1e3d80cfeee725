"""SDR of the shipped model on real multitracks, and what int8 weights and bf16 cost.

    python tests/benchmarks/quality.py AUDIO_DIR [--weights FULL_CHECKPOINT]

AUDIO_DIR holds a folder per song with `mixture.flac` and one file per stem. SDR is the global one
(uSDR: one ratio over all samples and channels, in dB). With --weights, rows of the full checkpoint
in fp32 and the differences of int8 and of bf16 to it are printed too.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

import mssgen
from mssgen.checkpoints.resolving import embedded_checkpoint


def sdr_db(reference: NDArray[np.float32], estimate: NDArray[np.float32]) -> float:
    """Global signal-to-distortion ratio of [C, T]."""
    error = np.sum((reference.astype(np.float64) - estimate) ** 2)
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / error))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio_dir", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    shipped = embedded_checkpoint("htdemucs")
    systems = [("int8", shipped, "bf16"), ("int8", shipped, "fp32")]
    if arguments.weights:
        systems += [("full", arguments.weights, "fp32"), ("full", arguments.weights, "bf16")]
    scores: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for weights, path, precision in systems:
        separator = mssgen.load_separator(str(path), device="cpu", precision=precision)
        for mixture in sorted(arguments.audio_dir.glob("*/mixture.flac")):
            for stem, estimate in mssgen.separate(mixture, separator=separator).items():
                file = mixture.with_name(f"{stem}.flac")
                if file.exists():
                    reference, _ = sf.read(file, dtype="float32", always_2d=True)
                    row = scores.setdefault((mixture.parent.name, stem), {})
                    row[weights, precision] = sdr_db(reference.T, estimate)
    columns = [(weights, precision) for weights, _, precision in systems]
    print(f"{'song':<12}{'stem':<8}" + "".join(f"{' '.join(c):>12}" for c in columns) + "   dB SDR")
    for (song, stem), row in scores.items():
        print(f"{song:<12}{stem:<8}" + "".join(f"{row[c]:12.3f}" for c in columns))
    if arguments.weights:
        for what, one, other in (
            ("int8 weights (fp32)", ("int8", "fp32"), ("full", "fp32")),
            ("bf16 (full weights)", ("full", "bf16"), ("full", "fp32")),
            ("int8 and bf16", ("int8", "bf16"), ("full", "fp32")),
        ):
            worst = max((abs(row[one] - row[other]) for row in scores.values()), default=0)
            print(f"{what}: moves SDR by at most {worst:.3f} dB")


if __name__ == "__main__":
    main()
