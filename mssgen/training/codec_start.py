"""A stem codec before its first step: principal components and k-means instead of random weights.

    spectra --principal components--> latents --> components --> spectra, and noise as loud as
                                                                 what those components lack
    level by level: the largest components of what is left, and k-means in them

Without a single step that is a codec already, whose blocks, which do next to nothing at first,
learn what a frame cannot say alone. From random weights magnitudes are learned long before the
waveform.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mssgen.codecs.factorized import Level
from mssgen.codecs.stem_codec import StemCodec
from mssgen.training.codebooks import k_means

_N_ITERATIONS = 10
_N_FRAMES = 16_000  # that k-means sees


@torch.no_grad()
def start_from_sound(codec: StemCodec, sounds: Sequence[Tensor]) -> None:
    """Set the first and last layers and the codebooks of `codec` by what is in `sounds`.

    Args:
        codec: with fresh weights; its width is at least its `latent_dim`.
        sounds: [2, T] each; some minutes in all.
    """
    transform, analysis, *_, to_latents = _layers(codec.encoder)
    from_latents, *_, synthesis, _ = _layers(codec.decoder)
    for layer in (analysis, to_latents, from_latents, synthesis):
        layer.bias.zero_()
    frames = torch.cat([transform(codec.pad(sound[None]))[0].T for sound in sounds])
    basis = _components(frames, codec.latent_dim)  # [4 F, D]
    # The largest components around 1, so that no loss on latents outweighs the others.
    scale = float((frames @ basis[:, :8]).square().mean().sqrt().clamp_min(1e-3))
    for layer in (analysis, synthesis):
        layer.weight.mul_(0.1)
    analysis.weight[: codec.latent_dim, :, 0] = basis.T
    synthesis.weight[:, : codec.latent_dim, 0] = basis
    scores = frames @ basis
    lost = (frames - scores @ basis.T)[:, : transform.n_values]
    levels = transform.levels(lost.T[None])[0].T
    noise = torch.linalg.lstsq(scores, levels).solution  # [D, n_levels]
    synthesis.weight[transform.n_values :, : codec.latent_dim, 0] = noise.T
    for layer, gain in ((to_latents, 1 / scale), (from_latents, scale)):
        layer.weight.zero_().diagonal().fill_(gain)
    encode = codec.encoder[1:]
    residual = torch.cat([encode(part.T[None])[0].T for part in frames.split(1000)])
    residual = residual[torch.randperm(len(residual))[:_N_FRAMES]]
    for level in codec.quantizer.levels:
        assert isinstance(level, Level)
        residual = residual - _start_level(level, residual)


def _layers(network: nn.Sequential) -> list[Any]:
    return list(network)


def _start_level(level: Level, residual: Tensor) -> Tensor:
    """Set one level by what those before it left [M, D]; returns what it takes off that."""
    n_codes, n_dims = level.codebook.weight.shape
    basis = _components(residual, n_dims)
    centres, counts = k_means(residual @ basis, n_codes, _N_ITERATIONS)
    level.in_proj.weight.copy_(basis.T[..., None])
    level.codebook.weight.copy_(centres)
    level.out_proj.weight.copy_(basis[..., None])
    assert level.out_proj.bias is not None
    level.out_proj.bias.zero_()
    level.usage.copy_(counts / counts.mean())
    vectors, _, _ = level.eval()(residual.T[None])
    level.train()
    return vectors[0].T


def _components(frames: Tensor, n: int) -> Tensor:
    """The `n` directions [D, n] in which frames [M, D] are largest, the largest first."""
    _, directions = torch.linalg.eigh(frames.T @ frames / len(frames))
    return directions[:, -n:].flip(1)
