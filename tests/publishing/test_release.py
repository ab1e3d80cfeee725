"""From a training run to the hub and back, on a hub of our own on the loopback address."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from mssgen.checkpoints import hub
from mssgen.checkpoints.folders import checkpoint_files, new_folder
from mssgen.codecs.loading import save_codec
from mssgen.encoders.files import load_stem_encoder, save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.errors import CheckpointError, MssgenError, UsageError
from mssgen.files import sha256_of
from mssgen.publishing.release import prepare_release, push
from mssgen.recipes.sections import from_section
from mssgen.training.export import export_run
from mssgen.training.recipes import Recipe, TrainOptions
from mssgen.training.run import LoopState, RunFolder
from mssgen.training.tasks import build_task

from support.hubserver import Fault, HubServer
from support.program import Program
from support.toys import tiny_codec, write_tiny_encoder

ADDRESS = "hf://me/bass"
PARTS = ["config.json", "model.safetensors", "codec/config.json", "codec/model.safetensors"]


@pytest.fixture(autouse=True)
def server(hub_server: HubServer) -> HubServer:
    return hub_server


@pytest.fixture
def mssgen(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_encoder(tmp_path / "checkpoint")


def send(folder: Path, repo: str = "me/bass", **options: Any) -> str:
    return push(prepare_release(folder, repo, licence="mit"), **options)


# Pushing


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(401), r"does not accept the token \(401\): run `hf auth login`"),
        (Fault(403), r"may not write there \(403\).* write access to me"),
        (Fault(429), "temporarily unavailable"),
        (Fault(418), "answered 418"),
    ],
)
def test_a_push_that_is_refused(
    checkpoint: Path, server: HubServer, fault: Fault, said: str
) -> None:
    server.faults["POST"].append(fault)
    with pytest.raises(CheckpointError, match=f"me/bass could not be pushed: .*{said}") as caught:
        send(checkpoint)
    assert "\n" not in str(caught.value)
    assert "me/bass" not in server.repos


def test_a_push_needs_a_token_and_a_network(
    checkpoint: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(CheckpointError, match=r"does not accept the token"):
        send(checkpoint)
    server.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(hub.constants, "HF_TOKEN_PATH", str(checkpoint / "absent"))
    with pytest.raises(CheckpointError, match=r"needs a token: run `hf auth login`"):
        send(checkpoint)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids it"):
        send(checkpoint)
    assert not server.requests


def test_private_means_private(checkpoint: Path, server: HubServer) -> None:
    send(checkpoint, private=True)
    assert server.repos["me/bass"].is_private
    send(checkpoint, "me/public")
    n_commits = len(server.repos["me/public"].commits)
    with pytest.raises(CheckpointError, match="is public: make it private"):
        send(checkpoint, "me/public", private=True)
    assert len(server.repos["me/public"].commits) == n_commits


def test_a_card_that_the_hub_does_not_take(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\nMine.\n")
    with pytest.raises(CheckpointError, match=r"Invalid metadata in README.md.*license"):
        send(checkpoint)


def test_a_checkpoint_that_does_not_load_is_not_pushed(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        prepare_release(checkpoint, "me/bass", licence="mit")
    with pytest.raises(CheckpointError, match=r"no config.json"):
        prepare_release(tmp_path, "me/bass", licence="mit")


# The card and its licence


def test_the_card_says_what_is_known(checkpoint: Path) -> None:
    training = {
        "mssgen_version": "1.2.3",
        "recipe": "n1",
        "why": "to see | whether <b>it</b> works",
        "step": 700,
        "data": {"name": "musdb", "n_train_tracks": 86, "n_valid_tracks": 14}
        | {"separated_by": "htdemucs"},
        "metrics": {"loss": 0.25, "accuracy/1": 0.9},
    }
    (checkpoint / "training.json").write_text(json.dumps(training))
    note = "MUSDB18, for research only."
    release = prepare_release(checkpoint, "me/bass", licence="CC-BY-NC-4.0", data_note=note)
    card = release.card
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: mssgen\ntags:\n- mssgen\n")
    assert "\n- bass\n" in card.split("\n---\n")[0] + "\n"
    assert f"mssgen enhance stem.wav --encoder {ADDRESS}\n" in card
    assert f"| codec id | {tiny_codec().codec_id} |" in card
    assert "| why | to see \\| whether &lt;b>it&lt;/b> works |" in card
    assert "musdb (86 tracks to train on, 14 tracks to validate on); separated by htdemucs." in card
    assert note in card
    assert "| accuracy/1 | 0.9 |" in card
    assert "after 700 steps" in card
    assert release.files["README.md"] == card.encode()
    assert list(release.files)[:4] == PARTS
    assert not (checkpoint / "README.md").exists()


def test_the_command_fits_what_the_encoder_hears(tmp_path: Path) -> None:
    encoder = StemEncoder(tiny_codec(), StemEncoderOptions(stem="vocals", input="mixture"))
    save_stem_encoder(encoder, tmp_path / "mixture")
    card = prepare_release(tmp_path / "mixture", "me/v", licence="mit").card
    assert "mssgen separate song.wav --stem vocals --encoder hf://me/v\n" in card
    assert "mssgen enhance" not in card
    save_codec(tiny_codec(), tmp_path / "codec")
    card = prepare_release(tmp_path / "codec", "me/c", licence="mit").card
    assert "mssgen codec encode song.wav --codec hf://me/c -o song.codes\n" in card


def test_the_card_of_a_separator(tiny_model: Path, tmp_path: Path) -> None:
    card = prepare_release(tiny_model, "me/s", licence="mit").card
    assert "mssgen separate song.wav --model hf://me/s\n" in card
    with pytest.raises(UsageError, match=r"licence of these weights is not known.*`licence="):
        prepare_release(tiny_model, "me/s")


@pytest.mark.parametrize(
    ("codec", "data_note", "licence"),
    [
        ("dac_44khz", "CC0 songs", "other"),
        ("vampnet_codec", "CC0 songs", "cc-by-nc-sa-4.0"),
        ("dac_44khz", None, "training data is not known.*`data_note`"),
        ("encodec_24khz", "CC0 songs", "codec encodec_24khz is contested.*`licence="),
        ("my_codec", "CC0 songs", "these weights is not known.*`licence="),
    ],
)
def test_no_licence_is_made_up(
    tmp_path: Path, codec: str, data_note: str | None, licence: str
) -> None:
    """Of a codec that was trained on from one of the registry."""
    save_codec(tiny_codec(), tmp_path / "codec")
    (tmp_path / "codec" / "training.json").write_text(json.dumps({"model": {"codec": codec}}))
    if "`" in licence:
        with pytest.raises(UsageError, match=licence):
            prepare_release(tmp_path / "codec", "me/c", data_note=data_note)
        return
    release = prepare_release(tmp_path / "codec", "me/c", data_note=data_note)
    assert release.card.startswith(f"---\nlicense: {licence}\n")
    assert [codec in warning for warning in release.warnings] == [True] * (codec[0] == "v")


def test_noncommercial_weights_are_warned_of_by_their_name(tmp_path: Path) -> None:
    folder = write_tiny_encoder(tmp_path / "checkpoint", codec_name="vampnet_codec")
    (warning,) = prepare_release(folder, "me/bass", licence="mit").warnings
    assert "vampnet_codec are CC BY-NC-SA 4.0" in warning


@pytest.mark.parametrize("licence", ["my own", "MIT licence!", "", "-"])
def test_a_licence_is_one_word_of_the_hubs(checkpoint: Path, licence: str) -> None:
    with pytest.raises(UsageError, match="`licence`"):
        prepare_release(checkpoint, "me/bass", licence=licence)


def test_a_card_that_is_there_is_the_card(checkpoint: Path) -> None:
    text = "---\nlicense: cc0-1.0\n---\nMine.\n"
    (checkpoint / "README.md").write_text(text)
    assert prepare_release(checkpoint, "me/bass").card == text
    release = prepare_release(checkpoint, "hf://me/bass", licence="cc0-1.0", data_note="songs")
    assert "`data_note` is not in it" in release.warnings[0]
    with pytest.raises(UsageError, match=r"states the licence cc0-1.0, not mit"):
        prepare_release(checkpoint, "me/bass", licence="mit")
    (checkpoint / "README.md").write_text("# Mine\nlicense: mit\n")
    with pytest.raises(UsageError, match="states no licence"):
        prepare_release(checkpoint, "me/bass", licence="mit")


def test_other_files_stay_here(checkpoint: Path, server: HubServer) -> None:
    (checkpoint / "secrets.txt").write_text("mine")
    (checkpoint / "codec" / "notes.md").write_text("mine")
    release = prepare_release(checkpoint, "me/bass", licence="mit")
    assert "not uploaded: codec/notes.md, secrets.txt" in release.warnings[0]
    commit = push(release)
    assert sorted(server.repos["me/bass"].commits[commit]) == sorted([*PARTS, "README.md"])


@pytest.mark.parametrize("repo", ["bass", "me/bass/x", "me/../x", "hf://me/bass@main", ""])
def test_a_name_that_the_hub_does_not_take(checkpoint: Path, repo: str) -> None:
    with pytest.raises(UsageError, match=r"hf://OWNER/NAME|leave it out"):
        prepare_release(checkpoint, repo, licence="mit")


# Exporting


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of an encoder with three checkpoints, the second of which is the best."""
    save_codec(tiny_codec(), tmp_path / "mine" / "tiny")
    recipe = Recipe(
        name="n1",
        why="to be exported",
        kind="encoder",
        model={"codec": str(tmp_path / "mine" / "tiny")},
        loss={"mse": 1.0},
        data={"stem": "bass", "input": "separated"},
        train=from_section(TrainOptions, {"steps": 300, "keep": 9}, "train"),
    )
    task = build_task(recipe)
    pairs = tmp_path / "mine" / "pairs"
    pairs.mkdir()
    (pairs / "pairs.json").write_text(json.dumps({"model": "htdemucs"}))
    used = {
        "folder": str(tmp_path / "mine" / "musdb"),
        "pairs": str(pairs),
        "train_tracks": ["a", "b"],
        "valid_tracks": ["c"],
    }
    folder = RunFolder(tmp_path / "run")
    folder.open({"recipe": recipe.as_dict(), "data": used, "task": task.describe()})
    lines = []
    for step, loss in ((100, 0.5), (200, 0.25), (300, 0.75)):
        with torch.no_grad():
            for weight in task.modules["encoder"].parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        folder.save(task, LoopState(step, {}, valid_loss=loss), keep=9)
        lines.append({"step": step, "kind": "train", "loss": 9.0})
        lines.append({"step": step, "kind": "valid", "loss": loss, "accuracy/1": 0.1})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.path / "metrics.jsonl").write_text(text)
    return folder.path


def test_a_run_becomes_a_checkpoint(run: Path, tmp_path: Path) -> None:
    assert export_run(run, tmp_path / "out").name == "step-00000200"
    assert checkpoint_files(tmp_path / "out") == [*PARTS, "training.json"]
    exported = load_stem_encoder(tmp_path / "out")
    saved = load_file(run / "checkpoints" / "step-00000200" / "encoder.safetensors")
    assert exported.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in exported.state_dict().items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["sha256"] == sha256_of(tmp_path / "out" / "model.safetensors")


def test_training_json_tells_how_it_was_made_and_not_where(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    text = (tmp_path / "out" / "training.json").read_text()
    about = json.loads(text)
    assert str(tmp_path) not in text
    assert (about["recipe"], about["why"], about["step"]) == ("n1", "to be exported", 200)
    assert about["metrics"] == {"loss": 0.25, "accuracy/1": 0.1}
    assert about["data"] == {
        "name": "musdb",
        "n_train_tracks": 2,
        "n_valid_tracks": 1,
        "separated_by": "htdemucs",
    }
    assert about["model"]["codec"] == "tiny"
    assert about["codec_id"] == tiny_codec().codec_id


@pytest.mark.parametrize(
    ("which", "step"), [("best", 200), ("last", 300), ("step-100", 100), ("step-00000100", 100)]
)
def test_a_checkpoint_of_choice(run: Path, tmp_path: Path, which: str, step: int) -> None:
    export_run(run, tmp_path / "out", checkpoint=which)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["step"] == step


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use one of best, last, step-100, step-200, step-300"):
        export_run(run, tmp_path / "out", checkpoint="step-150")
    with pytest.raises(UsageError, match="not a run of mssgen"):
        export_run(tmp_path, tmp_path / "out")
    save_codec(tiny_codec(seed=7), tmp_path / "mine" / "tiny")
    with pytest.raises(CheckpointError, match="its recipe now loads"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "recipe": None}))
    with pytest.raises(CheckpointError, match="another version"):
        export_run(run, tmp_path / "out")


def test_only_a_checkpoint_is_ever_replaced(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    export_run(run, target, checkpoint="step-100")  # empty
    with pytest.raises(CheckpointError, match="add `overwrite=True`"):
        export_run(run, target)
    (target / "README.md").write_text("card")
    export_run(run, target, overwrite=True)
    assert checkpoint_files(target) == [*PARTS, "training.json"]
    (target / "codec" / "precious").write_text("keep")
    with pytest.raises(CheckpointError, match="holds codec/precious: only a checkpoint is ever"):
        export_run(run, target, overwrite=True)
    (target / "codec" / "precious").unlink()
    (target / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no config.json of mssgen's"):
        export_run(run, target, overwrite=True)
    with pytest.raises(CheckpointError, match="is a file"):
        export_run(run, run / "run.json", overwrite=True)


def test_a_failure_keeps_the_old_checkpoint(checkpoint: Path) -> None:
    before = sorted(path.name for path in checkpoint.parent.iterdir())

    def fail() -> None:
        with new_folder(checkpoint, overwrite=True) as draft:
            (draft / "config.json").write_text("half")
            raise MssgenError("on purpose")

    with pytest.raises(MssgenError, match="on purpose"):
        fail()
    assert load_stem_encoder(checkpoint)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == before


# All of it


RECIPE = """
why = "to go all the way"
kind = "encoder"
[model]
codec = "{codec}"
[loss]
mse = 1.0
[data]
stem = "bass"
input = "noisy"
segment_s = 0.1
[train]
steps = 2
batch_size = 2
n_valid_batches = 1
log_every = 1
listen_every = 0
n_workers = 0
"""


def test_trained_exported_pushed_pulled_and_used(
    tmp_path: Path, mssgen: Program, server: HubServer
) -> None:
    numbers = np.random.default_rng(0)
    for track in ("one", "two"):
        (tmp_path / "tracks" / track).mkdir(parents=True)
        for stem in ("drums", "bass", "other", "vocals"):
            noise = numbers.uniform(-0.5, 0.5, (8000, 1))
            sf.write(tmp_path / "tracks" / track / f"{stem}.wav", noise, 8000)
    save_codec(tiny_codec(), tmp_path / "tiny")
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(codec=(tmp_path / "tiny").as_posix()))
    words = ("--recipe", recipe, "--data", tmp_path / "tracks", "--output", run, "--device", "cpu")
    assert mssgen("train", "encoder", *words, "--quiet").code == 0
    local, sound = tmp_path / "out", tmp_path / "bass.wav"
    sf.write(sound, numbers.uniform(-0.5, 0.5, (8000, 2)), 8000, "FLOAT")
    assert mssgen("models", "export", run, "-o", local).code == 0
    dry = mssgen("models", "push", local, "me/bass", "--licence", "mit", "--dry-run")
    assert dry.code == 0
    assert "| accuracy/1 | 0." in dry.out
    assert str(tmp_path) not in dry.out
    assert dry.out.splitlines()[-1] == ADDRESS
    assert not server.requests
    pushed = mssgen("models", "push", local, "me/bass", "--licence", "mit")
    assert (pushed.code, pushed.out, pushed.err) == (0, f"{ADDRESS}\n", "")
    pulled = mssgen("models", "pull", ADDRESS)
    assert pulled.code == 0
    assert pulled.out.startswith(f"{ADDRESS}: ready: ")
    for place, encoder in (("here", str(local)), ("there", ADDRESS)):
        where = ("-o", tmp_path / place, "--template", "{track}.{ext}")
        done = mssgen("enhance", sound, "--stem", "bass", "--encoder", encoder, *where, "-q")
        assert (done.code, done.err) == (0, "")
    here, there = (sf.read(tmp_path / place / "bass.wav")[0] for place in ("here", "there"))
    assert here.shape == (8000, 2)
    assert np.array_equal(here, there)
    assert np.abs(here).max() > 0


def test_the_commands_refuse_in_one_sentence(
    checkpoint: Path, mssgen: Program, tmp_path: Path
) -> None:
    for words, expected in (
        (("export", checkpoint, "-o", tmp_path / "x"), "not a run of mssgen"),
        (("push", checkpoint, "me/bass"), "--licence cc-by-nc-4.0"),
        (("push", checkpoint, "me/bass", "--licence", "mit", "--offline"), "--dry-run"),
        (("pull", "hf://bass"), "not the address"),
    ):
        done = mssgen("models", *words)
        assert (done.code, done.out) == (2, "")
        assert expected in done.err
        assert len(done.err.splitlines()) == 1


def test_push_as_json(checkpoint: Path, mssgen: Program) -> None:
    done = mssgen("models", "push", checkpoint, "me/bass", "--licence", "mit", "--json")
    (facts,) = done.events
    assert (done.code, facts["address"], len(facts["commit"])) == (0, ADDRESS, 40)
