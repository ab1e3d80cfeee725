"""mssgen evaluate from files to tables: resumable, parallel, and never silent about a gap."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.records import Record, read_scores, write_scores
from mssgen.evaluation.run import EvaluationOptions, evaluate_systems
from mssgen.evaluation.score_cache import identity
from mssgen.evaluation.summary import Row, Summary
from mssgen.evaluation.tables import number, summary_md
from mssgen.events import Done, Event, Failed, Progress, Warned

from support.denied import deny
from support.measures import CALLS, DIES, ERROR, FAILS, NOT_FINITE, OFFSET, metric
from support.program import Program

RATE = 8000
TRACKS = ("one", "two", "three", "four", "five", "six")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six songs of drums and bass; A errs by -20 dB, B by -14 dB."""
    random = np.random.default_rng(0)
    for track in TRACKS:
        for stem in ("drums", "bass"):
            reference = random.normal(0, 0.1, (2, 1000))
            error = random.normal(0, 0.01, reference.shape)
            write(tmp_path / "R" / track / f"{stem}.wav", reference)
            write(tmp_path / "A" / track / f"{stem}.wav", reference + error)
            write(tmp_path / "B" / track / f"{stem}.wav", reference + 2 * error)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CALLS, str(tmp_path / "calls.txt"))
    return tmp_path


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples.T, RATE, subtype="FLOAT")


def calls() -> list[str]:
    """What was measured since the last question."""
    path = Path(os.environ[CALLS])
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def run(
    *systems: str, metrics: tuple[Metric, ...] = (ERROR,), output: str = "out", **changes: object
) -> tuple[Done, dict[tuple[str, str, str, str], Record], list[Event]]:
    """(what was done, records by system, track, stem and metric, events)."""
    events: list[Event] = []
    options = {"n_jobs": 1, **changes}
    done, _ = evaluate_systems(
        EvaluationOptions(systems or ("A",), "R", output, **options),
        metrics=metrics,
        hook=events.append,
    )
    records = read_scores(Path(output))
    return done, {(r.system, r.track, r.stem, r.metric): r for r in records}, events


def test_parallel_and_serial_agree_and_averages_are_right(folder: Path) -> None:
    run("A", "B", metrics=(ERROR, OFFSET), output="serial")
    done, records, events = run("A", "B", metrics=(ERROR, OFFSET), output="parallel", n_jobs=2)
    files = ("scores.jsonl", "summary.csv", "comparisons.csv", "summary.md")
    for name in files:
        assert (folder / "serial" / name).read_text() == (folder / "parallel" / name).read_text()
    assert (done.n_done, done.n_skipped, done.n_failed) == (12, 0, 0)
    assert len(records) == 2 * 6 * 2 * 2
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.done_s == pytest.approx(last.duration_s) == pytest.approx(12 * 1000 / RATE)
    with open("serial/summary.csv", newline="") as file:
        rows = {(r["system"], r["stem"], r["metric"]): r for r in csv.DictReader(file)}
    for stem in ("drums", "bass"):
        values = [records["A", track, stem, "error"].value for track in TRACKS]
        offsets = [records["A", track, stem, "offset"].value for track in TRACKS]
        assert float(rows["A", stem, "error"]["value"]) == pytest.approx(np.mean(values))
        assert float(rows["A", stem, "offset"]["value"]) == pytest.approx(
            np.median(offsets), abs=1e-6
        )
    with open("serial/comparisons.csv", newline="") as file:
        pairs = {(r["stem"], r["metric"]): r for r in csv.DictReader(file)}
    # Twice the error is 6.02 dB more in every track.
    assert float(pairs["bass", "error"]["difference"]) == pytest.approx(
        20 * math.log10(2), abs=1e-4
    )
    assert float(pairs["bass", "error"]["wilcoxon_p"]) == pytest.approx(2 / 2**6)


def test_nothing_is_measured_twice(folder: Path) -> None:
    run("A")
    assert len(calls()) == 12
    done, _, _ = run("A")
    assert calls() == []
    assert (done.n_done, done.n_skipped) == (0, 6)
    # Another metric measures itself only, another system itself only.
    run("A", metrics=(ERROR, OFFSET))
    assert {call.split()[0] for call in calls()} == {"offset"}
    run("A", "B", metrics=(ERROR,))
    assert len(calls()) == 12
    # A changed file is seen, and so is a moved folder that did not change.
    (folder / "A").rename(folder / "A2")
    write(folder / "A2" / "one" / "bass.wav", np.zeros((2, 1000)))
    _, records, _ = run("A2", metrics=(ERROR, OFFSET))
    assert {call.split()[1] for call in calls()} == {"one"}
    assert records["A2", "one", "bass", "error"].value == pytest.approx(0)
    run("A2", overwrite=True)
    assert len(calls()) == 12


def test_an_interrupted_run_goes_on(folder: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done_s > 3 * 1000 / RATE - 1e-6:
            raise KeyboardInterrupt

    options = EvaluationOptions(("A",), "R", "out", n_jobs=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_systems(options, metrics=[ERROR], hook=stop)
    assert len(calls()) == 6
    done, _, _ = run("A")
    assert (done.n_done, done.n_skipped) == (3, 3)
    assert len(calls()) == 6


def test_damaged_scores_are_measured_again(folder: Path) -> None:
    run("A")
    calls()
    for path in list((folder / "out" / "cache" / "scores").iterdir())[:2]:
        path.write_text("{" if path.name < "8" else '{"scores": 3, "notes": []}')
    run("A")
    assert len(calls()) == 4


def test_a_changed_definition_is_another_version() -> None:
    assert identity(ERROR) != identity(metric("error", ERROR.function, definition="Another."))
    assert identity(ERROR) == identity(metric("error", ERROR.function))


def test_a_broken_file_fails_its_track_only(folder: Path) -> None:
    (folder / "A" / "two" / "bass.wav").write_bytes(b"RIFFno sound at all")
    done, records, events = run("A", "B")
    assert (done.n_done, done.n_failed) == (11, 1)
    (failure,) = [event for event in events if isinstance(event, Failed)]
    assert "bass.wav" in failure.message
    assert failure.track == "two (A)"
    gap = records["A", "two", "drums", "error"]
    assert gap.value is None
    assert "bass.wav" in gap.reason
    assert records["B", "two", "bass", "error"].value is not None
    assert "(5/6)" in (folder / "out" / "summary.md").read_text()
    # It is tried again, and only it.
    calls()
    write(folder / "A" / "two" / "bass.wav", np.ones((2, 1000)))
    done, _, _ = run("A", "B")
    assert (done.n_done, done.n_skipped, done.n_failed) == (1, 11, 0)


def test_a_folder_that_cannot_be_read_fails_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "A" / "closed").mkdir()
    deny(monkeypatch, folder / "A" / "closed")
    done, records, events = run("A", "B")
    assert (done.n_done, done.n_failed) == (12, 1)
    (failure,) = [event for event in events if isinstance(event, Failed)]
    assert failure.track == str(Path("A/closed"))
    assert failure.message == "cannot be read (Permission denied); change its permissions"
    assert records["A", "two", "bass", "error"].value is not None


def test_a_failing_metric_leaves_the_others(folder: Path) -> None:
    done, records, events = run("A", metrics=(ERROR, FAILS, NOT_FINITE))
    assert (done.n_done, done.n_failed) == (5, 1)
    assert records["A", "two", "bass", "error"].value is not None
    assert records["A", "two", "bass", "fails"].reason == "failed"
    assert records["A", "one", "bass", "fails"].value == 1
    gap = records["A", "one", "bass", "not_finite"]
    assert (gap.value, gap.reason) == (None, "not finite")
    (failure,) = [event for event in events if isinstance(event, Failed)]
    assert "nothing to divide" in failure.message


def test_what_has_no_partner_is_said_on_the_console(folder: Path) -> None:
    shutil.copytree("A/one", "A/alone")
    _, _, events = run()
    [told] = [event.message for event in events if isinstance(event, Warned)]
    assert told.startswith("not everything has a partner: ")
    assert "A: alone: this track has no reference and was left out" in told


def test_a_killed_process_ends_in_a_sentence(folder: Path) -> None:
    with pytest.raises(MssgenError, match="fewer `n_jobs`"):
        run("A", metrics=(DIES,), n_jobs=2)


def test_gaps_silence_and_misfits_are_stated(folder: Path) -> None:
    (folder / "A" / "one" / "bass.wav").unlink()
    for path in (folder / "A" / "two").iterdir():
        path.unlink()
    write(folder / "R" / "three" / "bass.wav", np.zeros((2, 1000)))
    write(folder / "A" / "four" / "bass.wav", np.ones((1, 900)))
    done, records, _ = run("A")
    assert done.n_failed == 0
    reasons = {key[1:3]: record.reason for key, record in records.items() if record.value is None}
    assert reasons == {
        ("one", "bass"): "no estimate",
        ("two", "bass"): "no estimate",
        ("two", "drums"): "no estimate",
        ("three", "bass"): "silent reference",
    }
    text = (folder / "out" / "summary.md").read_text()
    assert "no estimate (2); silent reference" in text
    assert "the estimate of bass was 100 samples too short and was padded with zeros" in text
    assert "the estimate of bass has 1 channel and was doubled" in text
    assert "the reference of bass is all zeros" in text
    with open("out/summary.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["stem"] == "bass")
    assert (row["n_tracks"], row["n_missing"]) == ("3", "3")


def test_stems_that_a_system_never_gives_are_a_note_and_no_gap(folder: Path) -> None:
    for path in (folder / "A").glob("*/drums.wav"):
        path.unlink()
    _, records, _ = run("A")
    assert {key[2] for key in records} == {"bass"}
    assert "no estimates of drums in any track" in (folder / "out" / "summary.md").read_text()


def test_evaluation_json_says_what_was_compared(folder: Path) -> None:
    write(folder / "R" / "one" / "mixture.wav", np.ones((2, 1000)))
    run("A", "B", names={"B": "better"}, seed=5)
    evaluation = json.loads((folder / "out" / "evaluation.json").read_text())
    assert evaluation["format_version"] == 1
    assert evaluation["systems"] == [
        {"name": "A", "folder": "A"},
        {"name": "better", "folder": "B"},
    ]
    assert evaluation["references"] == "R"
    assert evaluation["options"]["seed"] == 5
    assert evaluation["metrics"][0]["definition"] == "The error."
    assert {"mssgen", "python", "numpy"} <= evaluation["versions"].keys()
    one = next(track for track in evaluation["tracks"] if track["track"] == "one")
    assert one["mixture"] == "R/one/mixture.wav"
    assert one["stems"]["bass"] == {
        "reference": "R/one/bass.wav",
        "estimates": {"A": "A/one/bass.wav", "better": "B/one/bass.wav"},
    }


def test_checkpoints_are_noted_by_their_hash(folder: Path, tiny_model: Path) -> None:
    from mssgen.files import sha256_of

    run("A", "B", checkpoints={"B": str(tiny_model)})
    systems = json.loads((folder / "out" / "evaluation.json").read_text())["systems"]
    assert "checkpoint_hash" not in systems[0]
    assert systems[1]["checkpoint_hash"] == sha256_of(tiny_model / "model.safetensors")
    assert systems[1]["checkpoint_hash"] in (folder / "out" / "summary.md").read_text()


def test_scores_survive_a_round_trip(tmp_path: Path) -> None:
    records = [
        Record("A", "Søng | 1", "bass", "error", None, 0, 'a "reason"'),
        Record("A", "x", "bass", "error", 0.1 + 0.2, 3, ""),
    ]
    write_scores(records, tmp_path)
    assert read_scores(tmp_path) == records
    (tmp_path / "scores.jsonl").write_text("{}\n")
    with pytest.raises(MssgenError, match="damaged"):
        read_scores(tmp_path)


def summary_of(**values: list[float]) -> Summary:
    """One stem, one metric, a value for each track."""
    records = [
        Record(name, str(track), "bass", "error", value, 1, "")
        for name, found in values.items()
        for track, value in enumerate(found)
    ]
    rows = [Row(name, name == "ceiling") for name in values]
    return Summary(records, [ERROR], rows)


def test_bold_is_only_what_is_surely_best() -> None:
    clear = [1.0, 2, 3, 4, 5, 6, 7, 8]
    worse = [value + 1 + 0.1 * index for index, value in enumerate(clear)]
    mixed = [value + (-1) ** index for index, value in enumerate(clear)]
    assert summary_of(a=clear, b=worse).best("bass", ERROR) == "a"
    assert summary_of(a=clear, b=worse, c=mixed).best("bass", ERROR) is None
    assert summary_of(a=clear).best("bass", ERROR) is None
    # Of a few tracks nothing is sure.
    assert summary_of(a=clear[:5], b=worse[:5]).best("bass", ERROR) is None
    # The ceiling is no competitor.
    perfect = [value - 9 for value in clear]
    assert summary_of(a=clear, b=worse, ceiling=perfect).best("bass", ERROR) == "a"


def test_metrics_of_different_definitions_have_columns_of_their_own() -> None:
    museval = metric("sdr", None, title="SDR (cSDR, dB)", group="bsseval", aggregate="median")
    usdr = metric("usdr", None, title="uSDR (dB)")
    records = [Record("A", "1", "bass", name, 3.0, 1, "") for name in ("sdr", "usdr")]
    summary = Summary(records, [museval, usdr], [Row("A")])
    about = {"systems": [], "references": "R", "notes": [], "versions": {}, "options": {}}
    text = summary_md(summary, {**about, "tracks": [1], "commit": None})
    heads = [line for line in text.splitlines() if line.startswith("| system")]
    assert heads == ["| system | SDR (cSDR, dB) ↓ |", "| system | uSDR (dB) ↓ |"]
    assert "Median over tracks" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.00"), (-1.234, "−1.23"), (0.0123456, "0.0123"), (12.345, "12.35"), (-3e-5, "−3e−05")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "thesis-2"}, "thesis-1, thesis-3"),
        ({"table": "thesis-3"}, "needs a codec"),
        ({"estimates": ()}, "no estimates"),
        ({"estimates": (), "codec": "x", "table": "thesis-3"}, "no estimates"),
        ({"names": {"C": "x"}}, "not among the estimates"),
        ({"output": "A"}, "is also an input"),
        ({"output": "-"}, "must be a folder"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvaluationOptions(**{"estimates": ("A",), "references": "R", "output": "out", **changes})


def test_the_command_writes_tables_and_shows_one(folder: Path, program: Program) -> None:
    call = ("evaluate", "A", "B", "--references", "R", "-o", "out", "--metrics", "usdr,si_sdr")
    result = program(*call, "--jobs", 1, "--name", "B=refined")
    assert result.code == 0
    assert "| refined |" in result.out
    assert "12 done" in result.err
    records = read_scores(Path("out"))
    assert {record.metric for record in records} == {"usdr", "si_sdr"}
    values = [r.value for r in records if (r.system, r.metric) == ("A", "usdr")]
    assert np.mean(values) == pytest.approx(20, abs=0.5)
    quiet = program(*call, "--jobs", 1, "--name", "B=refined", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_json_is_one_object_a_line(folder: Path, program: Program) -> None:
    (folder / "A" / "two" / "bass.wav").write_bytes(b"RIFFno sound at all")
    call = ("evaluate", "A", "-r", "R", "-o", "out", "--metrics", "usdr", "--jobs", 1, "--json")
    result = program(*call)
    assert result.code == 1
    kinds = [event["event"] for event in result.events]
    assert {"start", "progress", "error", "written", "done"} == set(kinds)
    assert (result.events[-1]["n_done"], result.events[-1]["n_failed"]) == (5, 1)
    paths = {event["path"] for event in result.events if event["event"] == "written"}
    assert {"out/scores.jsonl", "out/evaluation.json", "out/summary.md"} <= paths


def test_a_pair_of_files(folder: Path, program: Program) -> None:
    call = ("evaluate", "A/one/bass.wav", "--references", "R/one/bass.wav", "--metrics", "usdr")
    assert program(*call).code == 0
    (record,) = read_scores(Path("evaluation"))
    assert (record.track, record.stem) == ("one", "bass")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A"], "--references is missing"),
        (["A", "--references", "absent"], "absent does not exist"),
        (["absent", "--references", "R"], "absent does not exist"),
        (["--references", "R"], "no estimates"),
        (["A", "A", "--references", "R"], "two systems are called A"),
        (["A", "-r", "R", "--metrics", "loudest"], "loudest"),
        (["A", "-r", "R", "--metrics", "usdr", "--jobs", "0"], "--jobs 0"),
        (["A", "-r", "R", "--name", "A"], "--name A"),
        (["A", "-r", "R", "--name", "A=mixture"], "a row of its own"),
        (["A", "-r", "R", "--table", "thesis-9"], "thesis-9"),
        (["A", "-r", "R", "--seed", "-1"], "seed"),
    ],
)
def test_wrong_calls_are_one_sentence(
    folder: Path, program: Program, words: list[str], message: str
) -> None:
    result = program("evaluate", *words, "-o", "out")
    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_sets_have_a_distance_too(folder: Path, program: Program) -> None:
    call = ("evaluate", "A", "B", "-r", "R", "-o", "out", "--metrics", "fad_log_mel", "--jobs", 1)
    write(folder / "A" / "one" / "bass.wav", np.zeros((2, 1000)))
    assert program(*call).code == 0
    with open("out/set_distances.csv", newline="") as file:
        rows = {(row["system"], row["stem"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(system, stem) for system in "AB" for stem in ("bass", "drums")}
    assert [rows["A", stem]["n_tracks"] for stem in ("bass", "drums")] == ["5", "6"]
    assert 0 <= float(rows["A", "drums"]["fad"]) < float(rows["B", "drums"]["fad"])
    text = (folder / "out" / "summary.md").read_text()
    assert "## Fréchet audio distances of sets" in text
    before = {path: path.stat().st_mtime_ns for path in (folder / "out/cache/frames").rglob("*")}
    again = program(*call)
    assert again.out == text + "\n"
    assert before == {
        path: path.stat().st_mtime_ns for path in (folder / "out/cache/frames").rglob("*")
    }


def test_ratings_are_read_instead(folder: Path, program: Program) -> None:
    head = "session_test_id,email,trial_id,rating_stimulus,rating_score,rating_time"
    for listener in ("ada", "bob"):
        lines = [
            f"test,{listener},one,{condition},{score},1"
            for condition, score in (("reference", 98), ("anchor35", 20), ("A", 70))
        ]
        (folder / f"{listener}.csv").write_text("\n".join([head, *lines]) + "\n")
    result = program("evaluate", "--ratings", "ada.csv", "bob.csv", "-o", "out")
    assert result.code == 0, result.err
    assert "| all | A | 70.0 |" in result.out
    assert (folder / "out" / "ratings.csv").is_file()
    assert program("evaluate", "--ratings", "ada.csv", "-r", "R").code == 2
