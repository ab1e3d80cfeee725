"""Tables of an evaluation: summary.csv for programs, summary.md for people.

Every metric has its own column, so museval's SDR (median of windows) and the global SDR never
share one. Each group of metrics has one table per stem.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.statistics import CONFIDENCE, MIN_PAIRS, Aggregate, PairedComparison
from mssgen.evaluation.summary import Summary
from mssgen.inspection.cells import counted, csv_text, md_text

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
_MAX_NOTES = 200


def summary_csv(summary: Summary) -> str:
    """CSV with one row per system, stem and metric."""
    rows = []
    for row in summary.systems:
        for stem in summary.stems:
            if not summary.has(row.name, stem):
                continue
            for metric in summary.metrics:
                cell = summary.cell(row.name, stem, metric)
                rows.append(
                    {
                        "system": row.name,
                        "stem": stem,
                        "metric": metric.name,
                        "unit": metric.unit,
                        "aggregate": metric.aggregate,
                        "value": _plain(cell.value),
                        "low": _plain(cell.low),
                        "high": _plain(cell.high),
                        "n_tracks": cell.n_tracks,
                        "n_missing": cell.n_missing,
                        "reasons": _reasons(cell.reasons),
                    }
                )
    return csv_text(rows)


def comparisons_csv(summary: Summary) -> str:
    """CSV with one row per pair of systems, stem and metric; "" for a single system."""
    rows = []
    for first, second, stem, metric, found in _compared(summary, summary.pairs()):
        difference = found.difference
        rows.append(
            {
                "first": first,
                "second": second,
                "stem": stem,
                "metric": metric.name,
                "unit": metric.unit,
                "difference": _plain(difference.value),
                "low": _plain(difference.low),
                "high": _plain(difference.high),
                "wilcoxon_p": "" if found.p_value is None else f"{found.p_value:.6g}",
                "method": found.method,
                "n_tracks": difference.n_tracks,
                "n_zero": found.n_zero,
                "n_missing": difference.n_missing,
                "remark": found.remark,
            }
        )
    return csv_text(rows)


def summary_md(summary: Summary, evaluation: Mapping[str, Any]) -> str:
    """Markdown with tables, differences, missing values, notes, definitions and provenance."""
    n_tracks = len(evaluation["tracks"])
    parts = [
        "# Evaluation",
        f"{counted(len(summary.systems), 'system')} against the references of "
        f"{counted(n_tracks, 'track')} in `{evaluation['references']}`.",
        f"Averages over tracks with {CONFIDENCE:.0%} confidence intervals in brackets, followed by "
        "the number of tracks if values are missing. **Bold** marks the best system, if the "
        "interval of its paired difference to every other system excludes zero on at least "
        f"{MIN_PAIRS} tracks; rows made from the references do not compete.",
    ]
    if n_tracks < MIN_PAIRS:
        parts.append(f"With fewer than {MIN_PAIRS} tracks, intervals are too narrow to trust.")
    for stem in summary.stems:
        parts.append(f"## {md_text(stem)}")
        for group in dict.fromkeys(metric.group for metric in summary.metrics):
            metrics = [metric for metric in summary.metrics if metric.group == group]
            parts += [f"### {group}", markdown_table(_stem_rows(summary, stem, metrics))]
    parts += _sets_md(evaluation.get("set_distances", []))
    parts += [*_differences_md(summary), *_missing_md(summary)]
    parts += [*_notes_md(evaluation["notes"]), "## Definitions"]
    parts.append("\n".join(f"- **{md_text(m.title)}**: {_defined(m)}" for m in summary.metrics))
    parts += ["## Made by", _made_by(evaluation, summary)]
    return "\n\n".join(parts) + "\n"


def _stem_rows(summary: Summary, stem: str, metrics: Sequence[Metric]) -> Iterator[list[str]]:
    yield ["system", *(f"{md_text(m.title)} {ARROWS[m.better]}" for m in metrics)]
    best = {metric.name: summary.best(stem, metric) for metric in metrics}
    for row in summary.systems:
        if summary.has(row.name, stem):
            yield [
                md_text(row.name),
                *(
                    shown(summary.cell(row.name, stem, m), best[m.name] == row.name)
                    for m in metrics
                ),
            ]


def shown(cell: Aggregate, is_best: bool = False) -> str:
    """A table cell: value, interval, number of tracks."""
    if cell.value is None:
        return f"– (0/{cell.n_missing})" if cell.n_missing else "–"
    value = f"**{number(cell.value)}**" if is_best else number(cell.value)
    interval = (
        f" [{number(cell.low)}, {number(cell.high)}]"
        if cell.low is not None and cell.high is not None
        else ""
    )
    n_all = cell.n_tracks + cell.n_missing
    return value + interval + (f" ({cell.n_tracks}/{n_all})" if cell.n_missing else "")


def number(value: float) -> str:
    """Two decimals, or three significant digits below 0.1."""
    digits = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return "0.00" if value == 0 else digits.replace("-", "−")


def _sets_md(distances: Sequence[Mapping[str, Any]]) -> list[str]:
    if not distances:
        return []
    rows = [["stem", "embedding", "system", "FAD ↓", "FAD∞ ↓", "tracks", "frames"]]
    for found in distances:
        infinity = found["fad_infinity"]
        rows.append(
            [
                *(md_text(found[key]) for key in ("stem", "embedding", "system")),
                number(found["fad"]),
                "–" if infinity is None else number(infinity),
                str(found["n_tracks"]),
                f"{found['n_frames']} / {found['n_reference_frames']}",
            ]
        )
    intro = (
        "All estimates of a stem against all references of the same tracks: one number per set, so "
        "no interval. FAD is biased upwards if there are few frames; FAD∞ is extrapolated to "
        "infinitely many. Distances of different embeddings are not comparable."
    )
    return ["## Fréchet audio distances of sets", intro, markdown_table(iter(rows), (0, 1, 2))]


def _differences_md(summary: Summary) -> list[str]:
    pairs = summary.pairs(most=True)
    compared = list(_compared(summary, pairs))
    if not compared:
        return []
    rows = [["stem", "metric", "systems", "difference", "Wilcoxon p", "tracks", "remark"]]
    for first, second, stem, metric, found in compared:
        p_value = "–" if found.p_value is None else f"{found.p_value:.3g}"
        about = [found.remark, f"{found.n_zero} equal" if found.n_zero else ""]
        rows.append(
            [
                md_text(stem),
                md_text(metric.title),
                f"{md_text(second)} − {md_text(first)}",
                shown(
                    Aggregate(found.difference.value, found.difference.low, found.difference.high)
                ),
                f"≈ {p_value}" if found.method == "approximate" else p_value,
                str(found.difference.n_tracks),
                md_text("; ".join(filter(None, about))),
            ]
        )
    few = " Only comparisons with the first system; comparisons.csv has all pairs."
    n_all = len(summary.pairs())
    intro = (
        "Track by track, on tracks for which both have a value; if zero is best, absolute values "
        "are compared. p: two-sided Wilcoxon signed-rank test (equal tracks left out; with fewer "
        f"than {MIN_PAIRS} tracks it cannot fall below 5 %), not corrected for the number of "
        f"comparisons ({len(compared)})."
    )
    intro += few if len(pairs) < n_all else ""
    return ["## Differences", intro, markdown_table(iter(rows), (0, 1, 2, 6))]


def _compared(
    summary: Summary, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, str, Metric, PairedComparison]]:
    for first, second in pairs:
        for stem in summary.stems:
            if summary.has(first, stem) and summary.has(second, stem):
                for metric in summary.metrics:
                    found = summary.comparison(first, second, stem, metric)
                    yield first, second, stem, metric, found


def _missing_md(summary: Summary) -> list[str]:
    rows = [["system", "stem", "metric", "tracks without", "why"]]
    for row in summary.systems:
        for stem in summary.stems:
            for metric in summary.metrics:
                cell = summary.cell(row.name, stem, metric)
                if cell.n_missing:
                    why = md_text(_reasons(cell.reasons))
                    texts = [
                        md_text(row.name),
                        md_text(stem),
                        md_text(metric.title),
                    ]
                    rows.append([*texts, str(cell.n_missing), why])
    return ["## Missing values", markdown_table(iter(rows), (0, 1, 2, 4))] if len(rows) > 1 else []


def _notes_md(notes: Sequence[Mapping[str, str]]) -> list[str]:
    tracks: dict[tuple[str, str], list[str]] = {}
    for note in notes:
        tracks.setdefault((note["system"], note["note"]), []).append(note["track"])
    lines = []
    for (system, words), where in tracks.items():
        place = where[0] if len(where) == 1 else f"{len(where)} tracks"
        lines.append(f"- {md_text(': '.join(filter(None, (system, place, words))))}")
    if len(lines) > _MAX_NOTES:
        lines[_MAX_NOTES:] = [f"- and {len(lines) - _MAX_NOTES} more in evaluation.json"]
    return ["## Notes", "\n".join(lines)] if lines else []


def _made_by(evaluation: Mapping[str, Any], summary: Summary) -> str:
    options = evaluation["options"].items()
    given = {key: value for key, value in options if value not in (None, False, {}, [])}
    lines = [
        f"- versions: {', '.join(f'{k} {v}' for k, v in evaluation['versions'].items())}",
        f"- commit of mssgen: {evaluation['commit'] or 'unknown (installed as a package)'}",
        f"- intervals: percentile bootstrap over tracks, {summary.n_resamples} resamples, seed "
        f"{summary.seed}",
        f"- options: {', '.join(f'{k} {_listed(v)}' for k, v in given.items())}",
    ]
    for system in evaluation["systems"]:
        made = f", checkpoint {system['checkpoint_hash']}" if "checkpoint_hash" in system else ""
        lines.append(f"- {md_text(system['name'])}: `{system['folder'].replace('`', ' ')}`{made}")
    return "\n".join(lines)


def _listed(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={inner}" for key, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _defined(metric: Metric) -> str:
    best = {"higher": "Higher is better", "lower": "Lower is better", "zero": "Zero is best"}
    definition = md_text(metric.definition).rstrip(".")
    return f"{definition}. {metric.aggregate.capitalize()} over tracks. {best[metric.better]}."


def markdown_table(rows: Iterator[list[str]], left: Collection[int] = (0,)) -> str:
    """Markdown table; the first row is the header, columns in `left` are left-aligned."""
    head, *body = list(rows)
    lines = [head, ["---" if i in left else "---:" for i in range(len(head))], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _reasons(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} ({n})" if n > 1 else reason for reason, n in reasons.items())


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
