"""Training stem encoders: recipes, what learns and what must not, targets, overfitting."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.codecs.networks.seanet import SeanetCodec
from mssgen.encoders.files import load_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoderOptions
from mssgen.errors import UsageError
from mssgen.recipes.sections import from_section
from mssgen.training.codec.start import start_from_sound
from mssgen.training.data.augment import AUGMENTED
from mssgen.training.data.datasets import DataOptions
from mssgen.training.data.target_cache import TargetCache
from mssgen.training.encoder.losses import discriminator_loss
from mssgen.training.encoder.options import LossOptions
from mssgen.training.encoder.targets import FrozenTargets
from mssgen.training.encoder.task import EncoderTask
from mssgen.training.optimizers import OptimizerOptions
from mssgen.training.recipes import Recipe, load_recipe, recipe_names
from mssgen.training.task import Batch

from support.toys import tiny_codec, tiny_stem_codec

RECIPES = recipe_names("encoder")
OF_ANY_CODEC = [
    name
    for name in RECIPES
    if load_recipe(name, kind="encoder").data["input"] != "separated+mixture"
]


def melody(seed: int, n_notes: int = 8) -> Tensor:
    """Decaying tones of half a second, [1, 1, T] at 8 kHz."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(4000) / 8000
    octaves = torch.randint(0, 36, (n_notes, 1), generator=generator) / 12
    notes = torch.sin(2 * math.pi * 55 * 2**octaves * time) * torch.exp(-4 * time) / 2
    return notes.flatten()[None, None]


def a_batch(n_items: int = 2, n_samples: int = 1000, n_channels: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    target, rest = 0.1 * torch.randn(2, n_items, n_channels, n_samples, generator=generator)
    return Batch(target + rest, target, tuple(f"song/bass@{i}" for i in range(n_items)))


def step(task: EncoderTask, batch: Batch, index: int = 0) -> dict[str, float]:
    for optimizer in task.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    scalars = task.accumulate(batch, lambda loss: loss.backward(), index)
    for optimizer in task.optimizers.values():
        optimizer.step()
    return {name: float(value) for name, value in scalars.items()}


def check_recipe(recipe: Recipe, codec: Codec, n_samples: int) -> None:
    """Two steps: everything is finite, what should learn does, the codec stays as it is."""
    from_section(DataOptions, recipe.data, "data")
    assert recipe.why
    torch.manual_seed(0)
    task = EncoderTask.from_recipe(recipe, codec)
    frozen = {key: value.clone() for key, value in codec.state_dict().items()}
    learning = {
        f"{module}.{name}": weight.detach().clone()
        for module, network in task.modules.items()
        for name, weight in network.named_parameters()
    }
    batch = a_batch(1, n_samples, codec.n_channels)
    if recipe.data["input"] == "separated+mixture":
        batch = replace(batch, input=torch.cat([batch.input, batch.input], dim=1))
    for index in range(2):
        scalars = step(task, batch, index)
        assert all(math.isfinite(value) for value in scalars.values())
        weights = recipe.loss
        terms = (
            "mse",
            "levels",
            "cross_entropy",
            "residual",
            "adversarial",
            "time",
            "spectrum",
            "stft",
        )
        if not codec.n_band_dims:
            weights = {**weights, "levels": 0.0}
        total = sum(weights.get(term, 0) * scalars.get(f"loss/{term}", 0) for term in terms)
        assert scalars["loss"] == pytest.approx(total, rel=1e-4)
        assert {t for t in terms if weights.get(t)} == {t for t in terms if f"loss/{t}" in scalars}
    is_frozen = recipe.model["encoder"] == "frozen"
    is_of_levels = "start" in recipe.model
    has_levels = not codec.n_band_dims or recipe.loss.get("levels")
    for module, network in task.modules.items():
        moved = [
            not torch.equal(weight, learning[f"{module}.{name}"])
            for name, weight in network.named_parameters()
            if weight.requires_grad
            and ("levels" in name or not is_of_levels)
            and ("levels" not in name or has_levels)
        ]
        # The units of so small a discriminator may all be off at first, but for its last bias.
        assert sum(moved) > (0.9 * len(moved) if module == "encoder" else 0)
        if is_frozen and module == "encoder":
            assert all(
                torch.equal(weight, learning[f"encoder.{name}"])
                for name, weight in network.named_parameters()
                if name.startswith("encoder.")
            )
    assert not codec.training
    assert all(torch.equal(frozen[key], value) for key, value in codec.state_dict().items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_the_tiny_codec(name: str) -> None:
    codec = (
        tiny_codec(n_codebooks=8) if name in OF_ANY_CODEC else tiny_stem_codec(n_level_codebooks=2)
    )
    check_recipe(load_recipe(name, kind="encoder"), codec, 1600)


@pytest.mark.parametrize("name", ["n2", "n4", "stem", "mix_dac_coarse4"])
def test_recipes_run_on_a_tiny_dac(name: str) -> None:
    torch.manual_seed(0)
    codec = DacCodec(
        sample_rate=8000,
        encoder_dim=4,
        encoder_rates=[4, 2],
        decoder_dim=8,
        decoder_rates=[2, 4],
        n_codebooks=8,
        codebook_size=16,
        codebook_dim=4,
    )
    codec.freeze()
    check_recipe(load_recipe(name, kind="encoder"), codec, 1000)


@pytest.fixture(scope="module")
def encodec() -> SeanetCodec:
    """EnCodec at 24 kHz with random weights and codebooks."""
    torch.manual_seed(0)
    codec = SeanetCodec()
    for layer in codec.quantizer.vq.layers:
        layer._codebook.embed.normal_(std=0.1)
        layer._codebook.inited.fill_(1)
    codec.freeze()
    return codec


@pytest.mark.parametrize("name", ["n6_adversarial", "stem"])
def test_recipes_run_on_the_architecture_of_encodec(name: str, encodec: SeanetCodec) -> None:
    check_recipe(load_recipe(name, kind="encoder"), encodec, 6400)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ANY_CODEC)
def test_every_recipe_runs_on_the_architecture_of_encodec(name: str, encodec: SeanetCodec) -> None:
    check_recipe(load_recipe(name, kind="encoder"), encodec, 24_000)


def in_song(*settings: str) -> Recipe:
    return load_recipe("shipped_levels", ["model.codec=tiny", *settings], kind="encoder")


def test_levels_alone_learn_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = tiny_stem_codec(n_level_codebooks=2)
    first = EncoderTask.from_recipe(in_song("loss.mse=1.0", "loss.levels=0.0"), codec)
    batch = a_batch(2, 1600, 2)
    batch = replace(batch, input=torch.cat([batch.input, batch.input], dim=1))
    step(first, batch)
    first.export(tmp_path / "first")
    task = EncoderTask.from_recipe(in_song(f"model.start={tmp_path / 'first'}"), codec)
    before = {k: v.clone() for k, v in task.modules["encoder"].state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in first.modules["encoder"].state_dict().items())
    losses = [step(task, batch, index) for index in range(30)]
    assert set(losses[0]) == {"loss", "loss/levels"}
    assert losses[-1]["loss"] < 0.9 * losses[0]["loss"]
    moved = {
        name.split(".")[1] + "." + name.split(".")[2]
        for name, weight in task.modules["encoder"].state_dict().items()
        if not torch.equal(weight, before[name])
    }
    assert moved == {"levels.layers", "levels.output"}
    # As the whole encoder would be taught by the same loss.
    whole = float(task.validate(batch)["loss"])
    latents = task.modules["encoder"](batch.input).latents
    target = codec.latents(batch.target)
    n_levels = codec.n_band_dims
    distance = (latents - target)[:, -n_levels:].abs().mean()
    assert whole == pytest.approx(distance.item(), rel=1e-4)


def test_a_start_must_fit(tmp_path: Path) -> None:
    codec = tiny_stem_codec(n_level_codebooks=2)
    EncoderTask.from_recipe(in_song("data.stem=drums"), codec).export(tmp_path)
    with pytest.raises(UsageError, match="other options than the recipe"):
        EncoderTask.from_recipe(in_song(f"model.start={tmp_path}"), codec)
    with pytest.raises(UsageError, match=r"start = 3 must be a string"):
        EncoderTask.from_recipe(in_song("model.start=3"), codec)
    with pytest.raises(UsageError, match="warm_basss"):
        EncoderTask.from_recipe(in_song("model.start=warm_basss"), codec)


def test_the_thesis_experiments_are_all_there() -> None:
    thesis = {f"n{number}" for number in range(1, 9)}
    assert {name.split("_")[0] for name in RECIPES} >= thesis | {"mix", "stem"}


def test_a_recipe_without_a_codec_says_how_to_give_one() -> None:
    recipe = load_recipe("mix_rave_transformer", kind="encoder")
    with pytest.raises(UsageError, match="names no codec: set `codec`"):
        EncoderTask.from_recipe(recipe)


def test_clean_stems_teach_a_head_to_quantise_and_it_goes_on_from_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = tiny_codec()
    task = EncoderTask.from_recipe(load_recipe("n7_quantize", kind="encoder"), codec)
    batch = a_batch()
    clean = replace(batch, input=batch.target)
    losses = [step(task, clean, index)["loss"] for index in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    task.export(tmp_path)
    start = [f"model.start={tmp_path}"]
    further = EncoderTask.from_recipe(load_recipe("n7", start, kind="encoder"), codec)
    assert further.options.input == "separated"
    trained = task.modules["encoder"].state_dict()
    assert all(
        torch.equal(value, trained[key])
        for key, value in further.modules["encoder"].state_dict().items()
    )
    with pytest.raises(UsageError, match="other options than the recipe"):
        EncoderTask.from_recipe(load_recipe("n7_coarse4", start, kind="encoder"), codec)


def test_the_thesis_transformers_look_back_only() -> None:
    n_found = 0
    for name in RECIPES:
        recipe = load_recipe(name, kind="encoder")
        if recipe.model.get("head") != "transformer":
            continue
        codec = tiny_codec(n_codebooks=8)
        model = EncoderTask.from_recipe(recipe, codec).modules["encoder"].eval()
        latents = torch.randn(1, codec.latent_dim, 20)
        changed = torch.cat([latents[..., :10], torch.randn(1, codec.latent_dim, 10)], dim=-1)
        first, second = model.refine(latents), model.refine(changed)
        for of_first, of_second, axis in (
            (first.latents, second.latents, -1),
            (first.logits, second.logits, 2),
        ):
            if of_first is None:
                continue
            past, rest = (
                [part.narrow(axis, start, 10) for part in (of_first, of_second)]
                for start in (0, 10)
            )
            torch.testing.assert_close(*past)
            assert not torch.allclose(*rest)
        n_found += 1
    assert n_found >= 8


@pytest.mark.parametrize("name", ["n6_adversarial", "n5", "shipped"])
def test_balanced_losses_have_their_share_whatever_their_scale(name: str) -> None:
    """Weights ten times as large are the same shares, and so the same gradients."""
    codec = tiny_stem_codec(n_level_codebooks=2) if name == "shipped" else tiny_codec()
    batch = a_batch(n_samples=1600, n_channels=codec.n_channels)

    def gradients(*settings: str) -> list[Tensor]:
        torch.manual_seed(0)
        recipe = load_recipe(name, ["loss.balance=true", *settings], kind="encoder")
        task = EncoderTask.from_recipe(recipe, codec)
        assert "balancer" in task.modules
        scalars = step(task, batch)
        assert math.isfinite(scalars["loss"])
        found = [weight.grad for weight in task.modules["encoder"].parameters()]
        return [grad.clone() for grad in found if grad is not None]

    plain = from_section(LossOptions, load_recipe(name, kind="encoder").loss, "loss").weights
    tenfold = [f"loss.{loss}={10 * weight}" for loss, weight in plain.items()]
    for one, other in zip(gradients(), gradients(*tenfold), strict=True):
        torch.testing.assert_close(one, other)


def test_a_clean_input_teaches_nothing() -> None:
    recipe = load_recipe("n3", ["data.input=clean"], kind="encoder")
    with pytest.raises(UsageError, match="learns nothing"):
        EncoderTask.from_recipe(recipe, tiny_codec())


def lively_codec(audio: Tensor) -> SeanetCodec:
    """A tiny codec of 25 frames a second whose tokens tell the frames of `audio` apart."""
    codec = tiny_codec(ratios=[8, 5, 4, 2])
    with torch.no_grad():
        for name, weight in codec.encoder.named_parameters():
            if name.endswith("weight_g"):
                weight.mul_(2)
        residual = codec.latents(audio)[0].T.clone()
        generator = torch.Generator().manual_seed(1)
        for layer in codec.quantizer.vq.layers:
            chosen = torch.randperm(len(residual), generator=generator)[: len(layer.codebook)]
            layer._codebook.embed.copy_(residual[chosen])
            nearest = torch.cdist(residual, layer.codebook).argmin(dim=1)
            residual = residual - layer.codebook[nearest]
    return codec


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ({"encoder": "random"}, {"mse": 1.0}),
        ({"head": "transformer", "encoder": "random"}, {"mse": 1.0}),
        ({"head": "dense"}, {"cross_entropy": 1.0}),
        ({"head": "transformer", "head_output": "tokens"}, {"cross_entropy": 1.0}),
        (
            {"encoder": "random"},
            {"residual": 1.0, "temperature": 0.2, "temperature_unit": "codebook"},
        ),
        (
            {"encoder": "random"},
            {
                "residual": 1.0,
                "residual_from": "target",
                "temperature": 0.2,
                "temperature_unit": "codebook",
            },
        ),
    ],
    ids=["mse", "mse-transformer", "tokens-dense", "tokens-transformer", "residual", "forced"],
)
def test_overfitting_four_seconds(model: dict[str, Any], loss: dict[str, Any]) -> None:
    """First-codebook accuracy from chance to above 90 %, the mixture of two melodies as input."""
    target = melody(0)
    codec = lively_codec(target)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(3))
    batch = Batch(target + melody(1) + 0.05 * noise, target, ("song/bass@0",))
    torch.manual_seed(5)
    options = LossOptions(**loss, optimizer=OptimizerOptions(lr=4e-3))
    task = EncoderTask(codec, StemEncoderOptions(**model), options)
    first = float(task.validate(batch)["accuracy/1"])
    assert first < 0.25
    for index in range(400):
        if step(task, batch, index)["accuracy/1"] > 0.9:
            break
    assert task.validate(batch)["accuracy/1"] > 0.85
    assert index < 399, "never above 90 %"


def test_logged_names() -> None:
    model = StemEncoderOptions(head="dense", head_codebooks=2)
    loss = LossOptions(mse=1.0, cross_entropy=1.0, residual=0.5, adversarial=0.1)
    task = EncoderTask(tiny_codec(), model, loss)
    scalars = step(task, a_batch())
    losses = {"mse", "cross_entropy", "residual", "adversarial"}
    expected = {"loss", "accuracy", "accuracy/1", "accuracy/2", *(f"loss/{n}" for n in losses)}
    assert set(scalars) == expected | {"loss/discriminator"}
    assert set(task.validate(a_batch())) == expected
    assert set(task.modules) == set(task.optimizers) == {"encoder", "discriminator"}
    no_head = EncoderTask(tiny_codec(), StemEncoderOptions(), LossOptions(mse=1.0))
    assert {f"accuracy/{level}" for level in range(1, 5)} < set(step(no_head, a_batch()))


def test_a_perfect_input_has_no_loss() -> None:
    task = EncoderTask(tiny_codec(), StemEncoderOptions(), LossOptions(mse=1.0))
    batch = a_batch()
    scalars = task.validate(Batch(batch.target, batch.target, batch.keys))
    assert scalars["loss"] == 0
    assert scalars["accuracy"] == 1


def test_losses_on_sound_reach_the_encoder_through_the_codes() -> None:
    """The decoder is frozen; what it makes of the codes comes nearer to the clean stem."""
    codec = tiny_stem_codec()
    batch = a_batch(2, 640, n_channels=2)
    start_from_sound(codec, [*batch.target])
    loss = LossOptions(time=1.0, spectrum=0.1, stft=0.1, stft_windows=(64,))
    options = StemEncoderOptions(encoder="random")
    task = EncoderTask(codec, options, loss)
    before = task.validate(batch)
    assert {"loss/time", "loss/spectrum", "loss/stft"} < set(before)
    for index in range(60):
        step(task, batch, index)
    after = task.validate(batch)
    assert float(after["loss"]) < 0.9 * float(before["loss"])
    assert float(after["loss/stft"]) < float(before["loss/stft"])


def test_levels_of_bands_are_learned_apart_from_the_waveform() -> None:
    """What is 10 dB too loud comes to be told as softer; the other latents do not see that loss."""
    codec = tiny_stem_codec(n_level_codebooks=2)
    clean = a_batch(2, 640, n_channels=2).target
    batch = Batch(10**0.5 * clean, clean, ("a", "b"))
    optimizer = OptimizerOptions(name="adamw", lr=3e-3)
    loss = LossOptions(levels=1.0, optimizer=optimizer)
    task = EncoderTask(codec, StemEncoderOptions(), loss)
    encoder = task.modules["encoder"].encoder[1]
    first = task.validate(batch)["loss/levels"]
    for index in range(60):
        step(task, batch, index)
    assert float(first) > 0.5
    assert float(task.validate(batch)["loss/levels"]) < 0.4 * float(first)
    for key, value in encoder.main.named_parameters():
        assert value.grad is None or not bool(value.grad.any()), key
    both = EncoderTask(codec, StemEncoderOptions(), LossOptions(levels=1.0, mse=1.0))
    assert {"loss/levels", "loss/mse"} < set(both.validate(batch))
    other = EncoderTask(tiny_codec(), StemEncoderOptions(), LossOptions(levels=1.0, mse=1.0))
    assert "loss/levels" not in other.validate(a_batch())  # a codec without levels


def test_each_module_learns_from_its_own_loss() -> None:
    """The adversarial loss leaves nothing on the discriminator, and its loss nothing elsewhere."""
    torch.manual_seed(0)
    codec = tiny_codec()
    task = EncoderTask(codec, StemEncoderOptions(), LossOptions(adversarial=1.0))
    batch = a_batch()
    task.accumulate(batch, lambda loss: loss.backward(), 0)
    discriminator = task.modules["discriminator"]
    found = [weight.grad for weight in discriminator.parameters()]
    own = discriminator_loss(
        discriminator(codec.latents(batch.target)), discriminator(codec.latents(batch.input))
    )
    expected = torch.autograd.grad(own, list(discriminator.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)
    assert all(weight.grad is not None for weight in task.modules["encoder"].parameters())


def test_targets_of_first_levels() -> None:
    codec = tiny_codec()
    batch = a_batch()
    codes = codec.quantize(codec.latents(batch.target))
    targets = FrozenTargets(codec, 2)(batch)
    assert torch.equal(targets.codes, codes[:, :2])
    assert torch.equal(targets.quantized, codec.dequantize(codes[:, :2]))
    one = targets.items(1, 2)
    assert torch.equal(one.codes, codes[1:, :2])
    assert torch.equal(one.quantized, targets.quantized[1:])


def test_the_target_has_the_gain_of_the_input() -> None:
    """At run time only the input's gain is known, and the output is given it back."""
    codec = tiny_codec(n_channels=2, segment_s=0.05, normalize=True)
    batch = a_batch(n_channels=2)
    targets = FrozenTargets(codec)(batch)
    scale = codec.scales(batch.input)
    assert targets.scale is not None
    assert torch.equal(targets.scale, scale)
    torch.testing.assert_close(targets.latents, codec.latents(batch.target, scale))
    assert not torch.allclose(targets.latents, codec.latents(batch.target))
    task = EncoderTask(codec, StemEncoderOptions(), LossOptions(mse=1.0))
    step(task, batch)
    assert task.listen(batch)["output"].shape == (2, 1000)


@pytest.mark.parametrize("options", [{}, {"segment_s": 0.05, "normalize": True}])
def test_the_cache_changes_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    codec = tiny_codec(**options)
    targets = FrozenTargets(codec, None, tmp_path)
    batch = a_batch()
    first, again = targets(batch), targets(batch)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.codes, again.codes)
    torch.testing.assert_close(
        first.latents, FrozenTargets(codec)(batch).latents, rtol=1e-3, atol=1e-4
    )
    # Half of a batch may be there already.
    new = a_batch(seed=1)
    mixed = Batch(
        torch.cat([batch.input[:1], new.input[:1]]),
        torch.cat([batch.target[:1], new.target[:1]]),
        (batch.keys[0], "another"),
    )
    found, expected = targets(mixed), FrozenTargets(codec)(mixed)
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.latents, expected.latents, rtol=1e-3, atol=1e-4)


def test_the_cache_keeps_what_is_the_same_every_time(tmp_path: Path) -> None:
    codec = tiny_codec()
    batch = a_batch()
    altered = Batch(batch.input, batch.target, (f"a{AUGMENTED}1", "b"))
    FrozenTargets(codec, None, tmp_path)(altered)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    # Damaged files are made anew, and another codec does not see them.
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    targets = FrozenTargets(codec, None, tmp_path)(altered)
    assert torch.equal(targets.codes, codec.quantize(codec.latents(batch.target)))
    FrozenTargets(tiny_codec(seed=1), None, tmp_path)(altered)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    latents, codes = torch.zeros(8, 100), torch.zeros(4, 100, dtype=torch.long)
    cache = TargetCache(tmp_path, "codec", max_bytes=6000)  # one item has 2400 bytes
    for index in range(5):
        cache.put(str(index), latents, codes)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert cache.get("0") is not None
    assert cache.get("4") is None
    full = TargetCache(tmp_path, "codec", max_bytes=6000)
    full.put("5", latents, codes)
    assert full.get("5") is None


def test_listening(tmp_path: Path) -> None:
    codec = tiny_codec()
    task = EncoderTask(codec, StemEncoderOptions(), LossOptions(mse=1.0))
    batch = a_batch(n_samples=999)
    sounds = task.listen(batch)
    assert list(sounds) == ["input", "target", "target_decoded", "output"]
    assert all(sound.shape == (1, 999) for sound in sounds.values())
    ceiling = codec.decode(codec.encode(batch.target[:1]))[0]
    torch.testing.assert_close(sounds["target_decoded"], ceiling)


def test_an_export_gives_what_was_trained(tmp_path: Path) -> None:
    recipe = load_recipe("n8", ["data.stem=drums"], kind="encoder")
    task = EncoderTask.from_recipe(recipe, tiny_codec())
    batch = a_batch()
    for index in range(2):
        step(task, batch, index)
    task.export(tmp_path / "model")
    loaded = load_stem_encoder(tmp_path / "model")
    assert (loaded.options.stem, loaded.options.input) == ("drums", "separated")
    trained = task.modules["encoder"].eval()
    with torch.no_grad():
        assert torch.equal(loaded(batch.input).latents, trained(batch.input).latents)
    about = task.describe()
    assert about["codec_id"] == loaded.codec.codec_id
    assert 0 < about["n_trained_parameters"] <= about["n_parameters"]


def test_a_folder_as_codec(tmp_path: Path) -> None:
    from mssgen.codecs.loading import save_codec

    codec = tiny_codec()
    save_codec(codec, tmp_path / "codec")
    recipe = load_recipe("n3", [f'model.codec="{tmp_path / "codec"}"'], kind="encoder")
    task = EncoderTask.from_recipe(recipe)
    assert task.codec.codec_id == codec.codec_id
    assert task.sample_rate == 8000


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        ({}, {}, "at least one"),
        ({}, {"mse": -1.0, "residual": 1.0}, r"loss\.mse = -1\.0 is out of range; use 0 or more"),
        ({}, {"mse": 1.0, "temperature": 0.0}, "temperature"),
        ({}, {"cross_entropy": 1.0}, "set both, or neither"),
        ({"head": "dense"}, {"mse": 1.0}, "set both, or neither"),
        ({"head": "dense", "encoder": "frozen"}, {"mse": 1.0, "cross_entropy": 1.0}, "is frozen"),
        ({"n_target_codebooks": 2}, {"mse": 1.0}, "mse_target = 'quantized'"),
        ({}, {"residual": 1.0, "residual_levels": 5}, "4 codebooks"),
    ],
)
def test_losses_that_cannot_teach_are_refused(
    model: dict[str, Any], loss: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderTask(tiny_codec(), StemEncoderOptions(**model), LossOptions(**loss))
