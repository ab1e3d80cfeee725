import json
from pathlib import Path

import pytest
import torch
from demucs.htdemucs import HTDemucs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mssgen.checkpoints.formats import WEIGHTS, fractions_to_json, read_checkpoint
from mssgen.checkpoints.int8 import MIN_VALUES, SCALE, dequantize_state, quantize_state
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.shrinking import quantize_checkpoint, round_to, store_smaller
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.encoders.files import load_stem_encoder, save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of

from support.toys import snr_db

OPTIONS = {
    "sources": ["a", "b"],
    "channels": 8,
    "depth": 4,
    "t_layers": 1,
    "t_heads": 2,
    "bottom_channels": 400,  # linear1 and linear2 are large enough to be quantised
    "segment": 1,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny network, bare, with its config.json beside it."""
    torch.manual_seed(0)
    folder = tmp_path / "source"
    folder.mkdir()
    state = {key: value.half() for key, value in HTDemucs(**OPTIONS).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"format_version": 1, "architecture": "htdemucs", "options": OPTIONS}
    (folder / "config.json").write_text(json.dumps(fractions_to_json(config)))
    return folder


@settings(max_examples=20, deadline=None)
@given(
    n_out=st.integers(1, 40),
    n_in=st.integers(1, 40),
    exponent=st.integers(-6, 3),
    is_transposed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_value_is_within_half_a_step(
    n_out: int, n_in: int, exponent: int, is_transposed: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    length = -(-MIN_VALUES // (n_out * n_in))  # just large enough to be quantised
    weight = torch.randn(n_out, n_in, length, generator=generator) * 10.0**exponent
    weight *= torch.rand(n_out, n_in, 1, generator=generator) * 10  # channels of unlike size
    key = "layer.conv_tr.weight" if is_transposed else "layer.conv.weight"
    stored = quantize_state({key: weight})
    scale = stored[key + SCALE]
    assert stored[key].dtype == torch.int8
    assert scale.dtype == torch.float16
    assert scale.shape == ((1, n_in, 1) if is_transposed else (n_out, 1, 1))
    error = (dequantize_state(stored)[key] - weight).abs()
    # Half a step of rounding; the scale's own rounding to fp16 may clip the largest by a little
    # (2**-11 of it, or half the smallest fp16 number for each of the 127 levels).
    limit = scale.float() / 2 + weight.abs() * 2.0**-11 + 127 * 2.0**-25
    assert bool((error <= limit * 1.001).all())


def test_a_dead_channel_stays_dead() -> None:
    weight = torch.randn(4, MIN_VALUES)
    weight[2] = 0
    assert not dequantize_state(quantize_state({"w": weight}))["w"][2].any()


def test_small_and_flat_tensors_stay_half_precision() -> None:
    state = {
        "bias": torch.randn(MIN_VALUES),
        "small": torch.randn(MIN_VALUES // 100 - 1, 100),
        "large": torch.randn(MIN_VALUES // 100, 100),
    }
    stored = quantize_state(state)
    assert {key: value.dtype for key, value in stored.items()} == {
        "bias": torch.float16,
        "small": torch.float16,
        "large": torch.int8,
        "large.scale": torch.float16,
    }
    assert torch.equal(stored["bias"], state["bias"].half())


def test_a_parameter_that_is_called_scale_is_no_scale() -> None:
    """Layer scales of the network end in .scale too; only int8 tensors make one of ours."""
    state = {"gamma.scale": torch.randn(16), "gamma": torch.randn(256, 256).half()}
    assert set(dequantize_state(state)) == {"gamma.scale", "gamma"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(CheckpointError, match="'w'"):
        quantize_state({"w": torch.full((256, 256), bad)})


@pytest.mark.parametrize(
    "scale", [None, torch.ones(63, 1).half(), torch.ones(64).half(), torch.ones(64, 1).char()]
)
def test_an_int8_tensor_needs_a_fitting_scale(
    tmp_path: Path, source: Path, scale: torch.Tensor | None
) -> None:
    tensors = {"w": torch.ones(64, 64, dtype=torch.int8)}
    save_file(
        tensors if scale is None else {**tensors, "w.scale": scale}, source / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="matching scale"):
        read_checkpoint(source)


def test_the_written_folder_is_the_same_network(source: Path, tmp_path: Path) -> None:
    noise = quantize_checkpoint(source, tmp_path / "int8", bundle=REGISTRY["htdemucs"])
    before, after = read_checkpoint(source), read_checkpoint(tmp_path / "int8")
    assert after.options == before.options
    assert after.state.keys() == before.state.keys()
    assert noise
    assert min(noise.values()) > 30
    network = HTDemucs(**after.options).eval()
    network.load_state_dict(after.state)
    mixture = torch.randn(1, 2, 44_100)
    with torch.inference_mode():
        quantised = network(mixture)
        network.load_state_dict(before.state)
        exact = network(mixture)
    error_db = 20 * torch.log10((quantised - exact).norm() / exact.norm())
    assert error_db < -25


def test_config_records_source_hash_and_licence(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "int8", bundle=REGISTRY["htdemucs"])
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    assert config["sha256"] == sha256_of(tmp_path / "int8" / "model.safetensors")
    assert config["source"]["sha256"] == sha256_of(source / "model.safetensors")
    assert config["source"]["signature"] == "955717e8"
    assert config["licence_note"] == REGISTRY["htdemucs"].licence_note
    assert config["stems"] == ["a", "b"]
    quantize_checkpoint(source, tmp_path / "unknown")
    unknown = json.loads((tmp_path / "unknown" / "config.json").read_text())
    assert unknown["licence"].startswith("not known")


def test_the_same_source_gives_the_same_bytes_in_less_space(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize_checkpoint(source, tmp_path / name)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (source, tmp_path / "one")]
    assert sizes[1] < 0.8 * sizes[0]


def test_quantising_twice_changes_nothing_more(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "one")
    quantize_checkpoint(tmp_path / "one", tmp_path / "two")
    one = load_file(tmp_path / "one" / "model.safetensors")
    two = load_file(tmp_path / "two" / "model.safetensors")
    different = sum(
        int((one[key].short() - two[key].short()).abs().max()) > 0
        for key in one
        if one[key].dtype == torch.int8
    )
    assert different == 0


def test_an_existing_target_is_kept_unless_told_otherwise(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    quantize_checkpoint(source, target)
    (target / "README.md").write_text("old")
    with pytest.raises(CheckpointError, match="add `overwrite=True`"):
        quantize_checkpoint(source, target)
    assert (target / "README.md").read_text() == "old"
    quantize_checkpoint(source, target, overwrite=True)
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors"]


def test_more_than_a_checkpoint_is_never_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    quantize_checkpoint(source, target)
    (target / "precious").write_text("keep")
    with pytest.raises(CheckpointError, match="holds precious: only a checkpoint is ever replaced"):
        quantize_checkpoint(source, target, overwrite=True)
    assert (target / "precious").read_text() == "keep"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text('{"editor": "vi"}')
    with pytest.raises(CheckpointError, match=r"holds no config.json of mssgen's"):
        quantize_checkpoint(source, tmp_path / "home", overwrite=True)


def test_a_failed_run_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        quantize_checkpoint(source, tmp_path / "file" / "target")
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError):
        quantize_checkpoint(source, tmp_path / "target")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "source"]


def test_a_stem_encoder_is_stored_in_int8_as_it_was_rounded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = StemCodec(
        width=64, latent_dim=16, n_encoder_blocks=1, n_decoder_blocks=1, n_codebooks=2
    ).freeze()
    encoder = StemEncoder(codec, StemEncoderOptions())
    exact = {key: value.clone() for key, value in encoder.state_dict().items()}
    round_to(encoder, "int8")
    save_stem_encoder(encoder, tmp_path)
    n_bytes = (tmp_path / WEIGHTS).stat().st_size
    store_smaller(tmp_path, "int8")
    assert (tmp_path / WEIGHTS).stat().st_size < 0.35 * n_bytes
    loaded = load_stem_encoder(tmp_path).state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(loaded[key], value), key
        assert torch.equal(exact[key], value) or snr_db(exact[key], value) > 35, key


@pytest.mark.parametrize("at", [0.3, 0.9])
def test_weights_of_another_hash_are_not_loaded(source: Path, tmp_path: Path, at: float) -> None:
    """A changed byte among the weights is as valid as the one before, but for the hash."""
    quantize_checkpoint(source, tmp_path / "int8")
    path = tmp_path / "int8" / "model.safetensors"
    read_checkpoint(tmp_path / "int8")
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + int(at * (len(data) - start))] ^= 1
    path.write_bytes(data)
    for place in (tmp_path / "int8", path):
        with pytest.raises(CheckpointError, match=r"damaged: config\.json beside it states"):
            read_checkpoint(place)
