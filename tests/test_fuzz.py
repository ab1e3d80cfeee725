"""Damaged files give stems of the length that was read, or one sentence; never a surprise."""

import io
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

from mssgen.audio.reading import open_source
from mssgen.audio.tags import Picture, Tags, write_tags
from mssgen.events import Done, Event, Failed, Warned
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import separate_files
from mssgen.outputs import plan_outputs
from mssgen.pipeline import load_separator
from mssgen.separators.base import Separator

Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]

N_SEEDS = 5
MAX_FILE_S = 20.0
MAX_GROWTH_BYTES = 2 * 2**30
# Name: libsndfile's format and subtype, rate in Hz.
FORMATS = {
    "pcm16.wav": ("WAV", "PCM_16", 44_100),
    "float.wav": ("WAV", "FLOAT", 48_000),
    "pcm16.flac": ("FLAC", "PCM_16", 44_100),
    "vorbis.ogg": ("OGG", "VORBIS", 44_100),
    "opus.opus": ("OGG", "OPUS", 48_000),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III", 44_100),
    "pcm24.aiff": ("AIFF", "PCM_24", 22_050),
    "alac.caf": ("CAF", "ALAC_16", 44_100),
    "pcm16.w64": ("W64", "PCM_16", 44_100),
    "pcm16.au": ("AU", "PCM_16", 8_000),
}
TAGS = Tags(
    {"title": ("Damaged",), "artist": ("Nobody", "Somebody")},
    (Picture("image/png", 3, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4),),
)
EXTREMES = (0, 1, 2, 65, 4_000, 8_000, 192_001, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


@pytest.fixture(scope="module")
def separator(tiny_model: Path) -> Separator:
    return load_separator(str(tiny_model), precision="fp32")


@pytest.fixture(scope="module")
def originals(music: NDArray[np.float32]) -> dict[str, bytes]:
    return make_originals(music)


def make_originals(music: NDArray[np.float32]) -> dict[str, bytes]:
    """A fifth of a second of real music in every format."""
    made = {}
    for name, (container, subtype, rate) in FORMATS.items():
        file = io.BytesIO()
        sf.write(file, music[:, : rate // 5].T, rate, format=container, subtype=subtype)
        made[name] = file.getvalue()
    return made


def with_tags(original: bytes, path: Path) -> bytes:
    path.write_bytes(original)
    write_tags(path, TAGS, stem="bass", container=path.suffix[1:])
    return path.read_bytes()


# Ways of damage.


def flip_bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 50)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_header(data: bytes, rng: Rng) -> bytes:
    return flip_bits(data[:160], rng) + data[160:]


def cut_at_any_scale(data: bytes, rng: Rng) -> bytes:
    n_bytes = int(math.exp(rng.uniform(0, math.log(len(data)))))
    return data[:n_bytes] if rng.random() < 0.5 else data[: len(data) - n_bytes]


def extreme_field(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 3)):
        n_bytes = int(rng.choice([1, 2, 4, 8]))
        value = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * n_bytes)
        place = 2 * int(rng.integers(2, 48))
        changed[place : place + n_bytes] = value.to_bytes(n_bytes, rng.choice(["little", "big"]))
    return bytes(changed)


def repeat_a_slice(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:last] + data[first:last] * int(rng.integers(1, 4)) + data[last:]


def lose_a_slice(data: bytes, rng: Rng) -> bytes:
    first = int(rng.integers(0, len(data)))
    return data[:first] + data[first + int(rng.integers(1, 5000)) :]


def zero_a_region(data: bytes, rng: Rng) -> bytes:
    first = int(rng.integers(0, len(data)))
    n_bytes = int(math.exp(rng.uniform(0, math.log(len(data)))))
    return data[:first] + bytes(len(data[first : first + n_bytes])) + data[first + n_bytes :]


def noise_behind_the_magic(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(4, 128)] + rng.bytes(int(rng.integers(1, 20_000)))


def empty_chunks(data: bytes, rng: Rng) -> bytes:
    """Chunks of no length, or of the wrong one, behind the header of the container."""
    place = int(rng.choice([4, 8, 12, 16, 36, 40, 42]))
    size = int(rng.choice([0, 0, 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
    name = rng.choice([b"LIST", b"data", b"fmt ", b"SSND", b"id3 ", b"OggS", b"desc"])
    return data[:place] + (bytes(name) + size) * int(rng.integers(1, 300)) + data[place:]


def hurt_the_tags(data: bytes, rng: Rng) -> bytes:
    """Lengths, types and bytes of the picture and of its neighbours, which come before the PNG."""
    place = max(data.find(b"image/png"), 40)
    changed = bytearray(data)
    for _ in range(rng.integers(1, 12)):
        n_bytes = int(rng.choice([1, 2, 4]))
        where = place + int(rng.integers(-40, 60))
        value = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * n_bytes)
        changed[where : where + n_bytes] = value.to_bytes(n_bytes, "big")
    return bytes(changed)


def nested_tags(data: bytes, rng: Rng) -> bytes:
    """ID3 in ID3 with sizes that are wrong, and more tags behind the sound."""

    def header() -> bytes:
        size = bytes(int(x) for x in rng.integers(0, 128, 4)) if rng.random() < 0.5 else bytes(4)
        return b"ID3" + bytes(rng.integers(0, 256, 3, np.uint8) & [7, 3, 0xF0]) + size

    frames = b"APIC" + rng.bytes(6) + b"\0image/png\0\3\0" + rng.bytes(100)
    before = b"".join(header() + frames for _ in range(rng.integers(1, 20)))
    after = b"APETAGEX" + rng.bytes(24) + b"TAG" + rng.bytes(125) + header()
    return before + data + after


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    flip_header,
    cut_at_any_scale,
    extreme_field,
    repeat_a_slice,
    lose_a_slice,
    zero_a_region,
    noise_behind_the_magic,
    empty_chunks,
    hurt_the_tags,
    nested_tags,
)


def damaged_files(
    folder: Path, name: str, originals: dict[str, bytes], n_seeds: int
) -> Iterator[Path]:
    """Write the damaged files of one format; the same on every run."""
    stem, suffix = name.split(".")
    whole = (originals[name], with_tags(originals[name], folder / f"whole.{suffix}"))
    for damage in DAMAGES:
        for seed in range(n_seeds):
            rng = np.random.default_rng([zlib.crc32(f"{name} {damage.__name__}".encode()), seed])
            path = folder / f"{stem}-{damage.__name__}-{seed}.{suffix}"
            path.write_bytes(damage(whole[seed % 2], rng))
            yield path
    # The first half of one format, the second half of another; and one under another's name.
    others = [one for one in originals if one != name]
    for other in others[:n_seeds]:
        path = folder / f"{stem}-spliced-{other}.{suffix}"
        half, tail = originals[name], originals[other]
        path.write_bytes(half[: len(half) // 2] + tail[len(tail) // 2 :])
        yield path
        path = folder / f"{stem}-swapped-{other}.{suffix}"
        path.write_bytes(originals[other])
        yield path


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """A header that claims 10 GB meets a refusal by the system, not a slow machine."""
    resource = pytest.importorskip("resource", reason="no memory limits here")
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the memory in use cannot be read here")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    n_bytes = pages * resource.getpagesize() + MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def is_clean(message: str, path: str) -> bool:
    """Whether it is one sentence that names the file and has a cure behind ";", ":" or ","."""
    if not message.startswith(f"{path} "):
        return False
    rest = message.removeprefix(path)
    reads_well = re.fullmatch(r"[^\n]+[;:,] [a-z][^\n]+[^.\n]", rest) is not None
    return reads_well and not re.search(r"unexpected|Traceback|Error\b|0x[0-9a-f]{6}|[<>]", rest)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("bounded_memory")
def test_damaged_files(
    name: str,
    tmp_path: Path,
    separator: Separator,
    originals: dict[str, bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    paths = list(damaged_files(tmp_path, name, originals, N_SEEDS))
    events: list[tuple[float, Event]] = []
    output = tmp_path / "separated"
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done = separate_files(
        [Track(str(path), path.name) for path in paths],
        separator,
        plan_outputs(separator.sources, stems=["bass"], residual=True),
        output_dir=output,
        hook=lambda event: events.append((time.monotonic(), event)),
    )
    torch.set_num_threads(n_threads)

    assert isinstance(done, Done)
    assert done.n_done + done.n_failed == len(paths)
    assert done.n_done >= N_SEEDS  # at least those that have another's name
    assert capfd.readouterr().out == ""
    failed = {event.track: event.message for _, event in events if isinstance(event, Failed)}
    for path in paths:
        if (message := failed.get(str(path))) is not None:
            assert is_clean(message, str(path)), message
            assert not list((output / path.name).glob("*")), message
        else:
            check_stems(path, output / path.name)
    warnings = [event.message for _, event in events if isinstance(event, Warned)]
    assert not any("\n" in message or "unexpected" in message for message in warnings)
    times = [moment for moment, _ in events]
    assert max(np.diff(times), default=0) < MAX_FILE_S


def check_stems(path: Path, folder: Path) -> None:
    with open_source(path) as source:
        n_samples = sum(block.shape[1] for block in source.blocks())
        n_channels, rate = source.info.n_channels, source.info.sample_rate
    assert sorted(one.name for one in folder.iterdir()) == ["bass.wav", "residual.wav"]
    for stem in folder.iterdir():
        samples, stem_rate = sf.read(stem, dtype="float32", always_2d=True)
        assert samples.shape == (n_samples, n_channels), path
        assert stem_rate == rate
        assert np.isfinite(samples).all(), path


def test_there_are_more_than_three_hundred(tmp_path: Path, originals: dict[str, bytes]) -> None:
    contents = {
        path.read_bytes()
        for name in FORMATS
        for path in damaged_files(tmp_path, name, originals, N_SEEDS)
    }
    assert len(contents) > 300


@pytest.mark.parametrize(
    "before",
    [
        b"ID3\x05\0\0" + bytes(4),  # a version that does not exist
        b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + b"ID3\x04\0\0" + bytes(4),  # two tags
        b"ID3\x04\0\0\0\0\x7f\x7f" + b"\xff" * 16383,  # no frames but noise
        b"\xfe\xfb\x90\x64" + bytes(413),  # a first frame whose mark is broken
    ],
)
@pytest.mark.parametrize("has_length", [True, False])
def test_an_mp3_behind_odd_bytes_is_read_whole(
    tmp_path: Path, originals: dict[str, bytes], before: bytes, has_length: bool
) -> None:
    sound = originals["layer3.mp3"]
    if not has_length:  # its first frame holds nothing but the Xing header
        sound = sound[sound.index(b"\xff\xfb", 4) :]
    (tmp_path / "plain.mp3").write_bytes(sound)
    (tmp_path / "odd.mp3").write_bytes(before + sound)
    lengths = []
    for path in (tmp_path / "plain.mp3", tmp_path / "odd.mp3"):
        with open_source(path) as source:
            lengths.append(sum(block.shape[1] for block in source.blocks()))
    assert lengths[0] == lengths[1] >= FORMATS["layer3.mp3"][2] // 6


def test_a_float_file_of_any_scale_is_music_and_damage_is_not(
    tmp_path: Path, music: NDArray[np.float32], separator: Separator
) -> None:
    for scale, is_music in ((2.0**31, True), (1e30, False)):
        path = tmp_path / f"{scale:g}.wav"
        sf.write(path, music[:, :8000].T * np.float32(scale), 44_100, subtype="FLOAT")
        events: list[Event] = []
        done = separate_files(
            [Track(str(path), path.stem)],
            separator,
            plan_outputs(separator.sources, stems=["bass"]),
            output_dir=tmp_path / "separated",
            hook=events.append,
        )
        assert done.n_done == is_music
        messages = [event.message for event in events if isinstance(event, Failed)]
        assert is_music or (is_clean(messages[0], str(path)) and "huge" in messages[0])
