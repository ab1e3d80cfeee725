"""The same sound under the same name gives the same bytes, also at another time."""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load, save

from mssgen.audio.containers.stable_bytes import settle
from mssgen.audio.encodings import CONTAINERS, Encoding
from mssgen.audio.writing import StemWriter
from mssgen.checkpoints.tensor_files import pack_tensors, save_tensors
from mssgen.codecs.base import Codes
from mssgen.codecs.container import CodedAudio, pack

RATE = 48_000
SOUND = np.random.default_rng(0).standard_normal((2, RATE // 2), np.float32) / 10
FORMS = [
    (name, depth)
    for name, container in CONTAINERS.items()
    for depth in (container.bit_depths if not container.codec else ("16",))
    if name != "mp3" or "MP3" in sf.available_formats()
]


def written(folder: Path, encoding: Encoding) -> bytes:
    target = folder / f"song.{encoding.container}"
    with StemWriter(
        target, sample_rate=RATE, n_channels=2, n_samples=RATE // 2, encoding=encoding, clip="clamp"
    ) as writer:
        writer.write(SOUND)
        return writer.finish().read_bytes()


def test_every_container_twice(tmp_path: Path) -> None:
    first = {form: written(tmp_path / "a", Encoding(*form)) for form in FORMS}
    time.sleep(1.1)  # some note the second
    again = {form: written(tmp_path / "b", Encoding(*form)) for form in FORMS}
    assert [form for form in FORMS if first[form] != again[form]] == []


@pytest.mark.parametrize("container", ["ogg", "opus"])
def test_checksums_of_ogg_pages(tmp_path: Path, container: str) -> None:
    """libogg's own serial number put in again gives libogg's own checksums."""
    path = tmp_path / "x"
    sf.write(path, SOUND.T, RATE, format="OGG", subtype=CONTAINERS[container].codec)
    before = path.read_bytes()
    settle(path, container, int.from_bytes(before[14:18], "little"))
    assert path.read_bytes() == before
    settle(path, container, 5)
    assert path.read_bytes() != before
    assert sf.read(path)[0].shape == (RATE // 2, 2)


def test_names_tell_the_streams_of_one_song_apart(tmp_path: Path) -> None:
    serials = set()
    for stem in ("bass", "drums"):
        target = tmp_path / f"{stem}.ogg"
        with StemWriter(
            target,
            sample_rate=RATE,
            n_channels=2,
            n_samples=RATE // 2,
            encoding=Encoding("ogg", "16"),
            clip="clamp",
        ) as writer:
            writer.write(SOUND)
            serials.add(writer.finish().read_bytes()[14:18])
    assert len(serials) == 2


@pytest.mark.parametrize("data", [b"", b"RIFF", b"OggS", b"RIFF\0\0\0\0WAVE" + b"\xff" * 64])
@pytest.mark.parametrize("container", ["wav", "aiff", "ogg"])
def test_other_files_stay_as_they_are(tmp_path: Path, data: bytes, container: str) -> None:
    (tmp_path / "x").write_bytes(data)
    settle(tmp_path / "x", container, 1)
    assert (tmp_path / "x").read_bytes() == data


def test_codes_have_one_form() -> None:
    codes = torch.arange(12).reshape(1, 3, 4)
    coded = CodedAudio(Codes(codes, 1280, "id"), "name", 44_100, 2, 1280, 1)
    assert len({pack(coded) for _ in range(20)}) == 1


def test_tensors_are_written_as_safetensors_does(tmp_path: Path) -> None:
    names = ["float64", "int64", "float32", "int32", "float16", "bfloat16", "int16", "uint16"]
    tensors = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name))
        for name in [*names, "int8", "uint8", "bool"]
    }
    tensors |= {"é/b": torch.tensor(1.5), "none": torch.zeros(0, 4), "a": torch.ones(3)}
    data = save(tensors, {"format": "pt"})
    assert pack_tensors(tensors, {"format": "pt"}) == data
    save_tensors({**tensors, "a": torch.ones(3, 2)[:, 0]}, tmp_path / "x", {"format": "pt"})
    assert (tmp_path / "x").read_bytes() == data
    assert load(pack_tensors(tensors)).keys() == tensors.keys()
