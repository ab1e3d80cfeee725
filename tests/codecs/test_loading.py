"""Codecs from files: every layout gives the same codec, and other files are refused."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mssgen.checkpoints.formats import read_checkpoint
from mssgen.codecs.base import Codec
from mssgen.codecs.layouts import infer_options, to_native
from mssgen.codecs.loading import load_codec, read_codec, save_codec
from mssgen.codecs.networks.dac import DAC_24KHZ, DAC_44KHZ, DacCodec
from mssgen.codecs.networks.seanet import ENCODEC_24KHZ, ENCODEC_48KHZ, SeanetCodec
from mssgen.errors import CheckpointError, UsageError
from mssgen.pipeline import load_separator

from support.models import EXCERPT, write_tiny_model
from support.toys import tiny_codec

State = dict[str, Tensor]
SMALL_DAC: dict[str, Any] = {"encoder_dim": 4, "decoder_dim": 16, "n_codebooks": 3}
VAMPNET: dict[str, Any] = {
    "encoder_dim": 4,
    "encoder_rates": [2, 6, 8, 8],
    "decoder_dim": 128,
    "decoder_rates": [6, 4, 4, 2, 2, 2],
    "n_codebooks": 2,
}
# EnCodec's layers as published, narrow.
NARROW: dict[str, Any] = {"ratios": [8, 5, 4, 2], "n_lstm_layers": 2, "sample_rate": 24_000}
NARROW_48KHZ = {**ENCODEC_48KHZ, **NARROW, "sample_rate": 48_000, "n_codebooks": 4}


def small_dac(seed: int = 0, **options: Any) -> DacCodec:
    torch.manual_seed(seed)
    codec = DacCodec(**{**SMALL_DAC, **options})
    codec.freeze()
    return codec


def same_sound(one: Codec, other: Codec) -> bool:
    audio = 0.3 * torch.randn(1, one.n_channels, 1999, generator=torch.Generator().manual_seed(0))
    return torch.equal(one.decode(one.encode(audio)), other.decode(other.encode(audio)))


def contiguous(state: State) -> State:
    return {key: value.contiguous() for key, value in state.items()}


# Transformers' layouts, written down from its conversion scripts


def transformers_encodec(state: State) -> State:
    renamed = {}
    for key, value in state.items():
        key = re.sub(
            r"^quantizer\.vq\.layers\.(\d+)\._codebook", r"quantizer.layers.\1.codebook", key
        )
        key = re.sub(r"^(encoder|decoder)\.model", r"\1.layers", key)
        key = key.replace(".convtr.convtr.", ".conv.").replace(".convtr.norm.", ".norm.")
        renamed[key.replace(".conv.conv.", ".conv.").replace(".conv.norm.", ".norm.")] = value
    return renamed


UNIT = {"snake1.alpha": "0.alpha", "conv1": "1", "snake2.alpha": "2.alpha", "conv2": "3"}


def transformers_dac(state: State, n_stages: int = 4) -> State:
    names = {"encoder.conv1": "encoder.block.0", "decoder.conv1": "decoder.model.0"}
    for part, layers in (("encoder", "block"), ("decoder", "model")):
        names[f"{part}.snake1.alpha"] = f"{part}.{layers}.{n_stages + 1}.alpha"
        names[f"{part}.conv2"] = f"{part}.{layers}.{n_stages + 2}"
    for i in range(n_stages):
        down, up = f"encoder.block.{i + 1}.block", f"decoder.model.{i + 1}.block"
        for unit in (1, 2, 3):
            for its, own in UNIT.items():
                names[f"encoder.block.{i}.res_unit{unit}.{its}"] = f"{down}.{unit - 1}.block.{own}"
                names[f"decoder.block.{i}.res_unit{unit}.{its}"] = f"{up}.{unit + 1}.block.{own}"
        names[f"encoder.block.{i}.snake1.alpha"] = f"{down}.3.alpha"
        names[f"encoder.block.{i}.conv1"] = f"{down}.4"
        names[f"decoder.block.{i}.snake1.alpha"] = f"{up}.0.alpha"
        names[f"decoder.block.{i}.conv_t1"] = f"{up}.1"
    back = {own: its for its, own in names.items()}
    renamed = {}
    for key, value in state.items():
        start, _, last = key.rpartition(".")
        if last == "weight_v":  # the weight norm was removed before saving
            norm = value.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            value, last = state[f"{start}.weight_g"] * value / norm, "weight"
        elif last == "weight_g":
            continue
        renamed[back.get(key) or f"{back.get(start, start)}.{last}"] = value
    return renamed


def parametrized(state: State) -> State:
    """Rename weight norm as newer versions of torch store it."""
    names = {"weight_g": "original0", "weight_v": "original1"}
    return {
        re.sub(r"weight_[gv]$", lambda m: f"parametrizations.weight.{names[m[0]]}", key): value
        for key, value in state.items()
    }


ENCODEC_CONFIG = {"model_type": "encodec", "sampling_rate": 24_000, "normalize": False}
ENCODEC_48_CONFIG = {
    "model_type": "encodec",
    "sampling_rate": 48_000,
    "normalize": True,
    "use_causal_conv": False,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
}


def transformers_folder(folder: Path, state: State, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(contiguous(state), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("change", [lambda state: state, parametrized], ids=["old", "new"])
def test_encodec_of_transformers(tmp_path: Path, change: Callable[[State], State]) -> None:
    codec = tiny_codec(**NARROW)
    state = transformers_encodec(change(codec.state_dict()))
    assert any(key.startswith("decoder.layers.3.conv.") for key in state)
    found = read_codec(transformers_folder(tmp_path / "hub", state, ENCODEC_CONFIG))
    assert found.options == {**codec.options, "name": "hub"}
    assert found.codec_id == codec.codec_id
    assert same_sound(found, codec)


def test_encodec_48khz_of_transformers(tmp_path: Path) -> None:
    codec = tiny_codec(**NARROW_48KHZ)
    state = transformers_encodec(codec.state_dict())
    assert "decoder.layers.3.norm.weight" in state
    found = read_codec(transformers_folder(tmp_path / "hub", state, ENCODEC_48_CONFIG))
    assert found.options == {**codec.options, "name": "hub"}
    assert same_sound(found, codec)


@pytest.mark.parametrize(
    "options", [{}, {"encoder_rates": [2, 4, 5, 8], "decoder_rates": [8, 5, 4, 2]}]
)
def test_dac_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    codec = small_dac(**options, sample_rate=22_050)
    state = transformers_dac(codec.state_dict())
    assert "decoder.block.3.conv_t1.weight" in state
    config = {"model_type": "dac", "sampling_rate": 22_050}
    found = read_codec(transformers_folder(tmp_path / "hub", state, config))
    assert found.sample_rate == 22_050
    for key, value in codec.state_dict().items():
        if not key.endswith(("weight_g", "weight_v")):
            assert torch.equal(found.state_dict()[key], value)
    # The weights went through a product and a quotient: the same up to rounding.
    latents = torch.randn(1, codec.latent_dim, 5)
    torch.testing.assert_close(found.decoder(latents), codec.decoder(latents), atol=1e-5, rtol=1e-4)
    audio = 0.3 * torch.randn(1, 1, 2000)
    torch.testing.assert_close(found.latents(audio), codec.latents(audio), atol=1e-5, rtol=1e-4)


def test_a_name_of_the_registry_reads_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full-size model, whose file on the hub does not state its sample rate."""
    torch.manual_seed(0)
    codec = SeanetCodec(**ENCODEC_24KHZ)
    repo = tmp_path / "models--facebook--encodec_24khz"
    (repo / "snapshots" / "1").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("1")
    state = contiguous(transformers_encodec(codec.state_dict()))
    save_file(state, repo / "snapshots" / "1" / "model.safetensors")
    monkeypatch.setattr("mssgen.checkpoints.hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = load_codec("encodec_24khz", offline=True)
    assert found.options == {**codec.options, "name": "encodec_24khz"}
    assert found.codec_id == codec.codec_id
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    with pytest.raises(CheckpointError, match="mssgen models pull encodec_48khz"):
        load_codec("encodec_48khz", offline=True)


# The packages' own files


def test_encodecs_own_file(tmp_path: Path) -> None:
    """A plain state dict of a published model, with its hash in the file name."""
    codec = SeanetCodec(**ENCODEC_48KHZ)
    path = tmp_path / "package.th"
    torch.save(codec.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    good, bad = tmp_path / f"encodec_48khz-{digest}.th", tmp_path / "encodec_48khz-01234567.th"
    path.rename(good)
    found = load_codec(str(good))
    assert found.options == {**codec.options, "name": "encodec_48khz"}
    assert found.codec_id == codec.codec_id
    good.rename(bad)
    with pytest.raises(CheckpointError, match="its name promises sha256 01234567"):
        load_codec(str(bad))


@pytest.mark.parametrize("options", [SMALL_DAC, VAMPNET], ids=["dac", "vampnet"])
def test_a_file_with_metadata(tmp_path: Path, options: dict[str, Any]) -> None:
    kind = "mrf" if options is VAMPNET else "dac"
    codec = small_dac(**options, decoder_kind=kind, sample_rate=32_000)
    kwargs = {**options, "sample_rate": 32_000, "quantizer_dropout": 0.5, "codebook_dim": 8}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": codec.state_dict(), "metadata": {"kwargs": kwargs}}, path)
    found = load_codec(str(path))
    assert found.options == {
        **codec.options,
        "name": "weights",
        "latent_dim": codec.latent_dim,
    }
    assert same_sound(found, codec)
    kwargs["encoder_rates"] = [8, 8, 4, 2]
    torch.save({"state_dict": codec.state_dict(), "metadata": {"kwargs": kwargs}}, path)
    with pytest.raises(CheckpointError, match=r"says encoder_rates \[8, 8, 4, 2\] but its tensors"):
        load_codec(str(path))


@pytest.mark.parametrize("codec", [tiny_codec(), small_dac()], ids=["seanet", "dac"])
def test_a_bare_file_of_no_published_shape_needs_a_config(tmp_path: Path, codec: Codec) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(contiguous(parametrized(codec.state_dict())), path)
    with pytest.raises(CheckpointError, match=r"does not state its sample rate.*config\.json"):
        load_codec(str(path))
    config = {"format_version": 1, "architecture": codec.architecture, "options": codec.options}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_codec(str(path)).codec_id == codec.codec_id


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        (SeanetCodec, ENCODEC_24KHZ),
        (SeanetCodec, ENCODEC_48KHZ),
        (SeanetCodec, {"n_residual_layers": 3, "n_lstm_layers": 0, "norm": "none", "ratios": [3]}),
        (DacCodec, DAC_44KHZ),
        (DacCodec, DAC_24KHZ),
        (DacCodec, {**VAMPNET, "decoder_kind": "mrf", "codebook_dim": [8, 4]}),
    ],
)
def test_options_are_inferred_from_shapes(codec: type[Codec], options: dict[str, Any]) -> None:
    with torch.device("meta"):
        built = codec(**options)
    architecture, found = infer_options(built.state_dict())
    assert architecture == built.architecture
    expected = {**built.options, "latent_dim": built.latent_dim}
    assert found == {key: expected[key] for key in found}


def test_native_states_stay_as_they_are() -> None:
    for codec in (tiny_codec(), small_dac()):
        state = codec.state_dict()
        assert all(value is state[key] for key, value in to_native(state).items())
    with pytest.raises(ValueError, match="neither EnCodec's nor DAC's"):
        infer_options({"weight": torch.zeros(1)})


# Our folders


@pytest.mark.parametrize(
    "codec",
    [
        tiny_codec(),
        tiny_codec(n_bands=4, n_noise_channels=2, n_lstm_layers=0),
        tiny_codec(**NARROW_48KHZ),
        small_dac(),
        small_dac(**VAMPNET, decoder_kind="mrf"),
    ],
    ids=["tiny", "rave", "48khz", "dac", "vampnet"],
)
def test_a_saved_codec_is_the_same_codec(tmp_path: Path, codec: Codec) -> None:
    folder = tmp_path / "codecs" / "mine"
    save_codec(codec, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 1
    assert config["codec_id"] == codec.codec_id
    assert config["sample_rate"] == codec.sample_rate
    weights = (folder / "model.safetensors").read_bytes()
    assert config["sha256"] == hashlib.sha256(weights).hexdigest()
    found = load_codec(str(folder))
    assert type(found) is type(codec)
    assert found.options == codec.options
    assert same_sound(found, codec)
    assert not any(value.is_meta for value in (*found.parameters(), *found.buffers()))


def test_a_loaded_codec_can_be_trained(tmp_path: Path) -> None:
    save_codec(tiny_codec(), tmp_path / "mine")
    codec = read_codec(tmp_path / "mine").requires_grad_(True).train()
    codec(torch.randn(1, 1, 64)).audio.sum().backward()
    assert all(p.grad is not None for p in codec.decoder.parameters())


def test_saving_again_replaces_and_records_the_new_weights(tmp_path: Path) -> None:
    codec = tiny_codec()
    save_codec(codec, tmp_path / "mine")
    before = codec.codec_id
    with torch.no_grad():
        next(codec.decoder.parameters()).add_(1)
    save_codec(codec, tmp_path / "mine")
    assert load_codec(str(tmp_path / "mine")).codec_id == codec.codec_id != before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_codec(tiny_codec(), tmp_path / "file" / "codec")


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _options(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        options = json.loads((folder / "config.json").read_text())["options"]
        _config(options={**options, **changes})(folder)

    return change


def _state(edit: Callable[[State], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = contiguous(tiny_codec().state_dict())
        edit(state)
        save_file(state, folder / "model.safetensors")
        _config(sha256=None)(folder)  # what is wrong is found without the hash, too

    return change


KEY = "encoder.model.0.conv.conv.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read|no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (_config(format_version=9), "format_version"),
        (_config(architecture="os.system"), r"no known architecture \(seanet, dac, stem\)"),
        (_config(architecture="htdemucs"), "holds a separator, not a codec.*mssgen separate"),
        (_config(architecture="stem_encoder"), "holds a stem encoder, not a codec"),
        (_config(architecture="dac"), "unknown option"),
        (_config(options=None), "no options"),
        (_config(codec_id="seanet-1"), "damaged or was changed"),
        (_options(codebook_size=17), r"cluster_size' has the shape \[16\], not \[17\]"),
        (_options(n_lstm_layers=2), "'encoder.model.7.lstm.weight_ih_l1' is missing"),
        (_options(n_lstm_layers=0), "belongs to no layer|is missing"),
        (_options(ratios=[4, "2"]), r"ratios\[1\] = '2', which must be a whole number"),
        (_options(ratios=[2] * 100_000), "ratios .* a list of 12 or less"),
        (_options(n_codebooks=10**9), "n_codebooks = 1000000000, which must be 256 or less"),
        (_options(n_bands=2**20), "n_bands = 1048576, which must be 1, 2, 4"),
        (_options(n_filters=10**9), "n_filters .* 16384 or less"),
        (_options(sample_rate=0), "sample_rate = 0, which must be 1 or more"),
        (_options(sample_rate="x"), "sample_rate = 'x', which must be a whole number"),
        (_options(n_codebook=1), "unknown option 'n_codebook'; did you mean n_codebooks"),
        (_state(lambda state: state.pop(KEY)), f"'{KEY}' is missing"),
        (_state(lambda state: state.update(extra=torch.zeros(2))), "'extra' belongs to no layer"),
        (_state(lambda state: state.update({KEY: torch.zeros(5)})), r"shape \[5\], not \[4\]"),
        (
            _state(lambda state: state.update({KEY: torch.zeros(4).long()})),
            "not a tensor of weights",
        ),
        (_state(lambda state: state.clear()), "holds no tensors"),
    ],
)
def test_damaged_folders_are_refused(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    folder = tmp_path / "mine"
    save_codec(tiny_codec(), folder)
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_codec(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# Files of another kind


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)  # would end the tests


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}, "metadata": {}}, "holds no tensors"),
        ({"state_dict": [1], "metadata": {}}, "not a dict of tensors"),
        ([1, 2], "not hold a state dict"),
        ({"weight": torch.zeros(3)}, "neither EnCodec's nor DAC's codebooks"),
        ({"weight": "text"}, "'weight', which is not a tensor of weights"),
        ({"state_dict": Hostile()}, "refused: its pickle asks for (posix|nt)._exit"),
        ({"quantizer.vq.layers.0._codebook.embed": torch.zeros(16, 8)}, "is missing"),
        ({"quantizer.quantizers.0.codebook.weight": torch.zeros(())}, "is missing"),
        ({"quantizer.vq.layers.0._codebook.embed": torch.zeros(2, 2).expand(2, 2)}, "is missing"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_codec(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"PK\x03\x04junk", b"\x80\x04junk", b"{}" * 9])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.th"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_codec(str(path))


@given(where=st.floats(0, 1), cut=st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_a_sentence_or_does_nothing(tmp_path: Path, where: float, cut: bool) -> None:
    """A cut file never loads; a changed byte loads only if it is one of the encoder's values."""
    folder = tmp_path / "mine"
    save_codec(tiny_codec(), folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    position = min(int(where * len(content)), len(content) - 1)
    if cut:
        del content[position:]
    else:
        content[position] ^= 0x55
    path.write_bytes(content)
    problem, found = "", None
    try:
        found = load_codec(str(folder))
    except CheckpointError as error:
        problem = str(error)
    assert (found is None) == bool(problem)
    assert "\n" not in problem
    if found is not None:
        assert not cut
        assert found.codec_id == tiny_codec().codec_id


def test_missing_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_codec(str(tmp_path / "missing.pth"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_codec(tmp_path / "missing.pth")
    with pytest.raises(UsageError, match=r"unknown model 'encodec'.*did you mean .*encodec_"):
        load_codec("encodec")
    with pytest.raises(UsageError, match="`device='abacus'`"):
        load_codec("encodec_24khz", device="abacus")


# A separator where a codec is asked for, and the other way round


def test_a_separator_is_not_a_codec(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=r"tiny.*holds a separator, not a codec"):
        load_codec(str(folder))
    with pytest.raises(UsageError, match="htdemucs is a separator, not a codec"):
        load_codec("htdemucs")
    package = tmp_path / "model.th"
    torch.save({"klass": "x", "args": [], "kwargs": {}, "state": {}}, package)
    with pytest.raises(CheckpointError, match=r"model\.th holds a separator"):
        load_codec(str(package))
    file = tmp_path / "hub.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata={"klass": "demucs.htdemucs.HTDemucs"})
    with pytest.raises(CheckpointError, match=r"hub\.safetensors holds a separator"):
        load_codec(str(file))


def test_a_codec_is_not_a_separator(tmp_path: Path) -> None:
    save_codec(tiny_codec(), tmp_path / "mine")
    torch.save(tiny_codec().state_dict(), tmp_path / "encodec.th")
    torch.save({"state_dict": small_dac().state_dict(), "metadata": {}}, tmp_path / "dac.pth")
    state = contiguous(transformers_encodec(tiny_codec().state_dict()))
    transformers_folder(tmp_path / "hub", state, ENCODEC_CONFIG)
    for name in ("mine", "encodec.th", "dac.pth", "hub", "hub/model.safetensors"):
        with pytest.raises(CheckpointError, match="holds a codec, not a separator") as caught:
            read_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "`mssgen codec`" in str(caught.value)
    with pytest.raises(UsageError, match="dac_44khz is a codec, not a separator"):
        load_separator("dac_44khz")


def test_the_program_refuses_to_separate_with_a_codec(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mssgen", "separate", str(EXCERPT)]
    found = subprocess.run(
        [*command, "--model", "encodec_24khz", "--stem", "bass", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert "encodec_24khz is a codec, not a separator: give it to `mssgen codec`" in found.stderr
    assert len(found.stderr.splitlines()) == 1
