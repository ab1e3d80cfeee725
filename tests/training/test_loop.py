"""The training loop and the run's folder, on networks of a few weights.

Run as a program this file trains the toy, for the tests that need processes to kill or to join.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from mssgen.errors import CheckpointError, UsageError
from mssgen.events import Began, Finished, Logged, Saved, TrainingEvent, Warned
from mssgen.training.loop import DivergedError, rate_factor, train
from mssgen.training.recipes import TrainOptions
from mssgen.training.run import (
    RunFolder,
    best_checkpoint,
    latest_checkpoint,
    load_modules,
    read_state,
)
from mssgen.training.task import Batch

TINY = TrainOptions(
    steps=20,
    batch_size=4,
    validate_every=10,
    n_valid_batches=2,
    save_every=5,
    keep=2,
    listen_every=0,
    n_workers=0,
    log_every=3,
)


class Pairs(Dataset[tuple[Tensor, Tensor, str]]):
    """Endless segments of noise and twice that."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        numbers = torch.Generator().manual_seed(index)
        heard = torch.randn(1, 16, generator=numbers)
        return heard, 2 * heard, str(index)


def collate(items: Sequence[tuple[Tensor, Tensor, str]]) -> Batch:
    heard, wanted, keys = zip(*items, strict=True)
    return Batch(torch.stack(heard), torch.stack(wanted), tuple(keys))


class Codebook(nn.Module):
    """Learns without an optimizer: a moving average, and what chance adds."""

    mean: Tensor
    is_used: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("is_used", torch.tensor(False))

    def forward(self, audio: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(audio.detach().mean((0, 1)), alpha=0.1)
            self.mean += 1e-3 * torch.randn(16)
            self.is_used.fill_(True)
        return self.mean


class Toy:
    """A linear layer with dropout against a critic, beside a codebook that averages."""

    sample_rate, n_channels = 8, 1

    def __init__(self, *, rate: float = 0.01, noise: float = 0.01, is_adversarial: bool = True):
        torch.manual_seed(0)
        self.noise, self.is_adversarial, self.rate = noise, is_adversarial, rate
        layers = [nn.Linear(16, 16), nn.Dropout(0.1 if noise else 0.0), nn.Linear(16, 16)]
        self.modules: dict[str, nn.Module] = {
            "encoder": nn.Sequential(*layers),
            "codebook": Codebook(),
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "encoder": torch.optim.AdamW(self.modules["encoder"].parameters(), lr=rate)
        }
        if is_adversarial:
            critic = nn.Linear(16, 1)
            self.modules["critic"] = critic
            self.optimizers["critic"] = torch.optim.Adam(critic.parameters(), lr=rate / 10)
        self.seen: list[tuple[str, ...]] = []
        self.poison: tuple[int, str] | None = None

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        self.seen.append(batch.keys)
        output = self.modules["encoder"](batch.input)
        # All three generators count.
        chance = random.random() + float(np.random.random()) + torch.rand(())  # noqa: NPY002
        mse = (output - batch.target).square().mean() * (1 + self.noise * chance)
        scalars = {"loss/mse": mse, "chance": chance}
        loss = mse
        self.modules["codebook"](batch.target)
        if self.is_adversarial:
            critic = self.modules["critic"]
            critic.requires_grad_(False)
            loss = loss + 0.01 * (1 - critic(output)).relu().mean()
            critic.requires_grad_(True)
        if self.poison and self.poison[0] == step:
            loss = loss * float(self.poison[1])
        backward(loss)
        if self.is_adversarial:
            judged = critic(output.detach()), critic(batch.target)
            hinge = (1 + judged[0]).relu().mean() + (1 - judged[1]).relu().mean()
            backward(hinge)
            scalars["loss/critic"] = hinge
        if step % 2:
            scalars["sometimes"] = torch.tensor(float(step))
        return {"loss": loss, **scalars}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        assert not self.modules["encoder"].training
        return {"loss": (self.modules["encoder"](batch.input) - batch.target).square().mean()}

    def listen(self, batch: Batch) -> dict[str, Tensor]:
        sounds = {"input": batch.input, "output": self.modules["encoder"](batch.input)}
        return {name: sound[0].repeat(1, 100) for name, sound in sounds.items()}

    def export(self, folder: Path) -> None:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"kind": "toy", "rate": self.rate}


def run(
    task: Toy, output: Path, options: TrainOptions = TINY, **arguments: Any
) -> list[TrainingEvent]:
    events: list[TrainingEvent] = []
    arguments = {"valid_data": Pairs(), "device": "cpu", "hook": events.append, **arguments}
    train(task, Pairs(), options=options, output=output, collate=collate, **arguments)
    return events


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "audio_seconds_per_second"}
        for line in found
    ]


def weights(run: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint."""
    return {
        f"{path.stem}.{key}": tensor
        for path in latest_checkpoint(run).glob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    states = [
        torch.load(latest_checkpoint(run) / "optimizer.pt", weights_only=True)
        for run in (one, other)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_the_loss_falls_and_everything_is_written(tmp_path: Path) -> None:
    options = replace(TINY, steps=300, save_every=100, validate_every=100, log_every=50)
    task = Toy()
    events = run(task, tmp_path / "run", options, record={"recipe": {"name": "toy"}})
    train_lines = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    valid_lines = [line for line in lines(tmp_path / "run") if line["kind"] == "valid"]
    assert [line["step"] for line in train_lines] == [50, 100, 150, 200, 250, 300]
    assert [line["step"] for line in valid_lines] == [100, 200, 300]
    assert train_lines[-1]["loss"] < 0.3 * train_lines[0]["loss"]
    assert valid_lines[-1]["loss"] < valid_lines[0]["loss"]
    assert {"loss/mse", "loss/critic", "grad_norm/encoder", "learning_rate/critic"} <= set(
        train_lines[0]
    )
    assert isinstance(events[0], Began)
    assert isinstance(events[-1], Finished)
    assert [event.step for event in events if isinstance(event, Saved)] == [100, 200, 300]
    assert any(isinstance(event, Logged) for event in events)
    record = RunFolder(tmp_path / "run").record
    assert record["recipe"] == {"name": "toy"}
    assert record["task"]["kind"] == "toy"
    checkpoint = latest_checkpoint(tmp_path / "run")
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "codebook.safetensors",
        "config.json",
        "critic.safetensors",
        "encoder.safetensors",
        "optimizer.pt",
        "state.json",
    ]
    other = Toy()
    load_modules(other.modules, checkpoint)
    for name, module in task.modules.items():
        torch.testing.assert_close(module.state_dict(), other.modules[name].state_dict())


def test_a_scalar_is_averaged_over_the_steps_that_gave_it(tmp_path: Path) -> None:
    run(Toy(), tmp_path / "run", replace(TINY, steps=6, log_every=6))
    assert lines(tmp_path / "run")[0]["sometimes"] == 3.0  # of 1, 3 and 5


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupted_step_is_finished_and_saved(
    tmp_path: Path, number: signal.Signals, ends: type[BaseException]
) -> None:
    task = Toy()
    accumulate = task.accumulate

    def interrupted(batch: Batch, backward: Callable[[Tensor], None], step: int) -> Any:
        if step == 6:
            signal.raise_signal(number)
        return accumulate(batch, backward, step)

    task.accumulate = interrupted  # type: ignore[method-assign]
    events: list[TrainingEvent] = []
    with pytest.raises(ends):
        run(task, tmp_path / "parts", hook=events.append)
    assert read_state(latest_checkpoint(tmp_path / "parts")).step == 7
    assert isinstance(events[-1], Warned)
    assert "`resume=True`" in events[-1].message
    # The workers of the second part must see the same data, too.
    run(Toy(), tmp_path / "parts", replace(TINY, n_workers=2), resume=True)
    run(Toy(), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert [each["step"] for each in RunFolder(tmp_path / "parts").record["resumed"]] == [7]


def program(*words: str, launcher: Sequence[str] = (sys.executable,)) -> subprocess.Popen[str]:
    """This file as a program."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*launcher, __file__, *words], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = program(str(killed), "slow")
    deadline = time.monotonic() + 120
    # Past a checkpoint, and past lines that are lost with the steps after it.
    while not (killed / "metrics.jsonl").is_file() or len(lines(killed)) < 6:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    n_before = read_state(latest_checkpoint(killed)).step
    assert 10 <= n_before < 20
    # What a kill in the middle of a line, or of a checkpoint, leaves behind.
    with (killed / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 17, "ki')
    (killed / "checkpoints" / ".step-00000017-abc").mkdir()
    run(Toy(), killed, resume=True)
    run(Toy(), whole)
    assert_same_run(whole, killed)
    steps = [(line["step"], line["kind"]) for line in lines(killed)]
    assert len(set(steps)) == len(steps)
    assert not list((killed / "checkpoints").glob(".*"))


def test_a_kill_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    task = Toy()
    task.poison = (3, "nan")
    with pytest.raises(DivergedError, match="nothing was saved"):
        run(task, tmp_path / "run")
    events = run(Toy(), tmp_path / "run", resume=True)
    assert any(isinstance(event, Warned) and "at step 0" in event.message for event in events)
    run(Toy(), tmp_path / "other")
    assert_same_run(tmp_path / "run", tmp_path / "other")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path: Path, value: str) -> None:
    task = Toy()
    task.poison = (7, value)
    with pytest.raises(DivergedError, match=r"loss became (nan|inf) at step 8.*step-00000005"):
        run(task, tmp_path / "run")
    assert DivergedError.exit_code == 1
    assert read_state(latest_checkpoint(tmp_path / "run")).step == 5
    for module in task.modules.values():
        for tensor in module.parameters():
            assert tensor.isfinite().all()


def test_the_cure_of_a_bad_loss_in_bf16_can_be_taken(tmp_path: Path) -> None:
    options = replace(TINY, precision="bf16-mixed")
    task = Toy()
    task.poison = (7, "nan")
    with pytest.raises(DivergedError, match='`resume=True` and `precision="32-true"`'):
        run(task, tmp_path / "run", options, record={"recipe": recorded(options)})
    run(Toy(), tmp_path / "run", TINY, record={"recipe": recorded(TINY)}, resume=True)
    assert read_state(latest_checkpoint(tmp_path / "run")).step == 20
    changed = RunFolder(tmp_path / "run").record["resumed"][0]["changed"]
    assert changed == ["recipe.train.precision"]


def recorded(options: TrainOptions) -> dict[str, Any]:
    return {"name": "toy", "train": vars(options)}


def test_modules_compute_in_bf16_and_give_float32(tmp_path: Path) -> None:
    task = Toy(is_adversarial=False)
    found: list[torch.dtype] = []
    task.modules["encoder"][2].register_forward_hook(  # type: ignore[index]
        lambda module, inputs, output: found.extend([inputs[0].dtype, output.dtype])
    )
    validate = task.validate

    def checked(batch: Batch) -> dict[str, Tensor]:
        assert task.modules["encoder"](batch.input).dtype == torch.float32
        return validate(batch)

    task.validate = checked  # type: ignore[method-assign]
    run(task, tmp_path / "run", replace(TINY, steps=2, precision="bf16-mixed"))
    assert set(found) == {torch.bfloat16}
    assert weights(tmp_path / "run")["encoder.0.weight"].dtype == torch.float32


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_accumulated_gradients_equal_those_of_the_large_batch(tmp_path: Path, limit: float) -> None:
    large = replace(TINY, batch_size=8, max_grad_norm=limit)
    small = replace(TINY, batch_size=2, accumulate=4, max_grad_norm=limit)
    tasks = [Toy(noise=0.0, is_adversarial=False) for _ in range(2)]
    for task, options, name in zip(tasks, (large, small), ("large", "small"), strict=True):
        run(task, tmp_path / name, options)
    assert [key for keys in tasks[0].seen for key in keys] == [
        key for keys in tasks[1].seen for key in keys
    ]
    one, other = (task.modules["encoder"].state_dict() for task in tasks)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    norms: list[float] = []

    class Noting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            gradients = [p.grad.norm() for g in self.param_groups for p in g["params"]]
            norms.append(float(torch.stack(gradients).norm()))
            return super().step(closure)

    task = Toy(is_adversarial=False)
    task.optimizers["encoder"] = Noting(task.modules["encoder"].parameters(), lr=1e-3)
    run(task, tmp_path / "run", replace(TINY, max_grad_norm=0.05))
    assert max(norms) <= 0.0501
    assert lines(tmp_path / "run")[0]["grad_norm/encoder"] > 0.5  # as it was before


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    task = Toy()
    losses = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    options = replace(TINY, steps=25, validate_every=5, n_valid_batches=1, keep=2)

    def validate(batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor(next(losses))}

    task.validate = validate  # type: ignore[method-assign]
    run(task, tmp_path / "run", options)
    kept = [path.name for path in RunFolder(tmp_path / "run").checkpoints()]
    assert kept == ["step-00000010", "step-00000020", "step-00000025"]
    assert best_checkpoint(tmp_path / "run").name == "step-00000010"
    assert latest_checkpoint(tmp_path / "run").name == "step-00000025"


def test_without_validation_the_last_is_the_best(tmp_path: Path) -> None:
    run(Toy(), tmp_path / "run", replace(TINY, listen_every=5), valid_data=None)
    assert best_checkpoint(tmp_path / "run") == latest_checkpoint(tmp_path / "run")
    assert {line["kind"] for line in lines(tmp_path / "run")} == {"train"}


def test_sounds_and_spectrograms_are_kept(tmp_path: Path) -> None:
    from mssgen.audio.reading import open_source

    task = Toy()
    task.sample_rate = 8000
    run(task, tmp_path / "run", replace(TINY, steps=10, listen_every=5))
    folder = tmp_path / "run" / "audio" / "step-00000010"
    assert sorted(path.name for path in folder.iterdir()) == [
        "input.wav",
        "output.wav",
        "spectrograms.png",
    ]
    with open_source(folder / "input.wav") as source:
        sound = np.concatenate(list(source.blocks()), axis=-1)
    np.testing.assert_array_equal(sound[:, :16], Pairs()[0][0].numpy())
    assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_sound_that_is_none_does_not_end_the_training(tmp_path: Path) -> None:
    task = Toy()
    task.listen = lambda batch: {"output": torch.full((1, 64), torch.nan)}  # type: ignore[method-assign]
    events = run(task, tmp_path / "run", replace(TINY, listen_every=10))
    assert any(isinstance(event, Warned) and "no sounds" in event.message for event in events)
    assert isinstance(events[-1], Finished)


def test_a_log_without_optional_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.utils.tensorboard", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    events = run(Toy(), tmp_path / "run", replace(TINY, listen_every=5))
    messages = [event.message for event in events if isinstance(event, Warned)]
    assert ["TensorBoard" in message for message in messages] == [True, False]
    assert "spectrograms" in messages[1]
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(list((tmp_path / "run" / "audio").glob("*/*.wav"))) == 8


def test_training_without_its_extra_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(UsageError, match=r"\.\[train\]"):
        run(Toy(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    run(Toy(), tmp_path / "run", replace(TINY, steps=1))
    with pytest.raises(UsageError, match="already holds a run; add `resume=True`"):
        run(Toy(), tmp_path / "run", replace(TINY, steps=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "song.wav").touch()
    with pytest.raises(UsageError, match="is not empty and not a run"):
        run(Toy(), tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        run(Toy(), tmp_path / "file", resume=True)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path / "other")


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path: Path) -> None:
    process = program(str(tmp_path / "run"), "slow")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").is_file():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(UsageError, match="in use by another training; wait for its end"):
            run(Toy(), tmp_path / "run", resume=True)
    finally:
        process.kill()
        process.communicate()
    run(Toy(), tmp_path / "run", resume=True)  # at once: nothing of the killed one keeps it


@pytest.mark.parametrize("left", [(), ("checkpoints/",), (".mssgen-0123456789ab.part",)])
@pytest.mark.parametrize("resume", [False, True])
def test_a_kill_before_the_record_blocks_nothing(
    tmp_path: Path, left: tuple[str, ...], resume: bool
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        place = tmp_path / "run" / name
        place.mkdir() if name.endswith("/") else place.touch()
    run(Toy(), tmp_path / "run", replace(TINY, steps=1), resume=resume)
    assert not list((tmp_path / "run").glob(".*"))


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    """A file may not exceed so many bytes: the system's answer is that of a full disk."""
    pytest.importorskip("resource")
    code = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_loop import CheckpointError, RunFolder, Toy, run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = RunFolder.save
def limited(*arguments, **options):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    return save(*arguments, **options)
RunFolder.save = limited
try:
    run(Toy(), Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", *Path(__file__).parents[:2]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "step-00000005 cannot be written: the file would be too large" in done.stdout, done
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_resuming_with_another_recipe_is_refused(tmp_path: Path) -> None:
    run(Toy(), tmp_path / "run", record={"recipe": recorded(TINY)})
    other = replace(TINY, batch_size=2)
    with pytest.raises(UsageError, match=r"train.batch_size was 4 and is 2"):
        run(Toy(), tmp_path / "run", other, record={"recipe": recorded(other)}, resume=True)
    with pytest.raises(UsageError, match=r"task.rate was 0.01 and is 0.1"):
        run(Toy(rate=0.1), tmp_path / "run", record={"recipe": recorded(TINY)}, resume=True)


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    run(Toy(), tmp_path / "run", record={"recipe": recorded(TINY)})
    longer = replace(TINY, steps=30, keep=1)
    run(Toy(), tmp_path / "run", longer, record={"recipe": recorded(longer)}, resume=True)
    assert read_state(latest_checkpoint(tmp_path / "run")).step == 30
    # Once more: nothing is left to do.
    events = run(Toy(), tmp_path / "run", longer, record={"recipe": recorded(longer)}, resume=True)
    assert [type(event) for event in events] == [Began, Finished]


@pytest.mark.parametrize("name", ["encoder.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    run(Toy(), tmp_path / "run", replace(TINY, steps=5))
    file = latest_checkpoint(tmp_path / "run") / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name):
        run(Toy(), tmp_path / "run", replace(TINY, steps=5), resume=True)


def test_learning_rates_warm_up_and_fall(tmp_path: Path) -> None:
    options = replace(TINY, steps=10, warmup_steps=4, schedule="cosine", log_every=1)
    factors = [rate_factor(step, options) for step in range(10)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[7] == pytest.approx(0.5)
    run(Toy(), tmp_path / "run", options)
    train_lines = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    for line, factor in zip(train_lines, factors, strict=True):
        assert line["learning_rate/encoder"] == pytest.approx(0.01 * factor)
        assert line["learning_rate/critic"] == pytest.approx(0.001 * factor)


def test_validation_leaves_modes_and_training_alone(tmp_path: Path) -> None:
    task = Toy()
    task.modules["encoder"][0].eval()  # type: ignore[index]
    run(task, tmp_path / "often", replace(TINY, validate_every=1, listen_every=20, log_every=20))
    assert [part.training for part in task.modules["encoder"].modules()] == [
        True,
        False,
        True,
        True,
    ]
    run(Toy(), tmp_path / "never", replace(TINY, validate_every=0, log_every=20))
    ours, theirs = weights(tmp_path / "often"), weights(tmp_path / "never")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launcher += ["--standalone", "--log-dir", str(tmp_path / "log")]
    process = program(str(tmp_path / "run"), "halves", launcher=launcher)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    # The same samples at a step as for one process with the whole batch.
    whole = Toy(noise=0.0, is_adversarial=False)
    run(whole, tmp_path / "whole", TINY)
    together = load_file(latest_checkpoint(tmp_path / "run") / "encoder.safetensors")
    torch.testing.assert_close(
        together, dict(whole.modules["encoder"].state_dict()), rtol=1e-4, atol=1e-5
    )
    steps = [(line["step"], line["kind"]) for line in lines(tmp_path / "run")]
    assert len(set(steps)) == len(steps)
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(
        lines(tmp_path / "whole")[0]["loss"], rel=1e-4
    )


class Slow(Pairs):
    """Gives a test time to kill."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        time.sleep(0.02)
        return super().__getitem__(index)


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, how = Path(sys.argv[1]), sys.argv[2]
    if how == "slow":
        train(Toy(), Slow(), Pairs(), TINY, where, collate=collate, device="cpu")
    else:
        halves = replace(TINY, batch_size=2)
        toy = Toy(noise=0.0, is_adversarial=False)
        train(toy, Pairs(), Pairs(), halves, where, collate=collate, device="cpu")
