"""`mssgen.enhance` and `mssgen.load_enhancer`: stems as arrays, tensors and files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

import mssgen
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers.blend import MODES, Blend
from mssgen.enhancers.chain import StemEnhancer
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.errors import AudioError, UsageError
from mssgen.separators.base import measure_level

from support.program import Program
from support.toys import snr_db, tiny_stem_codec, write_tiny_encoder

Audio = NDArray[np.float32]
RATE = 44_100


def of_tiny_networks(mode: str = "fill") -> StemEnhancer:
    """An enhancer of the bass with every lane: mixture, enhanced stem and attenuation."""
    codec = tiny_stem_codec(n_level_codebooks=2)
    options = StemEncoderOptions(stem="bass", input="separated+mixture")
    encoder = StemEncoder(codec, options).eval().requires_grad_(False)
    torch.manual_seed(1)
    for weight in encoder.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    return StemEnhancer(CodecEnhancer(encoder, name="tiny"), Blend(mode))


@pytest.fixture(scope="module")
def enhancer() -> StemEnhancer:
    return of_tiny_networks()


@pytest.fixture(scope="module")
def mixture(music: Audio) -> Audio:
    return music[:, :RATE]


@pytest.fixture(scope="module")
def stem(mixture: Audio) -> Audio:
    """Music without treble, as a bass is."""
    kernel = np.hanning(64) / np.hanning(64).sum()
    return np.stack([np.convolve(x, kernel, mode="same") for x in mixture]).astype(np.float32)


def test_arrays_tensors_and_files_are_alike(
    enhancer: StemEnhancer, stem: Audio, mixture: Audio, tmp_path: Path
) -> None:
    paths = [tmp_path / "bass.wav", tmp_path / "song.wav"]
    for path, audio in zip(paths, (stem, mixture), strict=True):
        sf.write(path, audio.T, RATE, "FLOAT")
    made = mssgen.enhance(stem, RATE, mixture=mixture, enhancer=enhancer)
    assert isinstance(made, np.ndarray)
    assert made.dtype == np.float32
    tensors = [torch.from_numpy(each) for each in (stem, mixture)]
    tensor = mssgen.enhance(tensors[0], RATE, mixture=tensors[1], enhancer=enhancer)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), made)
    for path, beside in zip(paths[:1] * 2, (str(paths[1]), paths[1]), strict=True):
        np.testing.assert_array_equal(mssgen.enhance(path, mixture=beside, enhancer=enhancer), made)
    mixed = mssgen.enhance(stem, RATE, mixture=paths[1], enhancer=enhancer)
    np.testing.assert_array_equal(mixed, made)


@pytest.mark.parametrize(("rate", "n_channels"), [(48_000, 2), (22_050, 1), (44_100, 4)])
def test_rate_channels_and_length_stay(
    enhancer: StemEnhancer, stem: Audio, rate: int, n_channels: int
) -> None:
    audio = np.concatenate([stem, 0.5 * stem])[:n_channels, :9001]
    made = mssgen.enhance(audio, rate, mixture=2 * audio, enhancer=enhancer)
    assert made.shape == audio.shape
    assert not np.array_equal(made, audio)
    if n_channels == 1:
        flat = mssgen.enhance(audio[0], rate, mixture=2 * audio[0], enhancer=enhancer)
        np.testing.assert_array_equal(flat, made)


def test_the_mixture_counts(enhancer: StemEnhancer, stem: Audio, mixture: Audio) -> None:
    made = [
        mssgen.enhance(stem, RATE, mixture=each, enhancer=enhancer)
        for each in (mixture, stem, None, mixture)
    ]
    assert not np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[0], made[3])  # no call remembers another's mixture


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_gives_each_stem_its_own_result(mode: str, stem: Audio, mixture: Audio) -> None:
    enhancer = of_tiny_networks(mode)
    stems = torch.from_numpy(np.stack([stem, 0.7 * stem[:, ::-1].copy()]))
    mixtures = torch.from_numpy(np.stack([mixture, mixture[:, ::-1].copy()]))

    def enhanced(first: int, last: int, length: int) -> torch.Tensor:
        blocks, beside = (x[first:last].split(length, dim=-1) for x in (stems, mixtures))
        level = measure_level(blocks)
        return torch.cat(list(enhancer.stream(blocks, level, mixture=beside)), dim=-1)

    both = enhanced(0, 2, 5000)
    assert both.shape == (2, 1, 2, RATE)
    for index in range(2):
        assert snr_db(enhanced(index, index + 1, 7000), both[index : index + 1]) > 100


def test_as_the_command_line_does(
    stem: Audio,
    mixture: Audio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = str(write_tiny_encoder(tmp_path / "encoder"))
    sf.write("bass.wav", stem.T, RATE, "FLOAT")
    sf.write("song.wav", mixture.T, RATE, "FLOAT")
    words = ("--encoder", encoder, "--blend", "fill", "--mix", 0.5, "--mixture", "song.wav")
    done = Program(capsys)("enhance", "bass.wav", *words, "--device", "cpu")
    assert done.code == 0, done.err
    written, _ = sf.read("enhanced/bass.wav", dtype="float32")
    how = {"encoder": encoder, "blend": "fill", "mix": 0.5, "device": "cpu"}
    made = mssgen.enhance("bass.wav", mixture="song.wav", stem="bass", **how)
    np.testing.assert_array_equal(made, written.T)
    loaded = mssgen.load_enhancer(**how)
    assert loaded.stem == "bass"
    again = mssgen.enhance(stem, RATE, mixture=mixture, enhancer=loaded)
    np.testing.assert_array_equal(again, made)


def test_wrong_words(enhancer: StemEnhancer, stem: Audio, mixture: Audio) -> None:
    with pytest.raises(UsageError, match="which stem the audio is"):
        mssgen.enhance(stem, RATE)
    with pytest.raises(UsageError, match="no encoder ships for the stem piano, only for"):
        mssgen.load_enhancer("piano")
    with pytest.raises(UsageError, match="`blend` half is unknown"):
        mssgen.enhance(stem, RATE, stem="bass", blend="half")
    with pytest.raises(UsageError, match="for the stem bass, not for drums"):
        mssgen.enhance(stem, RATE, stem="drums", enhancer=enhancer)
    with pytest.raises(UsageError, match=r"the array has 0\.500 s and the array 1\.000 s"):
        mssgen.enhance(stem, RATE, mixture=mixture[:, : RATE // 2], enhancer=enhancer)
    with pytest.raises(UsageError, match="need their rate"):
        mssgen.enhance(stem, enhancer=enhancer)
    broken = mixture.copy()
    broken[0, 20_000] = np.nan
    with pytest.raises(AudioError, match=r"at 0\.454 s"):
        mssgen.enhance(stem, RATE, mixture=broken, enhancer=enhancer)
