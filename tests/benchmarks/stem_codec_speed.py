"""Speed of our stem codec at 44.1 kHz stereo against EnCodec at 24 kHz mono, in turn, in one run.

    python tests/benchmarks/stem_codec_speed.py [--seconds 30] [--threads 1 2] [--runs 5]
        [--precision fp32] [--levels 8 16 32]

All have random weights at full size: speed does not depend on their values. Each encodes,
quantises and decodes the same seconds of the excerpt, at its own rate and channels: ours and the
EnCodec architecture in `mssgen`, streamed as `mssgen codec` does, and the model of the `encodec`
package, whole. EnCodec has all of its 32 codebooks (24 kbps), ours those of --levels. Printed are
the median, least and greatest ratio of speeds, by the clock and by the processor's time, which
another program beside disturbs less; goal: at least 5.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch
from codec_vs_encodec import random_codec
from speed_vs_demucs import EXCERPT
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.networks.seanet import ENCODEC_24KHZ
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.codecs.streaming import decode_stream, encode_stream
from mssgen.devices import DTYPES


class Times(NamedTuple):
    """Of one pass, s, by the clock and of the processor."""

    encode: float
    decode: float
    both: float
    encode_cpu: float
    decode_cpu: float
    both_cpu: float


Contestant = Callable[[], Times]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--levels", type=int, nargs="+", default=[32], help="of our codec")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of our codec")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    stem, seanet = StemCodec(), random_codec(ENCODEC_24KHZ)
    for codec in (stem, seanet):
        codec.freeze()
    stem.to(DTYPES[arguments.precision])
    peer = import_codec_package("encodec.model").EncodecModel.encodec_model_24khz(pretrained=False)
    peer.load_state_dict(seanet.state_dict())
    peer.set_target_bandwidth(24.0)
    music = excerpt(stem, arguments.seconds).to(DTYPES[arguments.precision])
    mono = excerpt(seanet, arguments.seconds)
    ours = {
        f"stem codec with {levels} codebooks": streamed(stem, music, levels)
        for levels in arguments.levels
    }
    theirs = {"EnCodec in mssgen": streamed(seanet, mono), "EnCodec": of_package(peer, mono)}
    n_values = sum(weight.numel() for weight in stem.parameters())
    print(
        f"stem codec: {n_values / 1e6:.1f} M parameters, {stem.sample_rate} Hz stereo, "
        f"{arguments.precision}; EnCodec: {seanet.sample_rate} Hz mono, fp32; "
        f"{arguments.seconds:g} s of music"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for contestant in (*ours.values(), *theirs.values()):  # warms up
            contestant()
        runs = [
            {name: contestant() for name, contestant in (ours | theirs).items()}
            for _ in range(arguments.runs)
        ]
        for name in ours | theirs:
            both_s = statistics.median(run[name].both for run in runs)
            speed = arguments.seconds / both_s
            print(f"{threads} threads, {name}: {speed:.1f} x real time", flush=True)
        for mine in ours:
            for other in theirs:
                print(f"{threads} threads, {mine} against {other}: {ratios(runs, mine, other)}")


def ratios(runs: list[dict[str, Times]], mine: str, other: str) -> str:
    """How many times as fast, at what, pair by pair."""
    parts = []
    for field in Times._fields:
        values = [getattr(run[other], field) / getattr(run[mine], field) for run in runs]
        spread = f"{min(values):.1f} to {max(values):.1f}"
        parts.append(f"{field.replace('_', ' ')} {statistics.median(values):.1f} ({spread})")
    return ", ".join(parts) + " times as fast"


def excerpt(codec: Codec, seconds: float) -> Tensor:
    """[1, C, T] of music at the codec's rate and channels."""
    import soxr

    music, rate = sf.read(EXCERPT, dtype="float32")
    music = soxr.resample(music[:, : codec.n_channels], rate, codec.sample_rate)
    samples = np.resize(music, (int(seconds * codec.sample_rate), codec.n_channels))
    return torch.from_numpy(samples.T.copy())[None]


def streamed(codec: Codec, audio: Tensor, n_codebooks: int | None = None) -> Contestant:
    """As `mssgen codec encode` and `decode`, without files."""
    blocks = audio.split(codec.sample_rate, dim=-1)
    return timed(
        lambda: encode_stream(codec, blocks, n_codebooks),
        lambda codes: [block.shape for block in decode_stream(codec, codes)],
    )


def of_package(model: Any, audio: Tensor) -> Contestant:
    """The `encodec` package's own, all at once."""
    return timed(lambda: model.encode(audio), model.decode)


def timed(encode: Callable[[], Any], decode: Callable[[Any], object]) -> Contestant:
    """What a pass through both takes."""

    @torch.inference_mode()
    def run() -> Times:
        moments = [now()]
        codes = encode()
        moments.append(now())
        decode(codes)
        moments.append(now())
        walls, cpus = zip(*moments, strict=True)
        return Times(*_spans(*walls), *_spans(*cpus))

    return run


def now() -> tuple[float, float]:
    """By the clock, and of the processor."""
    return time.monotonic(), time.process_time()


def _spans(start: float, middle: float, stop: float) -> tuple[float, float, float]:
    return middle - start, stop - middle, stop - start


if __name__ == "__main__":
    main()
