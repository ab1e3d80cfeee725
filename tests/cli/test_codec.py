"""`mssgen codec encode` and `decode`, `mssgen enhance` and the encoders of `mssgen separate`."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from mssgen.checkpoints import hub
from mssgen.codecs.container import read_codes
from mssgen.codecs.loading import load_codec, save_codec
from mssgen.encoders.files import save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers.blend import Blend, blend_stream
from mssgen.enhancers.lanes import Lanes

from support.models import EXCERPT
from support.program import Program
from support.toys import snr_db, tiny_codec

RATE = 44_100
DRUMS = ("--enhance", "--encoder", "E/drums-separated")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny codec as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("codecs") / "tiny"
    save_codec(tiny_codec(), folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained stem encoders, by stem and what they hear."""
    folder = tmp_path_factory.mktemp("encoders")
    for stem, hears in (("bass", "separated"), ("drums", "separated"), ("bass", "mixture")):
        options = StemEncoderOptions(stem=stem, input=hears, head="transformer", n_layers=1)
        encoder = StemEncoder(tiny_codec(), options)
        save_stem_encoder(encoder, folder / f"{stem}-{hears}")
    stereo = tiny_codec(n_channels=2, segment_s=0.5, normalize=True)
    save_stem_encoder(StemEncoder(stereo, StemEncoderOptions(stem="bass")), folder / "bass-stereo")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with song.wav: 0.7 s of stereo music, 16 bit; nothing in the hub's cache."""
    samples, _ = sf.read(EXCERPT, frames=RATE * 7 // 10, start=RATE)
    sf.write(tmp_path / "song.wav", samples, RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    return tmp_path


@pytest.fixture
def mssgen(here: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def read(path: Path | str) -> NDArray[np.float32]:
    samples, _ = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)


def test_a_song_goes_to_codes_and_back(mssgen: Program, codec: Path, here: Path) -> None:
    result = mssgen("codec", "encode", "song.wav", "-c", codec, "-o", "song.codes")
    assert result.code == 0, result.err
    assert "wrote song.codes" in result.err
    assert mssgen("codec", "decode", "song.codes", "-c", codec, "-o", "back.flac").code == 0
    info = sf.info("back.flac")
    assert (info.frames, info.samplerate, info.channels) == (RATE * 7 // 10, RATE, 2)
    assert info.subtype == "PCM_16"
    with safe_open("song.codes", framework="np") as file:
        assert file.metadata()["format"] == "mssgen-codes"
        assert file.get_tensor("codes").shape == (2, 4, 700)  # mid and side, 0.7 s at 1 kHz


def test_the_codes_are_those_of_the_codec(mssgen: Program, codec: Path, here: Path) -> None:
    sf.write("mono.wav", read("song.wav")[0, :8000], 8000, subtype="FLOAT")
    assert mssgen("codec", "encode", "mono.wav", "-c", codec, "-o", "mono.codes").code == 0
    loaded = load_codec(str(codec))
    expected = loaded.encode(torch.from_numpy(read("mono.wav"))[None])
    assert torch.equal(read_codes(Path("mono.codes")).codes.codes, expected.codes)
    options = ("-c", codec, "--bit-depth", "32f", "-o", "back.wav")
    assert mssgen("codec", "decode", "mono.codes", *options).code == 0
    back = torch.from_numpy(read("back.wav"))
    assert snr_db(loaded.decode(expected)[0], back) > 90


@pytest.mark.parametrize(
    ("options", "n_codebooks"),
    [(("--n-codebooks", "2"), 2), (("--bandwidth", "12"), 3), ((), 4)],
)
def test_fewer_levels(
    options: tuple[str, ...], n_codebooks: int, mssgen: Program, codec: Path
) -> None:
    words = ("codec", "encode", "song.wav", "-c", codec, "-o", "song.codes", *options)
    assert mssgen(*words).code == 0
    assert read_codes(Path("song.codes")).codes.n_codebooks == n_codebooks
    fewer = ("codec", "decode", "song.codes", "-c", codec, "--n-codebooks", "1", "-o", "a.wav")
    assert mssgen(*fewer).code == 0
    assert mssgen("codec", "decode", "song.codes", "-c", codec, "-o", "b.wav").code == 0
    assert not np.array_equal(read("a.wav"), read("b.wav"))


def test_folders(mssgen: Program, codec: Path, here: Path) -> None:
    (here / "album" / "side").mkdir(parents=True)
    for name in ("album/one.wav", "album/side/two.flac"):
        sf.write(name, read("song.wav").T[:4000], RATE)
    assert mssgen("codec", "encode", "album", "-c", codec).code == 0
    assert Path("codes/side/two.codes").is_file()
    again = mssgen("codec", "encode", "album", "-c", codec)
    assert again.code == 0
    assert "0 done, 2 skipped, 0 failed" in again.err
    assert mssgen("codec", "decode", "codes", "-c", codec, "-f", "flac").code == 0
    assert read("decoded/one.flac").shape == (2, 4000)


def test_pipes(codec: Path, here: Path) -> None:
    program = (sys.executable, "-m", "mssgen", "codec")
    with open("song.wav", "rb") as song:
        coded = subprocess.run(
            [*program, "encode", "-", "-c", codec, "-o", "-"],
            stdin=song,
            capture_output=True,
            check=True,
        )
    back = subprocess.run(
        [*program, "decode", "-", "-c", codec, "-o", "-"],
        input=coded.stdout,
        capture_output=True,
        check=True,
    )
    samples, rate = sf.read(io.BytesIO(back.stdout))
    assert (samples.shape, rate) == ((RATE * 7 // 10, 2), RATE)
    assert b"Warning" not in back.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("encode", "no.wav", "-c", "CODEC"), 1, "no.wav"),
        (("encode",), 2, "no input"),
        (("encode", "song.wav", "-c", "CODEC", "--n-codebooks", "5"), 2, "has 4 codebooks"),
        (("encode", "song.wav", "-c", "CODEC", "--bandwidth", "7"), 2, "does not fit"),
        (("encode", "song.wav", "--bandwidth", "6", "--n-codebooks", "2"), 2, "use one"),
        (("encode", "song.wav", "-c", "htdemucs"), 2, "htdemucs"),
        (("encode", "song.wav", "-c", "encodec_24khz", "--offline"), 1, "models pull encodec_24k"),
        (("encode", "song.wav", "song.wav", "x.wav", "-c", "CODEC", "-o", "-"), 2, "one input"),
        (("encode", "song.wav", "-c", "CODEC", "-o", "song.wav/x.codes"), 1, "cannot be written"),
        (("decode", "song.wav", "-c", "CODEC"), 1, "not a .codes file"),
        (("decode", "x.codes", "-c", "CODEC", "-f", "doc"), 2, "--format doc is unknown"),
        (("decode", "ok.codes"), 1, "give its path as --codec"),
        (("decode", "ok.codes", "-c", "OTHER"), 1, "made by the codec seanet-8000"),
        (("decode", "ok.codes", "-c", "CODEC", "--n-codebooks", "9"), 1, "holds 4 codebooks"),
    ],
)
def test_wrong_calls(
    words: tuple[str, ...], code: int, says: str, mssgen: Program, codec: Path, here: Path
) -> None:
    save_codec(tiny_codec(seed=1), here / "other")
    assert mssgen("codec", "encode", "song.wav", "-c", codec, "-o", "ok.codes").code == 0
    places = {"CODEC": str(codec), "OTHER": str(here / "other")}
    result = mssgen("codec", *(places.get(word, word) for word in words))
    assert result.code == code, result.err
    assert says in result.err
    assert len([line for line in result.err.splitlines() if "on cpu in" not in line]) <= 2
    assert not list(here.rglob(".mssgen-*"))


def test_enhance_keeps_length_rate_and_channels(
    mssgen: Program, encoders: Path, here: Path
) -> None:
    for n_channels in (1, 2, 3):
        samples = (
            np.tile(read("song.wav")[:1], (n_channels, 1))
            * np.linspace(0.5, 1, n_channels)[:, None]
        )
        sf.write(f"in{n_channels}.wav", samples.T, RATE, subtype="PCM_24")
        result = mssgen("enhance", f"in{n_channels}.wav", "--encoder", encoders / "bass-separated")
        assert result.code == 0, result.err
        info = sf.info(f"enhanced/in{n_channels}.wav")
        assert (info.frames, info.channels, info.subtype) == (RATE * 7 // 10, n_channels, "PCM_24")
        assert np.abs(read(f"enhanced/in{n_channels}.wav")).max() > 0
    assert mssgen("enhance", "song.wav", "--encoder", encoders / "bass-stereo").code == 0


def test_enhance_decodes_the_encoders_codes(mssgen: Program, encoders: Path, here: Path) -> None:
    """The same as the parts by hand, for a song of one piece."""
    sf.write("bass.wav", read("song.wav")[0], RATE, subtype="FLOAT")
    words = ("bass.wav", "--encoder", encoders / "bass-separated", "--bit-depth", "32f")
    assert mssgen("enhance", *words, "--blend", "full").code == 0
    from mssgen.audio.resampling import fit_length, resample
    from mssgen.encoders.files import load_stem_encoder

    encoder = load_stem_encoder(encoders / "bass-separated")
    stem = read("bass.wav")
    at_codec = np.concatenate(list(resample([stem], 1, RATE, 8000)), axis=1)
    audio = torch.from_numpy(at_codec)[None]
    with torch.no_grad():
        codes = encoder.codes(encoder(audio))
        made = encoder.codec.synthesize(encoder.codec.dequantize(codes), audio.shape[-1])[0]
    back = fit_length(resample([made.numpy()], 1, 8000, RATE), 1, stem.shape[-1])
    enhanced = np.concatenate(list(back), axis=1)
    before, after = (torch.from_numpy(each)[None] for each in (stem, enhanced))
    blocks = blend_stream([Lanes(before, enhanced=after)], Blend("full"), sample_rate=RATE)
    expected = torch.cat(list(blocks), dim=-1)
    assert snr_db(expected[0], torch.from_numpy(read("enhanced/bass.wav"))) > 60


def test_enhance_takes_its_stem_from_folders(mssgen: Program, encoders: Path, here: Path) -> None:
    for stem in ("bass", "drums", "vocals"):
        Path("separated/song").mkdir(parents=True, exist_ok=True)
        sf.write(f"separated/song/{stem}.wav", read("song.wav").T[:5000], RATE)
    result = mssgen("enhance", "separated", "--encoder", encoders / "bass-separated")
    assert result.code == 0, result.err
    assert [path.name for path in Path("enhanced").rglob("*.wav")] == ["bass.wav"]
    assert Path("enhanced/song/bass.wav").is_file()


def test_silence_stays_silent(mssgen: Program, encoders: Path, here: Path) -> None:
    sf.write("still.wav", np.zeros((6000, 2)), RATE)
    assert mssgen("enhance", "still.wav", "--encoder", encoders / "bass-separated").code == 0
    assert not read("enhanced/still.wav").any()


def test_separate_by_an_encoder(mssgen: Program, encoders: Path, here: Path) -> None:
    words = ("separate", "song.wav", "--encoder", encoders / "bass-mixture")
    result = mssgen(*words, "--stem", "bass", "--residual")
    assert result.code == 0, result.err
    bass, residual = read("separated/song/bass.wav"), read("separated/song/residual.wav")
    # 16 bit each, and lowered together where they would clip.
    song = read("song.wav")
    gain = (bass + residual).ravel() @ song.ravel() / (song.ravel() @ song.ravel())
    np.testing.assert_allclose(bass + residual, gain * song, atol=2e-4)
    assert 0 < gain <= 1.01


def test_separate_and_enhance_in_one_pass(
    mssgen: Program, encoders: Path, tiny_model: Path, here: Path
) -> None:
    """The chain gives what two commands with a float file between give."""
    base = ("separate", "song.wav", "-m", tiny_model, "--precision", "fp32", "--bit-depth", "32f")
    chain = ("--enhance", "--encoder", encoders / "bass-separated", "--blend", "full")
    result = mssgen(*base, *chain, "-s", "bass", "-s", "drums", "-o", "chain")
    assert result.code == 0, result.err
    assert mssgen(*base, "-o", "plain").code == 0
    words = ("plain/song/bass.wav", *chain[1:], "--mixture", "song.wav")
    assert mssgen("enhance", *words, "-o", "two", "--bit-depth", "32f").code == 0
    chained = torch.from_numpy(read("chain/song/bass.wav"))
    assert snr_db(torch.from_numpy(read("two/song/bass.wav")), chained) > 30
    np.testing.assert_array_equal(read("chain/song/drums.wav"), read("plain/song/drums.wav"))


def test_a_local_model_gets_the_built_in_encoders(
    mssgen: Program, tiny_model: Path, here: Path
) -> None:
    """Also where only the loaded model knows its stems."""
    words = ("separate", "song.wav", "-m", tiny_model / "model.safetensors")
    assert mssgen(*words, "-o", "plain").code == 0
    result = mssgen(*words, "--enhance", "-o", "enhanced")
    assert result.code == 0, result.err
    changed = [
        path.name
        for path in sorted(Path("plain/song").iterdir())
        if not np.array_equal(read(path), read(f"enhanced/song/{path.name}"))
    ]
    assert {"bass.wav", "drums.wav"} <= set(changed)


def test_all_stems_of_a_song_hear_it(mssgen: Program, here: Path) -> None:
    song = read("song.wav")
    for name, gain in (("bass", 0.5), ("drums", 0.3)):
        Path("stems").mkdir(exist_ok=True)
        sf.write(f"stems/{name}.wav", gain * song.T, RATE, subtype="FLOAT")
    assert mssgen("enhance", "stems", "--mixture", "song.wav", "-o", "with").code == 0
    assert mssgen("enhance", "stems", "-o", "without").code == 0
    for name in ("bass", "drums"):
        with_song, without = read(f"with/stems/{name}.wav"), read(f"without/stems/{name}.wav")
        assert with_song.shape == without.shape == song.shape
        assert not np.array_equal(with_song, without)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("enhance", "song.wav"), "say which stem the inputs are with --stem"),
        (("enhance", "song.wav", "--stem", "piano"), "no built-in encoder for the stem piano"),
        (("enhance", "song.wav", "--encoder", "E/bass-mixture"), "was trained on mixtures"),
        (("enhance", "song.wav", "--encoder", "E/bass-separated", "-s", "drums"), "stem bass"),
        (("separate", "song.wav", "--encoder", "E/bass-separated"), "--encoder of `mssgen"),
        (("separate", "song.wav", "--encoder", "E/bass-mixture", "-s", "drums"), "drums"),
        (("separate", "song.wav", "--encoder", "E/bass-mixture", "-m", "htdemucs"), "use one"),
        (
            ("separate", "song.wav", "-m", "htdemucs_6s", "--enhance", "--stem", "guitar"),
            "built-in encoders exist for the stems",
        ),
        (
            ("separate", "song.wav", "-m", "M", "-s", "bass", *DRUMS),
            "for the stem drums",
        ),
        (("separate", "song.wav", "-m", "E/bass-separated"), "stem encoder"),
        (("enhance", "song.wav", "--encoder", "M"), "separat"),
    ],
)
def test_wrong_encoders(
    words: tuple[str, ...], says: str, mssgen: Program, encoders: Path, tiny_model: Path
) -> None:
    places = {"M": str(tiny_model)}
    result = mssgen(*(places.get(word, word.replace("E/", f"{encoders}/", 1)) for word in words))
    assert result.code in (1, 2), result.err
    assert says in result.err
    assert len(result.err.splitlines()) == 1
