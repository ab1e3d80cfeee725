"""The Python API on arrays and files, and the story of a song in numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mssgen
from mssgen.audio.reading import open_source
from mssgen.audio.resampling import out_samples
from mssgen.errors import AudioError, CheckpointError, UsageError
from mssgen.events import Progress
from mssgen.outputs import plan_outputs
from mssgen.pipeline import measure, stream_outputs

from support.models import EXCERPT
from support.toys import SOURCES, ToyNetwork, toy_separator

RATE = 44_100
Audio = NDArray[np.float32]


def noise(n_channels: int, n_samples: int) -> Audio:
    shape = (n_channels, n_samples)
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


class TestArrays:
    def test_numpy(self, tiny_model: Path, music: Audio) -> None:
        before = music[:, :RATE].copy()
        stems = mssgen.separate(music[:, :RATE], RATE, model=str(tiny_model), device="cpu")
        assert tuple(stems) == SOURCES
        for stem in stems.values():
            assert isinstance(stem, np.ndarray)
            assert stem.dtype == np.float32
            assert stem.shape == (2, RATE)
            assert np.isfinite(stem).all()
        np.testing.assert_array_equal(music[:, :RATE], before)

    def test_torch_gives_the_same_as_numpy(self) -> None:
        samples, separator = noise(2, 5000), toy_separator()
        tensors = mssgen.separate(torch.from_numpy(samples), 8000, separator=separator)
        arrays = mssgen.separate(samples, 8000, separator=separator)
        for name in SOURCES:
            assert isinstance(tensors[name], torch.Tensor)
            np.testing.assert_array_equal(tensors[name].numpy(), arrays[name])

    def test_a_tensor_with_gradient_and_another_dtype(self) -> None:
        tensor = torch.from_numpy(noise(2, 3000)).double().requires_grad_()
        result = mssgen.separate(tensor, 8000, separator=toy_separator())
        assert result["bass"].dtype == torch.float32
        assert not result["bass"].requires_grad

    def test_one_axis_is_mono(self) -> None:
        samples = noise(1, 3000)
        flat = mssgen.separate(samples[0], 8000, separator=toy_separator())
        assert flat["bass"].shape == (1, 3000)
        np.testing.assert_array_equal(
            flat["bass"], mssgen.separate(samples, 8000, separator=toy_separator())["bass"]
        )

    def test_a_file_is_the_same_as_its_samples(self, tmp_path: Path) -> None:
        samples = noise(2, 6000)
        path = tmp_path / "song.wav"
        sf.write(path, samples.T, 8000, "FLOAT")
        separator = toy_separator()
        expected = mssgen.separate(samples, 8000, separator=separator)
        for given_path in (path, str(path)):
            result = mssgen.separate(given_path, separator=separator)
            for name in SOURCES:
                np.testing.assert_array_equal(result[name], expected[name])

    def test_stems_are_the_network_s(self) -> None:
        """The toy multiplies by constants; their level is put back around it."""
        samples = noise(2, 6000)
        result = mssgen.separate(samples, 8000, separator=toy_separator(), stems=["other", "bass"])
        assert tuple(result) == ("other", "bass")
        np.testing.assert_allclose(result["other"], samples * 0.3, atol=1e-5)
        np.testing.assert_allclose(result["bass"], samples * 0.2, atol=1e-5)

    def test_options_of_outputs(self) -> None:
        samples, separator = noise(2, 4000), toy_separator()
        two = mssgen.separate(samples, 8000, separator=separator, two_stems="vocals")
        assert tuple(two) == ("vocals", "no_vocals")
        np.testing.assert_array_equal(two["no_vocals"], samples - two["vocals"])
        consistent = mssgen.separate(samples, 8000, separator=separator, mix_consistent=True)
        np.testing.assert_allclose(sum(consistent.values()), samples, atol=1e-6)

    def test_downmix(self) -> None:
        samples = noise(6, 3000)
        assert mssgen.separate(samples, 8000, separator=toy_separator())["bass"].shape[0] == 6
        mixed = mssgen.separate(samples, 8000, separator=toy_separator(), downmix=True)
        assert mixed["bass"].shape == (2, 3000)

    @pytest.mark.parametrize(
        ("samples", "rate", "message"),
        [
            (np.zeros((2, 3, 4)), 8000, "must be"),
            (np.zeros((2, 0)), 8000, "not empty"),
            (np.zeros(0), 8000, "not empty"),
            (np.zeros((3000, 2)), 8000, r"looks like \[T, C\]"),
            (np.zeros((2, 300)), None, "need their rate"),
            (np.zeros((2, 300)), 0, "out of range"),
        ],
    )
    def test_wrong_shapes(self, samples: Any, rate: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            mssgen.separate(samples, rate, separator=toy_separator())

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_samples_that_are_no_numbers(self, bad: float) -> None:
        samples = noise(2, 6000)
        samples[1, 4000] = bad
        with pytest.raises(AudioError, match=r"NaN.* 0\.500 s"):
            mssgen.separate(samples, 8000, separator=toy_separator())

    def test_a_missing_file(self) -> None:
        with pytest.raises(AudioError, match=r"absent\.wav does not exist"):
            mssgen.separate("absent.wav", separator=toy_separator())

    def test_unknown_names(self, tiny_model: Path) -> None:
        with pytest.raises(UsageError, match="horn"):
            mssgen.separate(noise(2, 99), 8000, separator=toy_separator(), stems=["horn"])
        with pytest.raises(UsageError, match="unknown model"):
            mssgen.separate(noise(2, 99), 8000, model="htdemux")
        with pytest.raises(CheckpointError, match="does not exist"):
            mssgen.separate(noise(2, 99), 8000, model="./absent")

    @pytest.mark.parametrize("value", [0.0, 0.5])
    def test_a_still_input_gives_silent_stems(self, value: float) -> None:
        samples = np.full((2, 4000), value, np.float32)
        result = mssgen.separate(samples, 8000, separator=toy_separator(), two_stems="bass")
        assert not result["bass"].any()
        np.testing.assert_array_equal(result["no_bass"], samples)


RATES = st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000]) | st.integers(
    8000, 192_000
)


@settings(max_examples=40, deadline=None)
@given(RATES, st.integers(1, 30_000), st.integers(1, 6), st.sampled_from([8000, 44_100]))
@example(44_100, 1, 2, 8000)
@example(192_000, 1, 1, 8000)
@example(8000, 1, 6, 44_100)
def test_outputs_have_the_shape_of_the_input(
    rate: int, n_samples: int, n_channels: int, model_rate: int
) -> None:
    """Any rate, length and number of channels; a stem and its rest sum to the mixture."""
    samples = noise(n_channels, n_samples)
    separator = toy_separator(ToyNetwork(sample_rate=model_rate, segment_samples=4000))
    result = mssgen.separate(samples, rate, separator=separator, two_stems="bass")
    assert {name: stem.shape for name, stem in result.items()} == {
        "bass": (n_channels, n_samples),
        "no_bass": (n_channels, n_samples),
    }
    np.testing.assert_allclose(result["bass"] + result["no_bass"], samples, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000, 96_000])
def test_stems_stay_aligned_through_resampling(rate: int, music: Audio) -> None:
    """A model that gives its input back, at another rate: nothing is shifted by a sample."""
    samples = smooth(music, rate)
    separator = toy_separator(ToyNetwork(gains=[1.0] * 4, sample_rate=44_100))
    result = mssgen.separate(samples, rate, separator=separator, stems=["bass"])["bass"]
    error = np.sum((result - samples) ** 2)
    assert 10 * np.log10(np.sum(samples**2) / error) > 50
    shifted = np.sum((result[:, 1:] - samples[:, :-1]) ** 2)
    assert shifted > 100 * error


def smooth(music: Audio, rate: int) -> Audio:
    """Music below 3 kHz, which every rate carries; faded, for the ends are the resampler's own."""
    import soxr

    low = soxr.resample(soxr.resample(music[:, : 2 * RATE].T, RATE, 6000), 6000, rate)
    fade = np.minimum(1, np.linspace(0, 20, len(low)))
    return np.ascontiguousarray((low * (fade * fade[::-1])[:, None]).T, np.float32)


@pytest.mark.parametrize("out_rate", [None, 8000, 22_050])
def test_a_stream_gives_what_separate_gives(out_rate: int | None) -> None:
    separator = toy_separator()
    plan = plan_outputs(separator.sources, stems=["vocals"], residual=True)
    events: list[Any] = []
    with open_source(EXCERPT) as source:
        measured = measure(source, separator)
        n_samples = out_samples(measured.n_samples, RATE, out_rate or RATE)
        blocks = list(
            stream_outputs(
                source, measured, separator, plan, sample_rate=out_rate, hook=events.append
            )
        )
    assert measured.n_samples == 16 * RATE
    assert max(block.shape[-1] for row in blocks for block in row) < 4 * RATE  # a stream
    joined = [np.concatenate(output, axis=-1) for output in zip(*blocks, strict=True)]
    assert [output.shape for output in joined] == [(2, n_samples)] * 2
    if out_rate is None:
        whole = mssgen.separate(EXCERPT, separator=separator, stems=["vocals"], residual=True)
        for name, output in zip(plan.names, joined, strict=True):
            np.testing.assert_array_equal(output, whole[name])
    progress = [event.done_s for event in events if isinstance(event, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(16, abs=1e-3)


def test_the_length_at_another_rate_is_rounded() -> None:
    assert out_samples(44_100, 44_100, 48_000) == 48_000
    assert out_samples(3, 2, 1) == 2
    assert out_samples(1, 192_000, 8000) == 0


@pytest.mark.parametrize(("n_channels", "n_samples"), [(1, 1), (2, 3000), (3, 22_051)])
def test_the_real_network_takes_any_length(
    tiny_model: Path, n_channels: int, n_samples: int
) -> None:
    stems = mssgen.separate(
        noise(n_channels, n_samples), RATE, model=str(tiny_model), precision="fp32"
    )
    assert all(stem.shape == (n_channels, n_samples) for stem in stems.values())
    assert all(np.isfinite(stem).all() for stem in stems.values())


def test_load_once_use_often(tiny_model: Path, music: Audio) -> None:
    separator = mssgen.load_separator(str(tiny_model), device="cpu")
    first, second = (
        mssgen.separate(music[:, :20_000], RATE, separator=separator) for _ in range(2)
    )
    for name in separator.sources:
        np.testing.assert_array_equal(first[name], second[name])
