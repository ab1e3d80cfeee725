"""Iterative parallel decoding of masked codes, in batches of windows.

Each step samples all masked codes at once and masks the least certain again, fewer at each step,
until none is left. Unmasked codes never change.

Sources: MaskGIT, Chang et al. 2022 (arXiv 2202.04200, section 3.2), and VampNet, Flores García et
al. 2023 (arXiv 2307.04686, section 3.2). The schedule is computed per item: computed per batch, as
in VampNet's code, it would leave nearly all codes to the last step.
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
    """Options of `sample`; the defaults are VampNet's. Values out of range raise UsageError."""

    n_steps: int = 12
    """Number of sampling steps, at least 1."""
    temperature: float = 1.0
    """Temperature of the softmax over codes, >= 0; 0 takes the most likely code."""
    mask_temperature: float = 10.5
    """Scale of the Gumbel noise on the certainty, >= 0; it decreases linearly to 0 over the steps.
    """
    typical_mass: float | None = None
    """Locally typical sampling: keep the codes whose surprise is closest to the entropy, up to this
    total probability (Meister et al. 2022, arXiv 2202.00666); None keeps all. In VampNet's code the
    filter has no effect."""
    typical_min_tokens: int = 64
    """Minimum number of codes that `typical_mass` keeps."""
    top_p: float | None = None
    """Nucleus sampling: keep the most likely codes, up to this total probability (Holtzman et al.
    2019, arXiv 1904.09751); None keeps all."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise UsageError(f"sampling takes at least 1 step, not {self.n_steps}")
        for name in ("temperature", "mask_temperature"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise UsageError(f"the {name} must be 0 or more, not {value:g}")
        for name in ("typical_mass", "top_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name} must be more than 0 and at most 1, not {value:g}")


@dataclass(frozen=True)
class Guide:
    """Keeps sampled codes close to the input by penalising distance to its latents.

    The logit of a code is lowered by its squared distance to the residual of `latents` after the
    codebooks before it, relative to the nearest code, in units of `temperature` times the mean of
    that excess over the codebook: a Gaussian likelihood multiplied with the network's prior.
    Codebooks are sampled in order, so that each compensates for the choices before it.
    """

    latents: Tensor
    """[B, D, N] latents of the input, on the codec's device."""
    codebooks: Sequence[Codebook]
    """The codec's codebooks, in coding order."""
    temperature: float
    """Weight of the prior, > 0: close to 0 takes the nearest code, infinity ignores the input."""

    def residual(self, codes: Tensor) -> Tensor:
        """Latents minus the entries of codes [B, K, N] of the first K codebooks: [B, D, N]."""
        residual = self.latents
        for codebook, chosen in zip(self.codebooks, codes.unbind(dim=1), strict=False):
            residual = residual - codebook.vectors(chosen)
        return residual

    def costs(self, residual: Tensor, index: int) -> Tensor:
        """Penalties [B, N, V] of the codes of codebook `index`, for a residual [B, D, N]."""
        with full_precision(residual):
            distances = self.codebooks[index].distances(residual)
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
    """Replace the masked codes of windows by sampled ones.

    Runs without ever waiting for the network's device.

    Args:
        network: in eval mode.
        codes: [B, K, N] int64, with the mask token where codes are to be sampled.
        options: how to sample.
        noise: for these B windows of N frames.
        guide: keeps the codes close to latents [B, D, N] of the input; None: no guidance.
        n_given: number of leading codebooks without masked codes, for which nothing is computed;
            those that only condition never have any.

    Returns:
        Codes [B, K, N] without mask tokens.
    """
    mask_token, n_predicted = network.mask_token, network.options.n_predicted
    first = max(network.options.n_conditioning, n_given)
    # Each codebook to sample: index among the predicted ones, index in the codec, and weights.
    places = range(first - network.options.n_conditioning, n_predicted)
    indices = network.options.codebook_indices[first:]
    weights = [network.classifier.weight(place) for place in places]
    biases = network.attention_biases(codes.shape[-1])
    given, codes = codes[:, :first], codes[:, first:]
    n_hidden = (codes == mask_token).flatten(1).sum(dim=1)  # [B]
    before = None if guide is None else guide.residual(given[:, network.options.n_input :])
    for step in range(options.n_steps):
        is_hidden = codes == mask_token
        frames = network.frames(torch.cat([given, codes], dim=1), biases)
        residual, drawn, certainties = before, [], []
        for row, (place, index) in enumerate(zip(places, indices, strict=True)):
            logits = network.classifier.logits(frames, place, weights[row]).float()
            if guide is not None and residual is not None:
                logits = logits - guide.costs(residual, index)
            stream = 2 * (step * n_predicted + place)
            tokens, certainty = draw(logits, noise.uniform(stream), options)
            tokens = torch.where(is_hidden[:, row], tokens, codes[:, row])
            if guide is not None and residual is not None:
                residual = residual - guide.codebooks[index].vectors(tokens)
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
    """(codes [B, N], their log probabilities [B, N]) sampled from logits [B, N, V].

    Inverse transform sampling: `uniform` [B, N], from 0 to 1, holds one random number per code.
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
    """Logits [..., V] with -inf for all but the most likely codes with a total of `mass`."""
    probabilities = logits.softmax(dim=-1)
    return _keep_first(logits, probabilities, -probabilities, mass, 1)


def keep_typical(logits: Tensor, mass: float, min_tokens: int) -> Tensor:
    """Logits [..., V] with -inf for codes whose surprise -ln p is far from its mean, the entropy.

    The closest codes are kept, up to a total probability of `mass` but at least `min_tokens`.
    """
    surprise = -logits.log_softmax(dim=-1)
    probabilities = (-surprise).exp()
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    return _keep_first(logits, probabilities, (surprise - entropy).abs(), mass, min_tokens)


def left_hidden(n_hidden: Tensor, is_hidden: Tensor, progress: float) -> Tensor:
    """Number of codes per item to mask again, [B].

    cos(pi r / 2) of the codes masked at first, at progress r, but at least one and at most one less
    than now.

    Args:
        n_hidden: [B], number of codes masked at first.
        is_hidden: [B, P, N], codes masked now.
        progress: r, the share of steps that are done, 0 to 1.
    """
    # In integers, which round the same on every device.
    target = (n_hidden * round(hidden_share(progress) * 2**_SHARE_BITS)) >> _SHARE_BITS
    n_now = is_hidden.flatten(1).sum(dim=1)
    return torch.minimum(target, n_now - 1).clamp_min(1)


def _least(values: Tensor, count: Tensor) -> Tensor:
    """Mask of the `count` [B] smallest of values [B, P, N]; fewer where values are tied."""
    ordered = values.flatten(1).sort(dim=1).values
    index = count.clamp_max(ordered.shape[1] - 1)
    return values < ordered.gather(1, index[:, None])[..., None]


def _keep_first(
    logits: Tensor, probabilities: Tensor, scores: Tensor, mass: float, min_tokens: int
) -> Tensor:
    """Logits with -inf for all but the codes of lowest score whose probabilities sum to `mass`."""
    order = scores.argsort(dim=-1, stable=True)
    ordered = probabilities.gather(-1, order)
    is_over = ordered.cumsum(dim=-1) - ordered >= mass  # reached before this one
    is_over &= torch.arange(logits.shape[-1], device=logits.device) >= min_tokens
    return logits.masked_fill(is_over.scatter(-1, order, is_over), -torch.inf)
