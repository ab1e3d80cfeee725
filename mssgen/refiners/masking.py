"""Which codes a refiner does not see: boolean masks named by what they hide.

True is hidden, always: such a code is replaced by the mask token, and predicted. False is seen, and
stays as it is. A mask is [K, N] or [B, K, N], `shape` is that of the codes, and masks combine as
booleans do: `a & b` hides what both hide, `a | b` what either hides.

The families are those of VampNet, Flores García et al. 2023 (arXiv 2307.04686, section 3.3).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def apply_mask(codes: Tensor, is_hidden: Tensor, mask_token: int) -> Tensor:
    """Codes [B, K, N] with `mask_token` where they are hidden."""
    return codes.masked_fill(is_hidden, mask_token)


def hide_all(shape: Sequence[int]) -> Tensor:
    """Everything."""
    return torch.ones(tuple(shape), dtype=torch.bool)


def hide_none(shape: Sequence[int]) -> Tensor:
    """Nothing."""
    return torch.zeros(tuple(shape), dtype=torch.bool)


def hide_codebooks_from(n_kept: int, shape: Sequence[int]) -> Tensor:
    """All codebooks but the first `n_kept`."""
    return _along_codebooks(torch.arange(shape[-2]) >= n_kept, shape)


def hide_after(n_prefix_frames: int, shape: Sequence[int]) -> Tensor:
    """All frames but the first, the prefix."""
    return _along_frames(torch.arange(shape[-1]) >= n_prefix_frames, shape)


def hide_before(n_suffix_frames: int, shape: Sequence[int]) -> Tensor:
    """All frames but the last, the suffix."""
    return _along_frames(torch.arange(shape[-1]) < shape[-1] - n_suffix_frames, shape)


def hide_between(n_prefix_frames: int, n_suffix_frames: int, shape: Sequence[int]) -> Tensor:
    """What is to be inpainted: all frames but a prefix and a suffix."""
    return hide_after(n_prefix_frames, shape) & hide_before(n_suffix_frames, shape)


def hide_frames(first: int, last: int, shape: Sequence[int]) -> Tensor:
    """Frames `first` to `last`, the last not included."""
    index = torch.arange(shape[-1])
    return _along_frames((index >= first) & (index < last), shape)


def hide_between_prompts(
    period: int, shape: Sequence[int], *, width: int = 1, offset: int = 0
) -> Tensor:
    """All but a periodic prompt: `width` frames around every `period`-th, from `offset` on.

    Of an even width one frame more is seen than it says, as in the original. A period of 0 hides
    all.
    """
    if period < 1:
        return hide_all(shape)
    distance = (torch.arange(shape[-1]) - offset) % period  # to the prompt before
    is_seen = torch.minimum(distance, period - distance) <= width // 2
    return _along_frames(~is_seen, shape)


def hide_away_from(onset_frames: Sequence[int], width: int, shape: Sequence[int]) -> Tensor:
    """All but the frames from `width` before each onset to `width` after it, that one excluded."""
    is_hidden = torch.ones(shape[-1], dtype=torch.bool)
    for onset in onset_frames:
        is_hidden[max(0, onset - width) : max(0, onset + width)] = False
    return _along_frames(is_hidden, shape)


def hide_randomly(
    probability: float | Tensor, shape: Sequence[int], *, generator: torch.Generator | None = None
) -> Tensor:
    """Each code on its own with `probability`, a number or one for each item, [B]."""
    if isinstance(probability, Tensor):
        probability = probability.cpu().view(-1, *[1] * (len(shape) - 1))
    return torch.rand(tuple(shape), generator=generator) < probability


def hide_random_frames(
    share: float, shape: Sequence[int], *, generator: torch.Generator | None = None
) -> Tensor:
    """At most `share` of the frames: so many are drawn, and one may be drawn twice."""
    n_frames = shape[-1]
    drawn = torch.randint(n_frames, (int(share * n_frames),), generator=generator)
    is_hidden = torch.zeros(n_frames, dtype=torch.bool)
    is_hidden[drawn] = True
    return _along_frames(is_hidden, shape)


def hide_for_training(
    progress: Tensor, shape: Sequence[int], n_conditioning: int, *, generator: torch.Generator
) -> Tensor:
    """What a training step hides of codes [B, K, N]: each predicted code with cos(pi r / 2).

    `progress` [B] is r, 0 to 1: how far a sampling that would look like this has come.
    """
    hidden = hide_randomly(torch.cos(math.pi / 2 * progress), shape, generator=generator)
    return hidden & hide_codebooks_from(n_conditioning, shape)


def hidden_share(progress: float) -> float:
    """The share cos(pi r / 2) of hidden codes at `progress` r from 0 (all) to 1 (none).

    Source: the cosine schedule of MaskGIT, Chang et al. 2022 (arXiv 2202.04200, section 3.3).
    """
    return math.cos(math.pi / 2 * progress) if progress < 1 else 0.0


def _along_frames(is_hidden: Tensor, shape: Sequence[int]) -> Tensor:
    return is_hidden.expand(tuple(shape)).clone()


def _along_codebooks(is_hidden: Tensor, shape: Sequence[int]) -> Tensor:
    return is_hidden[:, None].expand(tuple(shape)).clone()
