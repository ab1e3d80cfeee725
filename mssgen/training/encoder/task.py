"""Training a stem encoder: it learns to predict, from another input, the latents and codes of the
clean stem by a frozen codec.

    target -> codec's encoder -> latents -> codec's quantiser -> codes      (frozen, no gradients)
    input -> stem encoder -> latents and logits                             (trained)
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import resolve
from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.encoders.files import load_stem_encoder, save_stem_encoder
from mssgen.encoders.stem_encoder import Prediction, StemEncoder, StemEncoderOptions
from mssgen.errors import UsageError
from mssgen.recipes.sections import from_section
from mssgen.training.codec.balancer import Balancer
from mssgen.training.encoder import losses
from mssgen.training.encoder.options import LossOptions
from mssgen.training.encoder.targets import FrozenTargets, Targets
from mssgen.training.recipes import Recipe
from mssgen.training.task import Batch


class EncoderTask:
    """The `Task` of `mssgen train encoder`.

    Args:
        codec: is frozen, and not saved with the training state.
        model: options of the stem encoder.
        loss: weights and settings of the losses.
        codec_name: the codec's name in the registry; "" embeds the codec in exports.
        target_cache: folder to cache targets of segments that are not augmented.
        recipe_name: for the record.

    Raises:
        UsageError: model, losses and codec do not fit together.
    """

    def __init__(
        self,
        codec: Codec,
        model: StemEncoderOptions,
        loss: LossOptions,
        *,
        codec_name: str = "",
        target_cache: Path | None = None,
        recipe_name: str = "",
    ) -> None:
        loss.check_with(model)
        codec.check_n_codebooks(loss.residual_levels)
        if not codec.n_band_dims:
            loss = replace(loss, levels=0.0)
        self.codec = codec.freeze()
        self.options, self._loss = model, loss
        self._learns_levels_alone = model.takes_mixture and loss.is_of_levels
        self._codec_name, self._recipe_name = codec_name, recipe_name
        self.sample_rate, self.n_channels = codec.sample_rate, codec.n_channels
        self._model = StemEncoder(codec, model)
        self.modules: dict[str, nn.Module] = {"encoder": self._model}
        if loss.adversarial:
            self._discriminator = losses.EmbeddingDiscriminator(codec.latent_dim)
            self.modules["discriminator"] = self._discriminator
        self.optimizers = {
            name: loss.optimizer.build(module) for name, module in self.modules.items()
        }
        if loss.balance:
            self.modules["balancer"] = Balancer(loss.weights)
        self._targets = FrozenTargets(codec, model.n_target_codebooks, target_cache)
        scales = [1.0] * codec.n_codebooks
        if loss.residual and loss.temperature_unit == "codebook":
            scales = losses.codebook_scales(codec)
        self._temperatures = [loss.temperature * scale for scale in scales]

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        codec: Codec | None = None,
        *,
        target_cache: Path | None = None,
        offline: bool = False,
    ) -> "EncoderTask":
        """From sections [model], [loss] and [data] (for stem and input) of a recipe.

        `codec` replaces the recipe's `model.codec` (a name or a folder). `model.start` is a stem
        encoder to train further: a name, a folder or an address; its input may be of another kind,
        for instance if a head was pretrained on clean stems. Raises UsageError for sections that do
        not fit together, CheckpointError for files.
        """
        section = dict(recipe.model)
        name, start = section.pop("codec", ""), section.pop("start", "")
        if codec is None and not (isinstance(name, str) and name):
            raise UsageError(
                f"recipe {recipe.name} names no codec: set `codec` to a name or a folder"
            )
        if not isinstance(start, str):
            raise UsageError(f"recipe section [model]: start = {start!r:.60} must be a string")
        if recipe.data.get("input") == "clean" and section.get("head", "none") == "none":
            raise UsageError(
                f'recipe {recipe.name} has data.input "clean", but an encoder without a head '
                'learns nothing from clean input: use "separated", "mixture" or "noisy"'
            )
        shared: dict[str, Any] = {
            key: recipe.data[key] for key in ("stem", "input") if key in recipe.data
        }
        model = from_section(StemEncoderOptions, {**section, **shared}, "model")
        loss = from_section(LossOptions, recipe.loss, "loss")
        loss.check_with(model)
        codec_name = name if codec is None and name in REGISTRY else ""
        codec = load_codec(name, offline=offline) if codec is None else codec
        task = cls(
            codec,
            model,
            loss,
            codec_name=codec_name,
            target_cache=target_cache,
            recipe_name=recipe.name,
        )
        if start:
            task._start_from(start, offline=offline)
        return task

    def _start_from(self, name: str, *, offline: bool) -> None:
        """Load the weights of a trained stem encoder."""
        found = resolve(name, offline=offline, stage="enhance")
        trained = load_stem_encoder(found.paths[0], offline=offline)
        same = replace(trained.options, input=self.options.input)
        hears_same = trained.options.takes_mixture == self.options.takes_mixture
        if trained.codec.codec_id != self.codec.codec_id or same != self.options or not hears_same:
            raise UsageError(
                f"model.start {name} has another codec or other options than the recipe: give "
                "one that was trained by the same [model]"
            )
        self._model.load_state_dict(trained.state_dict())

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """One forward and backward pass; logs "loss", "loss/<name>", "accuracy/<codebook>"."""
        if self._learns_levels_alone:
            scalars = self._levels(batch)
            backward(scalars["loss"])
            return {name: value.detach() for name, value in scalars.items()}
        targets = self._targets(batch)
        prediction: Prediction = self.modules["encoder"](batch.input, targets.scale)
        if self._loss.balance:
            scalars = self._balanced(prediction, targets, batch.target, backward)
        else:
            found = self._losses(prediction, targets, batch.target)
            scalars = self._named(found)
            backward(scalars["loss"])
        if self._loss.adversarial:
            loss = self._discriminate(prediction, targets)
            backward(loss)
            scalars["loss/discriminator"] = loss
        # For one item only: quantising all of them takes too long.
        scalars |= self._accuracies(prediction.items(0, 1), targets.items(0, 1))
        return {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same scalars, without gradients."""
        if self._learns_levels_alone:
            return self._levels(batch)
        targets = self._targets(batch)
        prediction: Prediction = self.modules["encoder"](batch.input, targets.scale)
        scalars = self._named(self._losses(prediction, targets, batch.target))
        return scalars | self._accuracies(prediction, targets)

    @torch.no_grad()
    def listen(self, batch: Batch) -> dict[str, Tensor]:
        """Input, target, the target coded by the codec (the upper bound), and the output."""
        first = Batch(batch.input[:1], batch.target[:1], batch.keys[:1])
        targets = self._targets(first)
        prediction: Prediction = self.modules["encoder"](first.input, targets.scale)
        quantized = self.codec.dequantize(self._model.codes(prediction))
        n_samples = first.target.shape[-1]
        decoded = {
            "target_decoded": self.codec.synthesize(targets.quantized, n_samples, targets.scale),
            "output": self.codec.synthesize(quantized, n_samples, targets.scale),
        }
        heard = first.input[:, : self.n_channels]  # without the mixture
        sounds = {"input": heard, "target": first.target, **decoded}
        return {name: sound[0] for name, sound in sounds.items()}

    def export(self, folder: Path) -> None:
        """Write the stem encoder in the format of `load_stem_encoder`."""
        save_stem_encoder(self._model, folder, codec_name=self._codec_name)

    def describe(self) -> dict[str, Any]:
        """Recipe, codec, options, losses and numbers of parameters."""
        learning = (weight for weight in self._model.parameters() if weight.requires_grad)
        return {
            "kind": "encoder",
            "recipe": self._recipe_name,
            "codec": self._codec_name or self.codec.name,
            "codec_id": self.codec.codec_id,
            "stem": self.options.stem,
            "input": self.options.input,
            "sample_rate": self.sample_rate,
            "n_channels": self.n_channels,
            "model": asdict(self.options),
            "loss": asdict(self._loss),
            "n_parameters": sum(weight.numel() for weight in self._model.parameters()),
            "n_trained_parameters": sum(weight.numel() for weight in learning),
        }

    def _losses(self, prediction: Prediction, targets: Targets, clean: Tensor) -> dict[str, Tensor]:
        """Every loss by name; `clean` is the clean stem [B, C, T]."""
        options = self._loss
        found: dict[str, Tensor] = {}
        n_main = self.codec.latent_dim - self.codec.n_band_dims
        if options.mse:
            target = targets.latents if options.mse_target == "latents" else targets.quantized
            found["mse"] = losses.latent_mse(prediction.latents[:, :n_main], target[:, :n_main])
        if options.levels:
            found["levels"] = losses.level_distance(
                prediction.latents[:, n_main:], targets.latents[:, n_main:]
            )
        if options.cross_entropy and prediction.logits is not None:
            found["cross_entropy"] = losses.token_cross_entropy(prediction.logits, targets.codes)
        if options.residual:
            found["residual"] = losses.residual_loss(
                prediction.latents,
                targets.codes,
                self.codec.codebooks,
                self._temperatures,
                n_levels=options.residual_levels,
                residual=options.residual_from,
            )
        if options.needs_sound:
            sounds = self._decoded(prediction, targets, clean.shape[-1])
            found |= self._sound_losses(sounds[0].float(), sounds[-1].float(), clean)
        if options.adversarial:
            # Detached weights: this loss must not produce gradients for the discriminator.
            weights = {
                name: weight.detach() for name, weight in self._discriminator.named_parameters()
            }
            logits = torch.func.functional_call(
                self._discriminator, weights, prediction.latents.float()
            )
            found["adversarial"] = losses.adversarial_loss(logits)
        return found

    def _named(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by their names in the log, and their weighted sum as "loss"."""
        weights = self._loss.weights
        total = torch.stack([weights[name] * loss for name, loss in found.items()]).sum()
        return {"loss": total, **{f"loss/{name}": loss for name, loss in found.items()}}

    def _balanced(
        self,
        prediction: Prediction,
        targets: Targets,
        clean: Tensor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """Balance the gradients of the losses at the prediction, then propagate their sum through
        the encoder."""
        parts = [prediction.latents]
        if prediction.logits is not None:
            parts.append(prediction.logits)
        joined = torch.cat([part.float().flatten(1) for part in parts], dim=1)
        outputs = joined.detach().requires_grad_()
        cut = outputs.split([part[0].numel() for part in parts], dim=1)
        views = [piece.view(part.shape) for piece, part in zip(cut, parts, strict=True)]
        logits = views[1] if prediction.logits is not None else None
        found = self._losses(Prediction(views[0], logits), targets, clean)
        gradients = {
            name: torch.autograd.grad(loss, outputs, retain_graph=True)[0]
            for name, loss in found.items()
        }
        backward((joined * self.modules["balancer"](gradients)).sum())
        return self._named(found)

    def _levels(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of band energies alone, without computing anything else."""
        assert isinstance(self.codec, StemCodec)
        with torch.no_grad():
            target = self.codec.to(batch.target.device).band_latents(batch.target)
        prediction: Prediction = self.modules["encoder"](batch.input, bands_only=True)
        distance = losses.level_distance(prediction.latents, target)
        return {"loss": self._loss.levels * distance, "loss/levels": distance}

    def _decoded(
        self, prediction: Prediction, targets: Targets, n_samples: int
    ) -> tuple[Tensor, ...]:
        """Audio decoded from the prediction's codes, see `Codec.sounds`; gradients pass straight
        through the quantiser to the latents."""
        latents = prediction.latents.float()
        with torch.no_grad():
            quantized = self.codec.dequantize(self.codec.quantize(latents, self._model.n_codebooks))
        straight = latents + (quantized - latents).detach()
        return self.codec.sounds(straight, n_samples, targets.scale)

    def _sound_losses(self, output: Tensor, coherent: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Losses on decoded audio; those that depend on phase use `coherent`, without noise."""
        # Imported here: it needs packages that losses on latents do not.
        from mssgen.training.codec import losses as codec_losses

        options, found = self._loss, {}
        if options.time:
            found["time"] = codec_losses.time_distance(coherent, clean)
        if options.spectrum:
            found["spectrum"] = codec_losses.spectrum_distance(coherent, clean)
        if options.stft:
            found["stft"] = codec_losses.stft_distance(output, clean, windows=options.stft_windows)
        return found

    def _discriminate(self, prediction: Prediction, targets: Targets) -> Tensor:
        real = targets.latents if self._loss.mse_target == "latents" else targets.quantized
        # One forward pass per backward pass, as wrappers for several devices require.
        both = torch.cat([real, prediction.latents.detach().float()])
        on_real, on_predicted = self.modules["discriminator"](both).float().chunk(2)
        return losses.discriminator_loss(on_real, on_predicted)

    @torch.no_grad()
    def _accuracies(self, prediction: Prediction, targets: Targets) -> dict[str, Tensor]:
        """Token accuracy of each learned codebook (from 1) and their mean."""
        codes = self._model.codes(prediction)
        shares = losses.token_accuracy(codes, targets.codes[:, : codes.shape[1]])
        levels = {f"accuracy/{level}": share for level, share in enumerate(shares, start=1)}
        return {**levels, "accuracy": shares.mean()}
