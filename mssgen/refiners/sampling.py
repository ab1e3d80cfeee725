"""Filling in what is hidden: iterative parallel decoding, for any number of windows at once.

All hidden codes are drawn at once, the least certain are hidden again, and so on with fewer each
time, until none is left. Known codes never change.

Sources: MaskGIT, Chang et al. 2022 (arXiv 2202.04200, section 3.2), and VampNet, Flores García et
al. 2023 (arXiv 2307.04686, section 3.2), with the schedule counted for each item by itself: counted
over a batch, as VampNet's code does, nearly all would be left to the last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mssgen.codecs.base import Codebook, full_precision
from mssgen.errors import UsageError
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.masking import hidden_share
from mssgen.refiners.noise import FrameNoise

_SHARE_BITS = 30


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw; the defaults are VampNet's. Numbers that make no sense raise UsageError."""

    n_steps: int = 12
    temperature: float = 1.0
    """Of the codes' distribution; 0 takes the most likely."""
    mask_temperature: float = 10.5
    """Of the noise on what counts as certain; it fades out over the steps."""
    typical_mass: float | None = None
    """Keep the codes whose surprise is nearest to the expected, up to that probability (Meister et
    al. 2022, arXiv 2202.00666); None keeps all. The original's filter has no effect."""
    typical_min_tokens: int = 64
    """But at least so many."""
    top_p: float | None = None
    """Keep the most likely codes up to that probability (Holtzman et al. 2019, arXiv 1904.09751);
    None keeps all."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise UsageError(f"sampling takes 1 step at least, not {self.n_steps}")
        for name in ("temperature", "mask_temperature"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise UsageError(f"the {name} must be 0 or more, not {value:g}")
        for name in ("typical_mass", "top_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name} must be more than 0 and at most 1, not {value:g}")


@dataclass(frozen=True)
class Guide:
    """Keeps what is drawn close to a performance: codes cost the more the farther they lie from it.

    A code's logit is lowered by its squared distance to what the levels before it leave of
    `latents`, in units of `temperature` times the excess of the level's average code over its
    nearest: a Gaussian likelihood beside the network's prior. Levels are drawn in order, so that
    each makes up for what those before it chose.
    """

    latents: Tensor
    """[B, D, N] of the input, on the codec's device."""
    codebooks: Sequence[Codebook]
    """The codec's, first to last."""
    temperature: float
    """0 exclusive leaves the nearest code only, and the more the freer."""

    def residual(self, codes: Tensor) -> Tensor:
        """What codes [B, K, N] of the first K levels leave of the latents: [B, D, N]."""
        residual = self.latents
        for codebook, level in zip(self.codebooks, codes.unbind(dim=1), strict=False):
            residual = residual - codebook.vectors(level)
        return residual

    def costs(self, residual: Tensor, level: int) -> Tensor:
        """What to take from the logits [B, N, V] of `level`."""
        with full_precision(residual):
            distances = self.codebooks[level].distances(residual)
        excess = distances - distances.amin(dim=-1, keepdim=True)
        unit = self.temperature * excess.mean(dim=-1, keepdim=True)
        return excess / unit.clamp_min(torch.finfo(unit.dtype).tiny)


@torch.inference_mode()
def sample(
    network: MaskedTransformer,
    codes: Tensor,
    options: SamplingOptions,
    noise: FrameNoise,
    *,
    guide: Guide | None = None,
    n_given: int = 0,
) -> Tensor:
    """Codes [B, K, N] with the mask token where hidden, to codes without it.

    All is queued on the network's device without ever waiting for it. Of the conditioning codebooks
    and the first `n_given` no code may be hidden: nothing is computed for those. `noise` is for
    these B windows of N frames.
    """
    mask_token, n_predicted = network.mask_token, network.options.n_predicted
    first = max(network.options.n_conditioning, n_given)
    # Of each codebook to draw: its place among the predicted, the codec's level, the weights.
    places = range(first - network.options.n_conditioning, n_predicted)
    levels = network.options.levels[first:]
    weights = [network.classifier.weight(place) for place in places]
    biases = network.attention_biases(codes.shape[-1])
    given, codes = codes[:, :first], codes[:, first:]
    n_hidden = (codes == mask_token).flatten(1).sum(dim=1)  # [B], of each item
    before = None if guide is None else guide.residual(given[:, network.options.n_input :])
    for step in range(options.n_steps):
        is_hidden = codes == mask_token
        frames = network.frames(torch.cat([given, codes], dim=1), biases)
        residual, drawn, certainties = before, [], []
        for index, (place, level) in enumerate(zip(places, levels, strict=True)):
            logits = network.classifier.logits(frames, place, weights[index]).float()
            if guide is not None and residual is not None:
                logits = logits - guide.costs(residual, level)
            stream = 2 * (step * n_predicted + place)
            tokens, certainty = draw(logits, noise.uniform(stream), options)
            tokens = torch.where(is_hidden[:, index], tokens, codes[:, index])
            if guide is not None and residual is not None:
                residual = residual - guide.codebooks[level].vectors(tokens)
            doubt = options.mask_temperature * (1 - (step + 1) / options.n_steps)
            drawn.append(tokens)
            certainties.append(certainty + doubt * noise.gumbel(stream + 1))
        codes = torch.stack(drawn, dim=1)
        if step < options.n_steps - 1:
            n_left = left_hidden(n_hidden, is_hidden, (step + 1) / options.n_steps)
            certainty = torch.stack(certainties, dim=1).masked_fill(~is_hidden, torch.inf)
            codes = codes.masked_fill(_least(certainty, n_left), mask_token)
    return torch.cat([given, codes], dim=1)


def draw(logits: Tensor, uniform: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """(codes [B, N], the log of their probability) from logits [B, N, V] and numbers [B, N].

    The code at which the cumulative probability exceeds the number: one number a code is enough.
    """
    if options.typical_mass is not None:
        logits = keep_typical(logits, options.typical_mass, options.typical_min_tokens)
    if options.top_p is not None:
        logits = keep_likely(logits, options.top_p)
    if options.temperature:
        probabilities = (logits / options.temperature).softmax(dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        threshold = uniform[..., None] * cumulative[..., -1:]
        codes = torch.searchsorted(cumulative, threshold, right=True)
    else:
        probabilities = logits.softmax(dim=-1)
        codes = probabilities.argmax(dim=-1, keepdim=True)
    return codes[..., 0], probabilities.gather(-1, codes)[..., 0].log()


def keep_likely(logits: Tensor, mass: float) -> Tensor:
    """Logits [..., V] with -inf for all but the fewest codes that hold `mass` together."""
    probabilities = logits.softmax(dim=-1)
    return _keep_first(logits, probabilities, -probabilities, mass, 1)


def keep_typical(logits: Tensor, mass: float, min_tokens: int) -> Tensor:
    """Logits [..., V] with -inf for codes whose surprise -ln p is far from its mean, the entropy.

    Kept are those nearest to it until they hold `mass` together, and `min_tokens` at least.
    """
    surprise = -logits.log_softmax(dim=-1)
    probabilities = (-surprise).exp()
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    return _keep_first(logits, probabilities, (surprise - entropy).abs(), mass, min_tokens)


def left_hidden(n_hidden: Tensor, is_hidden: Tensor, progress: float) -> Tensor:
    """[B], how many codes to hide again, of `n_hidden` at first and those hidden now.

    cos(pi r / 2) of them at progress r, but one at least and one less than now at most.
    """
    # In integers, which round alike everywhere.
    wanted = (n_hidden * round(hidden_share(progress) * 2**_SHARE_BITS)) >> _SHARE_BITS
    n_now = is_hidden.flatten(1).sum(dim=1)
    return torch.minimum(wanted, n_now - 1).clamp_min(1)


def _least(values: Tensor, count: Tensor) -> Tensor:
    """Where the `count` [B] smallest of values [B, P, N] are; of equal ones none."""
    ordered = values.flatten(1).sort(dim=1).values
    index = count.clamp_max(ordered.shape[1] - 1)
    return values < ordered.gather(1, index[:, None])[..., None]


def _keep_first(
    logits: Tensor, probabilities: Tensor, scores: Tensor, mass: float, min_tokens: int
) -> Tensor:
    """-inf for all codes but those of the lowest scores that reach `mass`."""
    order = scores.argsort(dim=-1, stable=True)
    ordered = probabilities.gather(-1, order)
    is_over = ordered.cumsum(dim=-1) - ordered >= mass  # reached before this one
    is_over &= torch.arange(logits.shape[-1], device=logits.device) >= min_tokens
    return logits.masked_fill(is_over.scatter(-1, order, is_over), -torch.inf)
