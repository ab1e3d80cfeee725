"""Finding and reading checkpoints, with tiny networks of the demucs package and real attacks."""

import builtins
import contextlib
import hashlib
import json
import os
import pickle
import struct
import subprocess
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mssgen.checkpoints import resolving
from mssgen.checkpoints.formats import fractions_to_json, read_checkpoint
from mssgen.checkpoints.registry import LAYOUTS, STEMS
from mssgen.checkpoints.resolving import resolve
from mssgen.errors import CheckpointError, UsageError

OPTIONS: dict[str, Any] = {
    "sources": list(STEMS),
    "channels": 8,
    "depth": 2,
    "t_layers": 1,
    "t_heads": 2,
    "nfft": 512,
    "segment": Fraction(39, 5),
    "samplerate": 44_100,
}
SHARED = Path(__file__).parents[3] / "shared" / "weights" / "htdemucs" / "model.safetensors"


def _tiny(options: dict[str, Any] = OPTIONS) -> dict[str, torch.Tensor]:
    return {key: value.half() for key, value in HTDemucs(**options).state_dict().items()}


def _package(path: Path, **changes: Any) -> Path:
    """A `.th` file as demucs.states writes it."""
    package = {"klass": HTDemucs, "args": (), "kwargs": OPTIONS, "state": _tiny()}
    torch.save({**package, "training_args": {"epochs": 3}, **changes}, path)
    return path


def _hub_file(path: Path, **metadata: str) -> Path:
    """A safetensors file as demucs' hub export writes it."""
    segment = {"_type": "fraction", "numerator": 39, "denominator": 5}
    described = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": "[]",
        "kwargs": json.dumps({**OPTIONS, "segment": segment}),
    }
    save_file(_tiny(), path, metadata={**described, **metadata})
    return path


def _folder(path: Path, **changes: Any) -> Path:
    """A checkpoint folder of ours, not quantised."""
    path.mkdir(parents=True)
    config = {"format_version": 1, "architecture": "htdemucs", "options": OPTIONS, **changes}
    (path / "config.json").write_text(json.dumps(fractions_to_json(config)))
    save_file(_tiny(), path / "model.safetensors")
    return path


# Reading: every format gives the same thing


def test_every_format_gives_the_same_checkpoint(tmp_path: Path) -> None:
    files = [
        _package(tmp_path / "model.th"),
        _package(tmp_path / "positional.th", args=(list(STEMS),), kwargs={**OPTIONS}),
        _hub_file(tmp_path / "hub.safetensors"),
        _folder(tmp_path / "folder"),
    ]
    for path in files:
        found = read_checkpoint(path)
        assert found.architecture == "htdemucs"
        assert found.options == OPTIONS
        assert found.stems == STEMS
        assert found.sample_rate == 44_100
        assert found.path == path
        HTDemucs(**found.options).load_state_dict(found.state)  # all keys, all shapes
        assert {value.dtype for value in found.state.values()} == {torch.float16}


def test_the_values_are_the_ones_that_were_saved(tmp_path: Path) -> None:
    state = _tiny()
    found = read_checkpoint(_package(tmp_path / "model.th", state=state))
    assert all(torch.equal(found.state[key], state[key]) for key in state)


def test_the_older_network(tmp_path: Path) -> None:
    options = {"sources": ["a", "b"], "channels": 8, "depth": 5}
    state = HDemucs(**options).state_dict()
    found = read_checkpoint(
        _package(tmp_path / "model.th", klass=HDemucs, kwargs=options, state=state)
    )
    assert (found.architecture, found.stems) == ("hdemucs", ("a", "b"))
    assert {value.dtype for value in found.state.values()} == {torch.float32}


def test_numpy_numbers_and_old_fractions_in_a_package(tmp_path: Path) -> None:
    """Packages of 2022 hold numpy scalars, and fractions pickled as text."""

    class OldFraction:
        def __reduce__(self) -> tuple[Any, ...]:
            return Fraction, ("39/5",)

    numpy = pytest.importorskip("numpy")
    kwargs = {**OPTIONS, "freq_emb": numpy.float64(0.25), "segment": OldFraction()}
    found = read_checkpoint(_package(tmp_path / "model.th", kwargs=kwargs))
    assert found.options["freq_emb"] == 0.25
    assert found.options["segment"] == Fraction(39, 5)


def test_wide_tensors_become_float32(tmp_path: Path) -> None:
    state = {key: value.double() for key, value in _tiny().items()}
    found = read_checkpoint(_package(tmp_path / "model.th", state=state))
    assert {value.dtype for value in found.state.values()} == {torch.float32}


def test_a_config_beside_a_bare_file_is_honoured(tmp_path: Path) -> None:
    bare = tmp_path / "weights.safetensors"
    save_file(_tiny(), bare)
    with pytest.raises(CheckpointError, match=r"put a config\.json beside it"):
        read_checkpoint(bare)
    config = {"format_version": 1, "architecture": "htdemucs", "options": OPTIONS}
    (tmp_path / "config.json").write_text(json.dumps(fractions_to_json(config)))
    assert read_checkpoint(bare).options == OPTIONS


def test_a_foreign_config_beside_a_file_that_describes_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert read_checkpoint(_hub_file(tmp_path / "hub.safetensors")).stems == STEMS


def test_the_published_layout_is_known_without_a_config(tmp_path: Path) -> None:
    """The shapes of htdemucs are enough, whoever's values they hold."""
    (layout,) = LAYOUTS.values()
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in HTDemucs(**layout.options).state_dict().items()
        }
    bare = tmp_path / "anything.safetensors"
    save_file({key: torch.zeros(shape, dtype=torch.half) for key, shape in shapes.items()}, bare)
    assert read_checkpoint(bare).options == layout.options


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/weights")
def test_the_shared_fp16_weights_are_read_as_they_are() -> None:
    found = read_checkpoint(SHARED)
    assert found.stems == STEMS
    assert sum(value.numel() for value in found.state.values()) == 41_984_456


# Refusing: whatever it is, one sentence and nothing of it runs


class _Attack:
    """Pickles to a call that creates a file."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


def _attacks(witness: Path) -> dict[str, tuple[_Attack, str]]:
    code = f"open({str(witness)!r}, 'w').close()"
    return {
        "system": (_Attack(os.system, f"touch {witness}"), "posix.system"),
        "exec": (_Attack(builtins.exec, code), "builtins.exec"),
        "eval": (_Attack(builtins.eval, code), "builtins.eval"),
        "popen": (_Attack(subprocess.Popen, ["touch", str(witness)]), "subprocess.Popen"),
    }


@pytest.mark.parametrize("kind", ["system", "exec", "eval", "popen"])
@pytest.mark.parametrize("place", ["raw2", "raw4", "whole", "state", "kwargs", "klass"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, kind: str, place: str
) -> None:
    witness = tmp_path / "witness"
    attack, name = _attacks(witness)[kind]
    path = tmp_path / "model.th"
    if place.startswith("raw"):
        path.write_bytes(pickle.dumps({"state": attack}, protocol=int(place[3:])))
    elif place == "whole":
        torch.save(attack, path)
    elif place == "state":
        _package(path, state={"weight": attack})
    elif place == "kwargs":
        _package(path, kwargs={**OPTIONS, "segment": attack})
    else:
        _package(path, klass=attack)
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_checkpoint(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_a_pickle_with_a_harmless_package_behind_it(tmp_path: Path) -> None:
    """Zip readers look at the end of a file, torch at its start."""
    witness = tmp_path / "witness"
    harmless = _package(tmp_path / "harmless.th").read_bytes()
    path = tmp_path / "model.th"
    path.write_bytes(pickle.dumps(_attacks(witness)["system"][0], protocol=2) + harmless)
    with pytest.raises(CheckpointError, match=r"refused.*posix\.system"):
        read_checkpoint(path)
    assert not witness.exists()


def test_the_attack_works_where_pickles_are_trusted(tmp_path: Path) -> None:
    """The test above would pass with an attack that is none; this one would not."""
    witness = tmp_path / "witness"
    path = tmp_path / "model.th"
    torch.save(_attacks(witness)["system"][0], path)
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_an_attack_under_an_allowed_name_is_inert(tmp_path: Path) -> None:
    """Allowed names stand for objects of ours: calling them builds no network, opens no file."""
    path = _package(tmp_path / "model.th", klass=_Attack(HTDemucs))
    with pytest.raises(CheckpointError, match="neither HTDemucs nor HDemucs"):
        read_checkpoint(path)
    huge = _package(tmp_path / "huge.th", kwargs={"segment": _Attack(Fraction, "1e999999999")})
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        read_checkpoint(huge)


def test_a_compressed_package_is_refused(tmp_path: Path) -> None:
    """A few bytes must not become gigabytes."""
    path = tmp_path / "model.th"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}." + b"\x00" * 10**6)
    with pytest.raises(CheckpointError, match="never compressed"):
        read_checkpoint(path)


def test_a_tensor_that_claims_more_than_it_stores(tmp_path: Path) -> None:
    path = _package(tmp_path / "model.th", state={"w": torch.zeros(1).expand(2**40)})
    with pytest.raises(CheckpointError, match="'w'"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"klass": Fraction}, "neither HTDemucs nor HDemucs"),
        ({"state": {}}, "no tensors"),
        ({"state": {"__quantized": True}}, "diffq"),
        ({"state": {"w": "text"}}, "'w'"),
        ({"state": {"w": torch.zeros(3, dtype=torch.int32)}}, "'w'"),
        ({"state": [torch.zeros(3)]}, "not a table of tensors"),
        ({"kwargs": {}}, "stems"),
        ({"kwargs": {**OPTIONS, "sources": ["../../etc"]}}, "stems"),
        ({"kwargs": {**OPTIONS, "sources": ["a", "a"]}}, "stems"),
        ({"kwargs": {**OPTIONS, "samplerate": "fast"}}, "samplerate"),
        ({"kwargs": [1]}, "arguments"),
    ],
)
def test_a_package_that_is_not_sound(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(_package(tmp_path / "model.th", **changes))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"klass": "os.system"}, "os.system"),
        ({"klass": "demucs.demucs.Demucs"}, "demucs.demucs.Demucs"),
        ({"kwargs": "{"}, "metadata"),
        ({"kwargs": "[" * 100_000}, "metadata"),
        ({"kwargs": "[1]"}, "arguments"),
        (
            {"kwargs": '{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}'},
            "plain",
        ),
        ({"structure": "{}"}, "diffq"),
    ],
)
def test_a_hub_file_that_is_not_sound(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(_hub_file(tmp_path / "hub.safetensors", **metadata))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 99}, "format_version"),
        ({"architecture": "os.system"}, "architecture"),
        ({"options": None}, "options"),
    ],
)
def test_a_folder_that_is_not_sound(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(_folder(tmp_path / "folder", **changes))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not a checkpoint at all",
        b"PK\x03\x04" + b"junk" * 10,
        struct.pack("<Q", 2**62) + b"{}",  # a header of four exabytes
        struct.pack("<Q", 10**8) + b"{" + b" " * 100,
        struct.pack("<Q", 2) + b"{]",
    ],
)
@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
def test_files_of_another_kind(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("kind", ["package", "hub"])
def test_damage_anywhere_ends_in_a_sentence_or_a_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damage-{kind}"
    whole = folder / "whole"
    if not whole.exists():
        folder.mkdir()
        (_package if kind == "package" else _hub_file)(whole)
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        # Headers and directories lie at both ends; damage there is the interesting kind.
        near = data.draw(st.integers(0, min(4000, len(content) - 1)), "position")
        at = near if data.draw(st.booleans(), "from the start") else len(content) - 1 - near
        content[at] ^= data.draw(st.integers(1, 255), "flip")
    damaged = folder / ("damaged.th" if kind == "package" else "damaged.safetensors")
    damaged.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert read_checkpoint(damaged).state


def test_a_package_whose_name_promises_another_hash(tmp_path: Path) -> None:
    good = _package(tmp_path / "model.th")
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    named = good.rename(tmp_path / f"955717e8-{digest[:8]}.th")
    assert read_checkpoint(named).stems == STEMS
    wrong = named.rename(tmp_path / "955717e8-00000000.th")
    with pytest.raises(CheckpointError, match="promises sha256 00000000"):
        read_checkpoint(wrong)


# Resolving


def test_a_path_wins_and_is_never_looked_up(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "mine")
    package = _package(tmp_path / "model.th")
    found = resolve(str(folder))
    assert (found.where, found.name, found.paths) == ("path", "mine", (folder,))
    assert resolve(str(package)).paths == (package,)


@pytest.mark.parametrize(
    "text", ["./missing", "no/such/folder", "missing.th", "missing.safetensors", "~/nowhere-at-all"]
)
def test_what_looks_like_a_path_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve(text)


def test_a_name_means_the_registry_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folder(tmp_path / "htdemucs")
    _folder(tmp_path / "other-name")
    monkeypatch.chdir(tmp_path)
    assert resolve("htdemucs", offline=True).where == "embedded"
    assert resolve("./htdemucs").where == "path"
    assert resolve("other-name").where == "path"


def test_the_embedded_checkpoint_needs_no_network() -> None:
    found = resolve("htdemucs", offline=True, wanted_stems=["bass"])
    assert found.where == "embedded"
    assert found.bundle is not None
    assert found.paths == (resolving.embedded_dir() / "htdemucs",)
    checkpoint = read_checkpoint(found.paths[0])
    assert checkpoint.stems == found.bundle.stems
    assert sum(value.numel() for value in checkpoint.state.values()) == 41_984_456


def test_unknown_names_and_stems_are_wrong_calls() -> None:
    with pytest.raises(UsageError, match="unknown model"):
        resolve("hdtemucs")
    with pytest.raises(UsageError, match="no stem 'guitar'"):
        resolve("htdemucs", wanted_stems=["bass", "guitar"])


def _bag(folder: Path, text: str, signatures: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    for signature in signatures:
        _package(folder / f"{signature}.th")
    (folder / "bag.yaml").write_text(text)
    return folder


def test_a_local_demucs_repository(tmp_path: Path) -> None:
    signatures = ("aaaa0000", "bbbb0000", "cccc0000", "dddd0000")
    rows = [[float(i == j) for j in range(4)] for i in range(4)]
    text = f"models: {list(signatures)}\nweights: {rows}\nsegment: 44\n"
    folder = _bag(tmp_path / "repo", text, signatures)
    found = resolve(str(folder))
    assert [path.stem for path in found.paths] == list(signatures)
    assert found.stems_of == tuple((stem,) for stem in STEMS)
    assert (found.name, found.segment_s) == ("bag", 44)
    only = resolve(str(folder / "bag.yaml"), wanted_stems=["other", "bass"])
    assert [path.stem for path in only.paths] == ["bbbb0000", "cccc0000"]
    with pytest.raises(UsageError, match="guitar"):
        resolve(str(folder), wanted_stems=["guitar"])


def test_a_bag_without_weights_averages_everything(tmp_path: Path) -> None:
    folder = _bag(tmp_path / "repo", "models: ['aaaa0000', 'bbbb0000']", ("aaaa0000", "bbbb0000"))
    assert resolve(str(folder), wanted_stems=["bass"]).stems_of == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: ['../secret']", "not a plain file name"),
        ("models: ['/etc/passwd']", "not a plain file name"),
        ("models: [7]", "not a plain file name"),
        ("models: ['eeee0000']", "eeee0000"),
        ("models: []", "no models"),
        ("- a", "table"),
        ("models: ['aaaa0000']\nweights: [[0.5, 0, 0, 0]]", "weights"),
        ("models: ['aaaa0000']\nweights: [[1]]", "weights"),
        ("models: ['aaaa0000']\nsegment: long", "segment"),
        ("!!python/object/apply:os.system ['false']", "YAML"),
        ("a: &a [x]\nb: {*a : 1}", "aliases"),
    ],
)
def test_bags_that_are_not_sound(tmp_path: Path, text: str, words: str) -> None:
    _package(tmp_path / "secret.th")
    folder = _bag(tmp_path / "repo", text, ("aaaa0000",))
    with pytest.raises(CheckpointError, match=words):
        resolve(str(folder))


def test_folders_with_none_or_too_many(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resolve(f"{tmp_path}/")
    _package(tmp_path / "one.th")
    assert resolve(f"{tmp_path}/").name == "one"
    _package(tmp_path / "two.th")
    with pytest.raises(CheckpointError, match="several models"):
        resolve(f"{tmp_path}/")
