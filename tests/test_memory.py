"""Peak memory does not grow with the length of a song (whole process, as the system counts it)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from support.models import EXCERPT


def write_song(path: Path, minutes: float) -> None:
    """Repeat the excerpt to the wanted length, block by block."""
    music, rate = sf.read(EXCERPT, dtype="int16")
    n_left = int(minutes * 60 * rate)
    with sf.SoundFile(path, "w", rate, music.shape[1], "PCM_16") as file:
        while n_left:
            file.write(music[: min(n_left, len(music))])
            n_left -= min(n_left, len(music))


def peak_mb(song: Path, model: Path, output: Path) -> float:
    command = [sys.executable, "-m", "mssgen", "separate", str(song), "--model", str(model)]
    command += ["--output", str(output), "--stem", "bass", "--overwrite", "--quiet"]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    stem, _ = sf.read(output / "song" / "bass.wav", stop=44100)
    assert np.isfinite(stem).all()
    return usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def growth_mb(tmp_path: Path, model: Path, short_min: float, long_min: float) -> float:
    song, peaks = tmp_path / "song.wav", []
    for minutes in (short_min, long_min):
        write_song(song, minutes)
        peaks.append(peak_mb(song, model, tmp_path / "out"))
    return peaks[1] - peaks[0]


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to measure a process")
class TestMemory:
    def test_two_minutes_take_what_a_quarter_takes(self, tmp_path: Path, tiny_model: Path) -> None:
        # Held in fp32 it would be 37 MB more for the mixture, and as much for every stem.
        assert growth_mb(tmp_path, tiny_model, 0.25, 2) < 30

    @pytest.mark.slow  # two to ten minutes: it separates an hour of music
    @pytest.mark.timeout(1800)
    def test_an_hour_takes_what_a_minute_takes(self, tmp_path: Path, tiny_model: Path) -> None:
        assert growth_mb(tmp_path, tiny_model, 1, 60) < 150
