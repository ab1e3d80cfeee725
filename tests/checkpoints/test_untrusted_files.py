"""Small files that stand for far more than they hold end in one sentence, at once."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.htdemucs import HTDemucs
from safetensors import safe_open
from safetensors.numpy import load, save

from mssgen.checkpoints.formats import read_checkpoint, read_safetensors
from mssgen.checkpoints.resolving import resolve
from mssgen.codecs.base import Codes
from mssgen.codecs.coding import decode_coded
from mssgen.codecs.container import CodedAudio, pack, read_codes
from mssgen.codecs.loading import read_codec
from mssgen.encoders.stem_encoder import StemEncoderOptions
from mssgen.errors import AudioError, CheckpointError, MssgenError, UsageError, shown
from mssgen.evaluation.records import read_scores
from mssgen.recipes.sections import from_section
from mssgen.refiners.masked_transformer import MaskedTransformerOptions
from mssgen.training.recipes import Recipe, load_recipe

from support.models import TINY_OPTIONS, write_tiny_model
from support.toys import tiny_codec


def bomb(depth: int = 60, width: int = 10) -> list[Any]:
    """Lists that share their parts: `width ** depth` values in a few hundred bytes."""
    value: list[Any] = [0]
    for _ in range(depth):
        value = [value] * width
    return value


# Packages and bags


def test_a_package_whose_parts_are_shared(tmp_path: Path) -> None:
    path = tmp_path / "model.th"
    state = HTDemucs(**TINY_OPTIONS).state_dict()
    kwargs = {**TINY_OPTIONS, "multi_freqs": bomb()}
    torch.save({"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": state}, path)
    with pytest.raises(CheckpointError, match="stands for more than 1048576 values"):
        read_checkpoint(path)


def test_a_codec_whose_metadata_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    metadata = {"kwargs": {"codebook_size": bomb()}}
    torch.save({"state_dict": tiny_codec().state_dict(), "metadata": metadata}, path)
    with pytest.raises(CheckpointError, match="stands for more than"):
        read_codec(path)


def test_a_bag_of_aliases(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "bag.yaml"
    path.write_text("\n".join([*lines, "models: [*a29]"]))
    with pytest.raises(CheckpointError, match="aliases"):
        resolve(str(path))


@pytest.mark.parametrize("segment", ["1e9", ".nan", "0", "-3", "true"])
def test_a_bag_with_a_segment_that_cannot_be(tmp_path: Path, segment: str) -> None:
    write_tiny_model(tmp_path / "tiny")
    os.rename(tmp_path / "tiny" / "model.safetensors", tmp_path / "aaaa.safetensors")
    path = tmp_path / "bag.yaml"
    path.write_text(f"models: [aaaa]\nsegment: {segment}\n")
    with pytest.raises(CheckpointError, match=r"segment that is not a number of seconds"):
        resolve(str(path))


def test_shown_is_short_and_takes_no_time() -> None:
    assert len(shown(bomb())) <= 80
    assert len(shown("x" * 10**7)) <= 80
    assert len(shown({n: bomb() for n in range(1000)})) <= 80
    assert shown([1, "two"]) == "[1, 'two']"


# Headers of safetensors files


def write_header(path: Path, header: dict[str, Any], n_bytes: int = 0) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(n_bytes))


def test_a_header_of_very_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write_header(path, {f"t{n}": empty for n in range(50_000)})
    with pytest.raises(CheckpointError, match="names 50000 tensors"):
        read_safetensors(path)
    write_header(path, {f"t{n}": empty for n in range(300_000)})
    with pytest.raises(CheckpointError, match=r"header would have \d+ bytes"):
        read_safetensors(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_safetensors(tmp_path / "model.safetensors")


# Codes


def song(n_samples: int = 800, **changes: Any) -> CodedAudio:
    codec = tiny_codec()
    codes = torch.zeros(2, 4, codec.n_frames_in_all(n_samples), dtype=torch.long)
    given = {"sample_rate": 8000, "n_channels": 2, "n_samples": n_samples, "n_items": 2}
    return CodedAudio(Codes(codes, n_samples, codec.codec_id), "tiny", **{**given, **changes})


def rewritten(path: Path, coded: CodedAudio, **changes: Any) -> Path:
    data = pack(coded)
    path.write_bytes(data)
    with safe_open(str(path), framework="np") as file:
        metadata = {**file.metadata(), **{key: str(value) for key, value in changes.items()}}
    path.write_bytes(save(load(data), metadata=metadata))
    return path


def decoded(path: Path) -> int:
    return sum(block.shape[-1] for block in decode_coded(read_codes(path), tiny_codec()))


@pytest.mark.parametrize("n_samples", [803, 10**4, 2**40])
def test_codes_of_a_song_that_is_longer_than_they_are(tmp_path: Path, n_samples: int) -> None:
    path = rewritten(tmp_path / "song.codes", song(), n_samples=n_samples)
    with pytest.raises(UsageError, match=r"these codes are damaged: they hold 800 samples"):
        decoded(path)


@pytest.mark.parametrize(
    ("rate", "n_samples"), [(8000, 800), (8000, 801), (44_100, 4410), (192_000, 19_200)]
)
def test_codes_of_a_song_at_another_rate(tmp_path: Path, rate: int, n_samples: int) -> None:
    path = rewritten(tmp_path / "song.codes", song(), sample_rate=rate, n_samples=n_samples)
    assert decoded(path) == n_samples


@pytest.mark.parametrize(
    "changes",
    [
        {"n_items": 65_536, "silent": " ".join(map(str, range(2, 65_536)))},
        {"n_items": 3, "silent": "2"},
        {"n_channels": 65_536},
        {"n_channels": 1},
        {"codec_samples": 2**40, "n_samples": 2**40},
        {"sample_rate": 2**40},
        {"sample_rate": 10**9},
    ],
)
def test_codes_whose_header_is_absurd(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(AudioError, match=r"song\.codes is damaged"):
        read_codes(rewritten(tmp_path / "song.codes", song(), **changes))


def test_silence_without_end(tmp_path: Path) -> None:
    codec, n_samples = tiny_codec(), 2**40
    path = tmp_path / "silent.codes"
    codes = np.zeros((0, 4, 1), np.uint16)
    coded = song(n_samples=800, silent=(0, 1))
    metadata_of = rewritten(path, coded, codec_samples=n_samples, n_samples=n_samples)
    with safe_open(str(metadata_of), framework="np") as file:
        metadata = file.metadata()
    n_frames = codec.n_frames_in_all(n_samples)
    text = json.dumps(
        {
            "__metadata__": metadata,
            "codes": {"dtype": "U16", "shape": [0, 4, n_frames], "data_offsets": [0, 0]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + codes.tobytes())
    assert path.stat().st_size < 1000
    with pytest.raises(AudioError, match="damaged"):
        decoded(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "BF16", "BOOL", "I64", "F4", 7, None])
def test_codes_of_an_exotic_type(tmp_path: Path, dtype: object) -> None:
    path = tmp_path / "song.codes"
    entry = {"dtype": dtype, "shape": [1, 1, 1], "data_offsets": [0, 1]}
    write_header(path, {"codes": entry}, 1)
    with pytest.raises(AudioError, match=r"song\.codes is not a \.codes file"):
        read_codes(path)


# Recipes, records and MIDI


def recipe(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f'why = "a test"\nkind = "encoder"\n{text}\n')
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[model]\na = {'[' * 50_000}", "not valid TOML"),
        (f"[model]\na = {'9' * 5000}", "not valid TOML"),
        (f"[model]\n{'.'.join('a' * 5000)} = 1", "beyond 16 levels"),
    ],
    ids=["nested", "digits", "dotted"],
)
def test_recipes_that_are_too_deep_or_too_long(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe(recipe(tmp_path, text))


@pytest.mark.parametrize("place", ["absolute", "above", "linked"])
def test_a_recipe_opens_no_file_outside_its_folder(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text("a secret line")
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "link.toml").symlink_to(secret)
    inherits = {"absolute": str(secret), "above": "../secret", "linked": "link"}[place]
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe(folder, f'inherits = "{inherits}"'.replace("\\", "/")))
    assert "inherits" in str(caught.value)
    assert "TOML" not in str(caught.value)  # which says that it was opened


@pytest.mark.parametrize("record", [[], "text", 5, None, {"train": []}, {"kind": 3}, {"model": 1}])
def test_a_record_of_a_recipe_in_another_form(record: Any) -> None:
    with pytest.raises(UsageError, match=r"does not fit this version|lacks|recipe section"):
        Recipe.from_dict(record)


@pytest.mark.parametrize(
    ("cls", "section", "words"),
    [
        (
            MaskedTransformerOptions,
            {"width": 10**18},
            "width = 10+ is .* 1 to 16384",
        ),
        (MaskedTransformerOptions, {"n_heads": 0}, "n_heads = 0 is out of range; use 1"),
        (MaskedTransformerOptions, {"width": 0}, "width = 0 is out of range; use 1"),
        (StemEncoderOptions, {"n_layers": 10**9}, "n_layers = 10+ is out of range; use 1 to 64"),
    ],
)
def test_a_section_out_of_range(cls: type[Any], section: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=rf"^model\.{words}"):
        from_section(cls, section, "model")


@pytest.mark.parametrize(
    "change",
    [{"system": ["a"]}, {"track": {"a": 1}}, {"stem": None}, {"value": "1"}, {"value": [1]}],
)
def test_scores_of_another_type(tmp_path: Path, change: dict[str, Any]) -> None:
    line = {"system": "a", "track": "t", "stem": "bass", "metric": "sdr", "value": 1.0, "n": 1}
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps({**line, "reason": "", **change}) + "\n")
    with pytest.raises(MssgenError, match=r"scores\.jsonl is damaged"):
        read_scores(tmp_path)
    path.write_text(json.dumps({**line, "reason": ""}) + "\n")
    assert read_scores(tmp_path)[0].value == 1.0


def midi(kind: int, ticks: int = 480, n_tracks: int = 1) -> bytes:
    track = b"MTrk" + struct.pack(">I", 4) + b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, kind, n_tracks, ticks) + n_tracks * track


@pytest.mark.parametrize("data", [midi(2), midi(3), midi(65_535), midi(1, 0), midi(0, 480, 2)])
def test_midi_files_that_cannot_be_played(data: bytes) -> None:
    pytest.importorskip("mido", reason="needs mido")
    from mssgen.rendering.midi import read_midi, split_groups

    with pytest.raises(AudioError, match=r"song\.mid .* leave it out"):
        read_midi(data, "song.mid")
    sound: Callable[[bytes], object] = lambda data: split_groups(read_midi(data, "song.mid"))  # noqa: E731
    assert sound(midi(1, 480, 2))
