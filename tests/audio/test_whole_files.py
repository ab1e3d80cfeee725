"""No sound is cut off without a word: joined, chained, damaged and oddly headed files."""

import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio import ffmpeg
from mssgen.audio.encodings import AudioInfo, choose_encoding
from mssgen.audio.reading import open_source
from mssgen.audio.tags import read_tags
from mssgen.errors import AudioError

from support.models import EXCERPT, needs_ffmpeg, shared
from support.program import Program

RATE = 44_100
OPUS = {"format": "OGG", "subtype": "OPUS"}


def music(seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    """[T, 2]."""
    return sf.read(EXCERPT, int(seconds * rate), 3 * RATE, dtype="float32")[0]


def encoded(path: Path, samples: NDArray[np.float32], rate: int = RATE, **how: object) -> bytes:
    sf.write(path, samples, rate, **how)
    return path.read_bytes()


def read(path: Path, **how: bool) -> tuple[AudioInfo, NDArray[np.float32], list[str]]:
    """(what it is, [C, T], warnings); both passes and `n_samples` must agree."""
    told: list[str] = []
    with open_source(path, warn=told.append, **how) as source:
        samples = np.concatenate(list(source.blocks()), axis=1)
        n_told = len(told)
        assert np.array_equal(samples, np.concatenate(list(source.blocks(5000)), axis=1))
        assert source.n_samples == samples.shape[1]
        assert [f"{path} {warning}" for warning in source.warnings] == told
    assert len(told) == n_told, "the second pass warns again"
    return source.info, samples, told


def by_ffmpeg(path: Path) -> int:
    """The number of samples per channel that ffmpeg decodes."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0", "-ac", "1"]
    done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True, check=False)
    return len(done.stdout) // 4


@pytest.fixture(params=["with ffmpeg", "without ffmpeg"])
def either_way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if request.param == "without ffmpeg":
        monkeypatch.setenv("PATH", str(tmp_path))


# What is joined.


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("name", "how"), [("a.mp3", {}), ("a.ogg", {}), ("a.opus", OPUS), ("a.flac", {})]
)
@pytest.mark.parametrize("seconds", [(2.0, 1.0), (1.0, 1.0)])
def test_joined_files_are_read_to_the_last(
    tmp_path: Path, name: str, how: dict[str, str], seconds: tuple[float, float]
) -> None:
    rate = 48_000 if name == "a.opus" else RATE
    wholes, data = [], b""
    for length in seconds:
        data += encoded(tmp_path / name, music(length, rate), rate, **how)
        wholes.append(sf.read(tmp_path / name, dtype="float32")[0].T)
    (tmp_path / name).write_bytes(data)
    info, found, told = read(tmp_path / name)
    assert (info.sample_rate, info.n_channels, told) == (rate, 2, [])
    assert np.array_equal(found, np.concatenate(wholes, axis=1))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("name", "rates"),
    [("a.mp3", (RATE, RATE)), ("a.mp3", (22_050, 48_000)), ("a.ogg", (RATE, 48_000))],
)
def test_a_change_of_rate_and_channels_keeps_all(
    tmp_path: Path, name: str, rates: tuple[int, int]
) -> None:
    mono = encoded(tmp_path / name, music(1.0, rates[0])[:, :1], rates[0])
    stereo = encoded(tmp_path / name, music(2.0, rates[1]), rates[1])
    end = sf.read(tmp_path / name, dtype="float32")[0].T
    (tmp_path / name).write_bytes(mono + stereo)
    info, found, told = read(tmp_path / name)
    assert (info.sample_rate, info.n_channels, told) == (max(rates), 2, [])
    assert abs(found.shape[1] - 3 * info.sample_rate) <= 2
    assert np.array_equal(found[:, -end.shape[1] :], end)


@pytest.mark.parametrize(
    ("case", "n_samples"),
    [
        ("concat_xing.mp3", 7 * RATE),
        ("mono_then_stereo.mp3", 7.055 * RATE),
        ("xing_half.mp3", 4 * RATE),
        ("chained.ogg", 7 * RATE),
        ("streamed.flac", 4 * RATE),
        ("opus_rate0.opus", 4 * 48_000),
        ("mp3in.wav", 4.04 * RATE),
    ],
)
def test_cases_are_read_whole(case: str, n_samples: float) -> None:
    info, found, told = read(shared("cases", case))
    assert abs(found.shape[1] - n_samples) < 600
    assert info.sample_rate == (48_000 if case.endswith("opus") else RATE)
    assert told == []


# Headers that are wrong.


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("declared", [0, 1, 3000, RATE // 2])
def test_a_flac_count_that_is_too_small_cuts_nothing(tmp_path: Path, declared: int) -> None:
    samples = music(1.0)
    data = bytearray(encoded(tmp_path / "a.flac", samples))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | declared
    data[18:26] = packed.to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(data)
    _, found, told = read(tmp_path / "a.flac")
    assert np.array_equal(found, sf.read(EXCERPT, RATE, 3 * RATE, dtype="float32")[0].T)
    assert told == []
    with open_source(tmp_path / "a.flac") as source:
        assert np.array_equal(source.segment(RATE - 100, 100), found[:, -100:])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("count", [1, 20, 60])
def test_a_xing_count_that_is_too_small_cuts_nothing(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.mp3"
    data = bytearray(encoded(path, music(2.0)))
    whole = sf.read(path, dtype="float32")[0].T
    at = max(data.find(b"Xing"), data.find(b"Info"))
    data[at + 8 : at + 12] = count.to_bytes(4, "big")
    path.write_bytes(data)
    assert np.array_equal(read(path)[1], whole)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    "tail",
    [b"TAG", bytes(9000), b"\x55" * 3000, b"APETAGEX"],
    ids=["id3v1", "zeros", "junk", "ape"],
)
@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_what_stands_behind_the_sound_is_not_sound(tmp_path: Path, tail: bytes, name: str) -> None:
    data = encoded(tmp_path / name, music(1.0))
    whole = sf.read(tmp_path / name, dtype="float32")[0].T
    (tmp_path / name).write_bytes(data + tail.ljust(128, b"\0"))
    _, found, told = read(tmp_path / name)
    assert np.array_equal(found, whole)
    assert told == []


@pytest.mark.usefixtures("either_way")
def test_a_wav_of_a_crashed_recorder_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    data = bytearray(encoded(path, music(1.0), subtype="PCM_16"))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    _, found, told = read(path)
    assert found.shape == (2, RATE)
    assert len(told) == 1
    assert "0 samples" in told[0]
    with pytest.raises(AudioError, match="leave out `strict`"):
        read(path, strict=True)


def test_a_caf_of_unknown_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.caf"
    samples = music(1.0)
    data = encoded(path, samples, subtype="FLOAT")
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack(">q", -1) + data[at + 8 :])
    _, found, told = read(path)
    assert np.array_equal(found[:, : len(samples)], samples.T)
    assert told == []


@pytest.mark.parametrize("is_unknown", [False, True])
def test_a_wav_over_4_gib_is_read_to_its_end(tmp_path: Path, is_unknown: bool) -> None:
    frame = 4 * 64
    n_samples = (2**32 + 2**20) // frame
    path = tmp_path / "big.wav"
    sizes = [0xFFFFFFFF if is_unknown else (n_samples * frame + n) % 2**32 for n in (36, 0)]
    with open(path, "wb") as file:
        form = struct.pack("<IHHIIHH", 16, 3, 64, 48_000, 48_000 * frame, frame, 32)
        file.write(b"RIFF" + struct.pack("<I", sizes[0]) + b"WAVEfmt " + form)
        file.write(b"data" + struct.pack("<I", sizes[1]))
        file.seek((n_samples - 1) * frame, 1)
        file.write(np.full(64, 0.5, "<f4").tobytes())
    with open_source(path) as source:
        assert source.n_samples == n_samples
        assert source.segment(n_samples - 2, 2)[0].tolist() == [0.0, 0.5]
        assert source.warnings == []
    path.unlink()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("name", "rate", "read_at"),
    [("a.wav", 352_800, 176_400), ("a.flac", 384_000, 192_000), ("a.caf", 768_000, 192_000)],
)
def test_rates_above_192_khz_are_resampled(
    tmp_path: Path, name: str, rate: int, read_at: int
) -> None:
    def tone(at_rate: int) -> NDArray[np.float64]:
        return np.sin(2 * np.pi * 1000 * np.arange(at_rate // 2) / at_rate) * [[0.5], [-0.25]]

    path = tmp_path / name
    sf.write(path, tone(rate).T, rate, "PCM_24")
    info, found, told = read(path, strict=True)
    assert (info.sample_rate, info.subtype) == (read_at, "PCM_24")
    assert told == [f"{path} has a sample rate of {rate} Hz and is read at {read_at} Hz"]
    assert found.shape == tone(read_at).shape
    assert np.abs(found - tone(read_at))[:, 2000:-2000].max() < 1e-5
    with open_source(path) as source:
        assert np.allclose(source.segment(5000, 1000), tone(read_at)[:, 5000:6000], atol=1e-5)


@pytest.mark.parametrize("rate", [0, 8000, 44_100])
def test_opus_is_read_at_48_khz_whatever_its_header_says(tmp_path: Path, rate: int) -> None:
    from mssgen.audio.containers.ogg_pages import checksum

    path = tmp_path / "a.opus"
    data = bytearray(encoded(path, music(1.0, 48_000), 48_000, **OPUS))
    whole = sf.read(path, dtype="float32")[0].T
    at = data.index(b"OpusHead") + 12
    stop = data.index(b"OggS", 4)
    data[at : at + 4], data[22:26] = struct.pack("<I", rate), bytes(4)
    data[22:26] = struct.pack("<I", checksum(bytes(data[:stop])))
    path.write_bytes(data)
    info, found, _ = read(path)
    assert info.sample_rate == 48_000
    assert np.array_equal(found, whole)


# Damage.


def shorten(data: bytearray) -> None:
    del data[len(data) // 3 :]


def damage(data: bytearray) -> None:
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(byte ^ 0x5A for byte in data[middle : middle + 600])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("harm", [shorten, damage])
@pytest.mark.parametrize(
    ("name", "how"), [("a.mp3", {}), ("a.ogg", {}), ("a.opus", OPUS), ("a.flac", {})]
)
def test_damaged_files_go_on_with_a_warning(
    tmp_path: Path, harm: Callable[[bytearray], None], name: str, how: dict[str, str]
) -> None:
    rate = 48_000 if name == "a.opus" else RATE
    data = bytearray(encoded(tmp_path / name, music(4.0, rate), rate, **how))
    harm(data)
    (tmp_path / name).write_bytes(data)
    _, found, told = read(tmp_path / name)
    share = found.shape[1] / (4 * rate)
    assert 0.1 < share < 0.45 if harm is shorten else 0.95 < share <= 1.01
    assert told
    with pytest.raises(AudioError, match="leave out `strict`"):
        read(tmp_path / name, strict=True)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["a.mp3", "a.flac", "a.ogg", "a.wav"]),
    share=st.floats(0.02, 0.999),
    is_joined=st.booleans(),
)
def test_a_cut_anywhere_is_told_or_as_ffmpeg_reads_it(
    tmp_path: Path, name: str, share: float, is_joined: bool
) -> None:
    needs_ffmpeg()
    original = tmp_path / f"original-{name}"
    data = original.read_bytes() if original.exists() else encoded(original, music(0.7))
    path = tmp_path / name
    before = data if is_joined and name != "a.wav" else b""
    path.write_bytes(before + data[: int(share * len(data))])
    try:
        _, found, told = read(path)
    except AudioError as error:
        sentence = str(error)
    else:
        is_whole = abs(found.shape[1] - by_ffmpeg(path)) <= 2 * 1152
        sentence = " ".join(told) if told else f"{path} " if is_whole else ""
    assert sentence.startswith(f"{path} ")


# ffmpeg.


@pytest.mark.parametrize(
    ("suffix", "codec", "bits"),
    [("m4a", "alac", 24), ("wv", "wavpack", 24), ("tta", "tta", 24), ("mka", "flac", 24)],
)
def test_lossless_files_keep_their_bits(tmp_path: Path, suffix: str, codec: str, bits: int) -> None:
    needs_ffmpeg()
    sf.write(tmp_path / "a.wav", music(0.5), RATE, subtype="PCM_24")
    target = tmp_path / f"a.{suffix}"
    make = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", codec]
    subprocess.run([*make, "-bits_per_raw_sample", "24", target], check=True)
    info, found, told = read(target)
    assert info.subtype == f"PCM_{bits}"
    assert choose_encoding(info, None, None).bit_depth == str(bits)
    assert np.array_equal(found, sf.read(tmp_path / "a.wav", dtype="float32")[0].T)
    assert told == []


@pytest.mark.parametrize(
    ("options", "begin_s", "duration_s"),
    [
        (["-itsoffset", "0.5", "-i", "a.wav"], 0.5, 1.5),
        (["-i", "a.wav", "-af", "aselect='not(between(t,0.4,0.7))'"], 0.0, 1.0),
    ],
)
def test_the_time_line_of_a_video_is_kept(
    tmp_path: Path, options: list[str], begin_s: float, duration_s: float
) -> None:
    needs_ffmpeg()
    sf.write(tmp_path / "a.wav", music(1.0), RATE)
    picture = ["-f", "lavfi", "-i", "color=s=32x32:d=2:r=10"]
    make = ["ffmpeg", "-v", "error", *picture, *options, "-c:v", "mpeg4", "-c:a", "pcm_s16le"]
    subprocess.run([*make, "a.mkv"], check=True, cwd=tmp_path)
    _, found, told = read(tmp_path / "a.mkv")
    assert abs(found.shape[1] / RATE - duration_s) < 0.02
    assert not found[:, : int(begin_s * RATE)].any()
    assert np.abs(found[:, -2000:] - music(1.0).T[:, -2000:]).max() < 1e-4
    assert told == []


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#\x01\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{folder}/secret.wav\n",
        "ffconcat version 1.0\n#\x01\nfile secret.wav\n",
    ],
)
def test_a_playlist_opens_nothing_and_ends_at_once(tmp_path: Path, text: str) -> None:
    needs_ffmpeg()
    sf.write(tmp_path / "secret.wav", music(0.5), RATE)
    (tmp_path / "a.m4a").write_text(text.format(folder=tmp_path))
    started = time.monotonic()
    with pytest.raises(AudioError, match="not a sound file"):
        read(tmp_path / "a.m4a")
    assert time.monotonic() - started < 30


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_ffmpeg_that_gives_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(ffmpeg, "_PATIENCE_S", 100.0 if is_cancelled else 0.5)
    (path := tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    started = time.monotonic()
    with (
        pytest.raises(AudioError, match="interrupted" if is_cancelled else "keeps ffmpeg waiting"),
        open_source(path, cancel=cancel if is_cancelled else None),
    ):
        pass
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("case", "sentence"), [("noaudio.mp4", "holds no sound"), ("dsd64.dsf", "")]
)
def test_what_ffmpeg_finds_is_said(case: str, sentence: str) -> None:
    needs_ffmpeg()
    path = shared("cases", case)
    if sentence:
        with pytest.raises(AudioError, match=sentence):
            read(path)
    else:
        info, _, told = read(path, strict=True)
        assert (info.sample_rate, info.subtype) == (88_200, "DSD")
        assert told == [f"{path} is DSD and read at 88200 Hz"]


def test_pictures_of_a_flac_without_text_tags_are_found(tmp_path: Path) -> None:
    from mutagen.flac import FLAC
    from mutagen.flac import Picture as FLACPicture

    sf.write(path := tmp_path / "a.flac", music(0.1), RATE)
    picture = FLACPicture()
    picture.mime, picture.type, picture.data = "image/png", 3, b"png"
    file = FLAC(path)
    file.add_picture(picture)
    file.save()
    assert [one.data for one in read_tags(path).pictures] == [b"png"]


def test_stems_have_the_tags_bits_and_time_line_of_what_ffmpeg_reads(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_ffmpeg()
    songs = [shared("cases", name) for name in ("cover.m4a", "alac24.m4a", "delayed.mkv")]
    words = ["-m", tiny_model, "-s", "bass", "-f", "flac", "-o", tmp_path]
    result = Program(capsys)("separate", *songs, *words)
    assert result.code == 0, result.err
    found = read_tags(tmp_path / "cover" / "bass.flac")
    assert len(found.pictures) == 1
    assert {"composer", "tracknumber", "discnumber", "albumartist"} <= found.fields.keys()
    assert sf.info(tmp_path / "alac24" / "bass.flac").subtype == "PCM_24"
    assert abs(sf.info(tmp_path / "delayed" / "bass.flac").duration - 5.02) < 0.05


# More headers that are wrong, or that few programs write.


def test_joined_wav_files_are_read_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    first, second = encoded(path, music(0.5)), encoded(path, music(0.3)[:, :1])
    path.write_bytes(first + second)
    _, found, told = read(path)
    assert told == []
    expected = np.concatenate([music(0.5), music(0.3)[:, :1].repeat(2, axis=1)]).T
    assert np.abs(found - expected).max() <= 2**-15


def test_a_vbri_header_is_no_audio(tmp_path: Path) -> None:
    """Fraunhofer's encoders write it in place of the Xing header."""
    path = tmp_path / "a.mp3"
    data = bytearray(encoded(path, music(1.0)))
    whole = read(path)[1]
    at = max(data.find(b"Info"), data.find(b"Xing"))
    n_frames = int.from_bytes(data[at + 8 : at + 12], "big")
    header = b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(data), n_frames)
    data[at : at + 120] = header + bytes(120 - len(header))
    path.write_bytes(data)
    _, found, told = read(path)
    assert told == []
    assert abs(found.shape[1] - n_frames * 1152) <= 1152
    # LAME's header also states the encoder's delay.
    matches = [
        delay
        for delay in range(2500)
        if np.allclose(found[:, delay + 5000 : delay + 5200], whole[:, 5000:5200], atol=1e-4)
    ]
    assert matches


def test_ogg_flac_without_its_end_is_told(tmp_path: Path) -> None:
    needs_ffmpeg()
    sf.write(tmp_path / "a.wav", music(2.0), RATE)
    path = tmp_path / "a.oga"
    make = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "flac", path]
    subprocess.run(make, check=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "no end mark" in read(path)[2][0]
