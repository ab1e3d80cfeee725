"""Training refiners: what is seen and what must be told, low-rank training, runs, exports."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec, save_codec
from mssgen.encoders.files import load_stem_encoder
from mssgen.errors import CheckpointError, UsageError
from mssgen.publishing.release import prepare_release
from mssgen.recipes.sections import from_section
from mssgen.refiners.files import load_refiner, refiner_codec, save_refiner
from mssgen.refiners.refine import Refiner
from mssgen.training.data.augment import AUGMENTED
from mssgen.training.data.datasets import DataOptions, Segment, collate
from mssgen.training.loop import rate_factor, train
from mssgen.training.recipes import Recipe, TrainOptions, load_recipe, recipe_names
from mssgen.training.refiner.code_pairs import CodePairs
from mssgen.training.refiner.options import RefinerLossOptions
from mssgen.training.refiner.task import RefinerTask
from mssgen.training.run import latest_checkpoint, load_modules
from mssgen.training.task import Batch

from support.program import Program
from support.toys import tiny_codec, tiny_refiner, tiny_stem_codec, write_tiny_encoder

SMALL = [
    "model.n_layers=2",
    "model.n_heads=2",
    "model.width=32",
    "model.dropout=0.0",
    "loss.optimizer.lr=1e-2",
    "data.segment_s=0.05",
    "train.batch_size=4",
    "train.validate_every=0",
    "train.listen_every=0",
    "train.n_workers=0",
]


def recipe(name: str, *settings: str) -> Recipe:
    """Small, and with four codebooks where the shipped one has twelve, as the codec has eight."""
    whole = load_recipe(name, kind="refiner").model
    few = [f"model.{key}=4" for key in ("n_kept", "n_codebooks") if whole.get(key) == 12]
    return load_recipe(name, [*SMALL, *few, *settings], kind="refiner")


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Eight levels of 16 codes, 1 kHz frames of 8 kHz."""
    return tiny_codec(n_codebooks=8)


def a_batch(recipe_: Recipe, n_items: int = 8, seed: int = 0) -> Batch:
    """Tones, and with noise beside where the recipe hears an input."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(400) / 8000
    pitches = 200 * 2 ** torch.rand(n_items, 1, 1, generator=generator)
    target = 0.5 * torch.sin(2 * math.pi * pitches * time)
    keys = tuple(f"song/bass@{index}" for index in range(n_items))
    if recipe_.data["input"] == "clean":
        return Batch(target, target, keys)
    noise = torch.randn(target.shape, generator=generator)
    return Batch(target + 0.05 * noise, target, keys)


def steps(task: RefinerTask, batch: Batch, n_steps: int) -> list[float]:
    losses = []
    for index in range(n_steps):
        torch.manual_seed(index)
        task.optimizers["refiner"].zero_grad()
        losses.append(float(task.accumulate(batch, lambda loss: loss.backward(), index)["loss"]))
        task.optimizers["refiner"].step()
    return losses


def build(recipe_: Recipe, codec: Codec, **options: Any) -> RefinerTask:
    torch.manual_seed(0)
    return RefinerTask.from_recipe(recipe_, codec, **options)


@pytest.mark.parametrize("name", recipe_names("refiner"))
def test_every_recipe_is_whole(name: str) -> None:
    loaded = load_recipe(name, kind="refiner")
    data = from_section(DataOptions, loaded.data, "data")
    loss = from_section(RefinerLossOptions, loaded.loss, "loss")
    shows_input = loss.shows_input or loaded.model.get("n_input", 0) != 0
    assert shows_input == (data.input == "separated")
    assert loaded.train.schedule == "noam"


def test_recipes_keep_more_than_the_levels_of_the_codec_that_ships() -> None:
    codec = load_codec("stem_codec", offline=True)
    c2f, coarse = (load_recipe(name, kind="refiner").model for name in ("c2f", "coarse"))
    assert c2f["codec"] == coarse["codec"] == "stem_codec"
    assert coarse["n_codebooks"] == c2f["n_kept"]
    n_levels = codec.options["n_level_codebooks"]
    assert n_levels < c2f["n_kept"] < codec.n_codebooks


@pytest.mark.parametrize(
    "name", ["c2f", "coarse", "translation", "translation_remainder", "conditioned"]
)
def test_each_variant_learns(name: str, codec: Codec) -> None:
    chosen = recipe(name)
    task, batch = build(chosen, codec), a_batch(chosen)
    torch.manual_seed(0)
    first = task.validate(batch)
    losses = steps(task, batch, 40)
    assert abs(float(first["loss"]) - math.log(16)) < 0.6
    torch.manual_seed(0)
    last = task.validate(batch)
    assert last["loss"] < 0.8 * first["loss"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert last["accuracy"] > first["accuracy"]
    levels = {int(key.rpartition("/")[2]) for key in last if key[9:].isdigit()}
    n_levels = chosen.model.get("n_codebooks", 8)
    assert levels == set(range(chosen.model["n_kept"] + 1, n_levels + 1))
    assert ("accuracy/input" in last) == (chosen.data["input"] != "clean")


def test_only_hidden_codes_count(codec: Codec) -> None:
    """The loss is the mean over what was hidden, and its gradient reaches no other logit."""
    task = build(recipe("translation"), codec)
    batch = a_batch(recipe("translation"))
    seen: list[Tensor] = []
    task.modules["refiner"].register_forward_hook(
        lambda _, inputs, logits: (seen.extend([inputs[0], logits]), logits.retain_grad())[1]
    )
    scalars = task.accumulate(batch, lambda loss: loss.backward(), 0)
    rows, logits = seen
    assert logits.grad is not None
    is_hidden = rows == task.codec.codebook_size
    assert not is_hidden[:, :4].any()
    assert 0.1 < float(is_hidden[:, 4:].float().mean()) < 0.95
    assert torch.equal(logits.grad.abs().sum(-1) > 0, is_hidden[:, 4:])
    pair = CodePairs(codec)(batch)
    # What is seen is of the input; what is to be told is of the clean stem.
    assert torch.equal(rows[~is_hidden], pair.input[~is_hidden])
    assert not torch.equal(pair.input, pair.target)
    log_p = logits.detach().log_softmax(-1)
    own = log_p.gather(-1, pair.target[:, 4:, :, None])[..., 0]
    expected = -(0.9 * own + 0.1 * log_p.mean(-1))[is_hidden[:, 4:]].mean()
    assert float(scalars["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_batch_with_nothing_hidden_is_no_disaster(codec: Codec) -> None:
    task = build(recipe("c2f"), codec)
    logits = torch.zeros(1, 4, 5, 16, requires_grad=True)
    loss = task._cross_entropy(logits, torch.full((1, 4, 5), -100))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_remainder_goes_on_from_the_levels_given(codec: Codec) -> None:
    """Its first code brings them nearer to the clean stem than the clean stem's own code does."""
    batch = a_batch(recipe("translation"))
    own = CodePairs(codec)(batch)
    remainder = CodePairs(codec, remainder_after=4)(batch)
    assert torch.equal(remainder.input, own.input)
    assert torch.equal(remainder.target[:, :4], own.input[:, :4])
    latents = codec.latents(batch.target)

    def error(codes: Tensor) -> float:
        return float((codec.dequantize(codes[:, :5]) - latents).square().mean())

    naive = torch.cat([own.input[:, :4], own.target[:, 4:]], dim=1)
    assert error(remainder.target) < error(naive)
    assert error(remainder.target) < error(own.input)
    nothing = CodePairs(codec, remainder_after=0)(batch)
    assert torch.equal(nothing.target, own.target)


def test_codes_are_kept_by_their_sound(codec: Codec, tmp_path: Path) -> None:
    codec = tiny_codec()
    encoder = load_stem_encoder(write_tiny_encoder(tmp_path / "encoder"))
    batch = a_batch(recipe("translation"), n_items=2)
    fresh = CodePairs(codec, encoder)(batch)
    assert not torch.equal(fresh.input, CodePairs(codec)(batch).input)
    for _ in range(2):
        kept = CodePairs(codec, encoder, cache=tmp_path / "cache")(batch)
        assert torch.equal(kept.input, fresh.input)
        assert torch.equal(kept.target, fresh.target)
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 4
    # Another sound of the same name is another; what was altered by chance is not kept.
    louder = replace(batch, input=2 * batch.input, keys=(batch.keys[0], "song" + AUGMENTED))
    again = CodePairs(codec, encoder, cache=tmp_path / "cache")(louder)
    assert torch.equal(again.input, CodePairs(codec, encoder)(louder).input)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 5
    for file in files:
        file.write_bytes(b"damaged")
    kept = CodePairs(codec, encoder, cache=tmp_path / "cache")(batch)
    assert torch.equal(kept.input, fresh.input)


class Tones(torch.utils.data.Dataset[Segment]):
    """Item i is tone i, noisy if asked."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Segment:
        batch = a_batch(recipe("c2f"), n_items=1, seed=index % 4)
        return Segment(batch.target[0], batch.target[0], f"tone {index % 4}")


def test_a_resumed_run_is_the_uninterrupted_one(codec: Codec, tmp_path: Path) -> None:
    chosen = recipe("c2f", "model.dropout=0.1", "train.warmup_steps=2", "train.save_every=2")
    states = []
    for name, stops in (("whole", (4,)), ("halves", (2, 4))):
        for last in stops:
            task = build(chosen, codec)
            options = replace(chosen.train, steps=last)
            train(
                task, Tones(), Tones(), options, tmp_path / name,
                collate=collate, resume=True, device="cpu",
                record={"recipe": {"train": {"schedule": "noam", "steps": last}}},
            )  # fmt: skip
        states.append(task.modules["refiner"].state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert "valid" in (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_low_rank_training_changes_little_and_is_merged(tmp_path: Path) -> None:
    codec = tiny_stem_codec()
    base = tiny_refiner(codec)
    save_refiner(base, tmp_path / "base", codec=codec)
    chosen = recipe("lora", f"model.refiner={(tmp_path / 'base').as_posix()}", "model.lora_rank=2")
    task = build(chosen, codec)
    network = task.modules["refiner"]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    codes = torch.randint(32, (1, 4, 16))
    assert torch.equal(network(codes), base.train()(codes)) or base.options.dropout
    assert task.describe()["n_trained_parameters"] == sum(
        2 * sum(weight.shape) for key, weight in base.named_parameters()
        if key.startswith("layers.") and weight.ndim == 2
    )  # fmt: skip
    tones = a_batch(recipe("c2f")).target[:, :1].expand(-1, 2, -1)
    steps(task, Batch(tones, tones, ("a",) * 8), 3)
    after = network.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed
    assert all(".parametrizations.weight.0." in key for key in changed)
    task.export(tmp_path / "tuned")
    tuned = load_refiner(tmp_path / "tuned", codec=codec)
    network.eval()
    with torch.inference_mode():
        assert torch.allclose(tuned(codes), network(codes), atol=1e-5)
        assert not torch.allclose(tuned(codes), base.eval()(codes), atol=1e-5)
    # The checkpoint of a run comes back with its changes beside.
    torch.manual_seed(1)
    other = RefinerTask.from_recipe(chosen, codec)
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in after.items()},
              tmp_path / "refiner.safetensors")  # fmt: skip
    load_modules(other.modules, tmp_path)
    assert all(torch.equal(after[key], value)
               for key, value in other.modules["refiner"].state_dict().items())  # fmt: skip


def test_a_command_trains_exports_and_says_its_codec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import soundfile as sf

    program = Program(capsys)
    codec = tiny_stem_codec()
    save_codec(codec, tmp_path / "codec")
    numbers = np.random.default_rng(0)
    for track in ("one", "two"):
        (tmp_path / "tracks" / track).mkdir(parents=True)
        for stem in ("mixture", "bass"):
            path = tmp_path / "tracks" / track / f"{stem}.wav"
            sf.write(path, numbers.uniform(-0.5, 0.5, (4000, 2)), 8000)
    settings = [*SMALL, "train.steps=2", "train.validate_every=2", "train.listen_every=2",
                "data.input=mixture", "model.n_kept=2", "data.segment_s=0.2"]  # fmt: skip
    words = ["train", "refiner", "--recipe", "translation_remainder", "--data", tmp_path / "tracks",
             "--output", tmp_path / "run", "--codec", tmp_path / "codec", "--device", "cpu",
             "--target-cache", tmp_path / "cache"]  # fmt: skip
    result = program(*words, *(word for each in settings for word in ("--set", each)))
    assert result.code == 0, result.err
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert list((tmp_path / "run" / "audio").rglob("*output*"))
    assert program("models", "export", tmp_path / "run", "-o", tmp_path / "refiner").code == 0
    config = json.loads((tmp_path / "refiner" / "config.json").read_text())
    assert (config["codec"], config["codec_id"]) == ("codec/", codec.codec_id)
    assert config["options"]["window_frames"] == 50
    place = refiner_codec(tmp_path / "refiner")
    assert place is not None
    found = load_codec(place)
    network = load_refiner(tmp_path / "refiner", codec=found)
    codes = found.encode(torch.randn(1, 2, 3200))
    better = Refiner(found, network)(codes)
    assert torch.equal(better.codes[:, :2], codes.codes[:, :2])
    assert better.codes.shape == codes.codes.shape
    release = prepare_release(tmp_path / "refiner", "me/refiner", licence="mit")
    assert "A refiner of mssgen" in release.card
    assert "--stem bass --refine c2f --refiner hf://me/refiner" in release.card
    assert "codec/model.safetensors" in release.files
    assert latest_checkpoint(tmp_path / "run").name == "step-00000002"


def test_where_a_refiners_codec_is(tmp_path: Path) -> None:
    network = tiny_refiner(tiny_stem_codec())
    for name, place in (("no", None), ("name", "stem_codec"), ("far", "hf://me/codec")):
        save_refiner(network, tmp_path / name, codec=place)
        assert refiner_codec(tmp_path / name) == place
    assert refiner_codec(tmp_path / "c2f.pth") is None
    config = json.loads((tmp_path / "name" / "config.json").read_text())
    config["codec"] = "../elsewhere"
    (tmp_path / "name" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not name its codec"):
        refiner_codec(tmp_path / "name")


def test_the_noam_schedule_is_the_originals() -> None:
    options = TrainOptions(schedule="noam", warmup_steps=10)
    peak = 1280**-0.5 * 10**-0.5
    for step in (0, 4, 9, 10, 99):
        original = 1280**-0.5 * min((step + 1) ** -0.5, (step + 1) * 10**-1.5)
        assert peak * rate_factor(step, options) == pytest.approx(original)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("translation", ["data.input=clean"], 'data.input is "clean": use "separated"'),
        ("c2f", ["data.input=separated"], "uses no codes of an input"),
        ("c2f", ["model.encoder=somewhere"], "leave `encoder` out"),
        ("translation", ["data.input=separated+mixture"], "set both, or neither"),
        ("lora", [], "set `refiner` to its folder"),
        ("c2f", ["model.lora_rank=-1"], "lora_rank = -1"),
        ("c2f", ["model.codec=3"], "codec = 3 must be a string"),
        ("c2f", ["model.n_kept=8"], "leave one to predict"),
        ("c2f", ["model.n_codebooks=9"], "has 8 codebooks"),
        ("c2f", ["loss.label_smoothing=1.0"], "label_smoothing = 1"),
        ("c2f", ["loss.target=remainder"], 'set loss.kept to "input"'),
        ("c2f", ["model.depth=3"], "has no 'depth'"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, settings: list[str], said: str, codec: Codec
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        build(recipe(name, *settings), codec)
    assert "\n" not in str(caught.value)


def test_what_is_for_another_codec_is_refused(codec: Codec, tmp_path: Path) -> None:
    save_refiner(tiny_refiner(tiny_stem_codec()), tmp_path / "other")
    setting = f"model.refiner={(tmp_path / 'other').as_posix()}"
    with pytest.raises(CheckpointError, match="use it with the codec that it was trained for"):
        build(recipe("fine_tune", setting), codec)
    encoder = write_tiny_encoder(tmp_path / "encoder").as_posix()
    with pytest.raises(UsageError, match="the stem encoder is for the codec"):
        build(recipe("translation", f"model.encoder={encoder}"), codec)
    with pytest.raises(UsageError, match="names no codec: set `codec`"):
        RefinerTask.from_recipe(recipe("c2f", "model.codec=''"))
