"""From one value per track to averages, confidence intervals and paired comparisons.

Intervals are percentile bootstrap intervals over tracks (Efron and Tibshirani, "An Introduction to
the Bootstrap", 1993, chapter 13), not BCa: they are defined for medians and for few tracks, where
the acceleration of BCa degenerates. The same seed draws the same tracks, so tables are
reproducible.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import PermutationMethod, wilcoxon

from mssgen.evaluation.metrics.base import Metric, Score

N_RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_PAIRS = 6
"""With fewer tracks the two-sided signed-rank test cannot reach 5 % (2 / 2^5 is 6.25 %), and a
percentile interval, which lies between the smallest and largest value, does not cover 95 %."""
_MAX_EXACT = 50
_MAX_PERMUTED = 13

How = Literal["mean", "median"]


@dataclass(frozen=True)
class Aggregate:
    """One cell of a table."""

    value: float | None
    """None if no track has a value."""
    low: float | None = None
    """Lower end of the 95 % interval; None for fewer than two tracks."""
    high: float | None = None
    n_tracks: int = 0
    """Number of tracks with a value."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Number of tracks without a value, by reason."""

    @property
    def n_missing(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True)
class PairedComparison:
    """Paired comparison of two systems on the tracks for which both have a value."""

    difference: Aggregate
    """Second minus first, per track; of absolute values if zero is best."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test; None if all differences are zero, or none exist."""
    method: str
    """"exact" or "approximate" (normal, with correction for ties), or "" without a test."""
    n_zero: int
    """Tracks with equal values, which the test leaves out."""
    remark: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero; False with fewer than MIN_PAIRS tracks."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or self.difference.n_tracks < MIN_PAIRS:
            return False
        return low > 0 or high < 0


def aggregate(
    scores: Sequence[Score], how: How, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Aggregate:
    """Average over tracks, with a percentile bootstrap interval of 95 %.

    Missing values are counted by reason and enter neither the average nor the interval.
    """
    values = np.array([score.value for score in scores if score.value is not None], np.float64)
    reasons = Counter(score.reason or "unknown" for score in scores if score.value is None)
    if not len(values):
        return Aggregate(None, reasons=dict(reasons))
    low, high = bootstrap(values, how, seed=seed, n_resamples=n_resamples)
    return Aggregate(_average(values, how), low, high, len(values), dict(reasons))


def bootstrap(
    values: NDArray[np.float64], how: How, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float | None, float | None]:
    """95 % percentile interval of the average of `values` [N]; (None, None) for N < 2."""
    if len(values) < 2:
        return None, None
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(values), (n_resamples, len(values)))
    averages = np.mean(values[drawn], axis=1) if how == "mean" else np.median(values[drawn], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(averages, [tail, 1 - tail])
    return float(low), float(high)


def compare(
    first: Mapping[str, Score],
    second: Mapping[str, Score],
    metric: Metric,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> PairedComparison:
    """Compare two systems by their scores per track.

    If zero is best, absolute values are compared: -3 is as far off as 3. Differences are averaged
    like the metric, so a median of differences need not be the difference of medians.
    """
    differences, missing = [], 0
    for track in sorted(first.keys() | second.keys()):
        a, b = first.get(track), second.get(track)
        if a is None or b is None or a.value is None or b.value is None:
            missing += 1
        elif metric.better == "zero":
            differences.append(abs(b.value) - abs(a.value))
        else:
            differences.append(b.value - a.value)
    found = np.array(differences, np.float64)
    scores = [Score(float(value)) for value in found]
    difference = aggregate(scores, metric.aggregate, seed=seed, n_resamples=n_resamples)
    if missing:
        difference.reasons["no value in one of the two"] = missing
    return _tested(difference, found)


def signed_rank(differences: NDArray[np.float64]) -> tuple[float, str]:
    """(p, method) of Wilcoxon's two-sided signed-rank test of `differences` [N], none of them 0.

    Without ties the distribution is exact up to 50 tracks. With ties it is enumerated up to 13
    tracks, beyond that approximated by a normal one with tie correction.
    """
    has_ties = len(np.unique(np.abs(differences))) < len(differences)
    if not has_ties and len(differences) <= _MAX_EXACT:
        return float(wilcoxon(differences, method="exact").pvalue), "exact"
    if len(differences) <= _MAX_PERMUTED:
        every = PermutationMethod(n_resamples=2 ** len(differences))
        return float(wilcoxon(differences, method=every).pvalue), "exact"
    result = wilcoxon(differences, method="approx", correction=True)
    return float(result.pvalue), "approximate"


def _tested(difference: Aggregate, differences: NDArray[np.float64]) -> PairedComparison:
    # Differences at rounding level would get random ranks and signs.
    scale = float(np.abs(differences).max(initial=0.0))
    rounded = np.where(np.abs(differences) <= 1e-12 * max(1.0, scale), 0.0, differences)
    moved = rounded[rounded != 0]
    n_zero = len(rounded) - len(moved)
    if not len(moved):
        remark = "no difference in any track" if len(rounded) else "no track has both values"
        return PairedComparison(difference, None, "", n_zero, remark)
    p_value, method = signed_rank(moved)
    few = f"{len(moved)} tracks differ: the test cannot reach 5 %"
    return PairedComparison(
        difference, p_value, method, n_zero, few if len(moved) < MIN_PAIRS else ""
    )


def _average(values: NDArray[np.float64], how: How) -> float:
    return float(np.mean(values) if how == "mean" else np.median(values))
