"""Training a refiner: a masked transformer learns to predict masked codes of the clean stem.

    input -> codec's or stem encoder -> codes, given or visible            (frozen)
    target -> codec's encoder -> codes -> randomly masked -> logits        (trained on masked codes)

As in VampNet, Flores García et al. 2023 (arXiv 2307.04686, section 3.1); translation from codes of
the separated stem is the plan of the thesis (section 7.3).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import SCHEME, resolve
from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.encoders.files import load_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder
from mssgen.errors import UsageError
from mssgen.recipes.sections import from_section
from mssgen.refiners.files import load_refiner, save_refiner
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.masking import apply_mask, hide_codebooks_from, hide_for_training
from mssgen.refiners.noise import FrameNoise
from mssgen.refiners.sampling import SamplingOptions, sample
from mssgen.training.data.datasets import DataOptions
from mssgen.training.recipes import Recipe
from mssgen.training.refiner.code_pairs import CodePair, CodePairs
from mssgen.training.refiner.lora import add_low_rank, merged_state
from mssgen.training.refiner.options import RefinerLossOptions, RefinerOptions
from mssgen.training.task import Batch

_IGNORED = -100  # the label that torch's cross-entropy ignores


class RefinerTask:
    """The `Task` of `mssgen train refiner`.

    Args:
        codec: is frozen, and not saved with the training state.
        network: refiner for this codec; trained as a whole, or with `model.lora_rank` by low-rank
            changes.
        model, loss: the recipe's sections.
        encoder: stem encoder that codes the input; None uses the codec's own encoder.
        codec_name: name or address of the codec; "" embeds the codec in exports.
        cache: folder to cache codes of segments that are not augmented.
        stem, input_kind: `stem` and `input` of the recipe's [data], for the record.
        recipe_name: for the record.

    Raises:
        UsageError: network, encoder and codec do not fit together.
    """

    def __init__(
        self,
        codec: Codec,
        network: MaskedTransformer,
        model: RefinerOptions,
        loss: RefinerLossOptions,
        *,
        encoder: StemEncoder | None = None,
        codec_name: str = "",
        cache: Path | None = None,
        stem: str = "",
        input_kind: str = "clean",
        recipe_name: str = "",
    ) -> None:
        for what, codec_id in (
            ("refiner", network.codec_id),
            ("stem encoder", codec.codec_id if encoder is None else encoder.codec.codec_id),
        ):
            if codec_id != codec.codec_id:
                raise UsageError(
                    f"the {what} is for the codec {codec_id}, but {codec.name} is "
                    f"{codec.codec_id}: name the codec that it was trained for"
                )
        takes_mixture = encoder is not None and encoder.options.takes_mixture
        if takes_mixture != (input_kind == "separated+mixture"):
            raise UsageError(
                'data.input "separated+mixture" needs a stem encoder of stem and mixture, and such '
                "an encoder needs that input: set both, or neither"
            )
        self.codec = codec.freeze()
        self._network, self._loss, self._model = network, loss, model
        self._codec_name, self._recipe_name = codec_name, recipe_name
        self._stem, self._input_kind = stem, input_kind
        self.sample_rate, self.n_channels = codec.sample_rate, codec.n_channels
        network.train().requires_grad_(True)
        if model.lora_rank:
            add_low_rank(network, model.lora_rank)
        self.modules: dict[str, nn.Module] = {"refiner": network}
        self.optimizers = {"refiner": loss.optimizer.build(network)}
        after = network.options.n_kept if loss.target == "remainder" else None
        self._pairs = CodePairs(codec, encoder, remainder_after=after, cache=cache)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        codec: Codec | None = None,
        *,
        cache: Path | None = None,
        offline: bool = False,
    ) -> "RefinerTask":
        """From sections [model], [loss] and [data] (for stem, input and window) of a recipe.

        `codec` replaces the recipe's `model.codec` (a name, address or folder). `model.encoder`
        names a stem encoder for the input, `model.refiner` the folder, address or VampNet file of a
        refiner to train further. Raises UsageError for sections that do not fit together,
        CheckpointError for files.
        """
        section = dict(recipe.model)
        names = {key: section.pop(key, "") for key in ("codec", "encoder", "refiner")}
        model = from_section(RefinerOptions, section, "model")
        loss = from_section(RefinerLossOptions, recipe.loss, "loss")
        data = from_section(DataOptions, recipe.data, "data")
        _check_names(names, model, recipe, has_codec=codec is not None)
        is_found_by_name = names["codec"] in REGISTRY or names["codec"].startswith(SCHEME)
        codec_name = names["codec"] if codec is None and is_found_by_name else ""
        codec = load_codec(names["codec"], offline=offline) if codec is None else codec
        if names["refiner"]:
            network = _load_network(names["refiner"], codec, offline=offline)
        else:
            n_samples = round(data.segment_s * codec.sample_rate)
            network = model.build(codec, codec.n_frames_in_all(n_samples))
        _check_input(recipe, loss.shows_input or network.options.n_input > 0)
        encoder = None
        if names["encoder"]:
            found = resolve(names["encoder"], offline=offline, stage="enhance")
            encoder = load_stem_encoder(found.paths[0], offline=offline)
        return cls(
            codec,
            network,
            model,
            loss,
            encoder=encoder,
            codec_name=codec_name,
            cache=cache,
            stem=data.stem,
            input_kind=data.input,
            recipe_name=recipe.name,
        )

    def accumulate(
        self, batch: Batch, backward: Callable[[Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """One forward and backward pass; logs "loss" and "accuracy"."""
        logits, target = self._predict(self._pairs(batch))
        loss = self._cross_entropy(logits, target)
        backward(loss)
        hits, is_hidden = logits.detach().argmax(dim=-1) == target, target != _IGNORED
        return {"loss": loss.detach(), "accuracy": _share(hits, is_hidden)}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars over masked codes: "loss", "accuracy", "accuracy/<codebook>" (from 1), and
        "accuracy/input", the share for which the input already has the right code."""
        pair = self._pairs(batch)
        logits, target = self._predict(pair)
        hits, is_hidden = logits.argmax(dim=-1) == target, target != _IGNORED
        scalars = {
            "loss": self._cross_entropy(logits, target),
            "accuracy": _share(hits, is_hidden),
        }
        levels = self._network.options.codebook_indices[self._network.options.n_conditioning :]
        for index, level in enumerate(levels):
            share = _share(hits[:, index], is_hidden[:, index])
            scalars[f"accuracy/{level + 1}"] = share
        if pair.input is not pair.target:
            hits = pair.input[:, levels[0] : levels[-1] + 1] == target
            scalars["accuracy/input"] = _share(hits, is_hidden)
        return scalars

    @torch.no_grad()
    def listen(self, batch: Batch) -> dict[str, Tensor]:
        """Input, target, both of them coded with the network's codebooks (lower and upper bound),
        and the output, in which the network predicts all codebooks after the given ones."""
        first = Batch(batch.input[:1], batch.target[:1], batch.keys[:1])
        if batch.input is batch.target:
            first = Batch(first.target, first.target, first.keys)
        pair, options = self._pairs(first), self._network.options
        given, levels = self._rows(pair)
        n_kept = max(1, options.n_kept) if options.n_input == 0 else options.n_kept
        is_hidden = hide_codebooks_from(n_kept, levels.shape).to(levels.device)
        rows = torch.cat([given, apply_mask(levels, is_hidden, self._network.mask_token)], dim=1)
        noise = FrameNoise(0, [0], [0], rows.shape[-1], rows.device)
        output = sample(self._network, rows, SamplingOptions(), noise)[:, options.n_input :]
        scale, n_samples = self.codec.scales(first.input), first.target.shape[-1]
        sounds = {"input": first.input[:, : self.n_channels], "target": first.target}
        for name, codes in (("target", pair.target), ("input", pair.input), ("", output)):
            latents = self.codec.dequantize(codes[:, : options.n_output])
            sound = self.codec.synthesize(latents, n_samples, scale)
            sounds[f"{name}_decoded" if name else "output"] = sound
        return {name: sound[0] for name, sound in sounds.items()}

    def export(self, folder: Path) -> None:
        """Write the refiner in the format of `load_refiner`, with low-rank changes merged."""
        network = MaskedTransformer(self._network.options, self._network.codec_id)
        network.load_state_dict(merged_state(self._network))
        save_refiner(network, folder, codec=self._codec_name or self.codec)

    def describe(self) -> dict[str, Any]:
        """Recipe, codec, options, losses and numbers of parameters."""
        network = self._network
        learning = (weight for weight in network.parameters() if weight.requires_grad)
        return {
            "kind": "refiner",
            "recipe": self._recipe_name,
            "codec": self._codec_name or self.codec.name,
            "codec_id": self.codec.codec_id,
            "stem": self._stem,
            "input": self._input_kind,
            "sample_rate": self.sample_rate,
            "n_channels": self.n_channels,
            "model": {**asdict(network.options), "lora_rank": self._model.lora_rank},
            "loss": asdict(self._loss),
            "n_parameters": sum(weight.numel() for weight in network.parameters()),
            "n_trained_parameters": sum(weight.numel() for weight in learning),
        }

    def _rows(self, pair: CodePair) -> tuple[Tensor, Tensor]:
        """Unmasked codes as (conditioning codebooks of the input, other codebooks)."""
        options, loss = self._network.options, self._loss
        kept = pair.input if loss.kept == "input" else pair.target
        others = pair.input if loss.visible == "input" else pair.target
        n_kept, n_levels = options.n_kept, options.n_output
        levels = torch.cat([kept[:, :n_kept], others[:, n_kept:n_levels]], dim=1)
        return pair.input[:, : options.n_input], levels

    def _predict(self, pair: CodePair) -> tuple[Tensor, Tensor]:
        """(logits [B, P, N, V], codes [B, P, N] with `_IGNORED` at unmasked positions)."""
        options = self._network.options
        rows = torch.cat(self._rows(pair), dim=1)
        n_items, first = len(rows), options.n_conditioning
        # Spread evenly over the batch, like the original's low-discrepancy numbers.
        progress = (torch.randperm(n_items) + torch.rand(1)) / n_items
        is_hidden = hide_for_training(
            progress, rows.shape, first, generator=torch.default_generator
        ).to(rows.device)
        logits = self.modules["refiner"](apply_mask(rows, is_hidden, self._network.mask_token))
        target = pair.target[:, options.n_kept : options.n_output]
        return logits, target.masked_fill(~is_hidden[:, first:], _IGNORED)

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over masked codes; 0 if there are none."""
        total = F.cross_entropy(
            logits.flatten(0, 2),
            target.flatten(),
            ignore_index=_IGNORED,
            label_smoothing=self._loss.label_smoothing,
            reduction="sum",
        )
        return total / (target != _IGNORED).sum().clamp_min(1)


def _check_names(
    names: Mapping[str, Any], model: RefinerOptions, recipe: Recipe, *, has_codec: bool
) -> None:
    """Raise UsageError unless the recipe names what it needs."""
    for key, name in names.items():
        if not isinstance(name, str):
            raise UsageError(f"recipe section [model]: {key} = {name!r:.60} must be a string")
    if not has_codec and not names["codec"]:
        raise UsageError(f"recipe {recipe.name} names no codec: set `codec` to a name or a folder")
    if model.lora_rank and not names["refiner"]:
        raise UsageError("model.lora_rank needs an existing refiner: set `refiner` to its folder")


def _check_input(recipe: Recipe, hears_input: bool) -> None:
    """Raise UsageError if the losses need an input and there is none, or the other way round."""
    kind = recipe.data.get("input", DataOptions.input)
    if hears_input and kind == "clean":
        raise UsageError(
            f'recipe {recipe.name} uses codes of an input, but data.input is "clean": use '
            '"separated", "mixture" or "noisy"'
        )
    if not hears_input and (kind != "clean" or recipe.model.get("encoder")):
        raise UsageError(
            f'recipe {recipe.name} uses no codes of an input: set data.input to "clean", and '
            "leave `encoder` out"
        )


def _load_network(name: str, codec: Codec, *, offline: bool) -> MaskedTransformer:
    """The refiner to train further, by path or address."""
    if name.startswith(SCHEME):
        name = str(resolve(name, offline=offline, stage="refine").paths[0])
    return load_refiner(name, codec=codec)


def _share(hits: Tensor, among: Tensor) -> Tensor:
    """The share of hits where `among` is true; 0 if it is true nowhere."""
    return (hits & among).sum() / among.sum().clamp_min(1)
