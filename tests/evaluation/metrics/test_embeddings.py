"""Tokens, embeddings and Fréchet distances."""

import importlib.util
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Metric, TrackAudio
from mssgen.evaluation.metrics.embeddings import (
    EMBEDDINGS,
    Embedding,
    _vggish_frames,
    codec_embedding,
    embedding_metrics,
)
from mssgen.evaluation.metrics.frechet import (
    Moments,
    frechet_audio_distance,
    frechet_distance,
    frechet_infinity,
)
from mssgen.evaluation.metrics.table import METRICS, choose_metrics
from mssgen.evaluation.metrics.tokens import token_metrics

from support.toys import tiny_codec

RATE = 8000
Audio = NDArray[np.float32]


def noise(seed: int, n_samples: int = RATE, n_channels: int = 1) -> Audio:
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal((n_channels, n_samples))).astype(np.float32)


def song(reference: Audio, estimate: Audio, sample_rate: int = RATE) -> TrackAudio:
    return TrackAudio("t", sample_rate, {"bass": reference}, {"bass": estimate})


def by_name(metrics: list[Metric], of: TrackAudio) -> dict[str, float]:
    scores = {metric.name: metric.measure(of, "bass").value for metric in metrics}
    assert None not in scores.values()
    return {name: float(value) for name, value in scores.items() if value is not None}


class TestTokens:
    def test_the_reference_has_all_its_tokens(self) -> None:
        metrics = token_metrics(tiny_codec())
        scores = by_name(metrics, song(noise(0), noise(0)))
        assert [scores[f"token_accuracy_{k}"] for k in (1, 2, 3, 4)] == [100] * 4
        assert len(metrics) == 8

    def test_accuracy_is_the_share_of_equal_codes(self) -> None:
        codec = tiny_codec()
        reference, estimate = noise(0), noise(0) + 0.3 * noise(1)
        codes = [
            codec.encode(torch.from_numpy(x)[None]).codes[0]
            for x in (reference, estimate.astype(np.float32))
        ]
        scores = by_name(token_metrics(codec), song(reference, estimate.astype(np.float32)))
        for k in range(4):
            expected = 100 * float((codes[0][k] == codes[1][k]).float().mean())
            assert scores[f"token_accuracy_{k + 1}"] == pytest.approx(expected)
            floor = 100 * float(torch.bincount(codes[0][k]).max()) / codes[0].shape[1]
            assert scores[f"token_floor_{k + 1}"] == pytest.approx(floor)

    def test_silent_frames_do_not_count(self) -> None:
        codec = tiny_codec()
        reference = noise(0)
        reference[:, : RATE // 2] = 0
        metric = token_metrics(codec)[0]
        assert metric.measure(song(reference, reference), "bass").n == RATE // 2 // 8
        silence = np.zeros_like(reference)
        assert metric.measure(song(silence, reference), "bass").reason == "silent reference"

    @pytest.mark.parametrize("n_channels", [1, 2])
    @pytest.mark.parametrize("n_samples", [1, 7, 4001])
    def test_any_shape_and_rate(self, n_channels: int, n_samples: int) -> None:
        of = song(noise(0, n_samples, n_channels), noise(1, n_samples, n_channels), 11025)
        for metric in token_metrics(tiny_codec()):
            score = metric.measure(of, "bass")
            assert (score.value is None) == bool(score.reason)

    def test_they_can_be_sent_to_a_process(self) -> None:
        metrics = token_metrics(tiny_codec())
        copies = pickle.loads(pickle.dumps(metrics))
        of = song(noise(0), noise(1))
        assert by_name(copies, of) == by_name(metrics, of)


def gaussian(mean: list[float], variance: list[float], n_frames: int = 100) -> Moments:
    return Moments(n_frames, np.array(mean), np.diag(variance))


class TestFrechet:
    def test_closed_form_of_independent_dimensions(self) -> None:
        first, second = gaussian([0, 1], [1, 4]), gaussian([3, 1], [9, 1])
        # (3 - 0)^2 + (1 - 3)^2 + (2 - 1)^2
        assert frechet_distance(first, second) == pytest.approx(14)
        assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)

    def test_a_general_covariance_against_scipy(self) -> None:
        linalg = pytest.importorskip("scipy.linalg")
        random = np.random.default_rng(0)
        sets = [random.standard_normal((200, 6)) @ random.standard_normal((6, 6)) for _ in "ab"]
        first, second = (Moments.of(frames) for frames in sets)
        root = linalg.sqrtm(first.covariance @ second.covariance).real
        gap = first.mean - second.mean
        expected = gap @ gap + np.trace(first.covariance + second.covariance - 2 * root)
        assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(n=st.integers(1, 20), m=st.integers(1, 20), dimension=st.integers(1, 30))
    def test_few_frames_are_finite_and_symmetric(self, n: int, m: int, dimension: int) -> None:
        random = np.random.default_rng(n)
        first, second = (Moments.of(random.standard_normal((k, dimension))) for k in (n, m))
        there, back = frechet_distance(first, second), frechet_distance(second, first)
        assert math.isfinite(there)
        assert there >= 0
        assert there == pytest.approx(back, rel=1e-6, abs=1e-6)

    @given(n=st.integers(1, 20), m=st.integers(1, 20))
    def test_moments_of_parts_are_those_of_the_whole(self, n: int, m: int) -> None:
        frames = np.random.default_rng(n).standard_normal((n + m, 3))
        whole, joined = Moments.of(frames), Moments.of(frames[:n]).joined(Moments.of(frames[n:]))
        assert joined.n_frames == whole.n_frames
        np.testing.assert_allclose(joined.mean, whole.mean, atol=1e-12)
        np.testing.assert_allclose(joined.covariance, whole.covariance, atol=1e-12)

    def test_infinity_removes_most_of_the_bias(self) -> None:
        random = np.random.default_rng(0)
        dimension = 16
        reference = gaussian([0] * dimension, [1] * dimension)
        frames = random.standard_normal((400, dimension)).astype(np.float32)
        biased = frechet_distance(reference, Moments.of(frames))
        infinity = frechet_infinity(reference, frames)
        assert infinity is not None
        assert abs(infinity) < biased / 3
        assert frechet_infinity(reference, frames[:50]) is None

    def test_sets_tell_how_many_frames_there_were(self) -> None:
        random = np.random.default_rng(0)
        songs = [random.standard_normal((n, 4)).astype(np.float32) for n in (30, 20, 50)]
        found = frechet_audio_distance(songs, [x + 1 for x in songs])
        assert found is not None
        assert (found.n_reference_frames, found.n_frames) == (100, 100)
        assert found.value == pytest.approx(4, rel=1e-4)
        assert frechet_audio_distance(songs, [songs[0][:1]]) is None
        assert frechet_audio_distance([], songs) is None


class TestEmbeddings:
    def test_log_mel(self, music: Audio) -> None:
        embedding = EMBEDDINGS["log_mel"]
        frames = embedding(music)
        assert frames.shape == (1 + music.shape[1] // 1024, 64)
        assert frames.dtype == np.float32
        assert frames.max() - frames.min() <= 80.001
        louder = embedding(np.float32(2) * music)
        np.testing.assert_allclose(louder - frames, 20 * math.log10(2), atol=1e-3)

    def test_distances_of_log_mel(self, music: Audio) -> None:
        metrics = embedding_metrics(EMBEDDINGS["log_mel"])
        same = by_name(metrics, song(music, music, 44100))
        assert same["fad_log_mel"] == pytest.approx(0, abs=1e-6)
        assert same["mse_log_mel"] == 0
        scores = by_name(metrics, song(music, np.float32(2) * music, 44100))
        gain_db = 20 * math.log10(2)
        assert scores["mse_log_mel"] == pytest.approx(gain_db**2, rel=1e-3)
        assert scores["fad_log_mel"] == pytest.approx(64 * gain_db**2, rel=1e-3)

    def test_latents_of_a_codec(self) -> None:
        codec = tiny_codec()
        embedding = codec_embedding(codec)
        audio = noise(0, 4001)
        with torch.inference_mode():
            expected = codec.latents(torch.from_numpy(audio)[None])[0].T.numpy()
        np.testing.assert_allclose(embedding(audio), expected, atol=1e-5)
        assert embedding(noise(0, 4001, 2)).shape == expected.shape
        metrics = pickle.loads(pickle.dumps(embedding_metrics(embedding)))
        assert by_name(metrics, song(audio, audio))["mse_latents_tiny"] == 0

    def test_cdpam(self, music: Audio) -> None:
        if importlib.util.find_spec("cdpam") is None:
            pytest.skip("the package cdpam is not installed")
        embedding = EMBEDDINGS["cdpam_acoustic"]
        second = music[:, : embedding.sample_rate]
        frames = embedding(second)
        assert frames.shape == (1, 512)
        np.testing.assert_allclose(np.square(frames).sum(axis=1), 1, rtol=1e-4)
        noisy = embedding(second + 0.3 * noise(0, second.shape[1], 2))
        assert 0.01 < float(np.square(noisy - frames).sum()) < 4

    @pytest.mark.parametrize(
        "name", [name for name, embedding in EMBEDDINGS.items() if embedding.package]
    )
    def test_what_is_not_installed_is_refused_in_one_sentence(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embedding = EMBEDDINGS[name]
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda package: None if package == embedding.package else found(package),
        )
        with pytest.raises(UsageError, match=f"pip install {embedding.package}") as refusal:
            embedding(noise(0))
        assert "\n" not in str(refusal.value)
        with pytest.raises(UsageError, match=embedding.package):
            choose_metrics([f"fad_{name}"])

    def test_every_embedding_says_where_it_is_from(self) -> None:
        for name, embedding in EMBEDDINGS.items():
            assert isinstance(embedding, Embedding)
            assert embedding.name == name
            assert embedding.licence
            assert embedding.source
            assert {f"fad_{name}", f"mse_{name}"} <= set(METRICS)


def test_vggish_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package is stood in for: it would fetch its weights each time that it builds one."""
    n_built = 0

    def vggish(*, postprocess: bool) -> torch.nn.Module:
        nonlocal n_built
        n_built += 1
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(100, 4))

    def examples(audio: Audio, sample_rate: int) -> NDArray[np.float32]:
        assert sample_rate == 16_000
        return audio[: len(audio) // 100 * 100].reshape(-1, 100)

    package = types.ModuleType("torchvggish")
    package.__dict__.update(
        vggish=vggish, vggish_input=types.SimpleNamespace(waveform_to_examples=examples)
    )
    monkeypatch.setitem(sys.modules, "torchvggish", package)
    first, again, other = (_vggish_frames(noise(seed)) for seed in (0, 0, 1))
    assert n_built == 1
    assert first.shape == (80, 4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
