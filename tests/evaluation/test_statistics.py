"""Averages, intervals and comparisons, against numbers that can be worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssgen.evaluation.metrics.base import Score
from mssgen.evaluation.statistics import aggregate, bootstrap, compare, signed_rank

from support.measures import ERROR, OFFSET, metric

HIGHER = metric("level", None, better="higher")


def scores(*values: float | None) -> list[Score]:
    return [Score(v) if v is not None else Score(None, 0, "silent reference") for v in values]


def by_track(*values: float | None) -> dict[str, Score]:
    return {f"track {i}": score for i, score in enumerate(scores(*values))}


@pytest.mark.parametrize(("how", "expected"), [("mean", 4.0), ("median", 2.5)])
def test_averages_leave_out_and_count_what_is_missing(how: str, expected: float) -> None:
    found = aggregate([*scores(1, 2, None, 3, 10, None), Score(None, 0, "no estimate")], how)
    assert found.value == expected
    assert (found.n_tracks, found.n_missing) == (4, 3)
    assert found.reasons == {"silent reference": 2, "no estimate": 1}
    assert found.low is not None
    assert 1 <= found.low <= expected <= found.high <= 10


def test_no_value_and_one_value_have_no_interval() -> None:
    assert aggregate(scores(None), "mean").value is None
    assert aggregate([], "mean").n_missing == 0
    one = aggregate(scores(3.0), "mean")
    assert (one.value, one.low, one.high) == (3.0, None, None)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.sampled_from(["mean", "median"]))
def test_an_interval_lies_within_the_values_and_is_drawn_alike(
    values: list[float], how: str
) -> None:
    array = np.array(values)
    low, high = bootstrap(array, how, seed=3, n_resamples=100)
    assert (low, high) == bootstrap(array, how, seed=3, n_resamples=100)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@pytest.mark.parametrize("how", ["mean", "median"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(how: str) -> None:
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap(random.normal(5, 2, 40), how, seed=trial, n_resamples=400)
        hits += low <= 5 <= high
    assert 0.90 <= hits / 300 <= 0.985


def by_hand(differences: list[float]) -> float:
    """The two-sided signed-rank test by going through all signs."""
    magnitudes = np.abs(differences)
    ranks = np.array(
        [(magnitudes < m).sum() + ((magnitudes == m).sum() + 1) / 2 for m in magnitudes]
    )
    centre = ranks.sum() / 2
    found = abs(ranks[np.array(differences) > 0].sum() - centre)
    sums = [np.dot(ranks, signs) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return float(np.mean([abs(total - centre) >= found - 1e-9 for total in sums]))


@pytest.mark.parametrize(
    "differences",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [1.5, -0.5, 2.5, 3.5, -4.5, 5.5, 7.0],
        [1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -4.0],  # ties
        [0.5, 0.5, 0.5],
    ],
)
def test_the_signed_rank_test_is_exact_also_with_ties(differences: list[float]) -> None:
    p_value, method = signed_rank(np.array(differences))
    assert method == "exact"
    assert p_value == pytest.approx(by_hand(differences))


def test_many_ties_are_approximated_and_said_to_be() -> None:
    random = np.random.default_rng(0)
    values = np.round(random.normal(1, 2, 40))
    p_value, method = signed_rank(values[values != 0])
    assert method == "approximate"
    assert 0 < p_value < 0.2


def test_a_comparison_is_of_the_same_tracks() -> None:
    first = by_track(1, 2, 3, 4, 5, 6, None, 9)
    second = by_track(2, 3.5, 3, 6, 7.25, 9, 5, None)
    found = compare(first, second, HIGHER)
    assert found.difference.value == pytest.approx((1 + 1.5 + 0 + 2 + 2.25 + 3) / 6)
    assert found.difference.n_tracks == 6
    assert found.difference.reasons == {"no value in one of the two": 2}
    assert found.n_zero == 1
    assert found.p_value == pytest.approx(2 / 2**5)
    assert "cannot reach 5 %" in found.remark
    assert found.is_clear


def test_magnitudes_are_compared_where_zero_is_best() -> None:
    found = compare(by_track(-3.0, 2.0, 1.0), by_track(3.0, -1.0, 0.5), OFFSET)
    assert found.difference.value == -0.5  # the median of 0, -1 and -0.5
    assert found.n_zero == 1


def test_equal_systems_have_no_test() -> None:
    found = compare(by_track(1, 2, 3), by_track(1, 2, 3 + 1e-15), ERROR)
    assert (found.p_value, found.n_zero) == (None, 3)
    assert not found.is_clear
    assert compare(by_track(None), by_track(1), ERROR).remark == "no track has both values"
