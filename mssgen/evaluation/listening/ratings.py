"""Reads, screens and summarises the ratings of a listening test.

Reads the JSON of our page and the CSV files of webMUSHRA (mushra.csv, paired_comparison.csv).
"""

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import sem, t

from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.statistics import CONFIDENCE, bootstrap
from mssgen.files import write_text
from mssgen.inspection.cells import csv_text, md_text

FORMAT = "mssgen-ratings"
REFERENCE, LOW_ANCHOR, MID_ANCHOR = "reference", "anchor35", "anchor70"
HIDDEN_REFERENCE_SCORE = ANCHOR_SCORE = 90.0
MAX_SHARE = 0.15
"""Share of a listener's trials; ITU-R BS.1534-3, 4.1.2 (post-screening of assessors)."""
MAX_LISTENERS_SHARE = 0.25
"""If a larger share of listeners rates the anchor of a trial above 90, the trial is at fault."""
_ROLES = {REFERENCE: "reference", LOW_ANCHOR: "anchor", MID_ANCHOR: "anchor"}


@dataclass(frozen=True)
class Rating:
    """One score of one listener, or one preference."""

    test: str
    listener: str
    trial: str
    track: str
    stem: str
    condition: str
    """Name of the system, "reference", "anchor35", "anchor70", or "A over B" for a preference."""
    role: str
    """"system", "reference", "anchor" or "preference"."""
    score: float
    """0 to 100; for a preference 100: A, 0: B, 50: neither."""


@dataclass(frozen=True)
class Screening:
    """Screening of one listener by BS.1534-3."""

    listener: str
    n_trials: int
    n_low_references: int
    """Trials with the hidden reference below 90."""
    n_high_anchors: int
    """Trials with the anchor above 90, except those in which over a quarter of listeners did so."""
    is_excluded: bool
    reason: str


@dataclass(frozen=True)
class ConditionMean:
    """Mean score of a condition, a row of the table. Each listener counts once, by their mean:
    ratings of one listener are not independent."""

    stem: str
    """"all" for all of them."""
    condition: str
    role: str
    n_listeners: int
    n_ratings: int
    mean: float
    low_t: float | None
    """Lower end of the 95 % interval by Student's t over listeners; None for fewer than two."""
    high_t: float | None
    low_bootstrap: float | None
    """The same from a percentile bootstrap over listeners."""
    high_bootstrap: float | None


def read_ratings(paths: Sequence[str | Path]) -> list[Rating]:
    """Ratings of all files.

    A session in two files counts once, identified by its start time (our page) or its file
    (webMUSHRA). Sessions with the same name in one test are different listeners, and numbered.

    Raises:
        UsageError: no files.
        MssgenError: a file cannot be read or holds no ratings.
    """
    if not paths:
        raise UsageError("no rating files; name those that the listeners saved")
    numbers: dict[tuple[str, str], list[str]] = defaultdict(list)
    ratings: dict[tuple[str, ...], Rating] = {}
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise MssgenError(f"{path} cannot be read ({reason}); check its name") from None
        try:
            if text.lstrip().startswith("{"):
                session, found = _from_json(text)
            else:
                session, found = str(path.resolve()), _from_csv(text)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise MssgenError(
                f"{path} holds no ratings of a listening test ({type(error).__name__}: {error}); "
                "give the JSON that its page saved, or webMUSHRA's CSV"
            ) from None
        if not found:
            raise MssgenError(f"{path} holds no ratings; was the test finished?")
        for rating in found:
            known = numbers[rating.test, rating.listener]
            if session not in known:
                known.append(session)
            listener = _numbered(rating.listener, known.index(session) + 1)
            key = (rating.test, listener, rating.trial, rating.role, rating.condition)
            ratings[key] = replace(rating, listener=listener)
    return list(ratings.values())


def screen_listeners(ratings: Iterable[Rating]) -> list[Screening]:
    """Screen listeners by ITU-R BS.1534-3, 4.1.2; preferences cannot be screened.

    Listeners are excluded if they rate the hidden reference below 90 in more than 15 % of the
    trials, or the mid anchor (7 kHz; the low one if there is no other) above 90 in more than 15 %.
    A trial in which over a quarter of the listeners do the latter does not count: its anchor may
    not be audibly degraded.
    """
    by_listener: dict[str, dict[tuple[str, str], dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for rating in ratings:
        if rating.role != "preference":
            scores = by_listener[rating.listener][rating.test, rating.trial]
            # A system may be called "reference" too.
            scores.update({rating.condition: rating.score} if rating.role != "system" else {})
    high: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for trials in by_listener.values():
        for trial, scores in trials.items():
            if (anchor := _anchor(scores)) is not None:
                high[trial].append(anchor > ANCHOR_SCORE)
    weak = {trial for trial, are in high.items() if sum(are) > MAX_LISTENERS_SHARE * len(are)}
    screened = []
    for listener, trials in sorted(by_listener.items()):
        n_low = sum(
            scores.get(REFERENCE, math.inf) < HIDDEN_REFERENCE_SCORE for scores in trials.values()
        )
        n_high = sum(
            (_anchor(scores) or 0) > ANCHOR_SCORE
            for trial, scores in trials.items()
            if trial not in weak
        )
        limit = MAX_SHARE * len(trials)
        reasons = []
        if n_low > limit:
            reasons.append(f"hidden reference below 90 in {n_low} of {len(trials)} trials")
        if n_high > limit:
            reasons.append(f"anchor above 90 in {n_high} of {len(trials)} trials")
        screened.append(
            Screening(listener, len(trials), n_low, n_high, bool(reasons), "; ".join(reasons))
        )
    return screened


def summarise(
    ratings: Iterable[Rating],
    screening: Iterable[Screening] = (),
    *,
    seed: int = 0,
) -> list[ConditionMean]:
    """Mean of each condition over all stems and per stem, without excluded listeners.

    Sorted by stem ("all" first), then best condition first.
    """
    excluded = {screened.listener for screened in screening if screened.is_excluded}
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    stems = set()
    for rating in ratings:
        if rating.listener in excluded:
            continue
        stems.add(rating.stem)
        for stem in {"all", rating.stem}:
            key = (stem, rating.condition, rating.role)
            groups[key][rating.listener].append(rating.score)
    rows = [
        _summary(*key, listeners, seed)
        for key, listeners in groups.items()
        # With one stem, both rows would be the same.
        if len(stems) > 1 or key[0] == "all"
    ]
    return sorted(rows, key=lambda row: (row.stem != "all", row.stem, -row.mean, row.condition))


def write_ratings(
    folder: Path,
    ratings: Sequence[Rating],
    screening: Sequence[Screening],
    summaries: Sequence[ConditionMean],
) -> list[Path]:
    """Write ratings.csv, listeners.csv, ratings_summary.csv and ratings_summary.md; MssgenError."""
    excluded = {screened.listener for screened in screening if screened.is_excluded}
    table = [{**asdict(rating), "is_excluded": rating.listener in excluded} for rating in ratings]
    return [
        write_text(folder / "ratings.csv", csv_text(table)),
        write_text(folder / "listeners.csv", csv_text([asdict(one) for one in screening])),
        write_text(folder / "ratings_summary.csv", csv_text([asdict(one) for one in summaries])),
        write_text(folder / "ratings_summary.md", _markdown(screening, summaries)),
    ]


def _from_json(text: str) -> tuple[str, list[Rating]]:
    """(start of the session, ratings) from the JSON of our page."""
    saved = json.loads(text)
    if saved.get("format") != FORMAT or saved.get("format_version") != 1:
        raise ValueError("its format is unknown to this version")
    test, listener, ratings = str(saved["test_id"]), str(saved["listener"]), []
    for trial in saved["trials"]:
        about = (test, listener, str(trial["trial"]), str(trial["track"]), str(trial["stem"]))
        if saved["kind"] == "ab":
            ratings.append(_choice(about, trial["first"], trial["second"], trial["preferred"]))
            continue
        for rated in trial["ratings"]:
            name, role = str(rated["condition"]), str(rated["role"])
            ratings.append(Rating(*about, name, role, _score(rated["score"])))
    return str(saved["started"]), ratings


def _from_csv(text: str) -> list[Rating]:
    """Ratings from webMUSHRA's mushra.csv or paired_comparison.csv (its service/write.php)."""
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0]) if rows else []
    is_mushra = "rating_stimulus" in columns
    if not is_mushra and "choice_answer" not in columns:
        raise ValueError("no column rating_stimulus or choice_answer")
    # Columns before trial_id describe the session: its id, and the listener's answers.
    answers = [name for name in columns[: columns.index("trial_id")] if name != "session_test_id"]
    n_seen: Counter[tuple[str, ...]] = Counter()
    ratings = []
    for row in rows:
        condition = row["rating_stimulus" if is_mushra else "choice_non_reference"]
        words = " ".join(word for name in answers if (word := (row[name] or "").strip()))
        name = row.get("session_uuid") or words or "listener"
        # A second rating of the same condition comes from another listener of the same name.
        key = (row["session_test_id"], name, row["trial_id"], condition)
        n_seen[key] += 1
        listener = _numbered(name, n_seen[key])
        # Pages are named t01.stem.track.
        _, stem, track = (*row["trial_id"].split(".", 2), "", "")[:3]
        about = (row["session_test_id"], listener, row["trial_id"], track, stem)
        if is_mushra:
            role = _ROLES.get(condition, "system")
            ratings.append(Rating(*about, condition, role, _score(row["rating_score"])))
        elif row["choice_answer"] != "unknown":
            chosen = {"correct": REFERENCE, "incorrect": condition}.get(row["choice_answer"])
            ratings.append(_choice(about, condition, REFERENCE, chosen))
    return ratings


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _choice(
    about: tuple[str, str, str, str, str], first: str, second: str, chosen: str | None
) -> Rating:
    """A preference with its two names in alphabetical order, whichever was A."""
    one, other = sorted((str(first), str(second)))
    if chosen not in (one, other, None):
        raise ValueError(f"{chosen} was not among the choices")
    score = 50.0 if chosen is None else 100.0 if chosen == one else 0.0
    return Rating(*about, f"{one} over {other}", "preference", score)


def _score(value: Any) -> float:
    score = float(value)
    if not 0 <= score <= 100:
        raise ValueError(f"a score of {score:g} is not between 0 and 100")
    return score


def _anchor(scores: Mapping[str, float]) -> float | None:
    return scores.get(MID_ANCHOR, scores.get(LOW_ANCHOR))


def _summary(
    stem: str, condition: str, role: str, listeners: Mapping[str, Sequence[float]], seed: int
) -> ConditionMean:
    means = np.array([np.mean(scores) for scores in listeners.values()])
    n_ratings = sum(map(len, listeners.values()))
    mean, n = float(means.mean()), len(means)
    low = high = None
    if n > 1:
        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * sem(means))
        low, high = mean - half, mean + half
    return ConditionMean(
        stem, condition, role, n, n_ratings, mean, low, high, *bootstrap(means, "mean", seed=seed)
    )


def _markdown(screening: Sequence[Screening], summaries: Sequence[ConditionMean]) -> str:
    excluded = [screened for screened in screening if screened.is_excluded]
    lines = [
        "| stem | condition | mean | 95 % (t) | 95 % (bootstrap) | listeners | ratings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summaries:
        name, stem = (md_text(text) for text in (row.condition, row.stem))
        lines.append(
            f"| {stem} | {name} | {row.mean:.1f} | {_interval(row.low_t, row.high_t)} | "
            f"{_interval(row.low_bootstrap, row.high_bootstrap)} | {row.n_listeners} | "
            f"{row.n_ratings} |"
        )
    lines += [
        "",
        "Scores from 0 to 100; for preferences, 100: the first system, 0: the second, 50: "
        "neither. Means and intervals over listeners, each of whom counts once.",
    ]
    if screening:
        lines += [
            "",
            f"Screened by ITU-R BS.1534-3, 4.1.2: {len(excluded)} of {len(screening)} listeners "
            "excluded.",
            *(f"- {md_text(screened.listener)}: {screened.reason}" for screened in excluded),
        ]
    return "\n".join(lines) + "\n"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
