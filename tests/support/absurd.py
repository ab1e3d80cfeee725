"""Files that ask for the absurd: every option of every architecture, changed beyond all sense.

Each case loads a model and runs it on a fraction of a second of noise, in a process of its own
whose memory and time are limited: an error that is not one of ours, a hang and a memory bomb are
told apart.
"""

import inspect
import json
import os
import random
import resource
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file

from mssgen.codecs.loading import load_codec, save_codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.encoders.files import load_stem_encoder, save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.errors import MssgenError
from mssgen.pipeline import load_separator
from mssgen.refiners.files import load_refiner, save_refiner
from mssgen.separators.loading import TRUNKS

from support import families
from support.models import TINY_OPTIONS
from support.toys import tiny_codec, tiny_refiner, tiny_stem_codec

CPU_S = 20  # a hang is what takes longer; the slowest honest case takes a few seconds
WALL_S = 240.0  # where the machine is shared
MEMORY_BYTES = 1500 * 2**20

VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 48, 10**3, 10**6, 10**9, 10**12, 10**18, 10**30),
    *(0.5, -0.5, 1e-9, 1e300, float("nan"), float("inf"), True, False, None),
    *("", "x", "9" * 5000, [], [0], [1], [-1], [0.5], ["x"], [1] * 1000, [10**9] * 3),
    *({}, {"a": 1}, [[[[["deep"]]]]], {"fraction": [1, 10**30]}, {"fraction": [10**30, 1]}),
)


@dataclass(frozen=True)
class Model:
    """A tiny model of one architecture, and how it is used."""

    name: str
    write: Callable[[Path], object]
    run: Callable[[Path], object]
    options: tuple[str, ...]
    """All that its constructor takes."""

    def folder(self, place: Path) -> Path:
        """The sound checkpoint."""
        folder = place / self.name
        if not folder.exists():
            self.write(folder)
        return folder


def _demucs(kind: type, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        given = {**TINY_OPTIONS, "segment": 1, "samplerate": 8000, **options}
        if kind is HDemucs:
            given = {key: given[key] for key in given if key not in ("bottom_channels",)}
            given = {key: given[key] for key in given if not key.startswith("t_")}
        network = kind(**given)
        folder.mkdir(parents=True)
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        config = {"format_version": 1, "architecture": kind.__name__.lower(), "options": given}
        (folder / "config.json").write_text(json.dumps(config))

    return write


def _released(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        case = families.CASES[name]
        folder.mkdir(parents=True)
        save_file(families.state_of(name), folder / "model.safetensors")
        config = {
            "format_version": 1,
            "architecture": case.architecture,
            "options": case.options,
        }
        (folder / "config.json").write_text(json.dumps(config))

    return write


def _separate(folder: Path) -> None:
    separator = load_separator(str(folder), precision="fp32", device="cpu")
    separator(torch.randn(1, separator.n_channels, separator.sample_rate // 4) * 0.1)


def _code(folder: Path) -> None:
    codec = load_codec(str(folder))
    with torch.inference_mode():
        codec.decode(codec.encode(torch.randn(1, codec.n_channels, codec.sample_rate // 4) * 0.1))


def _encode(folder: Path) -> None:
    encoder = load_stem_encoder(folder)
    n_channels = encoder.codec.n_channels * (2 if encoder.options.takes_mixture else 1)
    with torch.inference_mode():
        encoder.codes(encoder(torch.randn(1, n_channels, encoder.codec.sample_rate // 4) * 0.1))


def _refine(folder: Path) -> None:
    network = load_refiner(folder)
    options = network.options
    n_frames = min(64, options.window_frames)
    with torch.inference_mode():
        network(torch.zeros(1, options.n_codebooks, n_frames, dtype=torch.long))


def _stem_encoder(**options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        is_song = options.get("input") == "separated+mixture"
        codec = tiny_stem_codec(n_level_codebooks=2) if is_song else tiny_codec()
        save_stem_encoder(StemEncoder(codec, StemEncoderOptions(stem="bass", **options)), folder)

    return write


def _dac(**options: Any) -> DacCodec:
    torch.manual_seed(0)
    small = {"encoder_dim": 4, "decoder_dim": 16, "encoder_rates": [2, 4], "decoder_rates": [4, 2]}
    codec = DacCodec(**{**small, "sample_rate": 8000, "n_codebooks": 2, **options})
    codec.freeze()
    return codec


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def _codec(name: str, make: Callable[[], Any]) -> Model:
    options = _parameters(type(make()).__init__)
    return Model(name, lambda folder: save_codec(make(), folder), _code, options)


def models() -> list[Model]:
    """One of every architecture, in all the forms that have code of their own."""
    of_htdemucs, of_hdemucs = _parameters(HTDemucs.__init__), _parameters(HDemucs.__init__)
    of_encoder = tuple(field.name for field in fields(StemEncoderOptions))
    refiner = tiny_refiner(tiny_codec())
    of_refiner = tuple(field.name for field in fields(refiner.options))
    return [
        Model("htdemucs", _demucs(HTDemucs), _separate, of_htdemucs),
        Model("original", _demucs(HTDemucs, norm_starts=1, depth=2), _separate, of_htdemucs),
        Model("hdemucs", _demucs(HDemucs, depth=6, nfft=1024), _separate, of_hdemucs),
        *(
            Model(name, _released(name), _separate, _parameters(TRUNKS[case.architecture].Options))
            for name, case in families.CASES.items()
            if name in TRUNKS
        ),
        _codec("seanet", tiny_codec),
        _codec("bands", lambda: tiny_codec(n_bands=4, n_noise_channels=2)),
        _codec("segments", lambda: tiny_codec(segment_s=0.2, normalize=True)),
        _codec("dac", _dac),
        _codec("mrf", lambda: _dac(decoder_kind="mrf")),
        _codec("stem", lambda: tiny_stem_codec(n_level_codebooks=2)),
        Model("warm", _stem_encoder(), _encode, of_encoder),
        Model("dense", _stem_encoder(head="dense", hidden_size=8), _encode, of_encoder),
        Model("transformer", _stem_encoder(head="transformer", n_layers=1), _encode, of_encoder),
        Model("song", _stem_encoder(input="separated+mixture"), _encode, of_encoder),
        Model("refiner", lambda folder: save_refiner(refiner, folder), _refine, of_refiner),
    ]


def absurd_configs(
    model: Model, config: dict[str, Any], n_mixed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what changed, config): every option with every value, the same for what stands beside the
    options, an option that nobody knows, and mixtures of three."""
    options = config["options"]
    names = sorted({*model.options, *options})
    rng = random.Random(model.name)
    changes = [{name: value} for name in names for value in VALUES]
    changes += [{name: rng.choice(VALUES) for name in rng.sample(names, 3)} for _ in range(n_mixed)]
    for changed in [*changes, {"surprise": 1}]:
        yield f"options {changed}", {**config, "options": {**options, **changed}}
    for key in config:
        for value in VALUES:
            yield f"{key} = {value}", {**config, key: value}


@dataclass(frozen=True)
class Outcome:
    """What came of a case: "loaded", "refused", "unexpected", "hang", "memory" or "killed"."""

    kind: str
    message: str
    cpu_s: float


def attempt(run: Callable[[Path], object], folder: Path) -> Outcome:
    """`run(folder)` in a process of its own, with limits of time and memory."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.write(write, json.dumps(_attempted(run, folder)).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], WALL_S)
        if not ready:
            os.kill(process, signal.SIGKILL)
        data = os.read(read, 65_536) if ready else b""
    finally:
        os.close(read)
        _, status, usage = os.wait4(process, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    if data:
        kind, message = json.loads(data)
        return Outcome(kind, message, cpu_s)
    is_slow = not ready or os.WTERMSIG(status) == signal.SIGXCPU
    return Outcome("hang" if is_slow else "killed", f"status {status}", cpu_s)


def _attempted(run: Callable[[Path], object], folder: Path) -> tuple[str, str]:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    n_bytes = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    try:
        run(folder)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or "alloc" in text or "memory on cpu" in text:
            return "memory", text
        is_clean = isinstance(error, MssgenError) and str(folder) in text and "\n" not in text
        if is_clean and len(text) < 1000:
            return "refused", str(error)
        return "unexpected", text
    return "loaded", ""


def with_config(folder: Path, place: Path, config: Any) -> Path:
    """A copy of the checkpoint with another config.json; big files are linked."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, copy_function=os.link)
    (place / "config.json").unlink()
    (place / "config.json").write_text(json.dumps(config))
    return place


def sweep(
    model: Model, place: Path, *, n_mixed: int = 100, step: int = 1
) -> Iterator[tuple[str, Outcome]]:
    """(what changed, what came of it) for every `step`th case; the sound model must load."""
    folder = model.folder(place)
    model.run(folder)  # which also loads all libraries before processes part
    config = json.loads((folder / "config.json").read_text())
    cases = list(absurd_configs(model, config, n_mixed))
    # A prime step meets every value of some option and every option with some value.
    for what, changed in cases[::step]:
        target = with_config(folder, place / f"absurd-{model.name}", changed)
        yield f"{model.name}: {what:.150}", attempt(model.run, target)
