"""Reading sound files: the same samples by every way in, and a sentence for every bad file."""

import io
import os
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.reading import check_finite, open_source
from mssgen.audio.resampling import fit_length, resample
from mssgen.errors import AudioError, UsageError

from support.models import EXCERPT

RATE = 44_100
fixture_is_read_only = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# File name, libsndfile's format and subtype, sample rate, error that the format may add.
READABLE = [
    ("a.wav", "WAV", "PCM_U8", RATE, 2**-7),
    ("a.wav", "WAV", "PCM_16", RATE, 2**-15),
    ("a.wav", "WAV", "PCM_24", RATE, 2**-23),
    ("a.wav", "WAV", "PCM_32", RATE, 2**-23),
    ("a.wav", "WAV", "FLOAT", RATE, 0),
    ("a.wav", "WAV", "DOUBLE", RATE, 0),
    ("a.wav", "WAV", "ULAW", RATE, 0.05),
    ("a.wav", "WAVEX", "PCM_24", RATE, 2**-23),
    ("a.wav", "RF64", "PCM_16", RATE, 2**-15),
    ("a.flac", "FLAC", "PCM_16", RATE, 2**-15),
    ("a.flac", "FLAC", "PCM_24", 96_000, 2**-23),
    ("a.aiff", "AIFF", "PCM_16", RATE, 2**-15),
    ("a.caf", "CAF", "FLOAT", RATE, 0),
    ("a.caf", "CAF", "ALAC_24", RATE, 2**-22),
    ("a.w64", "W64", "PCM_24", RATE, 2**-23),
    ("a.au", "AU", "PCM_16", RATE, 2**-15),
    ("a.ogg", "OGG", "VORBIS", RATE, 0.2),
    ("a.opus", "OGG", "OPUS", 48_000, 0.2),
    ("a.mp3", "MP3", "MPEG_LAYER_III", RATE, 0.2),
]


def music(seconds: float = 1.0, start_s: float = 3.0) -> NDArray[np.float32]:
    """A passage of the excerpt, [C, T]."""
    first = int(start_s * RATE)
    samples, _ = sf.read(EXCERPT, int(seconds * RATE), first, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)


def write(path: Path, samples: NDArray[np.float32], rate: int = RATE, **how: str) -> Path:
    sf.write(path, samples.T, rate, **how)
    return path


def read(
    path: Path | str, block_samples: int = 10_007, *, strict: bool = False
) -> NDArray[np.float32]:
    with open_source(path, strict=strict) as source:
        return np.concatenate(list(source.blocks(block_samples)), axis=1)


def in_blocks(samples: NDArray[np.float32], n: int) -> Iterator[NDArray[np.float32]]:
    return (samples[:, start : start + n] for start in range(0, samples.shape[1], n))


@pytest.mark.parametrize(("name", "format", "subtype", "rate", "tolerance"), READABLE)
def test_every_format_keeps_length_and_samples(
    tmp_path: Path, name: str, format: str, subtype: str, rate: int, tolerance: float
) -> None:
    samples = music(0.7)
    path = write(tmp_path / name, samples, rate, format=format, subtype=subtype)
    with open_source(path) as source:
        assert source.name == str(path)
        assert (source.info.sample_rate, source.info.n_channels) == (rate, 2)
        assert source.info.container == {"WAVEX": "wav", "RF64": "wav"}.get(format, format.lower())
        assert source.info.subtype == subtype
        passes = [np.concatenate(list(source.blocks(4096)), axis=1) for _ in range(2)]
    assert passes[0].shape == samples.shape
    assert passes[0].dtype == np.float32
    assert np.array_equal(*passes)
    assert np.abs(passes[0] - samples).max() <= tolerance


@fixture_is_read_only
@given(block_samples=st.integers(1, 40_000), n_channels=st.integers(1, 8))
def test_blocks_are_the_file_whatever_their_size(
    tmp_path: Path, block_samples: int, n_channels: int
) -> None:
    samples = np.resize(music(0.2), (n_channels, 3001))
    path = write(tmp_path / f"{n_channels}.wav", samples, subtype="FLOAT")
    with open_source(path) as source:
        blocks = list(source.blocks(block_samples))
    assert all(block.shape[1] <= block_samples for block in blocks)
    assert np.array_equal(np.concatenate(blocks, axis=1), samples)


@pytest.mark.parametrize("name", ["曲 🎸.wav", "-y.wav", "a.mp3", "no extension"])
def test_names_do_not_matter(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "song.wav", music(0.1)).rename(name)
    assert read(name).shape == (2, 4410)


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "song.wav", music(0.1)).rename(path)
    assert read(path).shape == (2, 4410)


def test_reading_takes_one_block_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with sf.SoundFile(path, "w", RATE, 2) as file:
        for _ in range(60):
            file.write(np.zeros((RATE, 2), np.int16))
    with open_source(path) as source:
        tracemalloc.start()
        n_samples = sum(block.shape[1] for block in source.blocks(2**12))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert n_samples == 60 * RATE
    assert peak_bytes < 2**20  # the file has 10 MB, 21 MB as float32


def without_length_header(mp3: bytes) -> bytes:
    """The second frame onwards: what encoders wrote before the Xing header was usual."""
    assert mp3[:2] == b"\xff\xfb"
    assert b"Xing" in mp3[:200]
    sync, start = mp3[:2], 100
    return mp3[mp3.index(sync, start) :]


def test_mp3_of_variable_rate_without_length_header_is_read_to_its_end(tmp_path: Path) -> None:
    # libsndfile takes the first, quiet frames for the rate of all and would stop half way.
    tone = 0.01 * np.sin(0.05 * np.arange(4 * RATE, dtype=np.float32))
    samples = np.concatenate([np.stack([tone, tone]), music(8.0)], axis=1)
    path = tmp_path / "old.mp3"
    sf.write(path, samples.T, RATE, bitrate_mode="VARIABLE", compression_level=0.0)
    path.write_bytes(without_length_header(path.read_bytes()))
    assert sf.info(path).frames < 0.75 * samples.shape[1]
    found = read(path)
    assert 0 <= found.shape[1] - samples.shape[1] <= 3 * 1152
    # The decoder's delay is known only to the header that is gone.
    tail = samples[0, -RATE - 5000 : -5000]
    lags = [found[0, -RATE - 5000 - lag : -5000 - lag] for lag in range(0, 3 * 1152)]
    assert max(float(np.dot(tail, one) / np.dot(tail, tail)) for one in lags) > 0.95


def test_wav_of_unknown_length_from_a_pipe_is_complete(tmp_path: Path) -> None:
    samples = music(0.5)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    for placeholder in (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF):
        header = bytearray(path.read_bytes())
        where = header.index(b"data") + 4
        header[4:8] = header[where : where + 4] = struct.pack("<I", placeholder)
        path.write_bytes(header)
        assert np.array_equal(read(path), samples)


# Standard input.


def test_standard_input_is_spooled_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_source("-", stdin=io.BytesIO(EXCERPT.read_bytes())) as source:
        assert source.name == "standard input"
        assert source.path.is_relative_to(tmp_path)
        n_samples = [sum(block.shape[1] for block in source.blocks()) for _ in range(2)]
    assert n_samples == [16 * RATE] * 2
    assert list(tmp_path.iterdir()) == []


def test_empty_standard_input_is_a_sentence() -> None:
    with (
        pytest.raises(AudioError, match="standard input is empty"),
        open_source("-", stdin=io.BytesIO()),
    ):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", f'cat "{EXCERPT}" > "{pipe}"']) as writer:
        assert read(pipe, 2**16).shape == (2, 16 * RATE)
    assert writer.returncode == 0


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_is_no_sound_file() -> None:
    main, terminal = os.openpty()
    with (
        open(terminal, "rb") as stdin,
        pytest.raises(UsageError, match="terminal"),
        open_source("-", stdin=stdin),
    ):
        pass
    os.close(main)


# Bad files: one sentence that names the file.


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("Ceci n'est pas un fichier son, même s'il s'appelle ainsi.\n" * 300)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(10_000))


def random_bytes(path: Path) -> None:
    path.write_bytes(b"\x07" + np.random.default_rng(0).bytes(10_000))


def no_samples(path: Path) -> None:
    write(path, np.zeros((2, 0), np.float32))


def slow(path: Path) -> None:
    write(path, music(0.1), 4000)


def fast(path: Path) -> None:
    write(path, music(0.1), 2_822_400)


def crowded(path: Path) -> None:
    write(path, np.zeros((65, 100), np.float32))


def m4a(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, "does not exist"),
        (folder, "is a folder"),
        (empty, "is empty"),
        (text, "is text, not sound"),
        (zeros, "not a sound file"),
        (random_bytes, "not a sound file"),
        (no_samples, "holds no samples"),
        (slow, "a sample rate of 4000 Hz"),
        (fast, "a sample rate of 2822400 Hz"),
        (crowded, "has 65 channels"),
        (m4a, r"is MP4 .* needs ffmpeg"),
    ],
)
def test_bad_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    sentence: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # as on a machine without ffmpeg
    path = tmp_path / "song.wav"
    make(path)
    with pytest.raises(AudioError, match=sentence) as caught, open_source(path):
        pass
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)


def test_a_name_with_a_null_byte_is_a_sentence() -> None:
    with pytest.raises(AudioError, match="cannot be read"), open_source("a\0b.wav"):
        pass


def test_no_permission(tmp_path: Path, unprivileged: Callable[[], None]) -> None:
    path = write(tmp_path / "locked.wav", music(0.1))
    path.chmod(0)
    os.chdir(tmp_path)
    unprivileged()
    with pytest.raises(AudioError, match=r"locked\.wav cannot be read"), open_source("locked.wav"):
        pass


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Give up root for the length of a test; the folder must be the current one by then."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no POSIX permissions here")
    monkeypatch.chdir(".")
    user = os.geteuid()
    yield lambda: os.seteuid(65_534) if user == 0 else None
    os.seteuid(user)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.97])
@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.aiff", "a.caf", "a.w64", "a.au", "a.mp3", "rf64.wav"]
)
def test_cut_short(tmp_path: Path, name: str, share: float) -> None:
    how = {"format": "RF64"} if name == "rf64.wav" else {}
    path = write(tmp_path / name, music(4.0), **how)
    complete = path.read_bytes()
    path.write_bytes(complete[: int(share * len(complete))])
    told: list[str] = []
    with open_source(path, warn=told.append) as source:
        n_samples = sum(block.shape[1] for block in source.blocks())
    assert abs(n_samples / (4 * RATE) - share) < 0.06
    assert [message.startswith(f"{path} is cut short: it holds ") for message in told] == [True]
    declared_s = float(told[0].split()[-4])
    assert abs(declared_s - 4) < 0.06  # of mp3, with the encoder's delay
    with pytest.raises(AudioError, match=r"cut short.*leave out `strict`"):
        read(path, strict=True)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus"])
def test_damage_in_the_middle(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, music(4.0), 48_000, **({} if name != "a.opus" else OPUS))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(byte ^ 0x5A for byte in data[middle : middle + 600])
    path.write_bytes(data)
    told: list[str] = []
    with open_source(path, warn=told.append) as source:
        n_samples = sum(block.shape[1] for block in source.blocks())
        assert n_samples == sum(block.shape[1] for block in source.blocks(1000))
    # Silence keeps the place of what is lost.
    assert abs(n_samples - 4 * RATE) <= 1
    assert len(told) == 1
    assert told[0].startswith(f"{path} is damaged at ")
    with pytest.raises(AudioError, match=r"is damaged at .* s.*leave out `strict`"):
        read(path, strict=True)


OPUS = {"format": "OGG", "subtype": "OPUS"}


def test_ogg_without_an_end_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.ogg", music(4.0))
    path.write_bytes(path.read_bytes()[:-3000])
    assert 0 < read(path).shape[1] < 4 * RATE
    assert f"{path} has no end mark" in caplog.text


def test_not_finite() -> None:
    block = np.zeros((2, 1000), np.float32)
    check_finite(block, 0, RATE, "song.wav")
    for bad in (np.nan, np.inf, -np.inf):
        block[1, 500] = bad
        with pytest.raises(AudioError, match=r"song\.wav holds .* at 2\.500 s"):
            check_finite(block, 2000, 1000, "song.wav")


@fixture_is_read_only
@given(
    where=st.lists(st.integers(0, 10**9), max_size=12),
    cut=st.one_of(st.none(), st.integers(0, 10**9)),
    name=st.sampled_from(["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.caf"]),
)
def test_damaged_bytes_give_sound_or_a_sentence(
    tmp_path: Path, where: list[int], cut: int | None, name: str
) -> None:
    original = tmp_path / f"original-{name}"
    if not original.exists():
        write(original, music(0.4))
    data = bytearray(original.read_bytes())
    for place in where:
        # Headers are where it hurts.
        data[place % (200 if place % 2 else len(data))] = place % 251
    path = tmp_path / name
    path.write_bytes(data[: cut % len(data)] if cut is not None else data)
    try:
        found = read(path)
    except AudioError as error:
        sentence = str(error)
    else:
        sentence = f"{path} is sound" if found.size and found.dtype == np.float32 else ""
    assert sentence.startswith(f"{path} ")


# ffmpeg.


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["a.m4a", "a.wma", "a.mka", "-a b:c.m4a"])
def test_ffmpeg_reads_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.wav", music(2.0))
    subprocess.run(["ffmpeg", "-v", "error", "-i", "a.wav", f"file:{tmp_path / name}"], check=True)
    with open_source(name) as source:
        assert source.info.subtype == ""
        assert source.info.container == name[-3:]
        decoded = np.concatenate(list(source.blocks()), axis=1)
    assert abs(decoded.shape[1] - 2 * RATE) <= 4096
    assert not source.path.exists()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_what_ffmpeg_cannot_decode_is_a_sentence(tmp_path: Path) -> None:
    m4a(path := tmp_path / "a.m4a")
    with pytest.raises(AudioError, match="ffmpeg") as caught, open_source(path):
        pass
    assert "\n" not in str(caught.value)


# Rates and lengths.


@settings(max_examples=40, deadline=None)
@given(
    in_rate=st.one_of(st.integers(8000, 192_000), st.sampled_from([RATE, 48_000, 96_000])),
    out_rate=st.sampled_from([8000, 22_050, RATE, 48_000, 192_000]),
    n_samples=st.integers(1, 30_000),
    n_channels=st.integers(1, 3),
    block_samples=st.integers(100, 40_000),
)
def test_resample_and_back_has_the_exact_length(
    in_rate: int, out_rate: int, n_samples: int, n_channels: int, block_samples: int
) -> None:
    samples = np.resize(music(0.3), (n_channels, n_samples))
    there = list(resample(in_blocks(samples, block_samples), n_channels, in_rate, out_rate))
    n_there = sum(block.shape[1] for block in there)
    assert abs(n_there - n_samples * out_rate / in_rate) <= 1
    back = list(fit_length(resample(there, n_channels, out_rate, in_rate), n_channels, n_samples))
    assert sum(block.shape[1] for block in back) == n_samples
    assert all(block.dtype == np.float32 and block.shape[0] == n_channels for block in back)


@pytest.mark.parametrize("rate", [48_000, 96_000, 192_000])
def test_resample_keeps_sound_in_its_place(rate: int) -> None:
    samples = music(2.0)
    up = resample(in_blocks(samples, 5000), 2, RATE, rate)
    back = np.concatenate(list(fit_length(resample(up, 2, rate, RATE), 2, 2 * RATE)), axis=1)
    inside = slice(2000, -2000)
    error = back[:, inside] - samples[:, inside]
    assert 10 * np.log10((samples[:, inside] ** 2).sum() / (error**2).sum()) > 60


def test_equal_rates_pass_through() -> None:
    block = music(0.1)
    assert next(resample(iter([block]), 2, RATE, RATE)) is block


@given(lengths=st.lists(st.integers(0, 300), max_size=8), n_samples=st.integers(0, 2000))
def test_fit_length_cuts_or_pads_the_end(lengths: list[int], n_samples: int) -> None:
    whole = np.arange(1, 2 * sum(lengths) + 1, dtype=np.float32).reshape(2, -1)
    blocks = np.split(whole, np.cumsum(lengths)[:-1], axis=1) if lengths else []
    fitted = list(fit_length(blocks, 2, n_samples))
    found = np.concatenate([np.zeros((2, 0), np.float32), *fitted], axis=1)
    assert found.shape == (2, n_samples)
    n_kept = min(n_samples, whole.shape[1])
    assert np.array_equal(found[:, :n_kept], whole[:, :n_kept])
    assert not found[:, n_kept:].any()
