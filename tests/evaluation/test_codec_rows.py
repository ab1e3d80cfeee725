"""The rows that a codec needs beside it, and the thesis' tables made of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mssgen.codecs.loading import save_codec
from mssgen.errors import UsageError
from mssgen.evaluation.metrics.table import codec_hash
from mssgen.evaluation.records import read_scores
from mssgen.evaluation.run import EvaluationOptions, evaluate_systems
from mssgen.events import Event, Failed, Start

from support.measures import ERROR, metric
from support.program import Program
from support.toys import tiny_codec

RATE = 8000
SDR, SAR, ISR = (metric(name, ERROR.function) for name in ("sdr", "sar", "isr"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    for track in ("one", "two"):
        for stem in ("drums", "bass", "other", "vocals"):
            reference = random.normal(0, 0.1, (2, 2000))
            for system, gain in (("R", 0.0), ("A", 0.01), ("B", 0.02)):
                path = tmp_path / system / track / f"{stem}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = gain * random.normal(0, 1, reference.shape)
                sf.write(path, (reference + noise).T, RATE, subtype="FLOAT")
    save_codec(tiny_codec(), tmp_path / "codec")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*systems: str, table: str | None = None) -> tuple[str, list[Event]]:
    events: list[Event] = []
    options = EvaluationOptions(systems, "R", "out", codec="./codec", table=table, n_jobs=1)
    _, text = evaluate_systems(options, metrics=[SDR, SAR, ISR], hook=events.append)
    return text, events


def test_the_two_rows_come_by_themselves(folder: Path) -> None:
    _, events = run("A")
    assert len([event for event in events if isinstance(event, Start)]) == 8 + 8 + 1
    records = read_scores(Path("out"))
    assert list(dict.fromkeys(record.system for record in records)) == [
        "A",
        "reference through tiny",
        "A through tiny",
    ]
    about = json.loads(Path("out/evaluation.json").read_text())
    assert about["systems"][1]["checkpoint_hash"] == codec_hash(tiny_codec())
    # The sound is there to be heard, and is what the codec gives.
    estimates = about["tracks"][0]["stems"]["bass"]["estimates"]
    coded, rate = sf.read(estimates["reference through tiny"], always_2d=True)
    assert (coded.shape, rate) == ((2000, 2), RATE)
    reference, _ = sf.read("R/one/bass.wav")
    mid_side = np.stack([reference.sum(axis=1), reference[:, 0] - reference[:, 1]]) / 2
    import torch

    codec = tiny_codec()
    items = torch.from_numpy(mid_side).float()[:, None]
    mid, side = codec.decode(codec.encode(items))[:, 0].detach().numpy()
    np.testing.assert_allclose(coded.T, [mid + side, mid - side], atol=1e-5)
    # Nothing is coded twice.
    _, events = run("A")
    assert not [event for event in events if isinstance(event, Start)]


def test_a_codec_alone_has_its_ceiling(folder: Path) -> None:
    text, _ = run(table="thesis-1")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "|  | bass | drums | vocals | drums & bass | mixture | other |"
    records = {(r.track, r.stem): r.value for r in read_scores(Path("out")) if r.metric == "sdr"}
    assert len(records) == 2 * 6
    # Sums are scored by themselves, and are no files to play.
    stems = json.loads(Path("out/evaluation.json").read_text())["tracks"][0]["stems"]
    assert set(stems) == {"bass", "drums", "other", "vocals"}


def test_table_3_has_the_input_the_codec_and_the_refiners(folder: Path) -> None:
    text, _ = run("A", "B", table="thesis-3")
    rows = [line for line in text.split("## bass")[1].splitlines() if line.startswith("|")]
    assert rows[0] == "|  | Input (A) | Codec only | B | Reference through the codec |"
    assert [row.split(" | ")[0] for row in rows[2:5]] == ["| sdr (dB)", "| sar (dB)", "| isr (dB)"]
    assert Path("out/thesis-3.md").read_text() == text
    # A refiner's output goes through no codec again.
    assert "B through tiny" not in {record.system for record in read_scores(Path("out"))}


def test_table_4_begins_with_the_mixture(folder: Path) -> None:
    text, _ = run("A", "B", table="thesis-4")
    rows = [line for line in text.split("## bass")[1].splitlines() if line.startswith("|")]
    assert rows[0] == (
        "|  | Input (mixture) | Input through the codec | A | B | Reference through the codec |"
    )
    # Three more stems of the same power: the error of the mixture is 4.8 dB over the stem.
    values = [
        record.value
        for record in read_scores(Path("out"))
        if (record.system, record.metric) == ("mixture", "sdr")
    ]
    assert len(values) == 8
    assert np.mean(values) == pytest.approx(10 * np.log10(3), abs=0.3)


def test_a_file_that_cannot_be_coded_is_missing_in_its_row(folder: Path) -> None:
    (folder / "A" / "one" / "bass.wav").write_bytes(b"RIFFno sound")
    _, events = run("A")
    failures = [event for event in events if isinstance(event, Failed)]
    assert {failure.track for failure in failures} == {"one/bass (A)", "one (A)"}
    gaps = {
        (record.system, record.stem): record.reason
        for record in read_scores(Path("out"))
        if record.value is None and record.metric == "sdr" and record.track == "one"
    }
    assert gaps["A through tiny", "bass"] == "no estimate"
    assert ("A through tiny", "drums") not in gaps
    assert "could not be coded" in Path("out/summary.md").read_text()


def test_the_command_makes_table_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Program(capsys)(
        *("evaluate", "-r", "R", "-o", "out", "--codec", "./codec", "--table", "thesis-1"),
        *("--jobs", 1, "--device", "cpu"),
    )
    assert result.code == 0
    assert "uSDR" in result.out
    assert "drums & bass" in result.out


def test_tokens_and_latents_of_the_codec_are_metrics(folder: Path) -> None:
    options = EvaluationOptions(
        ("A",), "R", "out", codec="./codec", metrics=("tokens", "fad_latents_tiny"), n_jobs=2
    )
    done, _ = evaluate_systems(options)
    assert done.n_failed == 0
    records = read_scores(Path("out"))
    names = {record.metric for record in records}
    assert {"token_accuracy_1", "token_accuracy_4", "fad_latents_tiny"} <= names
    assert not [name for name in names if name.startswith("mse_")]
    assert {record.reason for record in records} == {""}
    # Measured by other processes, and the same in this one.
    again, _ = evaluate_systems(replace(options, output="again", n_jobs=1))
    assert again.n_done == done.n_done
    for ours, theirs in zip(read_scores(Path("again")), records, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-6)


def test_metrics_of_a_codec_need_one(folder: Path) -> None:
    with pytest.raises(UsageError, match="`codec`"):
        evaluate_systems(EvaluationOptions(("A",), "R", "out", metrics=("tokens",)))
    options = EvaluationOptions(("A",), "R", "out", codec="./codec", metrics=("token_beauty",))
    with pytest.raises(UsageError, match="token_accuracy_1"):
        evaluate_systems(options)
