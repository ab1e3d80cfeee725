"""`mssgen info`: numbers that can be worked out by hand, every kind of file, and broken ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.loudness import LoudnessMeter, integrated_lufs, k_weighting
from mssgen.audio.resampling import resample
from mssgen.codecs.base import Codes
from mssgen.codecs.container import CodedAudio, write_codes
from mssgen.errors import AudioError
from mssgen.inspection.file_info import CodesInfo, Levels, SoundInfo, describe

from support.models import EXCERPT
from support.program import Program

RATE = 48_000
Audio = NDArray[np.float64]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("COLUMNS", "200")
    return Program(capsys)


def sine(
    hz: float, seconds: float, *, peak: float = 1.0, phase: float = 0.0
) -> NDArray[np.float64]:
    t = np.arange(round(seconds * RATE)) / RATE
    return peak * np.sin(2 * np.pi * hz * t + phase)


def described(path: Path, audio: Audio, subtype: str = "FLOAT") -> SoundInfo:
    """Of [T] or [T, C] written at 48 kHz."""
    sf.write(path, audio, RATE, subtype=subtype)
    found = describe(str(path))
    assert isinstance(found, SoundInfo)
    return found


def test_levels_of_a_sine(tmp_path: Path) -> None:
    found = described(tmp_path / "a.wav", sine(1000, 2, peak=0.1) + 0.05)
    assert (found.container, found.codec, found.sample_rate) == ("wav", "FLOAT", RATE)
    assert (found.n_channels, found.n_samples, found.duration_s) == (1, 2 * RATE, 2.0)
    assert found.peak_db == pytest.approx(20 * math.log10(0.15), abs=1e-4)
    assert found.rms_db == pytest.approx(10 * math.log10(0.1**2 / 2 + 0.05**2), abs=1e-4)
    assert found.dc == pytest.approx((0.05,), abs=1e-6)
    assert found.silence_share == 0
    assert found.is_mono is found.correlation is found.width_db is None
    assert found.bit_depth == 32
    assert found.used_bits is None
    assert found.size_bytes == (tmp_path / "a.wav").stat().st_size


def test_loudness_of_the_recommendations_own_signal(tmp_path: Path) -> None:
    # BS.1770-4: 997 Hz at full scale in one of the front channels is -3.01 LUFS, in both 0.
    tone = sine(997, 5)
    one = np.stack([tone, 0 * tone], axis=1)
    assert described(tmp_path / "1.wav", one).loudness_lufs == pytest.approx(-3.01, abs=0.02)
    both = np.stack([tone, tone], axis=1)
    assert described(tmp_path / "2.wav", both).loudness_lufs == pytest.approx(0.0, abs=0.02)


def test_filters_are_those_printed_for_48_khz() -> None:
    shelf, high_pass = k_weighting(48_000)
    printed = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1]
    assert shelf == pytest.approx([*printed, -1.69065929318241, 0.73248077421585], abs=1e-6)
    assert high_pass == pytest.approx([1, -2, 1, 1, -1.99004745483398, 0.99007225036621], abs=1e-6)


def test_loudness_gates_out_silence_and_agrees_with_pyloudnorm(
    music: NDArray[np.float32],
) -> None:
    import pyloudnorm

    quiet = np.concatenate([music, np.zeros((2, 3 * 44100), np.float32), 0.03 * music], axis=1)
    expected = pyloudnorm.Meter(44_100).integrated_loudness(quiet.T.astype(float))
    meter = LoudnessMeter(44_100, 2)
    for start in range(0, quiet.shape[1], 10_007):
        meter.add(quiet[:, start : start + 10_007])
    assert meter.integrated_lufs() == pytest.approx(expected, abs=0.05)
    assert integrated_lufs(quiet, 44_100) == pytest.approx(meter.integrated_lufs(), abs=1e-9)


def test_loudness_range_of_two_levels(tmp_path: Path) -> None:
    # EBU Tech 3342, test signal 1: 20 s at -20, 20 s at -30 dBFS have 10 LU.
    tone = np.concatenate([sine(1000, 20, peak=0.1), sine(1000, 20, peak=0.1 / 10**0.5)])
    found = described(tmp_path / "a.wav", np.stack([tone, tone], axis=1))
    assert found.loudness_range_lu == pytest.approx(10, abs=0.5)


def test_true_peak_lies_between_samples(tmp_path: Path) -> None:
    # Samples of a quarter of the rate at 45 degrees miss the peak by 3 dB.
    found = described(tmp_path / "a.wav", sine(RATE / 4, 1, peak=0.5, phase=np.pi / 4))
    assert found.peak_db == pytest.approx(-6.02 - 3.01, abs=0.01)
    # A sudden start overshoots, as it would in a converter.
    assert found.true_peak_db == pytest.approx(-6.02, abs=0.6)
    assert found.true_peak_db is not None
    assert found.true_peak_db > -6.1


@pytest.mark.parametrize("ends_hz", [4000, 8000, 11_025])
def test_bandwidth_shows_a_lower_rate_of_the_past(tmp_path: Path, ends_hz: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3 * 2 * ends_hz)).astype(np.float32)
    up = np.concatenate(list(resample([noise], 1, 2 * ends_hz, RATE)), axis=1)[0]
    found = described(tmp_path / "a.wav", up, "PCM_16").bandwidth
    assert found is not None
    assert found.ends_hz == pytest.approx(ends_hz, rel=0.06)
    assert found.is_abrupt


def test_bandwidth_of_full_noise_and_of_a_tone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    full = described(tmp_path / "a.wav", noise).bandwidth
    assert full is not None
    assert (full.ends_hz, full.drop_db, full.is_abrupt) == (RATE / 2, None, False)
    tone = described(tmp_path / "b.wav", sine(5050, 2, peak=0.5)).bandwidth
    assert tone is not None
    assert tone.ends_hz == pytest.approx(5100, abs=100)


def test_dither_is_no_bandwidth(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    dither = (random.random(2 * RATE) - random.random(2 * RATE)) / 2**15
    found = described(tmp_path / "a.wav", sine(440, 2, peak=0.02) + dither, "PCM_16").bandwidth
    assert found is not None
    assert found.ends_hz < 1000


def test_clipping_counts_runs_only(tmp_path: Path) -> None:
    audio = np.zeros((RATE, 2))
    audio[100, 0] = 1.0  # a peak, no clipping
    audio[200:205, 0] = 1.0
    audio[-2:, 1] = -1.0
    assert described(tmp_path / "a.wav", audio, "PCM_24").n_clipped == 7


@given(cuts=st.lists(st.integers(0, 400), max_size=6), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_levels_do_not_depend_on_the_blocks(cuts: list[int], seed: int) -> None:
    audio = np.random.default_rng(seed).choice([0.0, 0.4, 1.0], (2, 400)).astype(np.float32)
    is_full = np.pad(audio >= 1, ((0, 0), (1, 1)))
    expected = int((is_full[:, 1:-1] & (is_full[:, :-2] | is_full[:, 2:])).sum())
    levels = Levels(1000, 2)
    for block in np.split(audio, sorted(cuts), axis=1):
        levels.add(block)
    levels.finish()
    assert levels.n_clipped == expected
    assert levels.power == pytest.approx(float(np.square(audio).mean()))
    assert (levels.n_frames, levels.n_silent_frames) == (8, 0)


def test_used_bits_of_a_larger_container(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(-(2**15), 2**15, RATE) / 2**15
    found = described(tmp_path / "a.wav", coarse, "PCM_24")
    assert (found.bit_depth, found.used_bits) == (24, 16)
    assert described(tmp_path / "b.flac", coarse, "PCM_16").used_bits == 16
    assert described(tmp_path / "c.wav", coarse, "DOUBLE").bit_depth == 64


def test_stereo_measures(tmp_path: Path) -> None:
    left, right = sine(1000, 1, peak=0.5), sine(1500, 1, peak=0.5)
    same = described(tmp_path / "a.wav", np.stack([left, left], axis=1))
    assert (same.is_mono, same.correlation, same.width_db) == (True, pytest.approx(1), None)
    turned = described(tmp_path / "b.wav", np.stack([left, -left], axis=1))
    assert (turned.is_mono, turned.correlation) == (False, pytest.approx(-1))
    apart = described(tmp_path / "c.wav", np.stack([left, right], axis=1))
    assert apart.correlation == pytest.approx(0, abs=1e-4)
    assert apart.width_db == pytest.approx(0, abs=1e-3)
    # L = M + S, R = M - S with S a tenth of M.
    wide = described(tmp_path / "d.wav", np.stack([left + right / 10, left - right / 10], axis=1))
    assert wide.width_db == pytest.approx(-20, abs=1e-2)


@pytest.mark.parametrize("n_samples", [1, 100, RATE])
def test_silence_of_any_length(tmp_path: Path, n_samples: int) -> None:
    found = described(tmp_path / "a.wav", np.zeros((n_samples, 2)))
    assert found.peak_db is found.true_peak_db is found.rms_db is found.loudness_lufs is None
    assert found.bandwidth is found.correlation is None
    assert found.silence_share == 1
    assert found.is_mono


def test_silence_share_counts_time(tmp_path: Path) -> None:
    audio = np.concatenate([sine(500, 1, peak=0.5), np.zeros(3 * RATE)])
    assert described(tmp_path / "a.wav", audio).silence_share == pytest.approx(0.75)


def test_lossy_files_have_no_bit_depth(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.ogg", sine(1000, 1, peak=0.5), RATE)
    found = describe(str(tmp_path / "a.ogg"))
    assert isinstance(found, SoundInfo)
    assert (found.codec, found.bit_depth, found.used_bits) == ("VORBIS", None, None)


def test_codes_files(tmp_path: Path, program: Program) -> None:
    codes = Codes(
        torch.zeros(1, 4, 75, dtype=torch.int64), 24_000, "seanet-24000-32x1024-h320-0123456789ab"
    )
    path = tmp_path / "song.codes"
    write_codes(path, CodedAudio(codes, "encodec_24khz", 44_100, 2, 44_100, 2, (1,)))
    found = describe(str(path))
    assert isinstance(found, CodesInfo)
    assert (found.n_codebooks, found.codebook_size, found.n_frames) == (4, 1024, 75)
    assert (found.n_items, found.n_silent_items, found.duration_s) == (2, 1, 1.0)
    # 4 codebooks of 10 bits, 75 frames a second.
    assert found.bit_rate_kbps == pytest.approx(3.0)
    text = program("info", path)
    assert text.code == 0
    assert "3.00 kbit/s" in text.out
    assert program("info", tmp_path, "--json").events[0]["codec"] == "encodec_24khz"


def test_the_table_names_everything(program: Program) -> None:
    result = program("info", EXCERPT)
    assert result.code == 0
    for words in ("flac PCM_16", "44100 Hz", "2 (stereo)", "0:16.000", "LUFS", "kHz (less than"):
        assert words in result.out


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path, program: Program) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk")
    sf.write(tmp_path / "whole.wav", sine(1000, 1, peak=0.5), RATE)
    result = program("info", tmp_path / "broken.wav", tmp_path / "whole.wav", tmp_path / "none.wav")
    assert result.code == 1
    assert "whole.wav" in result.out
    assert "broken.wav" in result.err
    assert "none.wav does not exist" in result.err

    events = program("info", "--json", tmp_path / "broken.wav", tmp_path / "whole.wav").events
    assert [event["event"] for event in events] == ["error", "sound"]
    assert events[1]["peak_db"] == pytest.approx(-6.02, abs=0.01)
    assert json.dumps(events, allow_nan=False)


def test_the_speakers_of_surround_are_named(tmp_path: Path, program: Program) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (RATE // 10, 6))
    sf.write(tmp_path / "six.flac", noise, RATE)
    sf.write(tmp_path / "five.caf", noise[:, :5], RATE)
    (event,) = program("info", "--json", tmp_path / "six.flac").events
    assert event["layout"] == ["L", "R", "C", "LFE", "Lb", "Rb"]
    shown = program("info", tmp_path / "six.flac", tmp_path / "five.caf").out
    assert "6 (L R C LFE Lb Rb)" in shown
    assert "5 (speakers unknown)" in shown


def test_nan_is_refused(tmp_path: Path) -> None:
    audio = sine(1000, 1)
    audio[1000] = np.nan
    with pytest.raises(AudioError, match="invalid samples"):
        described(tmp_path / "a.wav", audio)


def test_quiet_checks_only(program: Program) -> None:
    result = program("info", "-q", EXCERPT)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_nothing_to_describe(program: Program) -> None:
    assert program("info").code == 2
