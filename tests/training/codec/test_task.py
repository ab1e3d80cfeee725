"""Training a codec: every recipe, the stages, whose gradients go where, and that it learns."""

import copy
import tempfile
from pathlib import Path

import pytest
import soundfile as sf
import soxr
import torch
from torch import Tensor

from mssgen.codecs.loading import load_codec, save_codec
from mssgen.errors import UsageError
from mssgen.recipes.sections import from_section
from mssgen.training.codec.discriminators import DiscriminatorOptions, build_discriminator
from mssgen.training.codec.losses import GAN_LOSSES
from mssgen.training.codec.options import CodecLossOptions
from mssgen.training.codec.task import CodecTask
from mssgen.training.data.datasets import DataOptions
from mssgen.training.optimizers import OptimizerOptions
from mssgen.training.recipes import load_recipe, recipe_names
from mssgen.training.task import Batch

from support.models import EXCERPT
from support.toys import tiny_codec

RECIPES = [name for name in recipe_names("codec") if name != "base"]
SMALL_MODEL = {
    "seanet": ["ratios=[2,2]", "n_filters=4", "latent_dim=8"],
    "dac": [
        "encoder_dim=4",
        "encoder_rates=[2,4]",
        "decoder_dim=16",
        "decoder_rates=[4,2]",
        "codebook_dim=4",
    ],
    "stem": ["n_fft=128", "hop_length=32", "width=8", "n_decoder_blocks=1", "latent_dim=8"],
}
SMALL = [
    "model.sample_rate=8000",
    "model.n_codebooks=2",
    "model.codebook_size=16",
    "loss.mel_windows=[32,64]",
    "loss.n_mels=16",
    "loss.stft_windows=[64,128]",
    "loss.discriminator.windows=[64,128]",
    "loss.discriminator.n_filters=4",
    "loss.discriminator.rates=[1,2]",
    "loss.discriminator.periods=[2]",
    "loss.discriminator_lead=0",
    "loss.discriminator_s=0",
]
TINY_LOSS = {
    "mel_windows": (32, 64, 128),
    "n_mels": 16,
    "discriminator": DiscriminatorOptions(n_filters=4, windows=(64, 128)),
}


def small_task(name: str, *more: str) -> CodecTask:
    """A recipe's codec, losses and stages, all of them small."""
    recipe = load_recipe(name, kind="codec")
    model = [f"model.{option}" for option in SMALL_MODEL[recipe.model["architecture"]]]
    levels = ["loss.dropout_levels=[1,2]"] if "dropout_levels" in recipe.loss else []
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if "codec" in recipe.model:  # the stage before this one
            save_codec(small_task("stem").codec, folder)
            model.append(f"model.codec={folder}")
        return CodecTask.from_recipe(
            load_recipe(name, [*SMALL, *model, *levels, *more], kind="codec"), offline=True
        )


def noise_batch(task: CodecTask, n_samples: int = 800) -> Batch:
    generator = torch.Generator().manual_seed(1)
    audio = 0.1 * torch.randn(2, task.n_channels, n_samples, generator=generator)
    return Batch(audio, audio, ("a", "b"))


def take_step(task: CodecTask, batch: Batch, step: int) -> dict[str, Tensor]:
    """As the training loop does."""
    for optimizer in task.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    scalars = task.accumulate(batch, lambda loss: loss.backward(), step)
    for optimizer in task.optimizers.values():
        optimizer.step()
    return scalars


def state(task: CodecTask, part: str = "") -> dict[str, Tensor]:
    items = task.codec.state_dict().items()
    return {key: value.clone() for key, value in items if key.startswith(part)}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, kind="codec")
    stages = [key for key in ("adversarial_after", "freeze_encoder_after") if key in recipe.loss]
    task = small_task(name, *(f"loss.{key}=1" for key in stages))
    batch = noise_batch(task, 600)
    before = state(task)
    logged = [take_step(task, batch, step) for step in range(3)]
    for scalars in logged:
        assert all(torch.isfinite(value) for value in scalars.values())
        assert {"loss", "perplexity/1", "replaced_codes"} <= set(scalars)
    is_adversarial = recipe.loss.get("adversarial") != 0
    assert ("loss/adversarial" in logged[-1]) == is_adversarial
    assert ("loss/discriminator" in logged[-1]) == is_adversarial
    begins_at_once = is_adversarial and "adversarial_after" not in stages
    assert ("loss/adversarial" in logged[0]) == begins_at_once
    assert ("loss/commitment" in logged[-1]) == (not stages)
    assert not same(before, state(task))
    valid = task.validate(batch)
    assert {"loss", "sdr", "perplexity/1", "perplexity/2"} <= set(valid)
    sounds = task.listen(batch)
    assert sounds["output"].shape == sounds["target"].shape == batch.target.shape[1:]
    task.export(tmp_path / "codec")
    exported = load_codec(str(tmp_path / "codec"))
    codes = exported.encode(batch.target)
    torch.testing.assert_close(exported.decode(codes)[0], sounds["output"], atol=1e-5, rtol=1e-4)


def test_a_recipe_trains_at_full_size() -> None:
    torch.manual_seed(0)
    task = CodecTask.from_recipe(load_recipe("encodec_24khz", kind="codec"))
    batch = noise_batch(task, 6000)
    for step in range(2):
        scalars = take_step(task, batch, step)
        assert all(torch.isfinite(value) for value in scalars.values())
    assert task.validate(batch)["perplexity/32"] >= 1


def test_recipes_differ_from_what_they_inherit() -> None:
    resolved = [load_recipe(name, kind="codec") for name in RECIPES]
    inputs = {each.name: from_section(DataOptions, each.data, "data").input for each in resolved}
    assert inputs.pop("rave_separated") == "separated"
    assert set(inputs.values()) == {"clean"}
    contents = [(each.model, each.loss, each.data, each.train) for each in resolved]
    assert all(contents.count(each) == 1 for each in contents)
    assert len({each.why for each in resolved}) == len(resolved)


def test_recipes_have_the_rates_and_codebooks_of_their_papers() -> None:
    facts = {
        "encodec_24khz": (24_000, 1, 75, 32),
        "encodec_48khz": (48_000, 2, 150, 16),
        "soundstream": (24_000, 1, 75, 8),
        "rave_quiet": (44_100, 1, 44_100 / 1024, 16),
    }
    for name, (rate, n_channels, frame_rate, n_codebooks) in facts.items():
        codec = CodecTask.from_recipe(
            load_recipe(name, ["model.n_filters=2", "loss.discriminator.kind=stft"], kind="codec")
        ).codec
        found = (codec.sample_rate, codec.n_channels, codec.frame_rate, codec.n_codebooks)
        assert found == (rate, n_channels, frame_rate, n_codebooks), name
        assert (codec.latent_dim, codec.codebook_size) == (128, 1024)


def test_frozen_stage_changes_the_decoder_alone() -> None:
    task = small_task("rave", "loss.adversarial_after=2", "loss.freeze_encoder_after=2")
    batch = noise_batch(task)
    for step in range(2):
        take_step(task, batch, step)
    first = state(task)
    for step in range(2, 5):
        take_step(task, batch, step)
    for part, is_frozen in (("encoder", True), ("quantizer", True), ("decoder", False)):
        assert same({key: first[key] for key in first if key.startswith(part)}, state(task)) == (
            is_frozen
        ), part
    # A run that goes on in the second stage is in it at once.
    resumed = small_task("rave", "loss.adversarial_after=2", "loss.freeze_encoder_after=2")
    resumed.codec.load_state_dict(first)
    take_step(resumed, batch, 2)
    assert same({key: first[key] for key in first if not key.startswith("decoder")}, state(resumed))


@pytest.mark.parametrize("name", ["rave_separated", "encodec_48khz", "dac_44khz", "stem"])
def test_a_codec_hears_its_input_and_not_the_target(name: str) -> None:
    """Silence and noise as input must not give one loss; the target is what output is judged by."""
    found = []
    for kind in ("target", "noise", "silence"):
        task = small_task(name, "loss.adversarial=0", "loss.features=0")
        target = noise_batch(task).target
        noise = 0.5 * target.flip(-1)
        heard = {"target": target, "noise": noise, "silence": 0 * noise}[kind]
        batch = Batch(heard, target, ("a", "b"))
        steps = tuple(float(take_step(task, batch, step)["loss"]) for step in range(3))
        seen = task.validate(batch)
        found.append((steps, float(seen["loss"])))
        if kind == "noise":
            assert float(seen["sdr_of_input"]) < 0
            assert torch.equal(task.listen(batch)["input"], noise[0])
    for values in zip(*found, strict=True):
        assert len(set(values)) == 3


def test_a_frozen_encoder_stays_as_it_is_whatever_the_input() -> None:
    task = small_task("rave_separated", "loss.freeze_encoder_after=1")
    clean = noise_batch(task)
    batch = Batch(0.5 * clean.target.flip(0), clean.target, clean.keys)
    take_step(task, batch, 0)  # which starts the codebooks
    before = state(task)
    take_step(task, batch, 1)
    after = state(task)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder"}


def test_a_codec_learns_to_give_the_target_for_its_input() -> None:
    """What a codec that hears the target only could not do: one tone is heard, another wanted."""
    task = small_task("rave_separated", "loss.adversarial=0", "loss.features=0")
    task.optimizers["codec"].param_groups[0]["lr"] = 3e-3
    time = torch.arange(2048) / task.sample_rate
    heard, wanted = (
        0.3 * torch.sin(6.283 * hz * time).expand(2, task.n_channels, -1) for hz in (300, 700)
    )
    batch = Batch(heard, wanted, ("a", "b"))
    first = float(task.validate(batch)["loss/stft"])
    for step in range(60):
        take_step(task, batch, step)
    assert float(task.validate(batch)["loss/stft"]) < 0.7 * first


def test_a_mixture_beside_the_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r'has one input.*"separated\+mixture"'):
        small_task("rave", "data.input=separated+mixture")


def test_looking_does_not_thaw_or_teach() -> None:
    task = small_task("encodec_24khz")
    batch = noise_batch(task)
    take_step(task, batch, 0)
    before = state(task)
    task.validate(batch)
    task.listen(batch)
    assert same(before, state(task))


@pytest.mark.parametrize("balance", [True, False])
def test_each_side_gets_the_gradients_of_its_own_loss(balance: bool) -> None:
    loss = CodecLossOptions(balance=balance, **TINY_LOSS)
    batch = None

    def gradients(wanted: int) -> dict[str, dict[str, Tensor | None]]:
        """With only the `wanted`-th call of backward carried out."""
        nonlocal batch
        torch.manual_seed(0)
        task = CodecTask(tiny_codec(), loss)
        batch = noise_batch(task)
        calls = []

        def backward(value: Tensor) -> None:
            calls.append(value)
            if len(calls) == wanted:
                value.backward()

        task.accumulate(batch, backward, 0)
        assert len(calls) == 2
        return {
            name: {key: weight.grad for key, weight in module.named_parameters()}
            for name, module in task.modules.items()
        }

    of_discriminator, of_codec = gradients(1), gradients(2)
    assert all(grad is None for grad in of_discriminator["codec"].values())
    assert all(grad is not None for grad in of_discriminator["discriminator"].values())
    assert all(grad is None for grad in of_codec["discriminator"].values())
    assert all(grad is not None for grad in of_codec["codec"].values())


def test_every_level_pulls_the_latents_to_its_codes() -> None:
    codec = tiny_codec(n_codebooks=2).requires_grad_(True).train()
    audio = 0.1 * torch.randn(1, 1, 400, generator=torch.Generator().manual_seed(0))
    gradients = []
    for n_levels in (1, 2):
        codec.zero_grad()
        trained = {key: value.clone() for key, value in codec.state_dict().items()}
        (n_levels * codec(audio, n_levels).commitment).backward()
        codec.load_state_dict(trained)
        weight = next(codec.encoder.parameters())
        assert weight.grad is not None
        gradients.append(weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_discriminators_learn_in_their_share_of_the_steps() -> None:
    torch.manual_seed(0)
    task = CodecTask(tiny_codec(), CodecLossOptions(discriminator_share=0.25, **TINY_LOSS))
    batch, learnt = noise_batch(task), []
    for step in range(8):
        before = [weight.clone() for weight in task.modules["discriminator"].parameters()]
        scalars = take_step(task, batch, step)
        after = task.modules["discriminator"].parameters()
        learnt.append(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        assert torch.isfinite(scalars["loss/discriminator"])
    assert learnt == [False, False, False, True] * 2


def discriminator_state(task: CodecTask) -> dict[str, Tensor]:
    found = task.modules["discriminator"].state_dict()
    return {key: value.clone() for key, value in found.items()}


def test_discriminators_learn_alone_at_first() -> None:
    lead = {"adversarial_after": 1, "discriminator_lead": 2, "discriminator_share": 0.0}
    torch.manual_seed(0)
    task = CodecTask(tiny_codec(), CodecLossOptions(**lead, **TINY_LOSS))
    batch, learnt, heard = noise_batch(task), [], []
    for step in range(5):
        before = discriminator_state(task)
        scalars = take_step(task, batch, step)
        learnt.append(not same(before, discriminator_state(task)))
        heard.append({"loss/adversarial", "loss/features"} <= set(scalars))
    assert learnt == [False, True, True, False, False]
    assert heard == [False, False, False, True, True]


def test_the_adversary_leaves_every_code_as_it_was(tmp_path: Path) -> None:
    task = small_task("stem_adversary", "loss.discriminator_s=0.05")
    batch = noise_batch(task, 1600)
    save_codec(task.codec, tmp_path / "before")
    for step in range(3):
        scalars = take_step(task, batch, step)
    assert {"loss/adversarial", "loss/features", "loss/levels"} <= set(scalars)
    task.export(tmp_path / "after")
    before, after = (load_codec(str(tmp_path / name)) for name in ("before", "after"))
    codes = before.encode(batch.target).codes
    assert torch.equal(after.encode(batch.target).codes, codes)
    sounds = [
        codec.synthesize(codec.dequantize(codes), batch.target.shape[-1], None)
        for codec in (before, after)
    ]
    assert not torch.allclose(*sounds)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_small_discriminators_tell_noise_from_tones(n_channels: int) -> None:
    torch.manual_seed(0)
    options = DiscriminatorOptions(kind="small", n_filters=4, windows=(256, 64), periods=(2, 3))
    judge = build_discriminator(options, 8000, n_channels)
    pitch = torch.linspace(200, 900, 4)[:, None, None]
    tones = 0.1 * torch.sin(2 * torch.pi * pitch * torch.arange(2000) / 8000)
    tones = tones.expand(-1, n_channels, -1)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(40):
        noise = 0.07 * torch.randn(4, n_channels, 2000)
        real, fake = judge(torch.cat([tones, noise])).halves()
        loss = GAN_LOSSES["least_squares"].discriminator(real.logits, fake.logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(real.logits) == len(real.features) == 4
    for of_real, of_fake in zip(real.logits, fake.logits, strict=True):
        assert of_real.mean() > of_fake.mean() + 0.5
    # Silence is judged, not blown up.
    silent = judge(torch.zeros(1, n_channels, 2000))
    assert all(bool(torch.isfinite(logits).all()) for logits in silent.logits)


def test_quantizer_dropout_draws_every_level_by_the_step_alone() -> None:
    loss = CodecLossOptions(dropout_levels=(1, 3), adversarial=0, features=0, **TINY_LOSS)
    draws = []
    for run in range(2):
        torch.manual_seed(run)
        task = CodecTask(tiny_codec(), loss)
        seen: list[int | None] = []
        task.codec.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[1]))
        batch = noise_batch(task, 200)
        for step in range(12):
            scalars = take_step(task, batch, step)
            assert [key for key in scalars if key.startswith("perplexity")] == ["perplexity/1"]
        draws.append(seen)
    assert draws[0] == draws[1]
    assert set(draws[0]) == {1, 3}


def test_the_same_seed_gives_the_same_weights() -> None:
    results = []
    for _ in range(2):
        task = small_task("encodec_24khz")
        batch = noise_batch(task)
        torch.manual_seed(5)
        for step in range(3):
            take_step(task, batch, step)
        results.append(state(task))
    assert same(*results)


def test_state_of_modules_and_optimizers_is_all_there_is() -> None:
    """A run resumed from them gives the weights of one that was never stopped."""
    task = small_task("encodec_24khz")
    batch = noise_batch(task)
    for step in range(2):
        take_step(task, batch, step)
    resumed = small_task("encodec_24khz")
    for name, module in task.modules.items():
        resumed.modules[name].load_state_dict(module.state_dict())
    for name, optimizer in task.optimizers.items():
        resumed.optimizers[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (task, resumed):
        for step in range(2, 4):
            torch.manual_seed(step)
            take_step(each, batch, step)
    assert same(state(task), state(resumed))


@pytest.mark.parametrize("balance", [True, False])
def test_a_nan_shows_in_the_loss(balance: bool) -> None:
    torch.manual_seed(0)
    task = CodecTask(tiny_codec(), CodecLossOptions(balance=balance, **TINY_LOSS))
    batch = noise_batch(task)
    with torch.no_grad():
        next(task.codec.decoder.parameters()).fill_(torch.nan)
    scalars = task.accumulate(batch, lambda loss: loss.backward(), 0)
    assert torch.isnan(scalars["loss"])


def test_overfits_a_short_excerpt_of_real_music() -> None:
    samples, rate = sf.read(EXCERPT, frames=2 * 44100, dtype="float32")
    audio = torch.from_numpy(soxr.resample(samples.mean(1), rate, 8000))[None, None, 4000:6000]
    torch.manual_seed(0)
    codec = tiny_codec(n_filters=8, latent_dim=16, codebook_size=64, n_lstm_layers=0)
    for layer in codec.quantizer.vq.layers:
        layer._codebook.inited.zero_()
    loss = CodecLossOptions(
        time=1.0,
        mel=0.1,
        commitment=0.1,
        adversarial=0.0,
        features=0.0,
        mel_windows=(64, 128, 256),
        n_mels=32,
        optimizer=OptimizerOptions(lr=3e-3),
    )
    task = CodecTask(codec, loss)
    batch = Batch(audio, audio, ("excerpt",))
    take_step(task, batch, 0)
    before = float(task.validate(batch)["sdr"])
    for step in range(1, 300):
        take_step(task, batch, step)
    after = task.validate(batch)
    assert float(after["sdr"]) > max(before, 0) + 6
    assert float(after["perplexity/1"]) > 16


# What is refused.


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"time": -1.0}, r"loss\.time = -1\.0 is out of range; use 0 or more"),
        ({"time": 0, "mel": 0}, "needs a distance"),
        ({"mel_form": "bark"}, "mel_form = 'bark' is unknown; use one of encodec"),
        ({"gan": "wasserstein"}, "gan = 'wasserstein' is unknown; use one of hinge"),
        ({"discriminator_share": 2.0}, "use 0 to 1"),
        ({"n_mels": [1, 2]}, "as many as"),
        ({"discriminator": {"kinds": "stft"}}, "no 'kinds'"),
    ],
)
def test_wrong_losses_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_section(CodecLossOptions, section, "loss")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture=wavenet", "seanet, dac"),
        ("model.n_filter=4", "no 'n_filter'.*n_filters"),
        ("model.ratios=3", "makes no codec"),
        ("loss.dropout_levels=[64]", "32 codebooks"),
        (
            "loss.discriminator.kind=wavelet",
            "kind = 'wavelet' is unknown; use one of stft",
        ),
    ],
)
def test_wrong_recipes_are_refused(override: str, message: str) -> None:
    recipe = load_recipe("encodec_24khz", ["model.n_filters=2", override], kind="codec")
    with pytest.raises(UsageError, match=message):
        CodecTask.from_recipe(recipe)


def test_goes_on_from_a_codec_that_fits_the_recipe(tmp_path: Path) -> None:
    codec = small_task("encodec_24khz").codec
    save_codec(codec, tmp_path / "start")
    task = small_task("encodec_24khz", f"model.codec='{tmp_path / 'start'}'")
    assert same(codec.state_dict(), state(task))
    assert all(weight.requires_grad for weight in task.codec.parameters())
    save_codec(small_task("encodec_24khz", "model.n_filters=8").codec, tmp_path / "other")
    with pytest.raises(UsageError, match=r"needs model.n_filters = 4, but .*other has 8"):
        small_task("encodec_24khz", f"model.codec='{tmp_path / 'other'}'")
