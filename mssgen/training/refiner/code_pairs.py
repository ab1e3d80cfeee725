"""Pairs of codes to train refiners on: of the input and of the clean stem; cached as files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mssgen.codecs.base import Codec
from mssgen.encoders.stem_encoder import StemEncoder
from mssgen.training.data.augment import AUGMENTED
from mssgen.training.data.target_cache import TargetCache
from mssgen.training.task import Batch


@dataclass(frozen=True)
class CodePair:
    """Codes of one batch, [B, K, N] each, of all codebooks of the codec."""

    input: Tensor
    target: Tensor


class CodePairs:
    """Computes codes of batches by the codec, or reads them from a cache.

    Files are named by digests of the audio and of the weights, so that one folder serves all
    recipes, pairs and encoders.

    Args:
        codec: must be frozen.
        encoder: frozen stem encoder of `codec` for the input; None uses the codec's own encoder.
        remainder_after: the target has the *input's* codes in the codebooks before this one, and
            from it on codes of what these leave of the clean stem; None: the clean stem's codes.
        cache: folder to cache codes of segments that are not augmented.
    """

    def __init__(
        self,
        codec: Codec,
        encoder: StemEncoder | None = None,
        *,
        remainder_after: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self._codec, self._encoder, self._remainder_after = codec, encoder, remainder_after
        self._cache = self._input_cache = None
        if cache is not None:
            self._cache = TargetCache(cache, f"{codec.codec_id}-{_weights_id(codec.encoder)}")
            self._input_cache = self._cache
            if encoder is not None:
                name = f"{codec.codec_id}-{_weights_id(encoder)}"
                self._input_cache = TargetCache(cache, name)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> CodePair:
        device = batch.target.device
        # The loop does not know these frozen modules, so they follow the batch's device.
        if self._codec.device != device:
            self._codec.to(device)
            if self._encoder is not None:
                self._encoder.to(device)
        # At inference a codec that normalises can take its gain from the input only.
        scale = self._codec.scales(batch.input)
        if batch.input is batch.target and self._encoder is None:
            target = self._kept(self._cache, batch, [batch.target], self._target, scale)
            return CodePair(target, target)
        code = self._target if self._encoder is None else self._predicted
        heard = self._kept(self._input_cache, batch, [batch.input], code, scale)
        if self._remainder_after is None:
            target = self._kept(self._cache, batch, [batch.target], self._target, scale)
        else:
            given = heard[:, : self._remainder_after]
            sounds = [batch.target, given]
            target = self._kept(self._cache, batch, sounds, self._remainder, scale)
        return CodePair(heard, target)

    def _kept(
        self,
        cache: TargetCache | None,
        batch: Batch,
        tensors: list[Tensor],
        code: Callable[..., Tensor],
        scale: Tensor | None,
    ) -> Tensor:
        """`code` of the tensors [B, ...] and the scale, computed for uncached items only."""
        if cache is None:
            return code(*tensors, scale)
        keys = [
            None if AUGMENTED in key else f"{code.__name__} {_content_id(items)}"
            for key, *items in zip(batch.keys, *tensors, strict=True)
        ]
        scales = [None] * len(keys) if scale is None else list(scale)
        kept = [
            None if key is None else cache.get(key, item_scale)
            for key, item_scale in zip(keys, scales, strict=True)
        ]
        codes = [None if item is None else item[1].to(batch.target.device) for item in kept]
        missing = [index for index, item in enumerate(codes) if item is None]
        if missing:
            parts = [each[missing] for each in tensors]
            found = code(*parts, None if scale is None else scale[missing])
            for index, item in zip(missing, found, strict=True):
                codes[index] = item
                if (key := keys[index]) is not None:
                    no_latents = item.new_zeros(0, item.shape[-1], dtype=torch.float32)
                    cache.put(key, no_latents, item, scales[index])
        return torch.stack([item for item in codes if item is not None])

    def _target(self, audio: Tensor, scale: Tensor | None) -> Tensor:
        return self._codec.quantize(self._codec.latents(audio, scale))

    def _predicted(self, audio: Tensor, scale: Tensor | None) -> Tensor:
        assert self._encoder is not None
        return self._encoder.codes(self._encoder(audio, scale), self._codec.n_codebooks)

    def _remainder(self, audio: Tensor, given: Tensor, scale: Tensor | None) -> Tensor:
        """The given codebooks, continued by the nearest codes to the residual of each."""
        residual, codes = self._codec.latents(audio, scale), list(given.unbind(dim=1))
        for level, codebook in enumerate(self._codec.codebooks):
            if level >= len(codes):
                codes.append(codebook.distances(residual).argmin(dim=-1))
            residual = residual - codebook.vectors(codes[level])
        return torch.stack(codes, dim=1)


def _content_id(items: list[Tensor]) -> str:
    """A digest of the shapes and values of tensors."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(str(tuple(item.shape)).encode())
        digest.update(item.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _weights_id(module: nn.Module) -> str:
    state = module.state_dict()
    return _content_id([state[key].float() for key in sorted(state)])[:12]
