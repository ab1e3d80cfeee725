"""Writing stems: complete or absent, never clipped in silence, the same bytes on every run."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.encodings import CONTAINERS, AudioInfo, Encoding, choose_encoding
from mssgen.audio.writing import StemWriter, copy_to_stdout
from mssgen.errors import AudioError, UsageError

from support.models import EXCERPT

RATE = 44_100
LOSSLESS = [
    (container, depth)
    for container, limits in CONTAINERS.items()
    for depth in limits.bit_depths
    if not limits.codec
]


def music(seconds: float = 1.0) -> NDArray[np.float32]:
    """A passage of the excerpt, [C, T]."""
    samples, _ = sf.read(EXCERPT, int(seconds * RATE), 5 * RATE, dtype="float32")
    return np.ascontiguousarray(samples.T)


def write(
    target: Path,
    samples: NDArray[np.float32],
    container: str = "wav",
    bit_depth: str = "16",
    *,
    clip: str = "none",
    gain: float = 1.0,
    rate: int = RATE,
    block_samples: int = 5000,
) -> Path:
    with StemWriter(
        target,
        sample_rate=rate,
        n_channels=samples.shape[0],
        n_samples=samples.shape[1],
        encoding=Encoding(container, bit_depth),
        clip=clip,
    ) as writer:
        for start in range(0, samples.shape[1], block_samples):
            writer.write(samples[:, start : start + block_samples])
        return writer.finish(gain)


def read(path: Path, bit_depth: str = "") -> NDArray[np.float32]:
    raw = {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}
    how = {}
    if path.suffix == ".raw":
        how = {
            "samplerate": RATE,
            "channels": 2,
            "format": "RAW",
            "subtype": raw[bit_depth],
            "endian": "LITTLE",
        }
    samples, _ = sf.read(path, dtype="float32", always_2d=True, **how)
    return np.ascontiguousarray(samples.T)


# Formats.


@pytest.mark.parametrize(("container", "bit_depth"), LOSSLESS)
@pytest.mark.parametrize("clip", ["rescale", "none"])
def test_lossless_formats(tmp_path: Path, container: str, bit_depth: str, clip: str) -> None:
    samples = music()
    target = tmp_path / "new" / "folder" / f"bass.{Encoding(container, bit_depth).extension}"
    assert write(target, samples, container, bit_depth, clip=clip) == target
    assert [one.name for one in target.parent.iterdir()] == [target.name]
    found = read(target, bit_depth)
    assert found.shape == samples.shape
    # The excerpt is 16 bit: only dither (up to 1.5 steps with its rounding) may change it.
    assert np.abs(found - samples).max() <= (1.5 * 2**-15 if bit_depth == "16" else 0)
    if container != "raw":
        subtype = sf.info(target).subtype
        assert subtype == {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}[bit_depth]


@pytest.mark.parametrize("container", ["ogg", "opus", "mp3"])
@pytest.mark.parametrize("n_samples", [1, 1000, 48_000])
@pytest.mark.parametrize("clip", ["rescale", "clamp"])
def test_lossy_formats_keep_length_and_place(
    tmp_path: Path, container: str, n_samples: int, clip: str
) -> None:
    samples = music(2.0)[:, :n_samples]
    target = write(tmp_path / "a.bin", samples, container, clip=clip, rate=48_000)
    found = read(target)
    assert found.shape == samples.shape
    if n_samples > 10_000:
        error = found - samples
        assert 10 * np.log10((samples**2).sum() / (error**2).sum()) > 10


def test_long_wav_becomes_rf64() -> None:
    encoding = Encoding("wav", "24")
    assert encoding.sndfile_format(10**8, 2) == ("WAV", "PCM_24")
    assert encoding.sndfile_format(2**32 // 6, 2) == ("RF64", "PCM_24")
    assert Encoding("w64", "24").sndfile_format(2**32, 2) == ("W64", "PCM_24")
    with pytest.raises(UsageError, match="`container='aiff'`"):
        Encoding("aiff", "16").sndfile_format(2**31, 2)


def test_a_wav_that_declares_more_than_4_gib_is_rf64_on_disk(tmp_path: Path) -> None:
    writer = StemWriter(
        tmp_path / "a.wav",
        sample_rate=RATE,
        n_channels=2,
        n_samples=2**31,
        encoding=Encoding("wav", "16"),
        clip="none",
    )
    with writer:
        writer.write(np.zeros((2, 2**17), np.float32))
        (part,) = tmp_path.iterdir()
        assert part.read_bytes()[:4] == b"RF64"


@pytest.mark.parametrize(
    ("subtype", "container", "bit_depth", "expected"),
    [
        ("PCM_16", None, None, ("wav", "16")),
        ("PCM_24", None, None, ("wav", "24")),
        ("PCM_32", None, None, ("wav", "32f")),
        ("DOUBLE", None, None, ("wav", "32f")),
        ("PCM_U8", None, None, ("wav", "16")),
        ("VORBIS", None, None, ("wav", "16")),
        ("", None, None, ("wav", "16")),
        ("FLOAT", "flac", None, ("flac", "24")),
        ("PCM_16", "raw", None, ("raw", "32f")),
        ("PCM_16", "raw", "24", ("raw", "24")),
        ("PCM_16", "aiff", "32f", ("aiff", "32f")),
    ],
)
def test_default_encoding_follows_the_input(
    subtype: str, container: str | None, bit_depth: str | None, expected: tuple[str, str]
) -> None:
    info = AudioInfo(RATE, 2, "wav", subtype)
    encoding = choose_encoding(info, container, bit_depth)
    assert (encoding.container, encoding.bit_depth) == expected
    encoding.check(RATE, 2)


@pytest.mark.parametrize(
    ("container", "bit_depth", "rate", "n_channels", "sentence"),
    [
        ("mp3", "16", 96_000, 2, "`container='mp3'` cannot hold 96000 Hz; add `sample_rate=48000`"),
        (
            "opus",
            "16",
            44_100,
            2,
            "`container='opus'` cannot hold 44100 Hz; add `sample_rate=48000`",
        ),
        ("mp3", "16", 13_000, 2, "`sample_rate=16000`"),
        ("flac", "32f", 44_100, 2, "`container='flac'` cannot hold `bit_depth='32f'`"),
        ("mp3", "16", 44_100, 6, "`container='mp3'` holds at most 2 channels"),
        ("flac", "16", 44_100, 9, "`container='flac'` holds at most 8 channels"),
        ("wma", "16", 44_100, 2, "`container='wma'` is unknown"),
        ("wav", "8", 44_100, 2, "`bit_depth='8'` is unknown"),
    ],
)
def test_what_a_format_cannot_hold(
    container: str, bit_depth: str, rate: int, n_channels: int, sentence: str
) -> None:
    info = AudioInfo(rate, n_channels, "wav", "PCM_16")
    with pytest.raises(UsageError, match=sentence):
        choose_encoding(info, container, bit_depth).check(rate, n_channels)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_check_lets_pass_can_be_written(tmp_path: Path, container: str) -> None:
    limits = CONTAINERS[container]
    for rate in limits.sample_rates or (8000, 192_000):
        for n_channels in {1, limits.max_channels}:
            samples = np.full((n_channels, 300), 0.1, np.float32)
            write(tmp_path / f"{rate}-{n_channels}", samples, container, rate=rate)


# Clipping, dither.


def test_rescale_waits_for_the_gain(tmp_path: Path) -> None:
    samples = 3 * music()
    for encoding in (Encoding("wav", "16"), Encoding("flac", "24"), Encoding("ogg", "16")):
        writer = StemWriter(
            tmp_path / f"bass.{encoding.extension}",
            sample_rate=RATE,
            n_channels=2,
            n_samples=RATE,
            encoding=encoding,
            clip="rescale",
        )
        with writer:
            writer.write(samples[:, :1234])
            writer.write(samples[:, 1234:])
            assert writer.peak == pytest.approx(np.abs(samples).max())
            assert writer.peak > 1
            gain = encoding.ceiling / writer.peak
            found = read(writer.finish(gain))
        if not encoding.is_lossy:
            assert np.abs(found - gain * samples).max() <= 1.5 * 2**-15
        assert 0.95 < np.abs(found).max() < 1


def test_float_keeps_what_is_above_full_scale(tmp_path: Path) -> None:
    samples = 3 * music()
    for clip in ("rescale", "none"):
        assert np.array_equal(
            read(write(tmp_path / "a.wav", samples, "wav", "32f", clip=clip)), samples
        )
    clamped = read(write(tmp_path / "a.wav", samples, "wav", "32f", clip="clamp"))
    assert np.array_equal(clamped, np.clip(samples, -1, 1))


@pytest.mark.parametrize(("bit_depth", "step"), [("16", 2**-15), ("24", 2**-23)])
@pytest.mark.parametrize("clip", ["clamp", "none"])
def test_integers_saturate(tmp_path: Path, bit_depth: str, step: float, clip: str) -> None:
    samples = np.float32([[0.5, 1.0, 1.5, 40.0, -0.5, -1.0, -1.5, -40.0]])
    found = read(write(tmp_path / "a.wav", samples, "wav", bit_depth, clip=clip))
    expected = np.clip(samples, -1, 1 - step)
    assert np.abs(found - expected).max() <= (1.5 * step if bit_depth == "16" else 0)
    assert np.array_equal(found[0, [2, 3, 6, 7]], expected[0, [2, 3, 6, 7]])


def test_dither_is_triangular_white_and_leaves_silence(tmp_path: Path) -> None:
    n_samples, step = 200_000, 2.0**-15
    samples = np.full((2, n_samples), 0.3 * step, np.float32)
    samples[:, : n_samples // 4] = 0
    found = read(write(tmp_path / "bass.wav", samples)) / step
    assert not found[:, : n_samples // 4].any()
    noise = found[:, n_samples // 4 :] - 0.3
    # Triangular dither: no bias, and a total error of a quarter step squared at any level.
    assert abs(noise.mean()) < 0.01
    assert noise.var() == pytest.approx(0.25, rel=0.02)
    left, right = noise - noise.mean(axis=1, keepdims=True)
    for one, other in ((left[1:], left[:-1]), (left, right)):
        assert abs(np.mean(one * other)) < 0.01


def test_dither_of_two_stems_differs_and_of_two_runs_does_not(tmp_path: Path) -> None:
    samples = music(0.5)
    bass, drums = write(tmp_path / "bass.wav", samples), write(tmp_path / "drums.wav", samples)
    assert bass.read_bytes() != drums.read_bytes()
    assert write(tmp_path / "again" / "bass.wav", samples).read_bytes() == bass.read_bytes()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    block_samples=st.integers(1, 6000),
    encoding=st.sampled_from([("wav", "16"), ("flac", "24"), ("raw", "32f")]),
    clip=st.sampled_from(["rescale", "clamp", "none"]),
)
def test_blocks_do_not_matter(
    tmp_path: Path, block_samples: int, encoding: tuple[str, str], clip: str
) -> None:
    samples = music(0.1)
    whole = write(tmp_path / "a" / "bass", samples, *encoding, clip=clip, block_samples=10**6)
    parts = write(
        tmp_path / "b" / "bass", samples, *encoding, clip=clip, block_samples=block_samples
    )
    assert parts.read_bytes() == whole.read_bytes()


# Complete or absent.


def start(target: Path, *, clip: str = "rescale", n_samples: int = RATE) -> StemWriter:
    return StemWriter(
        target,
        sample_rate=RATE,
        n_channels=2,
        n_samples=n_samples,
        encoding=Encoding("wav", "16"),
        clip=clip,
    )


def interrupted(target: Path, clip: str) -> None:
    with start(target, clip=clip) as writer:
        writer.write(music(0.5))
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "bass.wav"
    target.write_bytes(b"the stem of an earlier run")
    for clip in ("rescale", "clamp", "none"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(target, clip)
    assert [one.name for one in tmp_path.iterdir()] == ["bass.wav"]
    assert target.read_bytes() == b"the stem of an earlier run"


def test_a_stem_of_another_length_is_not_finished(tmp_path: Path) -> None:
    with start(tmp_path / "a.wav") as writer:
        writer.write(music(0.5))
        with pytest.raises(ValueError, match="22050 samples written of 44100"):
            writer.finish()
    assert not list(tmp_path.iterdir())


def test_a_gain_after_the_fact_is_refused(tmp_path: Path) -> None:
    with start(tmp_path / "a.wav", clip="none") as writer:
        writer.write(music(1.0))
        with pytest.raises(ValueError, match="rescale"):
            writer.finish(0.5)
    assert not list(tmp_path.iterdir())


def test_samples_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    samples = music(1.0)
    samples[1, 77] = np.nan
    with pytest.raises(AudioError, match="NaN or infinite"), start(tmp_path / "a.wav") as writer:
        writer.write(samples)
    assert not list(tmp_path.iterdir())


def test_unknown_clip_mode(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`clip='soft'` is unknown"):
        start(tmp_path / "a.wav", clip="soft")


KILLED = """
import sys
import numpy as np
from pathlib import Path
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import StemWriter

writer = StemWriter(
    Path(sys.argv[1]), sample_rate=44100, n_channels=2, n_samples=10**9,
    encoding=Encoding("wav", "24"), clip=sys.argv[2],
)
for i in range(10**9):
    writer.write(np.full((2, 10_000), 0.1, np.float32))
    if i == 20:
        print("writing", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("clip", ["rescale", "none"])
def test_a_killed_run_leaves_no_stem(tmp_path: Path, clip: str) -> None:
    target = tmp_path / "bass.wav"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target), clip], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert not target.exists()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert all(one.name.startswith(".mssgen-") for one in tmp_path.iterdir())


# Disks and permissions.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("clip", ["rescale", "none"])
@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_full_disk(
    small_disk: Path, container: str, clip: str, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 12 * RATE)).astype(np.float32)
    target = small_disk / "song" / f"bass.{container}"
    with pytest.raises(AudioError, match="the disk is full") as caught:
        write(target, samples, container, clip=clip)
    assert str(caught.value).startswith(f"{target} ")
    assert not list(target.parent.iterdir())
    assert capfd.readouterr().err == ""


def test_full_disk_in_the_last_bytes(small_disk: Path) -> None:
    # What fits raw but not once the file's own buffer is emptied.
    samples = np.zeros((2, 2**18 // 4), np.float32)
    with pytest.raises(AudioError, match="the disk is full"):
        write(small_disk / "bass.wav", samples)
    assert not list(small_disk.iterdir())


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from mssgen.audio.encodings import Encoding
from mssgen.audio.writing import StemWriter
from mssgen.errors import AudioError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with StemWriter(
        Path(sys.argv[1]), sample_rate=44100, n_channels=2, n_samples=10**6,
        encoding=Encoding(sys.argv[2], "16"), clip=sys.argv[3],
    ) as writer:
        for block in np.random.default_rng(0).uniform(-1, 1, (100, 2, 10_000)).astype("f4"):
            writer.write(block)
        writer.finish(0.5 if sys.argv[3] == "rescale" else 1.0)
except AudioError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no file size limits here")
@pytest.mark.parametrize(("container", "clip"), [("wav", "none"), ("flac", "rescale")])
def test_a_file_that_may_not_grow(tmp_path: Path, container: str, clip: str) -> None:
    target = tmp_path / "bass"
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(target), container, clip],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    assert result.stdout.startswith(f"{target} cannot be written: the file would be too large")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Give up root for the length of a test; the folder must be the current one by then."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no POSIX permissions here")
    monkeypatch.chdir(".")
    user = os.geteuid()
    yield lambda: os.seteuid(65_534) if user == 0 else None
    os.seteuid(user)


def test_no_permission(tmp_path: Path, unprivileged: Callable[[], None]) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    os.chdir(tmp_path)
    unprivileged()
    for target in (Path("locked/bass.wav"), Path("locked/new/bass.wav")):
        for clip in ("rescale", "none"):
            with pytest.raises(AudioError, match=r"locked.*there is no permission"):
                start(target, clip=clip)


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    for target, reason in [
        (tmp_path / "file" / "bass.wav", "file"),
        (tmp_path / "file" / "folder" / "bass.wav", "file"),
        (tmp_path / "folder.wav", "a folder has that name"),
        (tmp_path / ("x" * 300) / "bass.wav", "too long"),
    ]:
        with pytest.raises(AudioError, match=f"cannot be written: .*{reason}"):
            write(target, music(0.1))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder.wav"]


# Standard output.


def test_copy_to_stdout(tmp_path: Path) -> None:
    with open(tmp_path / "copy", "wb") as stream:
        copy_to_stdout(EXCERPT, stream)
    assert (tmp_path / "copy").read_bytes() == EXCERPT.read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_copy_to_a_full_disk() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as stream,
        pytest.raises(AudioError, match="standard output cannot be written: the disk is full"),
    ):
        copy_to_stdout(EXCERPT, stream)


def test_a_closed_pipe_stays_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as stream, pytest.raises(BrokenPipeError) as caught:
        copy_to_stdout(EXCERPT, stream)
    assert caught.value.errno == errno.EPIPE
