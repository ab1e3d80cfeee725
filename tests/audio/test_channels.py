"""Channels in pairs and back; more channels to stereo."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.audio.channels import downmixed, from_pairs, n_mixed, to_pairs

n_channels_any = st.integers(1, 8)


def sound(n_channels: int, n_samples: int = 20) -> NDArray[np.float32]:
    shape = (n_channels, n_samples)
    return np.random.default_rng(n_channels).uniform(-1, 1, shape).astype(np.float32)


@given(n_channels_any, st.integers(0, 30), st.integers(1, 4))
def test_pairs_and_back(n_channels: int, n_samples: int, n_stems: int) -> None:
    """A separator whose stem s is the input times s + 1, for any number of channels."""
    block = sound(n_channels, n_samples)
    pairs = to_pairs(block)
    assert pairs.shape == ((n_channels + 1) // 2, 2, n_samples)
    stems = torch.stack([pairs * (index + 1) for index in range(n_stems)], dim=1)
    result = from_pairs(stems, n_channels)
    assert result.dtype == np.float32
    expected = np.stack([block * (index + 1) for index in range(n_stems)])
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_mono_is_the_mean_of_what_became_of_both_copies() -> None:
    stems = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])  # [B=1, S=1, 2, T=2]
    np.testing.assert_array_equal(from_pairs(stems, 1), [[[2.0, 4.0]]])
    np.testing.assert_array_equal(stems[0, 0, 0], [1.0, 2.0])  # the caller's tensor is as it was


@given(n_channels_any, st.integers(0, 2**16 - 1))
def test_a_downmix_never_exceeds_full_scale(n_channels: int, signs: int) -> None:
    """The worst case: every channel at full scale, in any combination of signs."""
    block = np.array(
        [[1.0 if signs >> index & 1 else -1.0] for index in range(n_channels)], np.float32
    )
    result = downmixed(block)
    assert len(result) == n_mixed(n_channels, downmix=True) <= 2
    assert result.dtype == np.float32
    assert np.abs(result).max() <= 1 + 1e-6
    if n_channels > 2:  # and nothing is wasted: the loudest case reaches it
        np.testing.assert_allclose(downmixed(np.ones((n_channels, 1), np.float32)), 1, rtol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_mono_and_stereo_stay(n_channels: int) -> None:
    block = sound(n_channels)
    np.testing.assert_array_equal(downmixed(block), block)


def test_surround_goes_to_its_side() -> None:
    """5.1 as L R C LFE Ls Rs: the centre to both sides, the LFE nowhere."""
    sides = [downmixed(np.eye(6, dtype=np.float32)[:, [index]])[:, 0] for index in range(6)]
    left, right, centre, lfe, left_rear, right_rear = sides
    assert left[0] > 0
    assert left[1] == 0
    np.testing.assert_allclose(right, left[::-1])
    assert centre[0] == centre[1] > 0
    assert not lfe.any()
    assert left_rear[0] == pytest.approx(left[0] / 2**0.5)
    np.testing.assert_allclose(right_rear, left_rear[::-1])


def test_without_downmix_all_channels_stay() -> None:
    assert n_mixed(6, downmix=False) == 6
    assert n_mixed(1, downmix=True) == 1
