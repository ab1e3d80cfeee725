"""Time `mssgen codec encode` and `decode` against what the `encodec` command does, in one run.

    python tests/benchmarks/codec_vs_encodec.py [--model 24khz] [--seconds 60] [--runs 3]

Both work with the same random weights of the full architecture at 24 kbps, on the same wav file at
the model's own rate and channels. The `encodec` command reads sound through torchaudio, which can
no longer do that alone; here its `compress` and `decompress` get the samples from soundfile. Prints
wall time, CPU time and peak memory of each process and the ratios pair by pair, then the same for
ours on a file ten times as long (is memory flat?).
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from speed_vs_demucs import EXCERPT, Cost, run

from mssgen.codecs.loading import save_codec
from mssgen.codecs.networks.seanet import ENCODEC_24KHZ, ENCODEC_48KHZ, SeanetCodec

MODELS = {"24khz": ENCODEC_24KHZ, "48khz": ENCODEC_48KHZ}
PEER = """
import sys, warnings
warnings.simplefilter("ignore")
import soundfile as sf, torch
from mssgen.codecs.networks.compat import import_codec_package
compress = import_codec_package("encodec.compress")
EncodecModel = import_codec_package("encodec.model").EncodecModel
verb, kind, weights, source, target = sys.argv[1:]
model = getattr(EncodecModel, f"encodec_model_{kind}")(pretrained=False)
model.load_state_dict(torch.load(weights, weights_only=True))
model.name = f"encodec_{kind}"
model.set_target_bandwidth(24.0)
compress.MODELS = {model.name: lambda: model}
torch.set_grad_enabled(False)
if verb == "encode":
    samples, rate = sf.read(source, dtype="float32", always_2d=True)
    data = compress.compress(model, torch.from_numpy(samples.T.copy()), use_lm=False)
    open(target, "wb").write(data)
else:
    wav, rate = compress.decompress(open(source, "rb").read())
    sf.write(target, wav.T.numpy(), rate, subtype="PCM_16")
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="24khz")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    options = MODELS[arguments.model]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        codec = random_codec(options)
        save_codec(codec, folder / "codec")
        torch.save(codec.state_dict(), folder / "weights.th")
        songs = {}
        for name, seconds in (("short", arguments.seconds), ("long", 10 * arguments.seconds)):
            songs[name] = folder / f"{name}.wav"
            write_song(songs[name], codec, seconds)

        def ours(verb: str, song: Path) -> Cost:
            command = [str(Path(sys.executable).parent / "mssgen"), "codec", verb]
            source, target = song.with_suffix(".codes"), folder / "ours.wav"
            paths = (song, source) if verb == "encode" else (source, target)
            command += [str(paths[0]), "-o", str(paths[1]), "-c", str(folder / "codec")]
            return run([*command, "--overwrite", "--quiet"])

        def theirs(verb: str, song: Path) -> Cost:
            source, target = song.with_suffix(".ecdc"), folder / "theirs.wav"
            paths = (song, source) if verb == "encode" else (source, target)
            command = [sys.executable, "-c", PEER, verb, arguments.model]
            return run([*command, str(folder / "weights.th"), *map(str, paths)])

        for verb in ("encode", "decode"):
            pairs = [
                (ours(verb, songs["short"]), theirs(verb, songs["short"]))
                for _ in range(arguments.runs)
            ]
            for name, costs in zip(("mssgen", "encodec"), zip(*pairs, strict=True), strict=True):
                show(f"{verb} {name}", costs, arguments.seconds)
            for field in ("wall_s", "cpu_s", "peak_mb"):
                ratios = [getattr(a, field) / getattr(b, field) for a, b in pairs]
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                print(f"{verb} {field} ratio: {statistics.median(ratios):.2f} ({spread})")
        mine, _ = sf.read(folder / "ours.wav")
        other, _ = sf.read(folder / "theirs.wav")
        other = other[: len(mine)]
        error = np.sum((mine - other) ** 2) + 1e-12
        print(f"decoded: agrees to {10 * np.log10(np.sum(other**2) / error):.1f} dB")
        for verb in ("encode", "decode"):
            show(
                f"{verb} mssgen, ten times as long",
                [ours(verb, songs["long"])],
                10 * arguments.seconds,
            )


def random_codec(options: dict[str, object]) -> SeanetCodec:
    """The full architecture; codebooks that get smaller from level to level as trained ones do."""
    torch.manual_seed(0)
    codec = SeanetCodec(**options)
    for level, layer in enumerate(codec.quantizer.vq.layers):
        layer._codebook.embed.normal_(std=0.1 * 0.9**level)
        layer._codebook.inited.fill_(1)
    return codec


def write_song(path: Path, codec: SeanetCodec, seconds: float) -> None:
    """The excerpt, repeated, at the codec's rate and channels."""
    import soxr

    music, rate = sf.read(EXCERPT, dtype="float32")
    music = soxr.resample(music[:, : codec.n_channels], rate, codec.sample_rate)
    n_samples = int(seconds * codec.sample_rate)
    sf.write(path, np.resize(music, (n_samples, codec.n_channels)), codec.sample_rate, "PCM_16")


def show(name: str, costs: list[Cost], seconds: float) -> None:
    """One line, medians."""
    wall_s = statistics.median(cost.wall_s for cost in costs)
    cpu_s = statistics.median(cost.cpu_s for cost in costs)
    peak_mb = statistics.median(cost.peak_mb for cost in costs)
    print(
        f"{name}: {wall_s:.1f} s wall ({seconds / wall_s:.1f} × real time), {cpu_s:.1f} s CPU, "
        f"{peak_mb:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
