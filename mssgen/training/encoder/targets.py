"""The targets of a stem encoder: latents and codes of the clean stem by the frozen codec."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.training.data.augment import AUGMENTED
from mssgen.training.data.target_cache import TargetCache
from mssgen.training.task import Batch


class Targets:
    """Targets of one batch, computed on demand."""

    def __init__(
        self,
        codec: Codec,
        latents: Tensor,
        scale: Tensor | None,
        n_codebooks: int | None,
        codes: Tensor | None = None,
    ) -> None:
        self._codec, self._n_codebooks, self._all_codes = codec, n_codebooks, codes
        self.latents = latents
        """Latents before quantisation, [B, D, N]."""
        self.scale = scale
        """Divisor of the audio, [B, G]; None for a codec that does not normalise."""

    def items(self, first: int, last: int) -> "Targets":
        """The targets of items `first` to `last` (exclusive) of the batch."""
        known = vars(self).get("codes", self._all_codes)
        return Targets(
            self._codec,
            self.latents[first:last],
            None if self.scale is None else self.scale[first:last],
            self._n_codebooks,
            None if known is None else known[first:last],
        )

    @cached_property
    def codes(self) -> Tensor:
        """Codes of the target codebooks, [B, K, N]."""
        if self._all_codes is not None:
            return self._all_codes[:, : self._n_codebooks]
        with torch.no_grad():
            return self._codec.quantize(self.latents, self._n_codebooks)

    @cached_property
    def quantized(self) -> Tensor:
        """The sum of the code vectors of `codes`, [B, D, N]."""
        with torch.no_grad():
            return self._codec.dequantize(self.codes)


class FrozenTargets:
    """Computes targets of batches by the codec, or reads them from a cache.

    Args:
        codec: must be frozen.
        n_codebooks: number of target codebooks, from the first; None: all.
        cache: folder to cache targets of segments that are not augmented.
    """

    def __init__(
        self, codec: Codec, n_codebooks: int | None = None, cache: Path | None = None
    ) -> None:
        self._codec, self._n_codebooks = codec, n_codebooks
        self._cache = TargetCache(cache, codec.codec_id) if cache is not None else None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Targets:
        codec, device = self._codec, batch.target.device
        # The loop does not know the frozen codec, so it follows the batch's device.
        if codec.device != device:
            codec.to(device)
        # For a codec that normalises segments to unit power: at inference the gain can only come
        # from the input, and the output is multiplied by it. The target is divided by the same, so
        # that a stem quieter than its mixture has smaller latents.
        scale = codec.scales(batch.input)
        if self._cache is None:
            latents = codec.latents(batch.target, scale)
            return Targets(codec, latents, scale, self._n_codebooks)
        latents, codes = self._through(self._cache, batch, scale)
        return Targets(codec, latents, scale, self._n_codebooks, codes)

    def _through(
        self, cache: TargetCache, batch: Batch, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(latents [B, D, N], codes [B, K, N]) of a batch; missing ones are computed and cached."""
        scales = [None] * len(batch.keys) if scale is None else list(scale)
        kept = [
            None if AUGMENTED in key else cache.get(key, item_scale)
            for key, item_scale in zip(batch.keys, scales, strict=True)
        ]
        missing = [index for index, item in enumerate(kept) if item is None]
        if missing:
            latents = self._codec.latents(
                batch.target[missing], None if scale is None else scale[missing]
            )
            codes = self._codec.quantize(latents)
            for index, item_latents, item_codes in zip(missing, latents, codes, strict=True):
                if AUGMENTED not in batch.keys[index]:
                    cache.put(batch.keys[index], item_latents, item_codes, scales[index])
                # The same values as from the file.
                kept[index] = cache.rounded(item_latents), item_codes
        pairs = [item for item in kept if item is not None]
        device = batch.target.device
        return (
            torch.stack([latents.to(device) for latents, _ in pairs]),
            torch.stack([codes.to(device) for _, codes in pairs]),
        )
