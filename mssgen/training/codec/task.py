"""Training a codec: it reconstructs short segments, and discriminators judge the result.

    input -> encoder, quantiser, decoder -> output      distances to the target, commitment
    target, output -> discriminators -> logits, features     adversarial loss, feature matching

The gradients of all losses with respect to the output are summed, with weights or by EnCodec's
balancer, and propagated through the codec once. EnCodec, SoundStream, DAC and RAVE's two stages are
options.

For an ordinary codec input and target are the same (data.input "clean"). With another input, such
as the separated stem, the codec learns to output the clean stem: from random weights, from a
trained codec (model.codec), or with a frozen encoder (loss.freeze_encoder_after = 0).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec, save_codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.codecs.networks.seanet import SeanetCodec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.errors import UsageError, closest
from mssgen.recipes.sections import from_section
from mssgen.training.codec import losses
from mssgen.training.codec.balancer import Balancer
from mssgen.training.codec.codebooks import CodebookKeeper
from mssgen.training.codec.discriminators import build_discriminator
from mssgen.training.codec.options import CodecLossOptions
from mssgen.training.codec.start import start_from_sound, start_levels, with_levels
from mssgen.training.data.datasets import DataOptions
from mssgen.training.recipes import Recipe
from mssgen.training.task import Batch

Starts = Literal["all", "levels", "nothing"]


class CodecTask:
    """The `Task` of `mssgen train codec`.

    Args:
        codec: trained as a whole, even if parts were frozen before.
        loss: weights and settings of the losses.
        recipe_name: for the record.
        starts: the codebooks that `start` sets: all, those of band energies ("levels"), or none.
        input_kind: input of the codec, `data.input` of the recipe.

    Raises:
        UsageError: the losses do not fit the codec.
    """

    def __init__(
        self,
        codec: Codec,
        loss: CodecLossOptions,
        *,
        recipe_name: str = "",
        starts: Starts = "all",
        input_kind: str = "clean",
    ) -> None:
        for n_levels in loss.dropout_levels:
            codec.check_n_codebooks(n_levels)
        if loss.start_segments and not isinstance(codec, StemCodec):
            raise UsageError("loss.start_segments works with the architecture stem only; use 0")
        self.codec, self._loss, self._recipe_name = codec, loss, recipe_name
        self._starts, self._input_kind = starts, input_kind
        self.sample_rate, self.n_channels = codec.sample_rate, codec.n_channels
        self._keeper = CodebookKeeper(codec, loss.dead_code_share)
        self.modules: dict[str, nn.Module] = {"codec": codec.requires_grad_(True)}
        self.optimizers: dict[str, Optimizer] = {"codec": loss.optimizer.build(codec)}
        if loss.is_adversarial:
            discriminator = build_discriminator(
                loss.discriminator, codec.sample_rate, codec.n_channels
            )
            self.modules["discriminator"] = discriminator
            self.optimizers["discriminator"] = loss.discriminator_optimizer.build(discriminator)
        if loss.balance:
            self.modules["balancer"] = Balancer(loss.weights)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, codec: Codec | None = None, *, offline: bool = False
    ) -> "CodecTask":
        """From sections [model], [loss] and [data] (for the input) of a recipe.

        [model] has `architecture` and the options of that codec, or `codec`, the name or folder of
        a codec to train further, to which band-energy codebooks can be added; the argument `codec`
        replaces both. Raises UsageError for sections that do not fit together, CheckpointError for
        the codec's files.
        """
        loss = from_section(CodecLossOptions, recipe.loss, "loss")
        input_kind = recipe.data.get("input", DataOptions.input)
        if input_kind == "separated+mixture":
            raise UsageError(
                'a codec has one input, but data.input "separated+mixture" is two; use '
                '"separated", "mixture", "noisy" or "clean"'
            )
        starts: Starts = "all"
        if codec is None:
            codec, starts = _codec(recipe, offline=offline)
        return cls(codec, loss, recipe_name=recipe.name, starts=starts, input_kind=input_kind)

    @property
    def n_start_segments(self) -> int:
        """See `mssgen.training.task.Starts`."""
        return self._loss.start_segments if self._starts != "nothing" else 0

    def start(self, segments: Iterable[Tensor]) -> None:
        """Initialise a stem codec from segments [2, T]; does nothing without segments."""
        if not (sounds := list(segments)):
            return
        assert isinstance(self.codec, StemCodec)  # `loss.start_segments` is checked
        if self._starts == "all":
            start_from_sound(self.codec, sounds)
        if self.codec.options["n_level_codebooks"]:
            start_levels(self.codec, sounds)

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """One forward and backward pass; logs "loss", "loss/<name>", "replaced_codes", and
        "perplexity/<number>" of the codebooks that every step uses.

        `step` counts from 0 and determines the stage.
        """
        is_frozen = self._enter(step)
        target = batch.target
        reconstruction = self.modules["codec"](batch.input, self._n_levels(step))
        n_replaced = self._keeper.refresh()
        # Losses are differentiated up to here; one pass then takes the sum through the codec.
        sounds = [reconstruction.audio]
        if reconstruction.coherent is not None:
            sounds.append(reconstruction.coherent)
        joined = torch.stack(sounds, dim=1)
        outputs = joined.detach().float().requires_grad_()
        output, coherent = outputs[:, 0], outputs[:, -1]
        found = self._distances(output, coherent, target)
        logged = {"replaced_codes": n_replaced}
        if self._loss.is_adversarial and step >= self._loss.adversarial_after:
            adversarial, loss = self._adversarial(output, target, backward, step)
            found |= adversarial
            logged["loss/discriminator"] = loss
        total = self._total(found)
        objective = (joined * self._gradient(found, outputs)).sum()
        if not is_frozen and self._loss.commitment:
            found["commitment"] = reconstruction.commitment
            objective = objective + self._loss.commitment * reconstruction.commitment
            total = total + self._loss.commitment * reconstruction.commitment
        backward(objective)
        n_always = min(self._loss.dropout_levels, default=self.codec.n_codebooks)
        logged |= _named(found, total) | self._perplexities(reconstruction.codes[:, :n_always])
        return {name: value.detach() for name, value in logged.items()}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Distances to the target, "sdr" (dB) with all codebooks, "perplexity/<number>" of each,
        and "sdr_of_input" if the input is not the target."""
        output, codes = self._reconstruct(batch.input)
        found = self._distances(output, output, batch.target)
        scalars = {
            **_named(found, self._total(found)),
            "sdr": losses.sdr_db(output, batch.target),
            **self._perplexities(codes),
        }
        if batch.input is not batch.target:
            scalars["sdr_of_input"] = losses.sdr_db(batch.input, batch.target)
        return scalars

    @torch.no_grad()
    def listen(self, batch: Batch) -> dict[str, Tensor]:
        """Target and output, and the input if it is not the target."""
        output, _ = self._reconstruct(batch.input[:1])
        heard = {} if batch.input is batch.target else {"input": batch.input[0]}
        return {**heard, "target": batch.target[0], "output": output[0]}

    def export(self, folder: Path) -> None:
        """Write the codec in the format of `load_codec`."""
        save_codec(self.codec, folder)
        # The id is cached, but this codec continues to change.
        vars(self.codec).pop("codec_id", None)

    def describe(self) -> dict[str, Any]:
        """Recipe, codec, losses and number of parameters."""
        return {
            "kind": "codec",
            "recipe": self._recipe_name,
            "codec": self.codec.name,
            "architecture": self.codec.architecture,
            "sample_rate": self.sample_rate,
            "n_channels": self.n_channels,
            "input": self._input_kind,
            "model": self.codec.options,
            "loss": asdict(self._loss),
            "n_parameters": sum(weight.numel() for weight in self.codec.parameters()),
        }

    def _enter(self, step: int) -> bool:
        """Set modes for the stage of `step`; returns whether encoder and codebooks are frozen."""
        after = self._loss.freeze_encoder_after
        is_frozen = after is not None and step >= after
        self.codec.train()
        for part in (self.codec.encoder, self.codec.quantizer):
            part.train(not is_frozen).requires_grad_(not is_frozen)
        return is_frozen

    def _n_levels(self, step: int) -> int | None:
        """Number of codebooks in this step (None: all), the same in all processes."""
        levels = self._loss.dropout_levels
        generator = torch.Generator().manual_seed(step)
        if not levels or float(torch.rand((), generator=generator)) >= self._loss.quantizer_dropout:
            return None
        return levels[int(torch.randint(len(levels), (), generator=generator))]

    def _distances(self, output: Tensor, coherent: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Distances to the target; those that depend on phase use `coherent`, without noise."""
        options = self._loss
        found = {}
        if options.time:
            found["time"] = losses.time_distance(coherent, target)
        if options.mel:
            found["mel"] = losses.mel_distance(
                output,
                target,
                sample_rate=self.sample_rate,
                windows=options.mel_windows,
                n_mels=options.n_mels,
                form=options.mel_form,
            )
        if options.stft:
            found["stft"] = losses.stft_distance(output, target, windows=options.stft_windows)
        if options.spectrum:
            found["spectrum"] = losses.spectrum_distance(coherent, target)
        if options.levels:
            found["levels"] = losses.level_distance(output, target)
        return found

    def _adversarial(
        self, output: Tensor, target: Tensor, backward: Callable[[Tensor], None], step: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The codec's adversarial losses, and the discriminators' loss after its backward pass."""
        options, judge = self._loss, self.modules["discriminator"]
        output, target = self._judged_part(output, target)
        gan = losses.GAN_LOSSES[options.gan]
        is_alone = step < options.adversarial_after + options.discriminator_lead
        share = options.discriminator_share
        learns = is_alone or int((step + 1) * share) > int(step * share)
        if learns:
            real, fake = judge(torch.cat([target, output.detach()])).halves()
            loss = gan.discriminator(real.logits, fake.logits)
            backward(loss)
        if is_alone:
            return {}, loss
        # The discriminator's weights have not changed: its step comes after this batch.
        fake = judge(output)
        if not learns:
            with torch.no_grad():
                real = judge(target)
                loss = gan.discriminator(real.logits, fake.logits)
        found = {}
        if options.adversarial:
            found["adversarial"] = gan.generator(fake.logits)
        if options.features:
            found["features"] = losses.feature_matching(
                real.features, fake.features, relative=options.relative_features
            )
        return found, loss

    def _judged_part(self, *sounds: Tensor) -> list[Tensor]:
        """A random excerpt of sounds [B, C, T], the same for all."""
        n_samples = round(self._loss.discriminator_s * self.sample_rate) or sounds[0].shape[-1]
        start = int(torch.randint(max(1, sounds[0].shape[-1] - n_samples + 1), ()))
        return [sound[..., start : start + n_samples] for sound in sounds]

    def _gradient(self, found: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """Gradient of all losses with respect to the outputs, [B, ..., C, T]."""
        if not self._loss.balance:
            return torch.autograd.grad(self._total(found), outputs)[0]
        gradients = {
            name: torch.autograd.grad(loss, outputs, retain_graph=True)[0]
            for name, loss in found.items()
        }
        return self.modules["balancer"](gradients)

    def _total(self, found: Mapping[str, Tensor]) -> Tensor:
        weights = self._loss.weights
        return torch.stack([weights[name] * loss for name, loss in found.items()]).sum()

    def _reconstruct(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [B, C, T] and codes [B, K, N] of the codec in eval mode."""
        codec = self.codec.eval()
        scale = codec.scales(sound)
        codes = codec.quantize(codec.latents(sound, scale))
        audio = codec.synthesize(codec.dequantize(codes), sound.shape[-1], scale)
        return audio.float(), codes

    def _perplexities(self, codes: Tensor) -> dict[str, Tensor]:
        values = losses.perplexity(codes, self.codec.codebook_size)
        return {f"perplexity/{level}": value for level, value in enumerate(values, start=1)}


def _named(found: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    return {"loss": total, **{f"loss/{name}": loss for name, loss in found.items()}}


def _codec(recipe: Recipe, *, offline: bool) -> tuple[Codec, Starts]:
    """A codec with random weights or the trained one, and the parts of it to initialise."""
    options = dict(recipe.model)
    start, architecture = options.pop("codec", None), options.pop("architecture", None)
    if start == "":
        raise UsageError(
            f"recipe {recipe.name} starts from a trained codec: name its folder, model.codec=FOLDER"
        )
    if start is not None:
        return _started_from(start, recipe, offline=offline)
    kinds = {kind.architecture: kind for kind in (SeanetCodec, DacCodec, StemCodec)}
    if architecture not in kinds:
        raise UsageError(
            f"recipe {recipe.name} names no codec: set model.architecture to one of "
            f"{', '.join(kinds)}, or model.codec to the name or folder of a trained codec"
        )
    kind = kinds[architecture]
    known = list(inspect.signature(kind).parameters)
    for key in options:
        if key not in known:
            raise UsageError(f"recipe section [model] has no '{key}'{closest(key, known)}")
    try:
        return kind(**options), "all"
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"recipe section [model] makes no codec: {reason or 'its values do not fit together'}"
        ) from error


def _started_from(start: str, recipe: Recipe, *, offline: bool) -> tuple[Codec, Starts]:
    """The trained codec `start`, which must match the rest of [model]; band energies are added."""
    codec = load_codec(start, offline=offline)
    starts: Starts = "nothing"
    n_wanted = recipe.model.get("n_level_codebooks", 0)
    if n_wanted and isinstance(codec, StemCodec) and not codec.options["n_level_codebooks"]:
        codec, starts = with_levels(codec, n_wanted), "levels"
    has = {**codec.options, "architecture": codec.architecture, "codec": start}
    for key, value in recipe.model.items():
        if key != "name" and has.get(key) != value:
            raise UsageError(
                f"recipe {recipe.name} needs model.{key} = {value!r}, but {start} has "
                f"{has.get(key)!r}: use a recipe for that codec"
            )
    return codec, starts
