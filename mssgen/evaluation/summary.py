"""Scores of an evaluation, averaged and compared on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from mssgen.evaluation.metrics.base import Metric, Score
from mssgen.evaluation.records import Record
from mssgen.evaluation.statistics import (
    N_RESAMPLES,
    Aggregate,
    PairedComparison,
    aggregate,
    compare,
)

MAX_PAIRED_SYSTEMS = 4
"""With more systems, summary.md compares with the first only; comparisons.csv has all pairs."""


@dataclass(frozen=True)
class Row:
    """A row of the tables: a system."""

    name: str
    is_ceiling: bool = False


class Summary:
    """Scores of an evaluation: averages over tracks, and comparisons of all pairs of systems."""

    def __init__(
        self,
        records: Sequence[Record],
        metrics: Sequence[Metric],
        systems: Sequence[Row],
        *,
        seed: int = 0,
        n_resamples: int = N_RESAMPLES,
    ) -> None:
        self.metrics, self.systems = list(metrics), list(systems)
        self.seed, self.n_resamples = seed, n_resamples
        self.stems = list(dict.fromkeys(record.stem for record in records))
        self._scores: dict[tuple[str, str, str], dict[str, Score]] = {}
        for record in records:
            place = (record.system, record.stem, record.metric)
            self._scores.setdefault(place, {})[record.track] = record.score
        self._cells: dict[tuple[str, str, str], Aggregate] = {}
        self._pairs: dict[tuple[str, str, str, str], PairedComparison] = {}

    def has(self, system: str, stem: str) -> bool:
        """Whether the system has a score for the stem, or a reason for its absence."""
        return any((system, stem, metric.name) in self._scores for metric in self.metrics)

    def cell(self, system: str, stem: str, metric: Metric) -> Aggregate:
        """Average over tracks with its interval."""
        place = (system, stem, metric.name)
        if place not in self._cells:
            scores = list(self._scores.get(place, {}).values())
            self._cells[place] = aggregate(
                scores, metric.aggregate, seed=self.seed, n_resamples=self.n_resamples
            )
        return self._cells[place]

    def comparison(self, first: str, second: str, stem: str, metric: Metric) -> PairedComparison:
        """Paired comparison, second minus first."""
        place = (first, second, stem, metric.name)
        if place not in self._pairs:
            self._pairs[place] = compare(
                self._scores.get((first, stem, metric.name), {}),
                self._scores.get((second, stem, metric.name), {}),
                metric,
                seed=self.seed,
                n_resamples=self.n_resamples,
            )
        return self._pairs[place]

    def best(self, stem: str, metric: Metric) -> str | None:
        """The system that beats every other, with all intervals excluding zero; None if none does.

        Rows made from the references do not compete.
        """
        values = {
            row.name: self.cell(row.name, stem, metric).value
            for row in self.systems
            if not row.is_ceiling and self.has(row.name, stem)
        }
        known = {name: _merit(value, metric) for name, value in values.items() if value is not None}
        if len(known) < 2:
            return None
        leader = max(known, key=lambda name: known[name])
        sign = 1 if metric.better == "higher" else -1
        for name in known.keys() - {leader}:
            found = self.comparison(name, leader, stem, metric)
            if not found.is_clear or sign * (found.difference.value or 0.0) <= 0:
                return None
        return leader

    def pairs(self, *, most: bool = False) -> list[tuple[str, str]]:
        """Pairs (first, second) to compare; with `most` and many systems, only with the first."""
        names = [row.name for row in self.systems]
        if most and len(names) > MAX_PAIRED_SYSTEMS:
            return [(names[0], name) for name in names[1:]]
        return list(combinations(names, 2))


def _merit(value: float, metric: Metric) -> float:
    return {"higher": value, "lower": -value, "zero": -abs(value)}[metric.better]
