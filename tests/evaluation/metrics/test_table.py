"""Metrics of waveforms, bleed and timbre against closed forms; all of them on awkward input."""

import gc
import math
import pickle
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Score, TrackAudio
from mssgen.evaluation.metrics.signals import per_track
from mssgen.evaluation.metrics.table import METRICS, choose_metrics, groups

from support.models import has_ffmpeg

RATE = 8000
# museval cannot be imported without ffmpeg.
OFFLINE = [name for name in groups()["all"] if has_ffmpeg() or METRICS[name].group != "bsseval"]
Audio = NDArray[np.float32]


def noise(seed: int, n_samples: int = 2 * RATE, n_channels: int = 2) -> Audio:
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal((n_channels, n_samples))).astype(np.float32)


def orthogonal(seed: int, *others: Audio) -> Audio:
    """Noise of the first other's energy that has nothing in common with any of them."""
    result = noise(seed, others[0].shape[1], len(others[0])).astype(np.float64)
    basis, _ = np.linalg.qr(np.stack([other.ravel() for other in others], axis=1).astype(float))
    result -= (basis @ (basis.T @ result.ravel())).reshape(result.shape)
    scale = np.linalg.norm(others[0]) / np.linalg.norm(result)
    return (result * scale).astype(np.float32)


def song(
    references: dict[str, Audio],
    estimates: dict[str, Audio],
    mixture: Audio | None = None,
    sample_rate: int = RATE,
) -> TrackAudio:
    return TrackAudio("track", sample_rate, references, estimates, mixture)


def measure(name: str, of: TrackAudio, stem: str = "bass") -> Score:
    return METRICS[name].measure(of, stem)


def value(name: str, of: TrackAudio, stem: str = "bass") -> float:
    score = measure(name, of, stem)
    assert score.value is not None, score
    return score.value


@pytest.fixture(scope="module")
def s() -> Audio:
    return noise(0)


class TestWaveform:
    def test_usdr_is_the_ratio_of_energies(self, s: Audio) -> None:
        estimate = s + orthogonal(1, s) * 10 ** (-13 / 20)
        assert value("usdr", song({"bass": s}, {"bass": estimate})) == pytest.approx(13, abs=1e-3)

    def test_usdr_has_the_delta_of_demucs(self) -> None:
        s = np.full((1, 100), 0.1, np.float32)
        expected = 10 * math.log10((1 + 1e-7) / 1e-7)
        assert value("usdr", song({"bass": s}, {"bass": s})) == pytest.approx(expected, abs=1e-4)

    def test_gain_is_an_error_for_usdr_alone(self, s: Audio) -> None:
        estimate = s + orthogonal(1, s) * 10 ** (-13 / 20)
        scaled = song({"bass": s}, {"bass": np.asarray(3 * estimate, np.float32)})
        assert value("si_sdr", scaled) == pytest.approx(13, abs=1e-3)
        assert value("usdr", scaled) < 0

    def test_a_delay_is_an_error_for_both(self, s: Audio) -> None:
        delayed = song({"bass": s}, {"bass": np.roll(s, 1, axis=1)})
        assert value("usdr", delayed) == pytest.approx(-3, abs=0.2)
        assert value("si_sdr", delayed) < -20

    def test_interference_and_artefacts_part(self, s: Audio) -> None:
        drums = orthogonal(1, s)
        dirt = orthogonal(2, s, drums)
        estimate = 0.5 * (s + drums * 10 ** (-20 / 20) + dirt * 10 ** (-30 / 20))
        mixed = song({"bass": s, "drums": drums}, {"bass": estimate.astype(np.float32)})
        assert value("si_sir", mixed) == pytest.approx(20, abs=0.01)
        assert value("si_sar", mixed) == pytest.approx(30, abs=0.01)
        total = 10 ** (-2) + 10 ** (-3)
        assert value("si_sdr", mixed) == pytest.approx(-10 * math.log10(total), abs=0.01)

    def test_the_mixture_gives_the_other_reference(self, s: Audio) -> None:
        drums = orthogonal(1, s)
        estimate = {"bass": s + 0.1 * drums}
        alone = song({"bass": s}, estimate)
        assert measure("si_sir", alone) == Score(None, 0, "no other reference")
        with_mixture = song({"bass": s}, estimate, s + drums)
        assert value("si_sir", with_mixture) == pytest.approx(20, abs=0.01)

    def test_equal_references_are_no_problem(self, s: Audio) -> None:
        twice = song({"bass": s, "drums": s.copy()}, {"bass": s + 0.1 * orthogonal(1, s)})
        assert value("si_sir", twice) == 120
        assert value("si_sar", twice) == pytest.approx(20, abs=0.01)

    def test_perfection_and_silence_are_finite(self, s: Audio) -> None:
        zeros = np.zeros_like(s)
        assert value("si_sdr", song({"bass": s}, {"bass": s})) == 120
        silent = song({"bass": s, "drums": zeros}, {"bass": zeros, "drums": s})
        assert value("usdr", silent) == pytest.approx(0, abs=1e-6)
        assert measure("si_sdr", silent) == Score(None, 0, "silent estimate")
        for name in ("usdr", "si_sdr"):
            assert measure(name, silent, "drums") == Score(None, 0, "silent reference")

    @pytest.mark.parametrize("n_channels", [1, 2])
    def test_si_bss_eval_agrees_with_fast_bss_eval(self, n_channels: int) -> None:
        fast_bss_eval = pytest.importorskip("fast_bss_eval")
        references = {name: noise(seed, 4001, n_channels) for seed, name in enumerate("abc")}
        estimates = {
            name: audio + 0.3 * references["a"] + 0.2 * noise(9, 4001, n_channels)
            for name, audio in references.items()
        }
        ours = song(references, estimates)
        flat = [np.stack([x.ravel() for x in each.values()]) for each in (references, estimates)]
        sdr, sir, sar = fast_bss_eval.si_bss_eval_sources(
            *(each.astype(np.float64) for each in flat), compute_permutation=False
        )
        for index, name in enumerate("abc"):
            assert value("si_sdr", ours, name) == pytest.approx(sdr[index], abs=1e-4)
            assert value("si_sir", ours, name) == pytest.approx(sir[index], abs=1e-4)
            # Theirs has the interference above the line too.
            more = 10 * math.log10(1 + 10 ** (-sir[index] / 10))
            assert value("si_sar", ours, name) + more == pytest.approx(sar[index], abs=1e-4)


class TestBleed:
    def test_a_known_share_of_another_stem(self, s: Audio) -> None:
        drums = noise(1)
        mixed = song({"bass": s, "drums": drums}, {"bass": s + np.float32(0.1) * drums})
        assert value("bleed", mixed) == pytest.approx(-20.04, abs=0.1)

    def test_phase_and_gain_may_differ_from_band_to_band(self, s: Audio) -> None:
        drums = noise(1)
        # A short filter: another gain and phase in each band.
        filtered = 0.1 * drums - 0.05 * np.roll(drums, 1, axis=1)
        mixed = song({"bass": s, "drums": drums}, {"bass": (s + filtered).astype(np.float32)})
        expected = 10 * math.log10(np.square(filtered).sum() / np.square(s + filtered).sum())
        assert value("bleed", mixed) == pytest.approx(expected, abs=1)

    def test_what_is_not_of_another_stem_is_no_bleed(self, s: Audio) -> None:
        references = {"bass": s, "drums": noise(1)}
        assert value("bleed", song(references, {"bass": np.float32(0.5) * s})) == -80
        assert value("bleed", song(references, {"bass": s + noise(2)})) < -17
        assert measure("bleed", song({"bass": s}, {"bass": s})).reason == "no other reference"

    def test_leakage_is_the_level_where_the_stem_rests(self) -> None:
        s = noise(0, 4 * RATE)
        s[:, : 2 * RATE] = 0
        estimate = s.copy()
        estimate[:, : 2 * RATE] = 0.01
        score = measure("leakage", song({"bass": s}, {"bass": estimate}))
        assert score.value == pytest.approx(-40, abs=0.01)
        assert score.n == 20
        full = song({"bass": noise(0)}, {"bass": estimate[:, : 2 * RATE]})
        assert measure("leakage", full).value is None

    def test_excess_is_what_the_mixture_does_not_have(self) -> None:
        spectra = [np.fft.rfft(noise(seed, 4 * RATE)) for seed in (0, 1)]
        spectra[0][:, 6000:], spectra[1][:, :10_000] = 0, 0  # up to 1500 Hz, and from 2500 Hz
        bass, cymbal = (np.fft.irfft(each).astype(np.float32) for each in spectra)
        cymbal *= np.sqrt(np.square(bass).sum() / np.square(cymbal).sum() / 99)
        made_up = song({"bass": bass}, {"bass": bass + cymbal}, bass)
        assert value("excess", made_up) == pytest.approx(-20, abs=0.5)
        for estimate, mixture in ((bass + cymbal, bass + cymbal), (1.25 * bass, bass)):
            assert value("excess", song({"bass": bass}, {"bass": estimate}, mixture)) == -80
        assert measure("excess", song({"bass": bass}, {"bass": bass})).reason == "no mixture"


class TestFeatures:
    def test_all_are_zero_for_the_reference_itself(self, music: Audio) -> None:
        same = song({"bass": music}, {"bass": music.copy()}, sample_rate=44100)
        for name in groups()["features"]:
            assert value(name, same) == pytest.approx(0, abs=1e-6), name

    def test_gain_changes_loudness_alone(self, music: Audio) -> None:
        half = song({"bass": music}, {"bass": np.float32(0.5) * music}, sample_rate=44100)
        assert value("loudness_diff", half) == pytest.approx(-6.02, abs=0.05)
        for name in ("centroid_diff", "flatness_diff", "crest_diff", "width_diff"):
            assert value(name, half) == pytest.approx(0, abs=1e-3), name

    def test_a_sine_an_octave_higher(self) -> None:
        t = np.arange(2 * RATE) / RATE
        low, high = (np.sin(2 * np.pi * f * t)[None].astype(np.float32) for f in (500, 1000))
        higher = song({"bass": low}, {"bass": high})
        for name in ("centroid_diff", "rolloff_85_diff", "rolloff_95_diff"):
            assert value(name, higher) == pytest.approx(1, abs=0.03), name

    def test_noise_is_flat_and_a_sine_is_not(self) -> None:
        t = np.arange(2 * RATE) / RATE
        sine = np.sin(2 * np.pi * 500 * t)[None].astype(np.float32)
        hissing = song({"bass": sine}, {"bass": noise(0, n_channels=1)})
        assert value("flatness_diff", hissing) > 20
        assert value("contrast_diff", hissing) > 3
        crest = 20 * math.log10(np.abs(noise(0, n_channels=1)).max() / 0.1) - 20 * math.log10(
            2**0.5
        )
        assert value("crest_diff", hissing) == pytest.approx(crest, abs=0.1)

    def test_timbre_is_librosas(self, music: Audio) -> None:
        librosa = pytest.importorskip("librosa")
        mono = music[:1]
        other = np.diff(mono, prepend=0).astype(np.float32)
        of = song({"bass": mono}, {"bass": other}, sample_rate=44100)
        both = [np.abs(librosa.stft(x[0], n_fft=2048, hop_length=512)) for x in (mono, other)]
        centroids = [librosa.feature.spectral_centroid(S=x, sr=44100)[0] for x in both]
        contrasts = [librosa.feature.spectral_contrast(S=x, sr=44100) for x in both]
        # The excerpt is loud throughout: all frames count.
        assert measure("centroid_diff", of).n == both[0].shape[1]
        expected = np.median(np.log2(centroids[1] / centroids[0]))
        assert value("centroid_diff", of) == pytest.approx(expected, abs=1e-4)
        expected = np.abs(contrasts[1] - contrasts[0]).mean()
        assert value("contrast_diff", of) == pytest.approx(expected, abs=1e-3)

    def test_loudness_is_pyloudnorms(self, music: Audio) -> None:
        pyloudnorm = pytest.importorskip("pyloudnorm")
        meter = pyloudnorm.Meter(44100)
        other = np.diff(music, prepend=0).astype(np.float32)
        expected = meter.integrated_loudness(other.T) - meter.integrated_loudness(music.T)
        of = song({"bass": music}, {"bass": other}, sample_rate=44100)
        assert value("loudness_diff", of) == pytest.approx(expected, abs=0.1)

    def test_width_of_halved_sides(self) -> None:
        middle, side = noise(0, n_channels=1), noise(1, n_channels=1)
        wide, narrow = (
            np.concatenate([middle + gain * side, middle - gain * side]).astype(np.float32)
            for gain in (1, 0.5)
        )
        half = song({"bass": wide}, {"bass": narrow})
        assert value("width_diff", half) == pytest.approx(-6.02, abs=0.01)
        mono = np.concatenate([middle, middle])
        assert value("width_diff", song({"bass": wide}, {"bass": mono})) < -50
        assert (
            measure("width_diff", song({"bass": mono}, {"bass": wide})).reason == "mono reference"
        )
        assert measure("width_diff", song({"bass": middle}, {"bass": side})).reason == "not stereo"


@settings(max_examples=12, deadline=None)
@given(
    n_samples=st.sampled_from([1, 2, 3, 255, 1023, 2049, 4001, 8001]),
    n_channels=st.integers(1, 2),
    gains=st.tuples(*[st.sampled_from([0.0, 1e-9, 1.0, 8.0])] * 4),
    has_mixture=st.booleans(),
)
def test_every_metric_gives_a_number_or_a_reason(
    n_samples: int, n_channels: int, gains: tuple[float, ...], has_mixture: bool
) -> None:
    parts = [np.float32(g) * noise(i, n_samples, n_channels) for i, g in enumerate(gains)]
    references = {"bass": parts[0], "drums": parts[1]}
    estimates = {"bass": parts[2], "drums": parts[3]}
    mixture = parts[0] + parts[1] if has_mixture else None
    for of in (song(references, estimates, mixture), song({"bass": parts[0]}, {"bass": parts[2]})):
        for name in OFFLINE:
            score = measure(name, of)
            assert (score.value is None) == bool(score.reason), (name, score)
            assert score.value is None or math.isfinite(score.value), (name, score)


@pytest.mark.parametrize("name", OFFLINE)
def test_silent_references_have_no_score(name: str) -> None:
    zeros, s = np.zeros((2, RATE), np.float32), noise(0, RATE)
    of = song({"bass": zeros, "drums": s}, {"bass": s, "drums": s + noise(1, RATE)})
    if name == "leakage":  # what it is for
        assert value(name, of) == pytest.approx(-20, abs=0.2)
    else:
        assert measure(name, of) == Score(None, 0, "silent reference")


@pytest.mark.parametrize("name", OFFLINE)
def test_inputs_stay_as_they_are(name: str) -> None:
    s, estimate = noise(0, RATE), noise(1, RATE)
    before = s.copy(), estimate.copy()
    measure(name, song({"bass": s, "drums": estimate}, {"bass": estimate, "drums": s}))
    np.testing.assert_array_equal(s, before[0])
    np.testing.assert_array_equal(estimate, before[1])


@pytest.mark.parametrize("name", ["usdr", "excess"])
def test_a_changed_metric_travels_to_other_processes(name: str) -> None:
    changed = replace(METRICS[name], title="Another title")
    assert pickle.loads(pickle.dumps(changed)) == changed


def test_results_are_kept_as_long_as_the_song() -> None:
    calls = []

    @per_track
    def counted(of: TrackAudio, stem: str) -> int:
        calls.append((of.name, stem))
        return len(calls)

    first, second = song({}, {}), song({}, {})
    assert [counted(first, "a"), counted(first, "a"), counted(first, "b")] == [1, 1, 2]
    assert counted(second, "a") == 3
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


class TestChoice:
    def test_the_default_is_fast(self) -> None:
        names = [metric.name for metric in choose_metrics()]
        assert names[0] == "usdr"
        assert {METRICS[name].group for name in names} == {
            "waveform",
            "spectral",
            "features",
            "bleed",
        }

    def test_names_and_groups_mix_and_keep_the_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: name)
        chosen = [metric.name for metric in choose_metrics(["sdr", "waveform", "usdr"])]
        assert chosen == ["usdr", "si_sdr", "si_sir", "si_sar", "sdr"]

    def test_an_unknown_word_is_refused(self) -> None:
        with pytest.raises(UsageError, match="the metric pesq is unknown; use a group"):
            choose_metrics(["pesq"])

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "museval" else found(name)
        )
        with pytest.raises(UsageError, match=r"museval is not installed.*'\.\[evaluate\]'"):
            choose_metrics(["sdr"])
        assert choose_metrics(["usdr"])

    def test_a_missing_program_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None if name == "ffprobe" else name)
        with pytest.raises(UsageError, match=r"sdr needs the program ffprobe.*install ffmpeg"):
            choose_metrics(["sdr"])
        assert choose_metrics(["usdr"])

    def test_every_metric_says_what_it_is(self) -> None:
        for name, metric in METRICS.items():
            assert metric.name == name
            assert len(metric.definition) > 40
            assert metric.title
            assert "\n" not in metric.definition
