"""Boolean masks of codes, named after what they hide from a refiner.

True hides a code: it is replaced by the mask token and predicted. False leaves it visible. A mask
has the `shape` of the codes, [K, N] or [B, K, N]; `a & b` hides what both hide, `a | b` what either
hides.

The kinds are those of VampNet, Flores García et al. 2023 (arXiv 2307.04686, section 3.3).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def apply_mask(codes: Tensor, is_hidden: Tensor, mask_token: int) -> Tensor:
    """Codes [B, K, N] with `mask_token` where `is_hidden`."""
    return codes.masked_fill(is_hidden, mask_token)


def hide_all(shape: Sequence[int]) -> Tensor:
    """Hide all codes."""
    return torch.ones(tuple(shape), dtype=torch.bool)


def hide_none(shape: Sequence[int]) -> Tensor:
    """Hide no code."""
    return torch.zeros(tuple(shape), dtype=torch.bool)


def hide_codebooks_from(n_kept: int, shape: Sequence[int]) -> Tensor:
    """Hide all codebooks but the first `n_kept`."""
    return _along_codebooks(torch.arange(shape[-2]) >= n_kept, shape)


def hide_after(n_prefix_frames: int, shape: Sequence[int]) -> Tensor:
    """Hide all frames after a prefix of `n_prefix_frames`."""
    return _along_frames(torch.arange(shape[-1]) >= n_prefix_frames, shape)


def hide_before(n_suffix_frames: int, shape: Sequence[int]) -> Tensor:
    """Hide all frames before a suffix of `n_suffix_frames`."""
    return _along_frames(torch.arange(shape[-1]) < shape[-1] - n_suffix_frames, shape)


def hide_between(n_prefix_frames: int, n_suffix_frames: int, shape: Sequence[int]) -> Tensor:
    """Hide all frames between a prefix and a suffix, for inpainting."""
    return hide_after(n_prefix_frames, shape) & hide_before(n_suffix_frames, shape)


def hide_frames(first: int, last: int, shape: Sequence[int]) -> Tensor:
    """Hide frames `first` to `last`, exclusive."""
    index = torch.arange(shape[-1])
    return _along_frames((index >= first) & (index < last), shape)


def hide_between_prompts(
    period: int, shape: Sequence[int], *, width: int = 1, offset: int = 0
) -> Tensor:
    """Hide all frames but a periodic prompt.

    Args:
        period: frames from one prompt to the next; 0 hides all.
        shape: shape of the codes.
        width: visible frames around each prompt; an even width shows one more, as in VampNet.
        offset: a frame at which a prompt is centred.
    """
    if period < 1:
        return hide_all(shape)
    distance = (torch.arange(shape[-1]) - offset) % period  # to the prompt before
    is_seen = torch.minimum(distance, period - distance) <= width // 2
    return _along_frames(~is_seen, shape)


def hide_away_from(onset_frames: Sequence[int], width: int, shape: Sequence[int]) -> Tensor:
    """Hide all frames but those from `width` before each onset to `width` after it, exclusive."""
    is_hidden = torch.ones(shape[-1], dtype=torch.bool)
    for onset in onset_frames:
        is_hidden[max(0, onset - width) : max(0, onset + width)] = False
    return _along_frames(is_hidden, shape)


def hide_randomly(
    probability: float | Tensor, shape: Sequence[int], *, generator: torch.Generator | None = None
) -> Tensor:
    """Hide each code independently with `probability`, one number or one per item [B]."""
    if isinstance(probability, Tensor):
        probability = probability.cpu().view(-1, *[1] * (len(shape) - 1))
    return torch.rand(tuple(shape), generator=generator) < probability


def hide_random_frames(
    share: float, shape: Sequence[int], *, generator: torch.Generator | None = None
) -> Tensor:
    """Hide at most `share` (0 to 1) of the frames, drawn with replacement."""
    n_frames = shape[-1]
    drawn = torch.randint(n_frames, (int(share * n_frames),), generator=generator)
    is_hidden = torch.zeros(n_frames, dtype=torch.bool)
    is_hidden[drawn] = True
    return _along_frames(is_hidden, shape)


def hide_for_training(
    progress: Tensor, shape: Sequence[int], n_conditioning: int, *, generator: torch.Generator
) -> Tensor:
    """Mask of a training step: hides each predicted code with probability cos(pi r / 2).

    Args:
        progress: r of each item [B], 0 to 1: the progress of a sampling that has such a mask.
        shape: shape of the codes, [B, K, N].
        n_conditioning: number of leading codebooks that are never hidden.
        generator: source of randomness.
    """
    hidden = hide_randomly(torch.cos(math.pi / 2 * progress), shape, generator=generator)
    return hidden & hide_codebooks_from(n_conditioning, shape)


def hidden_share(progress: float) -> float:
    """Share cos(pi r / 2) of codes that are hidden at `progress` r, from 0 (all) to 1 (none).

    Source: the cosine schedule of MaskGIT, Chang et al. 2022 (arXiv 2202.04200, section 3.3).
    """
    return math.cos(math.pi / 2 * progress) if progress < 1 else 0.0


def _along_frames(is_hidden: Tensor, shape: Sequence[int]) -> Tensor:
    """Mask of `shape` that hides frames where `is_hidden` [N]."""
    return is_hidden.expand(tuple(shape)).clone()


def _along_codebooks(is_hidden: Tensor, shape: Sequence[int]) -> Tensor:
    """Mask of `shape` that hides codebooks where `is_hidden` [K]."""
    return is_hidden[:, None].expand(tuple(shape)).clone()
