"""`mssgen train`: recipes and folders in, a run's folder out, through the program's own entry."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mssgen.codecs.loading import load_codec, save_codec
from mssgen.library.stems import open_library
from mssgen.training.export import export_run
from mssgen.training.run import latest_checkpoint, read_state

from support.program import Program
from support.toys import tiny_codec

ENCODER = """
why = "to test the command line"
kind = "encoder"
[model]
codec = "{codec}"
[loss]
mse = 1.0
[data]
input = "noisy"
segment_s = 0.1
min_level_db = -200.0
[train]
steps = 4
batch_size = 2
save_every = 2
validate_every = 2
n_valid_batches = 1
log_every = 2
listen_every = 0
n_workers = 0
"""
CODEC = """
why = "to test the command line"
kind = "codec"
[model]
architecture = "seanet"
name = "tiny"
sample_rate = 8000
ratios = [4, 2]
n_filters = 4
latent_dim = 8
n_lstm_layers = 1
n_codebooks = 4
codebook_size = 16
[loss]
balance = false
adversarial = 0.0
features = 0.0
mel_windows = [64]
n_mels = 8
[data]
stem = "bass"
input = "clean"
segment_s = 0.1
min_level_db = -200.0
[train]
steps = 2
batch_size = 2
n_valid_batches = 1
log_every = 1
listen_every = 0
n_workers = 0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tracks to train on, a codec, and a recipe of either kind."""
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0)
    for track in ("one", "two"):
        folder = tmp_path / "tracks" / track
        folder.mkdir(parents=True)
        for stem in ("mixture", "drums", "bass", "other", "vocals"):
            sf.write(folder / f"{stem}.wav", numbers.uniform(-0.5, 0.5, (8000, 1)), 8000)
    save_codec(tiny_codec(), tmp_path / "tiny")
    (tmp_path / "encoder.toml").write_text(ENCODER.format(codec=(tmp_path / "tiny").as_posix()))
    (tmp_path / "codec.toml").write_text(CODEC)
    return tmp_path


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def words(kind: str = "encoder", output: str = "run") -> list[str]:
    common = ["--data", "tracks", "--output", output, "--device", "cpu"]
    return ["train", kind, "--recipe", f"{kind}.toml", *common]


def test_an_encoder_is_trained_and_exported(here: Path, program: Program) -> None:
    result = program(*words(), "--seed", 3)
    assert result.code == 0, result.err
    assert "training from step 0 to 4 on cpu in 32-true" in result.err
    assert "done after" in result.err
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["recipe"]["train"]["seed"] == 3
    assert record["data"]["train_tracks"] != record["data"]["valid_tracks"]
    assert [each["step"] for each in record["resumed"]] == []
    # The recipe has everything: nothing else is needed to use the run.
    export_run(here / "run", here / "exported")
    assert (here / "exported" / "config.json").is_file()


def test_a_codec_is_trained_and_exported(here: Path, program: Program) -> None:
    result = program(*words("codec"), "--precision", "bf16-mixed")
    assert result.code == 0, result.err
    assert "in bf16-mixed" in result.err
    export_run(here / "run", here / "exported", checkpoint="last")
    assert program("models", "export", "run", "-o", "half", "--storage", "fp16").code == 0
    assert program("models", "export", "run", "-o", "half", "--storage", "fp8").code == 2
    whole, half = (here / name / "model.safetensors" for name in ("exported", "half"))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    codec = load_codec(str(here / "half"))  # which compares the weights with the codec's id
    assert all(torch.equal(value, value.half()) for value in codec.state_dict().values())
    config = json.loads((here / "half" / "config.json").read_text())
    assert config["sha256"] == hashlib.sha256(half.read_bytes()).hexdigest()


def test_a_codec_learns_from_every_input_that_it_can_hear(here: Path, program: Program) -> None:
    """Silence and noise as the separated stem must not give one loss."""
    losses = {}
    for kind, level in (("silence", 0.0), ("noise", 0.5)):
        library = open_library(here / "tracks")
        for track in library.tracks:
            folder = here / kind / track.key
            folder.mkdir(parents=True)
            noise = np.random.default_rng(5).uniform(-level, level, (8000, 1))
            sf.write(folder / "bass.wav", noise, 8000, "FLOAT")
        tracks = {track.key: track.fingerprint for track in library.tracks}
        manifest = {"format_version": 1, "model": "x", "sha256": [], "tracks": tracks}
        (here / kind / "pairs.json").write_text(json.dumps(manifest))
        given = ("--set", "data.input=separated", "--pairs", kind, "--json")
        result = program(*words("codec", f"run-{kind}"), *given)
        assert result.code == 0, result.err
        logged = [e["scalars"] for e in result.events if e["event"] == "logged"]
        losses[kind] = [each["loss"] for each in logged]
        assert any("sdr_of_input" in each for each in logged)
    assert losses["silence"] != losses["noise"]
    for kind in ("mixture", "noisy"):
        given = ("--set", f"data.input={kind}")
        assert program(*words("codec", f"run-{kind}"), *given).code == 0
    wrong = program(*words("codec", "no"), "--set", "data.input=separated+mixture")
    assert wrong.code == 2
    assert "has one input" in wrong.err
    lacking = program(*words("codec", "no"), "--set", "data.input=separated")
    assert lacking.code == 2
    assert "--pairs" in lacking.err


def test_json_has_one_object_a_line(here: Path, program: Program) -> None:
    result = program(*words(), "--json")
    assert [event["event"] for event in result.events] == [
        "began",
        "logged",
        "logged",
        "saved",
        "logged",
        "logged",
        "saved",
        "finished",
    ]
    logged = result.events[1]
    assert (logged["step"], logged["kind"]) == (2, "train")
    assert logged["scalars"]["loss"] > 0
    result = program(*words(), "--json")
    assert result.code == 2
    assert result.events[0]["event"] == "error"


def test_quiet_says_nothing(here: Path, program: Program) -> None:
    result = program(*words(), "--quiet", "--set", "train.steps=1")
    assert (result.code, result.out) == (0, "")
    assert "mssgen" not in result.err


def test_a_run_is_resumed_with_the_same_recipe_only(here: Path, program: Program) -> None:
    assert program(*words()).code == 0
    assert program(*words()).code == 2
    result = program(*words(), "--resume", "--set", "train.batch_size=1")
    assert result.code == 2
    assert "train.batch_size was 2 and is 1" in result.err
    assert program(*words(), "--resume", "--set", "train.steps=6").code == 0
    assert read_state(latest_checkpoint(here / "run")).step == 6


def test_another_codec_can_be_named(here: Path, program: Program) -> None:
    save_codec(tiny_codec(seed=1), here / "other")
    assert program(*words(), "--codec", here / "other").code == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["recipe"]["model"]["codec"] == str(here / "other")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "train.stepz=1"], "has no 'stepz'; did you mean steps"),
        (["--set", "data.segment=1"], "has no 'segment'; did you mean segment_s"),
        (["--set", "data.input=separated"], "--pairs"),
        (["--precision", "bf17"], "train.precision = 'bf17' is unknown; use one of"),
        (["--seed", "-1"], "train.seed = -1 is out of range"),
        (["--device", "tpu"], "--device tpu is unknown"),
        (["--devices", "0"], "--devices 0 is out of range"),
        (["--recipe", "absent"], "neither a file nor the name of one"),
        (["--recipe", "codec.toml"], "is for `mssgen train codec`"),
    ],
)
def test_wrong_calls_are_refused(here: Path, program: Program, more: list[str], said: str) -> None:
    result = program(*words(), *more)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not (here / "run").exists()


def test_recipes_are_listed_with_their_reasons(program: Program) -> None:
    result = program("train", "recipes", "--json")
    rows = json.loads(result.out)
    assert {"kind", "name", "why"} == set(rows[0])
    assert ("codec", "encodec_24khz") in [(row["kind"], row["name"]) for row in rows]
    assert "encodec_24khz" in program("train", "recipes").out


@pytest.mark.parametrize(
    ("number", "code", "n_workers"),
    [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 1), (signal.SIGHUP, 129, 1)],
)
def test_an_interrupted_run_is_saved(
    number: signal.Signals, code: int, n_workers: int, here: Path
) -> None:
    """The signal reaches the workers too, as from a terminal or a cluster."""
    settings = ("train.steps=100000", f"train.n_workers={n_workers}")
    command = [sys.executable, "-m", "mssgen", *words()]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((here / "run" / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    step = read_state(latest_checkpoint(here / "run")).step
    assert f"stopped after step {step}, which is saved; continue with --resume" in errors
    assert "Traceback" not in errors
