"""Audio goes on after damage inside an intact stream, in its place, and the warning says where."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

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
