"""`.codes` files: from audio of any rate and number of channels to codes and back."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from mssgen.audio.channels import from_items, to_items
from mssgen.audio.encodings import AudioInfo
from mssgen.codecs.base import Codec
from mssgen.codecs.coding import decode_coded, encode_source
from mssgen.codecs.container import CodedAudio, pack, read_codes, write_codes
from mssgen.errors import AudioError, UsageError
from mssgen.pipeline import _ArraySource as ArraySource

from support.toys import tiny_codec, tiny_stem_codec


def coded(samples: NDArray[np.float32], sample_rate: int = 8000, **options: object) -> CodedAudio:
    source = ArraySource(samples, AudioInfo(sample_rate, len(samples), "array", "FLOAT"))
    return encode_source(source, tiny_codec(**options))


def noise(n_channels: int, n_samples: int, seed: int = 0) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return (0.2 * generator.standard_normal((n_channels, n_samples))).astype(np.float32)


def decoded(song: CodedAudio, codec: Codec, **options: int) -> NDArray[np.float32]:
    return np.concatenate(list(decode_coded(song, codec, **options)), axis=1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 30), st.sampled_from([1, 2]))
def test_channels_come_back_from_items(n_channels: int, n_samples: int, n_codec: int) -> None:
    block = noise(n_channels, n_samples)
    items = to_items(block, n_codec)
    assert items.shape[1] == n_codec
    np.testing.assert_allclose(from_items(items, n_channels), block, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 6),
    st.integers(60, 3000),
    st.sampled_from([8000, 11_025, 44_100]),
    st.sampled_from([1, 2]),
)
def test_length_rate_and_channels_come_back(
    n_channels: int, n_samples: int, rate: int, n_codec: int
) -> None:
    song = coded(noise(n_channels, n_samples), rate, n_channels=n_codec)
    codec = tiny_codec(n_channels=n_codec)
    assert decoded(song, codec).shape == (n_channels, n_samples)
    n_half = (2 * n_samples * 16_000 + rate) // (2 * rate)
    assert decoded(song, codec, sample_rate=16_000).shape == (n_channels, n_half)


def test_a_file_returns_the_codes_that_were_written(tmp_path: Path) -> None:
    song = coded(noise(3, 5000), segment_s=0.1, normalize=True)
    write_codes(tmp_path / "new" / "song.codes", song)
    again = read_codes(tmp_path / "new" / "song.codes")
    assert song.codes.scale is not None
    assert again.codes.scale is not None
    assert torch.equal(again.codes.codes, song.codes.codes)
    torch.testing.assert_close(again.codes.scale, song.codes.scale)
    for field in dataclasses.fields(CodedAudio):
        if field.name != "codes":
            assert getattr(again, field.name) == getattr(song, field.name)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["song.codes"]


def test_equal_channels_need_one_item_and_stay_equal() -> None:
    mono = noise(1, 4000)
    song = coded(np.concatenate([mono, mono]))
    assert len(song.codes.codes) == 1
    assert song.silent == (1,)
    left, right = decoded(song, tiny_codec())
    np.testing.assert_array_equal(left, right)
    assert np.abs(left).max() > 0


def test_silence_stays_silence() -> None:
    song = coded(np.zeros((2, 3000), np.float32))
    assert song.codes.codes.shape[0] == 0
    np.testing.assert_array_equal(decoded(song, tiny_codec()), np.zeros((2, 3000), np.float32))


def test_codes_of_another_codec_are_refused() -> None:
    song = coded(noise(1, 1000))
    with pytest.raises(UsageError, match=r"made by the codec seanet-8000-4x16-h8-\w+"):
        next(decode_coded(song, tiny_codec(seed=1)))


def test_audio_shorter_than_a_sample_is_refused() -> None:
    with pytest.raises(AudioError, match="shorter than a sample at 8000 Hz"):
        coded(noise(1, 1), 96_000)


def damaged(song: CodedAudio, tmp_path: Path, **changes: object) -> Path:
    """A `.codes` file of `song` with changed metadata or tensors."""
    data = pack(song)
    from safetensors import safe_open

    path = tmp_path / "song.codes"
    path.write_bytes(data)
    with safe_open(str(path), framework="np") as file:
        metadata = file.metadata()
    tensors = load(data)
    for key, value in changes.items():
        if isinstance(value, np.ndarray):
            tensors[key] = value
        elif value is None:
            metadata.pop(key)
        else:
            metadata[key] = str(value)
    path.write_bytes(save(tensors, metadata=metadata))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "other"}, "is not a .codes file"),
        ({"format_version": 2}, "format version 2"),
        ({"n_samples": None}, "damaged"),
        ({"n_samples": "many"}, "damaged"),
        ({"n_samples": 0}, "damaged"),
        ({"n_samples": 10**30}, "damaged"),
        ({"n_items": 5}, "damaged"),
        ({"silent": "0 0"}, "damaged"),
        ({"silent": "-1"}, "damaged"),
        ({"codes": np.zeros((1, 4), np.uint16)}, "damaged"),
        ({"codes": np.zeros((2, 4, 10), np.int64)}, "damaged"),
        ({"codes": np.zeros((2, 0, 10), np.uint16)}, "damaged"),
        ({"scale": np.full((2, 1), np.nan, np.float32)}, "damaged"),
    ],
)
def test_contradictory_files_are_refused(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    path = damaged(coded(noise(2, 1000)), tmp_path, **changes)
    with pytest.raises(AudioError, match=says):
        read_codes(path)


def test_codes_beyond_the_codebook_or_the_length_are_refused(tmp_path: Path) -> None:
    song = coded(noise(2, 1000))
    shape = song.codes.codes.shape
    for codes in (
        np.full(shape, 16, np.uint16),  # the codebooks have 16: 0 to 15
        np.zeros((*shape[:2], shape[2] + 1), np.uint16),
        np.zeros((*shape[:2], shape[2] - 1), np.uint16),
    ):
        with pytest.raises(UsageError, match="damaged"):
            list(decode_coded(read_codes(damaged(song, tmp_path, codes=codes)), tiny_codec()))


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\xff" * 100, b"\x08" + bytes(7) + b"{}      "])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "song.codes"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"song\.codes is not a \.codes file"):
        read_codes(path)
    with pytest.raises(AudioError, match="does not exist"):
        read_codes(tmp_path / "other.codes")


@pytest.mark.parametrize("codec_of", [tiny_codec, tiny_stem_codec])
@pytest.mark.parametrize("factor", [16.0, 0.001])
def test_codes_do_not_depend_on_the_level(codec_of: Callable[[], Codec], factor: float) -> None:
    """Audio outside the level range is coded as if it were at the end of that range."""
    codec, samples = codec_of(), noise(2, 4000)
    source = ArraySource(samples * np.float32(factor), AudioInfo(8000, 2, "array", "FLOAT"))
    song = encode_source(source, codec)
    again = read_back(song)
    assert again.gain == song.gain != 1
    once = decoded(again, codec)
    at_end = ArraySource(samples * np.float32(factor * song.gain), source.info)
    there = encode_source(at_end, codec)
    assert there.gain == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(once * song.gain, decoded(there, codec), atol=1e-4)


def test_a_level_in_range_is_coded_without_gain() -> None:
    song = coded(noise(2, 4000) * 0.1)
    assert song.gain == 1
    assert b'"format_version":"1"' in pack(song)


def test_surround_comes_back_by_speaker() -> None:
    layout = ("L", "R", "C", "Lb", "Rb")
    info = AudioInfo(8000, 5, "array", "FLOAT", layout)
    song = read_back(encode_source(ArraySource(noise(5, 4000), info), tiny_codec(n_channels=2)))
    assert song.layout == layout
    assert song.n_items == 3
    assert decoded(song, tiny_codec(n_channels=2)).shape == (5, 4000)


def read_back(song: CodedAudio) -> CodedAudio:
    with tempfile.TemporaryDirectory() as folder:
        write_codes(Path(folder) / "a.codes", song)
        return read_codes(Path(folder) / "a.codes")
