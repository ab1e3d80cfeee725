"""Distances of spectra and the proxies of Make It Sound Good, against other implementations."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Score, TrackAudio
from mssgen.evaluation.metrics.spectral import FFT_SIZES, spectra
from mssgen.evaluation.metrics.table import METRICS

Audio = NDArray[np.float32]


def value(name: str, reference: Audio, estimate: Audio, sample_rate: int = 44100) -> float:
    of = TrackAudio("t", sample_rate, {"bass": reference}, {"bass": estimate})
    found = METRICS[name].measure(of, "bass").value
    assert found is not None
    return found


@pytest.fixture
def dull(music: Audio) -> Audio:
    """Quieter treble and a little noise."""
    noise = 0.001 * np.random.default_rng(0).standard_normal(music.shape)
    return (0.5 * (music + np.roll(music, 1, axis=1)) + noise).astype(np.float32)


@pytest.mark.parametrize("n_samples", [1, 1024, 1025, 2048, 9001])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_blocks_of_spectra_are_the_whole(n_samples: int, pad_mode: str) -> None:
    audio = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(audio, (0, max(0, 1025 - n_samples)))
    window = torch.hann_window(2048)
    whole = torch.stft(padded, 2048, 4, window=window, return_complex=True, pad_mode=pad_mode)
    blocks = list(spectra(audio.numpy(), 2048, 4, pad_mode=pad_mode))
    torch.testing.assert_close(torch.cat(blocks, dim=-1), whole)


def test_mr_stft_is_aurallosss(music: Audio, dull: Audio) -> None:
    freq = pytest.importorskip("auraloss").freq
    loss = freq.MultiResolutionSTFTLoss(
        fft_sizes=list(FFT_SIZES),
        hop_sizes=[n // 4 for n in FFT_SIZES],
        win_lengths=list(FFT_SIZES),
        perceptual_weighting=True,
        sample_rate=44100,
    )
    expected = float(loss(torch.from_numpy(dull)[None], torch.from_numpy(music)[None]))
    assert value("mr_stft", music, dull) == pytest.approx(expected, rel=1e-3)
    assert value("mr_stft", music, music) == 0


def test_mr_stft_does_not_hear_phase_as_sdr_does(music: Audio) -> None:
    assert value("mr_stft", music, -music) == pytest.approx(0, abs=1e-6)
    assert value("usdr", music, -music) == pytest.approx(-6.02, abs=0.01)


def test_l1_freq_is_that_of_msst(music: Audio, dull: Audio) -> None:
    spectra_ = [
        torch.stft(torch.from_numpy(x), 2048, 1024, window=torch.ones(2048), return_complex=True)
        for x in (music, dull)
    ]
    distance = float((spectra_[0].abs() - spectra_[1].abs()).abs().mean())
    expected = 100 / (1 + 10 * distance)
    assert value("l1_freq", music, dull) == pytest.approx(expected, rel=1e-4)
    assert value("l1_freq", music, music) == 100


def test_log_mel_of_a_gain_is_the_gain(music: Audio) -> None:
    # Less where the floor is reached.
    assert value("log_mel", music, np.float32(0.5) * music) == pytest.approx(6.02, abs=0.3)
    assert value("log_mel", music, music) == 0


def test_fullness_and_bleedless_tell_what_is_missing_from_what_is_too_much(music: Audio) -> None:
    half, double = np.float32(0.5) * music, np.float32(2) * music
    expected = 100 / (1 + 20 * np.log10(2))
    assert value("fullness", music, half) == pytest.approx(expected, rel=0.02)
    assert value("bleedless", music, half) == pytest.approx(100, abs=1)
    assert value("bleedless", music, double) == pytest.approx(expected, rel=0.02)
    assert value("fullness", music, double) == pytest.approx(100, abs=1)


def test_fullness_is_that_of_msst(music: Audio, dull: Audio) -> None:
    librosa = pytest.importorskip("librosa")
    filters = librosa.filters.mel(sr=44100, n_fft=4096, n_mels=512)
    levels = []
    for audio in (music, dull):
        spectrum = np.abs(librosa.stft(audio, n_fft=4096, hop_length=1024, pad_mode="constant"))
        levels.append(librosa.amplitude_to_db(filters @ spectrum, amin=1e-10, top_db=80))
    difference = levels[1] - levels[0]
    expected = 100 / (1 - difference[difference < 0].mean())
    assert value("fullness", music, dull) == pytest.approx(expected, rel=1e-3)
    expected = 100 / (1 + difference[difference > 0].mean())
    assert value("bleedless", music, dull) == pytest.approx(expected, rel=1e-3)


class TestProxies:
    def test_rolloff_of_sines(self) -> None:
        t = np.arange(2 * 16000) / 16000
        low, high = (np.sin(2 * np.pi * f * t)[None].astype(np.float32) for f in (1000, 4000))
        assert value("rolloff98_hz", low, high, 16000) == pytest.approx(3000, abs=16)
        assert value("rolloff98_octaves", low, high, 16000) == pytest.approx(2, abs=0.03)
        assert value("rolloff98_octaves", high, low, 16000) == pytest.approx(-2, abs=0.03)

    def test_quiet_frames_do_not_count(self) -> None:
        t = np.arange(4 * 16000) / 16000
        low, high = (np.sin(2 * np.pi * f * t)[None].astype(np.float32) for f in (1000, 4000))
        low[:, 2 * 16000 :] *= 0.001
        of = TrackAudio("t", 16000, {"bass": low}, {"bass": high})
        score = METRICS["rolloff98_hz"].measure(of, "bass")
        assert score.n == pytest.approx(2 * 16000 / 512, abs=4)

    def test_level_does_not_matter(self, music: Audio) -> None:
        quiet = np.float32(0.05) * music
        assert value("rolloff98_hz", music, quiet) == 0
        assert value("onset_f1", music, quiet) == 1

    def test_onsets_that_are_there_twice(self) -> None:
        clicks = np.zeros((1, 4 * 16000), np.float32)
        clicks[:, 8000::16000] = 1
        half = clicks.copy()
        half[:, 2 * 16000 :] = 0
        assert value("onset_f1", clicks, clicks, 16000) == 1
        # Precision 1, recall a half.
        assert value("onset_f1", clicks, half, 16000) == pytest.approx(2 / 3, abs=0.01)
        shifted = np.roll(clicks, 4000, axis=1)
        assert value("onset_f1", clicks, shifted, 16000) == 0

    def test_no_onset_is_no_score(self) -> None:
        steady = np.full((1, 16000), 0.5, np.float32)
        of = TrackAudio("t", 16000, {"bass": steady}, {"bass": steady})
        assert METRICS["onset_f1"].measure(of, "bass") == Score(
            None, 0, "no onset in the reference"
        )
