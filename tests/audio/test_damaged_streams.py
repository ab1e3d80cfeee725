"""Audio goes on after damage inside an intact stream, in its place, and the warning says where."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.containers.ogg_pages import checksum, pages
from mssgen.audio.containers.opus_packets import empty_packet, framing_of
from mssgen.audio.reading import open_source
from mssgen.errors import AudioError

from support.models import EXCERPT, needs_ffmpeg

RATE = 44_100


def read(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """(samples [C, T], warnings)."""
    told: list[str] = []
    with open_source(path, warn=told.append) as source:
        return np.concatenate(list(source.blocks()), axis=1), told


def place(told: list[str]) -> tuple[float, float]:
    """(start, length) in seconds of the damage, from the only warning."""
    (warning,) = told
    found = re.search(r"is damaged at ([\d.]+) s: about ([\d.]+) s of audio are missing", warning)
    assert found, warning
    return float(found[1]), float(found[2])


@pytest.mark.parametrize(
    ("suffix", "codec", "is_lossless"),
    [("m4a", "alac", True), ("mka", "flac", True), ("tta", "tta", True), ("m4a", "aac", False)],
)
def test_what_ffmpeg_cannot_decode_becomes_silence_in_its_place(
    tmp_path: Path, suffix: str, codec: str, is_lossless: bool
) -> None:
    needs_ffmpeg()
    music = sf.read(EXCERPT, 4 * RATE, dtype="int16")[0]
    sf.write(tmp_path / "a.wav", music, RATE)
    song = tmp_path / f"a.{suffix}"
    make = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", codec, song]
    subprocess.run(make, check=True)
    whole, told = read(song)
    assert told == []
    data = bytearray(song.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    song.write_bytes(data)
    found, told = read(song)
    at_s, lost_s = place(told)
    assert 1.0 < at_s < 3.0
    assert 0.0 < lost_s < 1.2
    assert abs(found.shape[1] - whole.shape[1]) < 50
    # AAC decodes some damaged frames to noise.
    last = round((at_s + lost_s) * RATE) + 1000 if is_lossless else 3 * RATE
    # Matroska rounds time stamps to milliseconds.
    shifts = range(-50, 51) if suffix == "mka" else (0,)
    n_samples = min(found.shape[1], whole.shape[1]) - 100
    errors = [
        np.abs(found[:, last + shift : n_samples + shift] - whole[:, last:n_samples]).max()
        for shift in shifts
    ]
    limit = 0.0 if is_lossless else 0.2  # AAC draws part of its noise; its peak is 0.5
    assert min(errors) <= limit
    with pytest.raises(AudioError, match="is damaged at"), open_source(song, strict=True):
        pass


def damage_packets(path: Path, seed: int, n_bytes: int) -> None:
    """Overwrite bytes in the middle of a page of an Ogg file, and make its checksum right again."""
    data, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    found = list(pages(bytes(data)))
    page = found[random.integers(len(found) // 3, 2 * len(found) // 3)]
    at = random.integers(page.body, page.stop - n_bytes)
    data[at : at + n_bytes] = random.bytes(n_bytes)
    data[page.start + 22 : page.start + 26] = bytes(4)
    crc = checksum(bytes(data[page.start : page.stop]))
    data[page.start + 22 : page.start + 26] = crc.to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("without_ffmpeg", [True, False])
@pytest.mark.parametrize(
    ("name", "subtype", "rate", "n_bytes"),
    [("a.ogg", "VORBIS", RATE, 200), ("a.opus", "OPUS", 48_000, 600)],
)
def test_ogg_goes_on_behind_packets_that_do_not_decode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    subtype: str,
    rate: int,
    n_bytes: int,
    without_ffmpeg: bool,
) -> None:
    if without_ffmpeg:
        monkeypatch.setenv("PATH", str(tmp_path))
    song = tmp_path / name
    n_found = 0
    sf.write(song, sf.read(EXCERPT, 6 * RATE)[0], rate, format="OGG", subtype=subtype)
    intact = song.read_bytes()
    whole, told = read(song)
    assert told == []
    for seed in range(4):
        song.write_bytes(intact)
        damage_packets(song, seed, n_bytes)
        found, told = read(song)
        assert found.shape[1] == whole.shape[1]
        assert np.abs(found[:, -rate:] - whole[:, -rate:]).max() < 0.02
        for warning in told:
            at_s, lost_s = place([warning])
            assert 1.5 < at_s < 4.5
            assert 0.0 <= lost_s < 0.1
        n_found += bool(told)
    assert n_found >= 2


@given(st.binary(min_size=2, max_size=900), st.integers(1, 4))
def test_an_empty_opus_packet_has_the_size_and_length_of_the_packet_that_it_replaces(
    packet: bytes, n_streams: int
) -> None:
    like = framing_of(packet)
    assume(like is not None)
    assert like is not None
    empty = empty_packet(like, len(packet), n_streams)
    if empty is None:
        assert len(packet) < 3 * n_streams
        return
    assert len(empty) == len(packet)
    framing = framing_of(empty, n_streams)
    assert framing is not None
    assert framing.n_samples == like.n_samples
