"""Initialises a stem codec by principal components and k-means instead of random weights.

    spectra -> principal components = latents -> spectra, plus noise with the energy of the residual
    codebook by codebook: k-means on the largest principal components of the residual

The result is a codec before the first step. Its blocks, which change next to nothing at first,
learn what depends on several frames. With random weights, magnitudes are learned long before the
waveform.

Band energies are latents without an encoder, and get their own codebooks in the same way: eight
codebooks of 1024 codes have an error of 1.2 dB.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mssgen.codecs.networks.factorized import Stage
from mssgen.codecs.networks.stem_codec import Analysis, StemCodec, Synthesis
from mssgen.codecs.networks.stem_spectrum import Spectrum, to_log
from mssgen.training.codec.codebooks import k_means

_N_ITERATIONS = 10
_N_FRAMES = 16_000  # maximum for k-means


@torch.no_grad()
def start_from_sound(codec: StemCodec, sounds: Sequence[Tensor]) -> None:
    """Set the first and last layers and the codebooks of `codec` from audio.

    Args:
        codec: with random weights; its width is at least its option `latent_dim`.
        sounds: audio [2, T] each, at the codec's sample rate; some minutes in all.
    """
    transform, encoder, decoder = _networks(codec)
    analysis, *_, to_latents = _layers(encoder.main)
    from_latents, *_, synthesis = _layers(decoder.main)
    for layer in (analysis, to_latents, from_latents, synthesis):
        layer.bias.zero_()
    frames = torch.cat([transform(codec.pad(sound[None]))[0].T for sound in sounds])
    n_dims = to_latents.out_channels
    basis = _components(frames, n_dims)  # [4 F, n_dims]
    # Scale the largest components to about 1, so that no loss on latents outweighs the others.
    scale = float((frames @ basis[:, :8]).square().mean().sqrt().clamp_min(1e-3))
    for layer in (analysis, synthesis):
        layer.weight.mul_(0.1)
    analysis.weight[:n_dims, :, 0] = basis.T
    synthesis.weight[:, :n_dims, 0] = basis
    scores = frames @ basis
    lost = (frames - scores @ basis.T)[:, : transform.n_values]
    levels = transform.band_energies(lost.T[None])[0].T
    noise = torch.linalg.lstsq(scores, levels).solution  # [D, n_levels]
    synthesis.weight[transform.n_values :, :n_dims, 0] = noise.T
    for layer, gain in ((to_latents, 1 / scale), (from_latents, scale)):
        layer.weight.zero_().diagonal().fill_(gain)
    residual = torch.cat([encoder.main(part.T[None])[0].T for part in frames.split(1000)])
    residual = residual[torch.randperm(len(residual))[:_N_FRAMES]]
    for level in _codebooks(codec, of_levels=False):
        residual = residual - _start_level(level, residual)


@torch.no_grad()
def start_levels(codec: StemCodec, sounds: Sequence[Tensor]) -> None:
    """Set the band-energy codebooks from audio, [2, T] each."""
    transform, encoder, _ = _networks(codec)
    assert encoder.levels is not None
    frames = torch.cat([transform(codec.pad(sound[None]))[0].T for sound in sounds])
    frames = frames[torch.randperm(len(frames))[:_N_FRAMES], transform.n_values :]
    residual = encoder.levels(to_log(frames).T[None])[0].T
    for level in _codebooks(codec, of_levels=True):
        residual = residual - _start_level(level, residual)


@torch.no_grad()
def with_levels(codec: StemCodec, n_level_codebooks: int) -> StemCodec:
    """A copy of the codec with added random band-energy codebooks; the other codes are the same."""
    grown = StemCodec(**{**codec.options, "n_level_codebooks": n_level_codebooks})
    for old, new in zip(_networks(codec), _networks(grown), strict=True):
        new.load_state_dict(old.state_dict(), strict=False)
    for level, known in zip(
        _codebooks(grown, of_levels=False), codec.quantizer.levels, strict=True
    ):
        level.load_state_dict(known.state_dict())
    return grown


def _layers(network: nn.Sequential) -> list[Any]:
    return list(network)


def _networks(codec: StemCodec) -> tuple[Spectrum, Analysis, Synthesis]:
    (transform, encoder), (decoder, _) = codec.encoder, codec.decoder
    assert isinstance(transform, Spectrum)
    assert isinstance(encoder, Analysis)
    assert isinstance(decoder, Synthesis)
    return transform, encoder, decoder


def _codebooks(codec: StemCodec, *, of_levels: bool) -> list[Stage]:
    """The band-energy codebooks, which come first, or the codebooks of the spectrum."""
    n_levels = codec.options["n_level_codebooks"]
    levels = [level for level in codec.quantizer.levels if isinstance(level, Stage)]
    return levels[:n_levels] if of_levels else levels[n_levels:]


def _start_level(level: Stage, residual: Tensor) -> Tensor:
    """Set one codebook from the residual [M, D] of those before it; returns its quantised value."""
    n_codes, n_dims = level.codebook.weight.shape
    basis = _components(residual, n_dims)
    centres, counts = k_means(residual @ basis, n_codes, _N_ITERATIONS)
    level.in_proj.weight.copy_(basis.T[..., None])
    level.codebook.weight.copy_(centres)
    level.out_proj.weight.copy_(basis[..., None])
    assert level.out_proj.bias is not None
    level.out_proj.bias.zero_()
    level.usage.copy_(counts / counts.mean())
    first, n_dims = level.in_proj.first, level.in_proj.in_channels
    padded = F.pad(residual.T[None], (0, 0, first, level.latent_dim - first - n_dims))
    vectors, _, _ = level.eval()(padded)
    level.train()
    return vectors[0, first : first + n_dims].T


def _components(frames: Tensor, n: int) -> Tensor:
    """The first `n` principal directions [D, n] of frames [M, D] (not centred), largest first."""
    _, directions = torch.linalg.eigh(frames.T @ frames / len(frames))
    return directions[:, -n:].flip(1)
