"""Seconds of audio that training a stem encoder gets through in a second: FCWE + MSE on EnCodec.

    python tests/benchmarks/training_speed.py [--steps 6] [--segment 4] [--batch 2] [--bf16]

A warm encoder of the full EnCodec architecture (24 kHz, random weights) learns by MSE on latents,
once through `mssgen.training.loop.train` with all its logging and checkpoints, once in a plain loop
with the encodec package's modules: two passes of each in turn, in one run. Prints both rates and
their ratio, and that of a run whose frozen targets are cached.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from codec_vs_encodec import random_codec
from speed_vs_demucs import EXCERPT
from torch.nn import functional as F

from mssgen.codecs.networks.seanet import ENCODEC_24KHZ, SeanetCodec
from mssgen.encoders.stem_encoder import StemEncoderOptions
from mssgen.training.data.datasets import Segment, collate
from mssgen.training.encoder.options import LossOptions
from mssgen.training.encoder.task import EncoderTask
from mssgen.training.loop import train
from mssgen.training.recipes import TrainOptions


class Segments(torch.utils.data.Dataset):
    """The excerpt's segments; the input is softer."""

    def __init__(self, codec: SeanetCodec, segment_s: float) -> None:
        import soxr

        music, rate = sf.read(EXCERPT, dtype="float32")
        self._music = soxr.resample(music.mean(axis=1), rate, codec.sample_rate)
        self._length = int(segment_s * codec.sample_rate)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Segment:
        start = (index % 4) * 10_000
        target = torch.from_numpy(np.resize(self._music[start:], self._length)[None])
        return Segment(0.7 * target, target, f"segment {index % 4}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--segment", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="ours in bf16-mixed")
    arguments = parser.parse_args()
    codec = random_codec(ENCODEC_24KHZ)
    data = Segments(codec, arguments.segment)
    seconds = arguments.steps * arguments.batch * arguments.segment

    def ours(cache: Path | None) -> float:
        task = EncoderTask(codec, StemEncoderOptions(), LossOptions(mse=1.0), target_cache=cache)
        options = TrainOptions(
            steps=arguments.steps,
            batch_size=arguments.batch,
            precision="bf16-mixed" if arguments.bf16 else "32-true",
            log_every=1,
        )
        with tempfile.TemporaryDirectory() as folder:
            train(task, data, None, options, Path(folder) / "run", collate=collate, device="cpu")
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        # The first step warms up.
        rates = [json.loads(line)["audio_seconds_per_second"] for line in lines[1:]]
        return statistics.median(rates)

    def theirs() -> float:
        frozen, warm = codec.encoder, copy_of(codec)
        optimizer = torch.optim.Adam(warm.parameters(), lr=1e-3)
        rates = []
        for step in range(arguments.steps):
            first = step * arguments.batch
            batch = collate([data[first + slot] for slot in range(arguments.batch)])
            started = time.monotonic()
            with torch.no_grad():
                wanted = frozen(batch.target)
            loss = F.mse_loss(warm(batch.input), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.append(arguments.batch * arguments.segment / (time.monotonic() - started))
        return statistics.median(rates[1:])

    print(f"{seconds:.0f} s of audio a pass, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        ours(Path(cache))  # fills the cache
        for _ in range(2):
            plain, loop, cached = theirs(), ours(None), ours(Path(cache))
            print(
                f"plain loop {plain:.2f}, mssgen {loop:.2f} ({loop / plain:.2f} of it), with "
                f"cached targets {cached:.2f} ({cached / plain:.2f}) s of audio a second",
                flush=True,
            )


def copy_of(codec: SeanetCodec) -> torch.nn.Module:
    """The encoder once more, to learn."""
    fresh = SeanetCodec(**codec.options)
    fresh.load_state_dict(copy.deepcopy(codec.state_dict()))
    return fresh.encoder.train()


if __name__ == "__main__":
    main()
