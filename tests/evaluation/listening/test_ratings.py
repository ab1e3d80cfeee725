"""Ratings of listening tests: read, screened by BS.1534-3, summarised."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.listening.ratings import (
    Rating,
    read_ratings,
    screen_listeners,
    summarise,
    write_ratings,
)

_ROLES = {"reference": "reference", "anchor35": "anchor", "anchor70": "anchor"}


def saved(
    folder: Path,
    listener: str,
    trials: list[dict[str, float]],
    *,
    started: str = "2026-01-01T10:00:00Z",
    name: str = "",
) -> Path:
    """What the page saves: scores by condition, a dict a trial."""
    path = folder / f"{name or listener}.json"
    content: dict[str, Any] = {
        "format": "mssgen-ratings",
        "format_version": 1,
        "test_id": "test-mushra",
        "kind": "mushra",
        "listener": listener,
        "started": started,
        "trials": [
            {
                "trial": f"t{index:02}.vocals.song",
                "track": "song",
                "stem": "vocals" if index % 2 else "drums",
                "ratings": [
                    {"condition": name, "role": _ROLES.get(name, "system"), "score": score}
                    for name, score in scores.items()
                ],
            }
            for index, scores in enumerate(trials)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def of(listener: str, trial: int, condition: str, score: float) -> Rating:
    role = _ROLES.get(condition, "system")
    return Rating("test", listener, f"t{trial:02}", "song", "vocals", condition, role, score)


def test_read_json(tmp_path: Path) -> None:
    path = saved(tmp_path, "anna", [{"reference": 100, "anchor35": 10, "ours": 70}])
    ratings = read_ratings([path, path])
    assert [(one.condition, one.role, one.score) for one in ratings] == [
        ("reference", "reference", 100),
        ("anchor35", "anchor", 10),
        ("ours", "system", 70),
    ]
    assert (ratings[0].listener, ratings[0].track, ratings[0].stem) == ("anna", "song", "drums")


def test_two_listeners_of_one_name(tmp_path: Path) -> None:
    first = saved(tmp_path, "anna", [{"ours": 70}])
    second = saved(tmp_path, "anna", [{"ours": 30}], started="2026-01-02", name="other")
    copy = saved(tmp_path, "anna", [{"ours": 70}], name="copy")
    listeners = {one.listener: one.score for one in read_ratings([first, second, copy])}
    assert listeners == {"anna": 70, "anna (2)": 30}


def test_read_webmushra(tmp_path: Path) -> None:
    path = tmp_path / "mushra.csv"
    rows = [
        ["session_test_id", "listener", "trial_id", "rating_stimulus", "rating_score",
         "rating_time", "rating_comment"],
        ["id", "anna", "t01.vocals.a_song.x", "reference", "98", "1200", ""],
        ["id", "anna", "t01.vocals.a_song.x", "anchor35", "12", "1200", ""],
        ["id", "anna", "t01.vocals.a_song.x", "ours", "60", "1200", "nice, really"],
        ["id", "ben", "t01.vocals.a_song.x", "ours", "50", "900", ""],
        ["id", "ben", "t01.vocals.a_song.x", "ours", "40", "900", ""],
    ]  # fmt: skip
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    ratings = read_ratings([path])
    assert [(one.listener, one.role, one.score) for one in ratings] == [
        ("anna", "reference", 98),
        ("anna", "anchor", 12),
        ("anna", "system", 60),
        ("ben", "system", 50),
        ("ben (2)", "system", 40),
    ]
    assert {(one.stem, one.track) for one in ratings} == {("vocals", "a_song.x")}


def test_read_webmushra_with_sessions_and_foreign_trials(tmp_path: Path) -> None:
    path = tmp_path / "mushra.csv"
    path.write_text(
        "session_test_id,email,age,session_uuid,trial_id,rating_stimulus,rating_score\n"
        "id,a@b,30,uuid-1,trial1,C1,60\nid,a@b,30,uuid-2,trial1,C1,70\n"
    )
    assert [(one.listener, one.stem) for one in read_ratings([path])] == [
        ("uuid-1", ""),
        ("uuid-2", ""),
    ]


def test_read_paired_comparison(tmp_path: Path) -> None:
    path = tmp_path / "paired_comparison.csv"
    path.write_text(
        "session_test_id,listener,trial_id,choice_reference,choice_non_reference,choice_answer,"
        "choice_time,choice_comment\n"
        "id,anna,t01.bass.song,reference,ours,correct,1,\n"
        "id,ben,t01.bass.song,reference,ours,incorrect,1,\n"
        "id,cleo,t01.bass.song,reference,ours,undecided,1,\n"
        "id,dora,t01.bass.song,reference,ours,unknown,1,\n"
    )
    ratings = read_ratings([path])
    assert {one.condition for one in ratings} == {"ours over reference"}
    assert {one.listener: one.score for one in ratings} == {"anna": 0, "ben": 100, "cleo": 50}


def test_choices_of_the_page_do_not_depend_on_which_was_a(tmp_path: Path) -> None:
    trials = [
        {"trial": "t01", "track": "x", "stem": "bass", "first": "b", "second": "a"},
        {"trial": "t02", "track": "x", "stem": "bass", "first": "a", "second": "b"},
        {"trial": "t03", "track": "x", "stem": "bass", "first": "a", "second": "b"},
    ]
    content = {
        "format": "mssgen-ratings", "format_version": 1, "test_id": "t", "kind": "ab",
        "listener": "anna", "started": "now",
        "trials": [trial | {"preferred": p} for trial, p in zip(trials, "aa", strict=False)]
        + [trials[2] | {"preferred": None}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    ratings = read_ratings([tmp_path / "a.json"])
    assert [(one.condition, one.score) for one in ratings] == [
        ("a over b", 100),
        ("a over b", 100),
        ("a over b", 50),
    ]
    assert screen_listeners(ratings) == []
    assert summarise(ratings)[0].mean == pytest.approx(250 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        "{}",
        '{"format": "mssgen-ratings", "format_version": 2}',
        '{"format": "mssgen-ratings", "format_version": 1, "test_id": "", "listener": "", '
        '"kind": "mushra", "started": "", "trials": []}',
        '{"format": "mssgen-ratings", "format_version": 1, "test_id": "", "listener": "", '
        '"kind": "mushra", "started": "", "trials": [{"trial": 1, "track": 1, "stem": 1, '
        '"ratings": [{"condition": "a", "role": "system", "score": 101}]}]}',
        "session_test_id,trial_id\n1,2\n",
        "session_test_id,trial_id,rating_stimulus,rating_score\n1,2,C1,x\n",
    ],
)
def test_files_without_ratings_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(MssgenError, match=r"file\.json holds no ratings"):
        read_ratings([path])


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_ratings([])
    with pytest.raises(MssgenError, match=r"none\.json cannot be read"):
        read_ratings([tmp_path / "none.json"])


@pytest.mark.parametrize(("n_low", "is_excluded"), [(3, False), (4, True)])
def test_screening_by_the_hidden_reference(n_low: int, is_excluded: bool) -> None:
    # 15 % of 20 trials are 3; not more than that may be below 90.
    ratings = [of("anna", i, "reference", 89 if i < n_low else 90) for i in range(20)]
    (screened,) = screen_listeners(ratings)
    assert (screened.n_trials, screened.n_low_references) == (20, n_low)
    assert screened.is_excluded is is_excluded
    assert ("hidden reference" in screened.reason) is is_excluded


def test_screening_by_the_anchor() -> None:
    # Four of five listeners know the anchor; the fifth rates it 91 in two of ten trials.
    ratings = [
        of(name, i, "anchor35", 91 if name == "eve" and i < 2 else 90)
        for name in ("anna", "ben", "cleo", "dora", "eve")
        for i in range(10)
    ]
    found = {one.listener: one for one in screen_listeners(ratings)}
    assert [name for name, one in found.items() if one.is_excluded] == ["eve"]
    assert found["eve"].reason == "anchor above 90 in 2 of 10 trials"


def test_an_anchor_that_many_rate_high_excludes_nobody() -> None:
    ratings = [
        of(name, i, "anchor70", 95 if name in ("anna", "ben") else 20)
        for name in ("anna", "ben", "cleo", "dora")
        for i in range(4)
    ]
    assert not any(one.is_excluded for one in screen_listeners(ratings))


def test_the_mid_anchor_goes_before_the_low_one() -> None:
    ratings = [
        of(name, i, condition, 95 if (name, condition) == ("eve", "anchor70") else 10)
        for name in ("anna", "ben", "cleo", "dora", "eve")
        for i in range(4)
        for condition in ("anchor35", "anchor70")
    ]
    assert [one.listener for one in screen_listeners(ratings) if one.is_excluded] == ["eve"]


def test_a_system_called_reference_is_no_hidden_reference() -> None:
    rating = Rating("test", "anna", "t01", "song", "vocals", "reference", "system", 20)
    (screened,) = screen_listeners([rating])
    assert not screened.is_excluded


def test_means_and_intervals_by_hand() -> None:
    # Listeners' means are 50, 60 and 70; anna's two ratings do not count twice.
    ratings = [
        of("anna", 1, "ours", 40), of("anna", 2, "ours", 60), of("ben", 1, "ours", 60),
        of("cleo", 1, "ours", 70),
    ]  # fmt: skip
    (row,) = summarise(ratings)
    assert (row.stem, row.n_listeners, row.n_ratings, row.mean) == ("all", 3, 4, 60)
    half = 4.302653 * 10 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert row.low_t == pytest.approx(60 - half, abs=1e-3)
    assert row.high_t == pytest.approx(60 + half, abs=1e-3)
    assert row.low_bootstrap == 50
    assert row.high_bootstrap == 70


def test_one_listener_has_no_interval() -> None:
    (row,) = summarise([of("anna", 1, "ours", 40)])
    assert (row.mean, row.low_t, row.high_t, row.low_bootstrap) == (40, None, None, None)


def test_excluded_listeners_do_not_count() -> None:
    ratings = [
        of("anna", 1, "ours", 80), of("anna", 1, "reference", 100),
        of("ben", 1, "ours", 10), of("ben", 1, "reference", 20),
    ]  # fmt: skip
    rows = summarise(ratings, screen_listeners(ratings))
    assert [(row.condition, row.mean) for row in rows] == [("reference", 100), ("ours", 80)]


@given(
    scores=st.lists(st.floats(0, 100), min_size=2, max_size=8),
    seed=st.integers(0, 3),
)
def test_intervals_hold_the_mean(scores: list[float], seed: int) -> None:
    ratings = [of(f"l{i}", 1, "ours", score) for i, score in enumerate(scores)]
    (row,) = summarise(ratings, seed=seed)
    assert row.low_t is not None
    assert row.low_bootstrap is not None
    assert row.high_bootstrap is not None
    assert row.low_t <= row.mean + 1e-9
    assert min(scores) - 1e-9 <= row.low_bootstrap <= row.high_bootstrap <= max(scores) + 1e-9


def test_tables_are_written(tmp_path: Path) -> None:
    good = [{"reference": 100, "anchor35": 5, "a|b": 70}] * 2
    bad = [{"reference": 10, "anchor35": 5, "a|b": 99}] * 2
    ratings = read_ratings([saved(tmp_path, "anna", good), saved(tmp_path, "ben", bad)])
    screening = screen_listeners(ratings)
    output = tmp_path / "out"
    paths = write_ratings(output, ratings, screening, summarise(ratings, screening))
    assert [path.name for path in paths] == [
        "ratings.csv", "listeners.csv", "ratings_summary.csv", "ratings_summary.md",
    ]  # fmt: skip
    with open(output / "ratings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["listener"] for row in rows if row["is_excluded"] == "True"} == {"ben"}
    with open(output / "ratings_summary.csv", newline="") as file:
        summary = {(row["stem"], row["condition"]): row for row in csv.DictReader(file)}
    assert summary["all", "a|b"]["mean"] == "70.0"
    assert ("drums", "a|b") in summary
    text = (output / "ratings_summary.md").read_text()
    assert "1 of 2 listeners excluded" in text
    assert "| all | a\\|b | 70.0 |" in text
