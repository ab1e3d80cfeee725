"""`mssgen compare`: signals whose level, delay and distance are known beforehand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.resampling import resample
from mssgen.errors import AudioError, UsageError
from mssgen.inspection.compare import Comparison, compare_files
from mssgen.inspection.spectrograms import SpectrogramPair

from support.program import Program

RATE = 16_000
Audio = NDArray[np.float64]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("COLUMNS", "200")
    return Program(capsys)


def noise(n_samples: int = 3 * RATE, n_channels: int = 2, seed: int = 0) -> Audio:
    """[T, C], nothing near half the sample rate, RMS 0.1."""
    white = np.random.default_rng(seed).normal(0, 1, (n_samples, n_channels))
    spectrum = np.fft.rfft(white, axis=0)
    spectrum[int(0.8 * len(spectrum)) :] = 0
    audio = np.fft.irfft(spectrum, n_samples, axis=0)
    return 0.1 * audio / audio.std()


def compared(folder: Path, a: Audio, b: Audio, *, rate_b: int = RATE) -> Comparison:
    sf.write(folder / "a.wav", a, RATE, subtype="FLOAT")
    sf.write(folder / "b.wav", b, rate_b, subtype="FLOAT")
    return compare_files(str(folder / "a.wav"), str(folder / "b.wav"))[0]


def test_the_same_file(tmp_path: Path) -> None:
    found = compared(tmp_path, noise(), noise())
    assert found.is_identical
    assert (found.delay_samples, found.gain_db) == (0, pytest.approx(0))
    assert found.before.correlation == pytest.approx(1)
    assert found.before.largest_difference_db is found.before.largest_difference_s is None
    assert found.before.usdr_db is not None
    assert found.before.usdr_db > 90
    assert found.notes == ()


def test_half_the_level(tmp_path: Path) -> None:
    found = compared(tmp_path, noise(), noise() / 2)
    assert found.gain_db == pytest.approx(-6.0206, abs=1e-3)
    # The error is half of A.
    assert found.before.usdr_db == pytest.approx(6.0206, abs=1e-3)
    assert found.before.si_sdr_db is not None
    assert found.before.si_sdr_db > 60
    assert found.after is not None
    assert found.after.usdr_db is not None
    assert found.after.usdr_db > 90
    assert found.a.rms_db == pytest.approx(-20, abs=1e-3)
    assert found.b.rms_db == pytest.approx(-26.0206, abs=1e-3)
    assert not found.is_identical


@given(lag=st.integers(-4000, 4000), gain=st.sampled_from([1.0, -0.5]))
@settings(max_examples=12, deadline=None)
def test_delays_and_polarity_are_found(
    tmp_path_factory: pytest.TempPathFactory, lag: int, gain: float
) -> None:
    a = noise(2 * RATE)
    b = np.zeros_like(a)
    if lag >= 0:
        b[lag:] = gain * a[: len(a) - lag]
    else:
        b[:lag] = gain * a[-lag:]
    found = compared(tmp_path_factory.mktemp("pair"), a, b)
    assert found.delay_samples == pytest.approx(lag, abs=0.011)
    assert found.is_inverted == (gain < 0)
    assert found.gain_db == pytest.approx(20 * math.log10(abs(gain)), abs=1.5)
    assert found.after is not None
    # What was shifted out of B is lost.
    lost = sum(np.square(a[len(a) - lag :] if lag > 0 else a[:-lag]).sum(axis=1)) if lag else 0
    if lost:
        share = lost / np.square(a).sum()
        assert found.after.usdr_db == pytest.approx(-10 * math.log10(share), abs=0.1)


@pytest.mark.parametrize("fraction", [0.25, -0.5, 3.37])
def test_delays_between_samples(tmp_path: Path, fraction: float) -> None:
    a = noise()
    frequencies = np.fft.rfftfreq(len(a))[:, None]
    turned = np.fft.rfft(a, axis=0) * np.exp(-2j * np.pi * frequencies * fraction)
    found = compared(tmp_path, a, np.fft.irfft(turned, len(a), axis=0))
    assert found.delay_samples == pytest.approx(fraction, abs=0.011)
    assert found.after is not None
    assert found.after.usdr_db is not None
    assert found.before.usdr_db is not None
    assert found.after.usdr_db > 33 > 15 > found.before.usdr_db


def test_noise_of_known_level(tmp_path: Path) -> None:
    found = compared(tmp_path, noise(), noise() + 0.1 * noise(seed=1))
    assert found.before.usdr_db == pytest.approx(20, abs=0.05)
    assert found.before.si_sdr_db == pytest.approx(20, abs=0.1)
    assert found.before.correlation == pytest.approx(1 / math.sqrt(1.01), abs=1e-3)


def test_where_the_largest_difference_is(tmp_path: Path) -> None:
    b = noise()
    b[20_000, 1] += 0.5
    before = compared(tmp_path, noise(), b).before
    assert before.largest_difference_s == 20_000 / RATE
    assert before.largest_difference_db == pytest.approx(-6.02, abs=0.01)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    a = noise()
    shorter = compared(tmp_path, a, a[: 2 * RATE])
    assert shorter.notes == ("B is 1.0000 s shorter: padded with zeros",)
    # A third of the energy is missing.
    assert shorter.before.usdr_db == pytest.approx(10 * math.log10(3), abs=0.1)
    longer = compared(tmp_path, a[: 2 * RATE], a)
    assert longer.notes == ("B is 1.0000 s longer: its end was left out",)
    assert longer.before.largest_difference_db is None
    assert not longer.is_identical
    one = noise(n_channels=1)
    mono = compared(tmp_path, np.concatenate([one, one], axis=1), one)
    assert mono.notes == ("B is mono; its channel was doubled",)
    assert mono.before.largest_difference_db is None


def test_another_rate(tmp_path: Path) -> None:
    a = noise()
    blocks = resample([a.T.astype(np.float32)], 2, RATE, 2 * RATE)
    found = compared(tmp_path, a, np.concatenate(list(blocks), axis=1).T, rate_b=2 * RATE)
    assert found.notes == (f"B was resampled from {2 * RATE} to {RATE} Hz",)
    assert found.delay_samples == pytest.approx(0, abs=0.011)
    assert found.before.usdr_db is not None
    assert found.before.usdr_db > 40


def test_silence_and_strangers(tmp_path: Path) -> None:
    silent = compared(tmp_path, noise(), 0 * noise())
    assert silent.delay_samples is silent.after is silent.gain_db is None
    assert silent.before.correlation is silent.before.si_sdr_db is None
    assert silent.before.usdr_db == pytest.approx(0, abs=1e-6)
    assert compared(tmp_path, 0 * noise(), noise()).before.usdr_db is None
    assert compared(tmp_path, 0 * noise(), 0 * noise()).is_identical
    stranger = compared(tmp_path, noise(), noise(seed=5))
    assert stranger.delay_samples is stranger.after is None


@pytest.mark.parametrize("n_samples", [1, 2, 17])
def test_files_of_a_few_samples(tmp_path: Path, n_samples: int) -> None:
    found = compared(tmp_path, np.full((n_samples, 1), 0.5), np.full((n_samples, 1), 0.25))
    assert found.before.usdr_db == pytest.approx(6.02, abs=0.01)


def test_channels_that_cannot_be_paired(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="mix one of them down"):
        compared(tmp_path, noise(n_channels=2), noise(n_channels=3))


def test_delays_out_of_range() -> None:
    with pytest.raises(UsageError, match="`max_delay_s` 61"):
        compare_files("a.wav", "b.wav", max_delay_s=61)


def test_the_table_shows_band_and_time() -> None:
    """B has 20 dB more at 3 kHz in the second half, and nothing else differs."""
    t = np.arange(4 * RATE) / RATE
    low, high = 0.1 * np.sin(2 * np.pi * 300 * t), 0.01 * np.sin(2 * np.pi * 3000 * t)
    pair = SpectrogramPair(RATE, len(t))
    a, b = low + high, low + np.where(t < 2, 1, 10) * high
    for start in range(0, len(t), 9999):
        part = slice(start, start + 9999)
        pair.add(a[None, part].astype(np.float32), b[None, part].astype(np.float32))
    bands, times, table = pair.difference_table(4)
    assert bands == [125, 250, 500, 1000, 2000, 4000, 8000]
    assert times == pytest.approx([1, 2, 3, 4], abs=0.05)
    assert table[2] == pytest.approx([0, 0, 0, 0], abs=0.3)
    assert table[5][0] == pytest.approx(0, abs=0.1)
    assert table[5][2:] == pytest.approx([20, 20], abs=0.2)
    # Levels are those of the signal: the power of all bins of the first column.
    assert 10 * math.log10(pair.powers()[0][10].sum()) == pytest.approx(-23.0, abs=0.2)


def test_the_words(tmp_path: Path, program: Program) -> None:
    a = noise()
    sf.write(tmp_path / "a.wav", a, RATE)
    sf.write(tmp_path / "b.wav", np.concatenate([np.zeros((160, 2)), a / 2]), RATE)
    result = program("compare", tmp_path / "a.wav", tmp_path / "b.wav")
    assert result.code == 0
    assert "B is 160 samples (10.000 ms) later" in result.out
    assert "-6.02 dB" in result.out
    assert "0.0100 s longer" in result.out
    assert "the same" not in result.out
    assert "sample by sample" in program("compare", tmp_path / "a.wav", tmp_path / "a.wav").out


def test_picture_and_json(tmp_path: Path, program: Program) -> None:
    from matplotlib.image import imread

    sf.write(tmp_path / "a $x$.wav", noise(), RATE)
    sf.write(tmp_path / "b.wav", noise(seed=1), RATE)
    words = ("compare", tmp_path / "a $x$.wav", tmp_path / "b.wav")
    (event, written) = program(*words, "--json", "-o", tmp_path / "out.png").events
    assert (event["event"], written["event"]) == ("comparison", "written")
    assert imread(tmp_path / "out.png").shape[:2] == (1008, 1152)
    assert len(event["spectrogram_difference"]["b_over_a_db"][0]) == 8

    assert program(*words, "-o", tmp_path / "folder").code == 0
    saved = json.loads((tmp_path / "folder" / "comparison.json").read_text())
    assert saved["before"] == event["before"]
    assert (tmp_path / "folder" / "comparison.png").stat().st_size > 10_000
    again = program(*words, "-o", tmp_path / "folder")
    assert again.code == 1
    assert "--overwrite" in again.err
    assert program(*words, "-o", tmp_path / "folder", "--overwrite", "--quiet").out == ""
    assert not list(tmp_path.rglob("*.part"))


def test_failures(tmp_path: Path, program: Program) -> None:
    sf.write(tmp_path / "a.wav", noise(), RATE)
    missing = program("compare", tmp_path / "a.wav", tmp_path / "none.wav")
    assert missing.code == 1
    assert "none.wav does not exist" in missing.err
    assert program("compare", tmp_path / "a.wav").code == 2
    assert program("compare", tmp_path / "a.wav", tmp_path / "a.wav", "--max-delay", "-1").code == 2
    assert program("compare", tmp_path / "a.wav", tmp_path / "a.wav", "-o", "").code == 2
    (tmp_path / "file").write_text("in the way")
    blocked = program(
        "compare", tmp_path / "a.wav", tmp_path / "a.wav", "-o", tmp_path / "file" / "x.png"
    )
    assert blocked.code == 1
    assert "cannot be written" in blocked.err
