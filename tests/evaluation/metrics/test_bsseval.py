"""BSS Eval v4: museval's own numbers, and what is done where museval stops."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from mssgen.evaluation.metrics.base import Score, TrackAudio
from mssgen.evaluation.metrics.bsseval import bsseval_frames
from mssgen.evaluation.metrics.table import METRICS

from support.models import has_ffmpeg, shared

NAMES = ("sdr", "isr", "sir", "sar")
Audio = NDArray[np.float32]
if not has_ffmpeg():
    pytest.skip("museval needs ffmpeg, which is not installed", allow_module_level=True)
museval = pytest.importorskip("museval")


def cut_stems(music: Audio) -> dict[str, Audio]:
    """Stems that sum up to real music: low, high, and what one channel has more of."""
    spectrum = np.fft.rfft(music)
    hz = np.fft.rfftfreq(music.shape[1], 1 / 44100)
    low = np.fft.irfft(spectrum * (hz < 300), music.shape[1])
    high = np.fft.irfft(spectrum * (hz > 3000), music.shape[1])
    return {
        name: part.astype(np.float32)
        for name, part in {"bass": low, "drums": high, "other": music - low - high}.items()
    }


def with_bleed(stems: dict[str, Audio]) -> dict[str, Audio]:
    """Estimates with bleed, a filter and noise."""
    random = np.random.default_rng(0)
    total = sum(stems.values())
    return {
        name: (
            0.8 * audio
            + 0.1 * np.roll(audio, 3, axis=1)
            + 0.15 * total
            + 0.002 * random.standard_normal(audio.shape)
        ).astype(np.float32)
        for name, audio in stems.items()
    }


def values(of: TrackAudio, stem: str) -> list[float | None]:
    return [METRICS[name].measure(of, stem).value for name in NAMES]


def by_museval(references: list[Audio], estimates: list[Audio], rate: int) -> NDArray[np.float64]:
    """[4, S], as museval aggregates its windows."""
    found = museval.evaluate(
        [x.T for x in references], [x.T for x in estimates], win=rate, hop=rate
    )
    found = np.array(found)
    found[~np.isfinite(found)] = np.nan
    return np.nanmedian(found, axis=2)


def resampled(music: Audio) -> Audio:
    """Every fourth sample: filters of 512 taps take their time."""
    return np.ascontiguousarray(music[:, ::4])


def test_the_numbers_are_musevals(music: Audio) -> None:
    rate = 11025
    references = {name: audio[:1] for name, audio in cut_stems(resampled(music)).items()}
    estimates = with_bleed(references)
    expected = by_museval(list(references.values()), list(estimates.values()), rate)
    of = TrackAudio("t", rate, references, estimates)
    for index, stem in enumerate(references):
        np.testing.assert_allclose(values(of, stem), expected[:, index], atol=1e-4)
    assert METRICS["sdr"].measure(of, "bass").n == 3


def test_the_numbers_are_those_of_musevals_command(music: Audio, tmp_path: Path) -> None:
    rate = 11025
    references = {name: cut_stems(resampled(music))[name] for name in ("bass", "drums")}
    estimates = with_bleed(references)
    for folder, stems in (("references", references), ("estimates", estimates)):
        (tmp_path / folder).mkdir()
        for name, audio in stems.items():
            sf.write(tmp_path / folder / f"{name}.wav", audio.T, rate, subtype="FLOAT")
    store = museval.eval_dir(str(tmp_path / "references"), str(tmp_path / "estimates"))
    of = TrackAudio("t", rate, references, estimates)
    for target in store.scores["targets"]:
        stem = target["name"].removesuffix(".wav")
        for name in NAMES:
            frames = [frame["metrics"][name.upper()] for frame in target["frames"]]
            expected = float(np.nanmedian(np.array(frames, float)))
            # museval writes its files with five decimals.
            assert METRICS[name].measure(of, stem).value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("song", ["sodium", "caesium"])
def test_real_stems(song: str) -> None:
    """The first seconds of real stems, leaked into each other."""
    names = ("drums", "vocals")
    rate = 11025
    references = {}
    for name in names:
        path = shared("audio", song, f"{name}.flac")
        found, file_rate = sf.read(path, dtype="float32")
        assert file_rate == 44100
        references[name] = resampled(found.T)
    # Three seconds in which neither rests.
    level = np.minimum(*(np.abs(audio).mean(axis=0) for audio in references.values()))
    until = np.concatenate([[0], np.cumsum(level, dtype=np.float64)])
    loudest = int((until[3 * rate :] - until[: -3 * rate])[::rate].argmax()) * rate
    references = {name: x[:, loudest : loudest + 3 * rate] for name, x in references.items()}
    estimates = with_bleed(references)
    expected = by_museval(list(references.values()), list(estimates.values()), rate)
    of = TrackAudio("t", rate, references, estimates)
    for index, stem in enumerate(names):
        np.testing.assert_allclose(values(of, stem), expected[:, index], atol=1e-4)


def small(seed: int, n_samples: int = 12000, n_channels: int = 1) -> Audio:
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal((n_channels, n_samples))).astype(np.float32)


def test_sdr_is_the_median_of_plain_ratios() -> None:
    rate = 4000
    s, other = small(0), small(1)
    error = np.repeat([0.1, 0.01, 0.03], rate)[None].astype(np.float32)
    of = TrackAudio("t", rate, {"a": s, "b": other}, {"a": s + error, "b": other + error})
    ratios = [
        10 * np.log10(np.square(s[:, at], dtype=float).sum() / np.square(error[:, at]).sum())
        for at in (slice(0, rate), slice(rate, 2 * rate), slice(2 * rate, 3 * rate))
    ]
    assert METRICS["sdr"].measure(of, "a").value == pytest.approx(np.median(ratios), abs=1e-3)


def test_mir_eval_gives_the_same_for_one_window() -> None:
    separation = pytest.importorskip("mir_eval").separation
    rate = 12000
    references = {"a": small(0, n_channels=2), "b": small(1, n_channels=2)}
    estimates = {
        name: audio + np.float32(0.2) * small(3, n_channels=2) for name, audio in references.items()
    }
    stacked = [np.stack([x.T for x in each.values()]) for each in (references, estimates)]
    with warnings.catch_warnings(action="ignore"):
        sdr, isr, sir, sar, _ = separation.bss_eval_images(*stacked, compute_permutation=False)
    of = TrackAudio("t", rate, references, estimates)
    for index, stem in enumerate(references):
        expected = [sdr[index], isr[index], sir[index], sar[index]]
        np.testing.assert_allclose(values(of, stem), expected, atol=1e-3)


def test_all_stems_and_metrics_are_one_evaluation() -> None:
    references = {"a": small(0, 3000), "b": small(1, 3000)}
    of = TrackAudio(
        "t", 3000, references, {name: x + small(2, 3000) for name, x in references.items()}
    )
    assert bsseval_frames(of) is bsseval_frames(of)


def test_one_stem_is_scored_against_the_rest_of_the_mixture() -> None:
    rate = 3000
    s, rest = small(0), small(1)
    estimate = s + np.float32(0.1) * rest + np.float32(0.05) * small(2)
    mixture = s + rest
    expected = by_museval([s, rest], [estimate, mixture - estimate], rate)[:, 0]
    of = TrackAudio("t", rate, {"a": s}, {"a": estimate}, mixture)
    np.testing.assert_allclose(values(of, "a"), expected, atol=1e-3)
    # The sum of the references is as good.
    of = TrackAudio("t", rate, {"a": s, "b": rest}, {"a": estimate})
    np.testing.assert_allclose(values(of, "a"), expected, atol=1e-3)
    nothing = TrackAudio("t", rate, {"a": s}, {"a": estimate})
    reason = "one source only, and no mixture"
    assert METRICS["sdr"].measure(nothing, "a") == Score(None, 0, reason)


def test_silent_stems_do_not_stop_the_others() -> None:
    rate = 3000
    zeros = np.zeros((1, 12000), np.float32)
    a, b = small(0), small(1)
    estimates = {"a": a + np.float32(0.1) * b, "b": b + np.float32(0.2) * a}
    expected = by_museval([a, b], list(estimates.values()), rate)
    of = TrackAudio("t", rate, {"a": a, "z": zeros, "b": b}, {**estimates, "z": small(5)})
    np.testing.assert_allclose(values(of, "a"), expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(values(of, "b"), expected[:, 1], atol=1e-4)
    assert METRICS["sdr"].measure(of, "z") == Score(None, 0, "silent reference")
    # A silent estimate has no number; its reference still counts for the other's SIR.
    of = TrackAudio("t", rate, {"a": a, "b": b}, {"a": estimates["a"], "b": zeros})
    np.testing.assert_allclose(values(of, "a"), expected[:, 0], atol=1e-4)
    assert METRICS["sir"].measure(of, "b") == Score(None, 0, "silent estimate")


def test_windows_with_a_silent_source_do_not_count() -> None:
    rate = 3000
    a, b = small(0), small(1)
    b[:, :rate] = 0
    of = TrackAudio("t", rate, {"a": a, "b": b}, {"a": a + small(2), "b": b + small(3)})
    assert METRICS["sdr"].measure(of, "a").n == 3
    short = TrackAudio(
        "t",
        rate,
        {"a": a[:, :100], "b": small(1, 100)},
        {"a": b[:, :100] * 0 + 1e-3, "b": small(3, 100)},
    )
    score = METRICS["sdr"].measure(short, "a")
    assert score.n == 1
    assert score.value is not None
