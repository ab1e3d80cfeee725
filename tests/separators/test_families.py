"""Networks that are built from released state dicts: parity, formats, misfits, streaming."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mssgen.checkpoints import registry, warned
from mssgen.checkpoints.bundles import Bundle, RemoteFile
from mssgen.checkpoints.families import FAMILIES
from mssgen.checkpoints.formats import Checkpoint, read_checkpoint
from mssgen.checkpoints.resolving import resolve
from mssgen.checkpoints.shrinking import quantize_checkpoint
from mssgen.errors import CheckpointError, UsageError
from mssgen.pipeline import load_separator
from mssgen.separators.base import measure_level
from mssgen.separators.demucs import DemucsSeparator, Member, SeparationOptions
from mssgen.separators.loading import TRUNKS, build_network
from mssgen.separators.roformer.network import mel_bands

from support import families
from support.families import CASES, N_SAMPLES, SHOWN, fixture, noise, state_of, yaml_text
from support.toys import snr_db

EACH = pytest.mark.parametrize("name", CASES)
ONE_EACH = pytest.mark.parametrize("name", ["scnet", "bs_roformer", "mel_roformer", "mdx23c"])


def checkpoint(name: str, **changes: Any) -> Checkpoint:
    case = CASES[name]
    return Checkpoint(case.architecture, {**case.options, **changes}, state_of(name), Path("tiny"))


def separator(name: str, **how: Any) -> DemucsSeparator:
    network = build_network(checkpoint(name))
    options = SeparationOptions(**how)
    return DemucsSeparator([Member(network, network.sources)], name=name, options=options)


def write(folder: Path, name: str, state: Any = None) -> Path:
    """A released checkpoint: a pickled state dict with its YAML file."""
    folder.mkdir(exist_ok=True)
    torch.save(state_of(name) if state is None else state, folder / "model.ckpt")
    (folder / "config_of_training.yaml").write_text(yaml_text(name))
    return folder / "model.ckpt"


def test_every_family_has_a_network() -> None:
    assert set(FAMILIES) == {*TRUNKS, "spleeter"}  # which has a separator of its own


@EACH
def test_the_same_as_msst(name: str) -> None:
    network = build_network(checkpoint(name))
    stems = network(noise())
    stored = fixture(name)[1]
    assert stems.shape == (1, len(CASES[name].sources), 2, N_SAMPLES)
    assert snr_db(stored, stems[0, : len(stored), :, SHOWN]) > 80
    reduced = build_network(checkpoint(name), dtype=torch.bfloat16)(noise())
    assert snr_db(stems, reduced) > 25


@EACH
def test_the_options_in_the_yaml_file_are_found(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name)
    found = read_checkpoint(path)
    assert found.architecture == CASES[name].architecture
    options = {**CASES[name].options}
    for default in ("skip_connection", "zero_dc"):  # not in this file
        options.pop(default, None)
    read = {key: found.options[key] for key in options}
    assert read == {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }
    assert resolve(f"{tmp_path}/").paths == (path,)


def _wrapped(kind: str, state: dict[str, Tensor], folder: Path) -> None:
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif kind == "fp16":
        torch.save({key: value.half() for key, value in state.items()}, folder / "model.ckpt")
    else:
        torch.save({kind: state, "epoch": 3}, folder / "model.ckpt")


@pytest.mark.parametrize("kind", ["state", "state_dict", "safetensors", "fp16"])
def test_state_dicts_in_every_wrapping(kind: str, tmp_path: Path) -> None:
    _wrapped(kind, state_of("mel_roformer"), tmp_path)
    (tmp_path / "model.yaml").write_text(yaml_text("mel_roformer"))
    loaded = load_separator(f"{tmp_path}/", precision="fp32")
    assert loaded.sources == ("vocals", "other")
    expected = separator("mel_roformer")(noise())
    assert snr_db(expected, loaded(noise())) > (40 if kind == "fp16" else 100)


def test_a_smaller_copy_describes_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "released", "scnet")
    quantize_checkpoint(path, tmp_path / "copy")
    loaded = load_separator(str(tmp_path / "copy"), precision="fp32")
    assert loaded.sources == ("bass", "other")
    assert snr_db(separator("scnet")(noise()), loaded(noise())) > 40


def test_one_stem_leaves_the_other() -> None:
    mixture = noise(9000)
    stems = separator("bs_roformer")(mixture)
    rest = mixture - measure_level([mixture]).offset[..., None]
    torch.testing.assert_close(stems.sum(1), rest, atol=1e-5, rtol=1e-4)


@ONE_EACH
def test_a_stream_equals_the_whole(name: str) -> None:
    mixture = noise(2 * N_SAMPLES + 777)
    whole = separator(name, batch_size=1)(mixture)
    level = measure_level([mixture])
    streamed = separator(name, batch_size=3).stream(mixture.split(500, dim=-1), level)
    torch.testing.assert_close(torch.cat(list(streamed), -1), whole, atol=1e-5, rtol=1e-3)


@ONE_EACH
def test_examples_of_a_batch_do_not_touch_one_another(name: str) -> None:
    network = build_network(checkpoint(name))
    both = torch.cat([noise(), noise().flip(-1) * 3])
    alone = torch.cat([network(example) for example in both.split(1)])
    assert snr_db(alone, network(both)) > 90


def test_the_level_is_the_recordings_unless_the_network_was_trained_otherwise() -> None:
    seen: list[float] = []
    for is_normalised in (False, True):
        network = build_network(checkpoint("scnet", is_normalised=is_normalised))
        network.trunk.register_forward_pre_hook(lambda _, given: seen.append(float(given[0].std())))
        options = SeparationOptions(overlap=0)
        DemucsSeparator([Member(network, network.sources)], name="x", options=options)(noise())
    assert seen == pytest.approx([0.1, 1.4], rel=0.05)


def test_a_network_for_mono_gets_each_channel() -> None:
    layout = {
        key: [shape[0] // 2, *shape[1:]]
        if key.startswith("band_split") and "gamma" in key
        else shape
        for key, shape in fixture("bs_roformer")[0].items()
    }
    for key, shape in layout.items():
        if key.startswith("band_split") and key.endswith("1.weight"):
            layout[key] = [shape[0], shape[1] // 2]
        if key.startswith("mask") and ".0.2." in key:
            layout[key] = [shape[0] // 2, *shape[1:]]
    options = CASES["bs_roformer"].options
    network = build_network(
        Checkpoint("bs_roformer", options, families.weights(layout), Path("mono"))
    )
    mixture = noise()
    stems = network(mixture)
    assert network.n_channels == 2
    assert stems.shape == (1, 2, 2, N_SAMPLES)
    swapped = network(mixture.flip(1))
    torch.testing.assert_close(swapped.flip(2), stems, atol=1e-5, rtol=1e-3)


# Files that do not fit


@EACH
def test_a_state_dict_that_does_not_fit_is_told_in_a_sentence(name: str, tmp_path: Path) -> None:
    state = state_of(name)
    last = [key for key in state if not key.endswith("freqs")][-1]
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({key: value for key, value in state.items() if key != last}, f"'{last}' is missing"),
        ({**state, last: state[last][:1].repeat(7, *[1] * (state[last].dim() - 1))}, ""),
        ({**state, "surprise.weight": torch.zeros(3)}, "'surprise.weight' belongs to no layer"),
        ({**state, last: torch.zeros(0)}, ""),
    ]
    for changed, words in cases:
        path = write(tmp_path, name, changed)
        with pytest.raises(CheckpointError) as caught:
            load_separator(str(path))
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_with_half_of_the_tensors(tmp_path: Path) -> None:
    state = state_of("scnet")
    half = {key: state[key] for key in list(state)[len(state) // 2 :]}
    with pytest.raises(CheckpointError, match=r"groups of tensors 'encoder\.N'|is missing"):
        load_separator(str(write(tmp_path, "scnet", half)))


def test_a_state_dict_of_nothing_known(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="state dict of a known separator"):
        read_checkpoint(tmp_path / "model.ckpt")


def test_without_its_yaml_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mdx23c")
    (tmp_path / "config_of_training.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"without its options.*as model\.yaml"):
        load_separator(str(path))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("scnet", {"sources": ["a", "b", "c", "d"]}, "its tensors give 2"),
        ("scnet", {"band_shares": [0.99, 0.009, 0.001]}, "band_shares"),
        ("scnet", {"band_strides": [1, 4, 8]}, "band_strides"),
        ("scnet", {"n_fft": 8192}, "do not fit one another"),
        ("scnet_masked", {"n_fft": 512}, "pos_embed_f"),
        ("scnet", {"surprise": 1}, "unknown option 'surprise'"),
        ("scnet", {"hop_length": 10**9}, "hop_length"),
        ("bs_roformer", {"n_fft": 512}, "an n_fft of 512 has 257"),
        ("bs_roformer", {"hop_length": 1, "segment_samples": 2**20}, "too much memory"),
        ("mel_roformer", {"n_fft": 512}, "bands do not fit"),
        ("mel_roformer", {"n_fft": 16, "hop_length": 8}, "too small for its 8 mel bands"),
        ("mdx23c", {"segment_samples": 64 * 64}, "65 frames"),
        ("mdx23c", {"n_fft": 128}, "96 bins"),
        ("mdx23c", {"norm": "BatchNorm"}, "norm"),
    ],
)
def test_options_that_do_not_fit_the_tensors(
    name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        build_network(checkpoint(name, **changes))
    assert "\n" not in str(caught.value)


def test_yaml_files_run_nothing_and_stay_small(tmp_path: Path) -> None:
    path = write(tmp_path, "scnet")
    for text, words in (
        ("a: !!python/object/apply:os.system ['false']", "not valid YAML"),
        ("a: &a [x]\nb: [*a, *a]", "aliases"),
        ("x: " + "y" * 10**6, "too large"),
        ("training: {instruments: [1, 2]}", "lists no stems"),
    ):
        (tmp_path / "config_of_training.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=words):
            load_separator(str(path))


# The registry and the list of files that need consent


def test_the_registry_knows_a_file_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "bs_roformer")
    (tmp_path / "config_of_training.yaml").unlink()
    file = RemoteFile(
        "any.ckpt", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    )
    row = registry.REGISTRY["bs_roformer_anvuew"]
    known = Bundle(
        **{**vars(row), "name": "tiny", "files": (file,), "options": CASES["bs_roformer"].options}
    )
    monkeypatch.setitem(registry.REGISTRY, "tiny", known)
    assert load_separator(str(path)).sources == ("vocals", "other")


def test_files_out_of_a_product_need_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "bs_roformer")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = next(iter(warned.WARNED.values()))
    monkeypatch.setitem(warned.WARNED, (path.stat().st_size, digest), origin)
    with pytest.raises(UsageError, match=r"Apple Logic Pro.*`accept_unlicensed=True`"):
        load_separator(str(path))
    with caplog.at_level(logging.WARNING):
        load_separator(str(path), accept_unlicensed=True)
    assert "Apple Logic Pro" in caplog.text
    monkeypatch.setitem(warned.WARNED, (path.stat().st_size, "0" * 64), origin)
    write(tmp_path, "bs_roformer", {"state": state_of("bs_roformer")})
    load_separator(str(path))  # another file


def test_mel_bands_cover_every_bin_once_or_twice() -> None:
    bands = mel_bands(60, 2048, 44_100)
    assert (bands[0], bands[1], bands[30], bands[-1]) == (
        range(7),
        range(4, 10),
        range(126, 145),
        range(895, 1025),
    )
    counts = torch.bincount(torch.tensor([index for band in bands for index in band]))
    assert (len(counts), int(counts.sum())) == (1025, 1979)
    assert set(counts.tolist()) == {1, 2}
