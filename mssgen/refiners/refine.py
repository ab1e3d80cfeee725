"""Refinement of the codes of a stem of any length with masked transformers.

    codes [B, K, N] -> coarse (optional) -> first codebooks -> c2f -> all codebooks [B, K', N]

Coarse-to-fine (c2f) keeps the first codebooks and regenerates the others, which removed the bleed
from a separated bass; coarse first regenerates the codebooks that c2f keeps, except the very first
(thesis, section 7.2, tables 3 and 4).
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.codecs.base import Codec, Codes
from mssgen.errors import UsageError
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.masking import apply_mask, hide_codebooks_from
from mssgen.refiners.noise import FrameNoise
from mssgen.refiners.sampling import Guide, SamplingOptions, sample
from mssgen.refiners.windows import Piece, Window, cells, fill_pieces, fill_stream
from mssgen.streams import align

Mode = Literal["c2f", "coarse+c2f"]

_N_STEPS = {"coarse": 12, "c2f": 2}  # as in VampNet
# Windows per batch. On a GPU batches are always full, as rounding depends on their size.
_BATCH_SIZES = {"cpu": 4}
_BATCH_SIZE = 16
_GUIDE_UNIT = 0.02  # temperature of the guide at strength 1/2


@dataclass(frozen=True)
class Refinement:
    """Options of a `Refiner`; contradictions raise UsageError."""

    mode: Mode = "c2f"
    """Networks to apply: "c2f" only, or "coarse+c2f"."""
    n_steps: int | None = None
    """Sampling steps of each network; None: 12 for coarse, 2 for c2f."""
    temperature: float = 1.0
    """As in `mssgen.refiners.sampling.SamplingOptions`."""
    mask_temperature: float = 10.5
    """As in `SamplingOptions`."""
    typical_mass: float | None = None
    """As in `SamplingOptions`."""
    top_p: float | None = None
    """As in `SamplingOptions`."""
    seed: int = 0
    """Random seed."""
    keep_codebooks: int | None = None
    """Number of leading codebooks that stay unchanged; None: for "c2f" as many as the network is
    conditioned on, for "coarse+c2f" as many as the coarse network is, but at least one."""
    strength: float = 1.0
    """How far the result may depart from the input, above 0 to 1: 1 is unconstrained, lower values
    stay closer to the input's latents (`Guide`)."""

    def __post_init__(self) -> None:
        if self.mode not in ("c2f", "coarse+c2f"):
            raise UsageError(f"unknown refinement mode {self.mode}; use c2f or coarse+c2f")
        if not 0 < self.strength <= 1:
            raise UsageError(f"`strength` must be more than 0 and at most 1, not {self.strength:g}")
        self.sampling("c2f")  # raises what is wrong with the others

    def sampling(self, network: str) -> SamplingOptions:
        """Sampling options of one network, "coarse" or "c2f"."""
        return SamplingOptions(
            n_steps=_N_STEPS[network] if self.n_steps is None else self.n_steps,
            temperature=self.temperature,
            mask_temperature=self.mask_temperature,
            typical_mass=self.typical_mass,
            top_p=self.top_p,
        )

    @property
    def is_guided(self) -> bool:
        """Whether a `Guide` is used, which needs the latents of the input."""
        return self.strength < 1

    @property
    def guide_temperature(self) -> float:
        """`Guide.temperature`; infinite without a guide."""
        return _GUIDE_UNIT * self.strength / (1 - self.strength) if self.is_guided else math.inf


@dataclass(frozen=True)
class _Pass:
    """Application of one network."""

    network: MaskedTransformer
    n_kept: int
    """Number of leading codebooks that stay unchanged."""
    sampling: SamplingOptions
    seed: int

    def rows(self, original: Tensor, current: Tensor) -> Tensor:
        """Codes that the network takes, [..., K, N]: those of the input, then kept and masked ones.

        Args:
            original: codes of the input, [..., K', N].
            current: codes after the passes before, [..., K'', N]; missing codebooks are masked
                anyway.
        """
        options = self.network.options
        missing = max(0, options.n_output - current.shape[-2])
        codes = F.pad(current, (0, 0, 0, missing))[..., : options.n_output, :]
        is_hidden = hide_codebooks_from(self.n_kept, codes.shape).to(codes.device)
        codes = apply_mask(codes, is_hidden, self.network.mask_token)
        return torch.cat([original[..., : options.n_input, :], codes], dim=-2)

    def codes(self, rows: Tensor, current: Tensor) -> Tensor:
        """`current` [..., K, N] with its first codebooks replaced by the filled `rows`."""
        options = self.network.options
        return torch.cat([rows[..., options.n_input :, :], current[..., options.n_output :, :]], -2)


class Refiner:
    """Refines the codes of one codec with one or two masked transformers.

    Args:
        codec: codec of the codes, in eval mode, on the networks' device.
        c2f: coarse-to-fine network, which regenerates all but the first codebooks.
        coarse: network that regenerates the first codebooks; required by mode "coarse+c2f".
        options: None: the defaults.
        batch_size: windows per batch; None: 4 on a CPU, 16 elsewhere.

    Raises:
        UsageError: a network is for another codec, or the options do not fit the networks.
    """

    def __init__(
        self,
        codec: Codec,
        c2f: MaskedTransformer,
        *,
        coarse: MaskedTransformer | None = None,
        options: Refinement | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.codec, self.options = codec, options or Refinement()
        self.n_codebooks = c2f.options.n_output
        self._device = c2f.hidden.device
        self._batch_size = batch_size or _BATCH_SIZES.get(self._device.type, _BATCH_SIZE)
        for network in (c2f, *([] if coarse is None else [coarse])):
            _check_codec(network.codec_id, codec)
        self._passes = _passes(c2f, coarse, self.options)

    @property
    def networks(self) -> tuple[MaskedTransformer, ...]:
        """Networks in the order in which they are applied."""
        return tuple(each.network for each in self._passes)

    def check(self, codec: Codec, n_codebooks: int) -> None:
        """Raise UsageError if it cannot refine codes of `codec` with `n_codebooks` codebooks."""
        _check_codec(self.codec.codec_id, codec)
        self._check_n_codebooks(n_codebooks)

    def __call__(self, codes: Codes, latents: Tensor | None = None) -> Codes:
        """Refined codes of one batch; `latents` [B, D, N] and errors as in `refine`."""
        return self.refine([codes], None if latents is None else [latents])[0]

    def refine(
        self,
        codes: Sequence[Codes],
        latents: Sequence[Tensor] | None = None,
        keys: Sequence[int] | None = None,
    ) -> list[Codes]:
        """Refined codes of several signals of any lengths, whose windows share batches.

        Args:
            codes: of any number of codebooks, at least those to keep. Codebooks beyond the
                networks' are dropped, as they quantise the residual of the old codes.
            latents: latents of each input, [B, D, N], used if the strength is below 1; None: the
                dequantised codes.
            keys: key of the noise of each signal; signals with the same key have the same noise.
                None: one key for all, so that each is refined as it would be alone.

        Returns:
            Codes [B, `n_codebooks`, N] for each of `codes`.

        Raises:
            UsageError: the codes are damaged, of another codec, or have too few codebooks.
        """
        for each in codes:
            self.codec.check(each)
            self._check_n_codebooks(each.n_codebooks)
        originals = [item for each in codes for item in each.codes.to(self._device)]
        guidance: list[Tensor | None] = [None] * len(originals)
        if self.options.is_guided:
            given = latents or [self._dequantized(each.codes) for each in codes]
            guidance = [item for batch in given for item in batch.to(self._device)]
        keys = keys or [0] * len(codes)
        key_of = [key for key, each in zip(keys, codes, strict=True) for _ in each.codes]
        current = originals
        for step in self._passes:
            window_frames = step.network.options.window_frames
            pieces = []
            for index, original in enumerate(originals):
                plan = cells(original.shape[-1], window_frames)
                rows = step.rows(original, current[index])
                pieces.append(Piece(rows, guidance[index], (plan[::2], plan[1::2]), key_of[index]))
            filled = fill_pieces(pieces, partial(self._fill, step))
            current = [step.codes(*pair) for pair in zip(filled, current, strict=True)]
        items = (item[: self.n_codebooks] for item in current)
        return [
            replace(each, codes=torch.stack(list(itertools.islice(items, len(each.codes)))))
            for each in codes
        ]

    def stream(
        self,
        codes: Iterable[Tensor],
        n_frames: int,
        *,
        latents: Iterable[Tensor] | None = None,
        keys: Sequence[int] | None = None,
    ) -> Iterator[Tensor]:
        """Refined codes in blocks [B, `n_codebooks`, N'], equal to those of `refine`.

        Needs memory for a few windows only.

        Args:
            codes: codes of the codec in blocks [B, K, N'] of any length.
            n_frames: total number of frames.
            latents: latents of the input in blocks [B, D, N'], used if the strength is below 1;
                None: the dequantised codes.
            keys: key of the noise of each of the B items; None: one key for all.

        Raises:
            UsageError: there are too few codebooks.
        """
        blocks = (block.to(self._device, torch.int64) for block in codes)
        head = next(blocks, None)
        if head is None:
            return
        self._check_n_codebooks(head.shape[1])
        n_passes = len(self._passes)
        current, *originals = itertools.tee(itertools.chain([head], blocks), 1 + n_passes)
        guidance: Sequence[Iterator[Tensor] | None] = [None] * n_passes
        if self.options.is_guided and latents is not None:
            guidance = itertools.tee((block.to(self._device) for block in latents), n_passes)
        elif self.options.is_guided:
            current, own = itertools.tee(current)
            guidance = itertools.tee(map(self._dequantized, own), n_passes)
        for step, original, given in zip(self._passes, originals, guidance, strict=True):
            item_keys = keys or [0] * len(head)
            current = self._streamed(step, original, current, n_frames, given, item_keys)
        for block in current:
            yield block[:, : self.n_codebooks]

    def _streamed(
        self,
        step: _Pass,
        original: Iterator[Tensor],
        current: Iterator[Tensor],
        n_frames: int,
        latents: Iterator[Tensor] | None,
        keys: Sequence[int],
    ) -> Iterator[Tensor]:
        """Blocks of `current` after one pass."""
        before, after = itertools.tee(current)
        filled = fill_stream(
            (step.rows(*blocks) for blocks in align([original, before])),
            n_frames,
            partial(self._fill, step),
            window_frames=step.network.options.window_frames,
            n_together=self._batch_size,
            keys=keys,
            latents=latents,
        )
        for blocks in align([filled, after]):
            yield step.codes(*blocks)

    def _fill(self, step: _Pass, windows: Sequence[Window]) -> list[Tensor]:
        """Codes of windows filled by the network, in batches of windows of equal length."""
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_length.setdefault(window.rows.shape[-1], []).append(index)
        filled: dict[int, Tensor] = {}
        for n_frames, indices in by_length.items():
            for first in range(0, len(indices), self._batch_size):
                chosen = indices[first : first + self._batch_size]
                batch = [windows[index] for index in chosen]
                if self._device.type != "cpu":
                    batch += batch[-1:] * (self._batch_size - len(batch))
                noise = FrameNoise(
                    step.seed,
                    [window.key for window in batch],
                    [window.start for window in batch],
                    n_frames,
                    self._device,
                )
                rows = torch.stack([window.rows for window in batch])
                codes = sample(
                    step.network,
                    rows,
                    step.sampling,
                    noise,
                    guide=self._guide(batch),
                    n_given=step.network.options.n_input + step.n_kept,
                )
                filled.update(zip(chosen, codes, strict=False))  # drops the padding
        return [filled[index] for index in range(len(windows))]

    def _guide(self, windows: Sequence[Window]) -> Guide | None:
        """Guide to the latents of a batch of windows; None if they have none."""
        latents = [window.latents for window in windows if window.latents is not None]
        if not latents:
            return None
        return Guide(torch.stack(latents), self.codec.codebooks, self.options.guide_temperature)

    @torch.inference_mode()
    def _dequantized(self, codes: Tensor) -> Tensor:
        """Quantised latents [B, D, N] of codes [B, K, N]."""
        return self.codec.dequantize(codes.to(self._device))

    def _check_n_codebooks(self, n_codebooks: int) -> None:
        """Raise UsageError if codebooks that are kept or conditioned on are missing."""
        n_kept = self._passes[0].n_kept
        n_needed = max(n_kept, *(each.network.options.n_input for each in self._passes))
        if n_codebooks < n_needed:
            raise UsageError(
                f"the codes have {n_codebooks} codebooks and the refiner takes the first "
                f"{n_needed}: encode with at least {n_needed}"
            )


def _check_codec(codec_id: str, codec: Codec) -> None:
    """Raise UsageError if `codec_id` is not that of `codec`."""
    if codec_id != codec.codec_id:
        raise UsageError(
            f"the refiner was trained for the codec {codec_id}, but {codec.name} is "
            f"{codec.codec_id}: use the codec that it was trained for"
        )


def _passes(
    c2f: MaskedTransformer, coarse: MaskedTransformer | None, options: Refinement
) -> list[_Pass]:
    """Passes in order; UsageError if the options do not fit the networks."""
    keep, n_kept = options.keep_codebooks, c2f.options.n_kept
    last = _Pass(c2f, max(keep or 0, n_kept), options.sampling("c2f"), 2 * options.seed)
    if options.mode == "c2f":
        _check_kept(n_kept if keep is None else keep, n_kept, c2f.options.n_output)
        return [last]
    if coarse is None:
        raise UsageError("refinement mode coarse+c2f needs a coarse refiner: give one, or use c2f")
    if coarse.options.n_output != n_kept:
        raise UsageError(
            f"the coarse refiner gives {coarse.options.n_output} codebooks and the other takes "
            f"{n_kept}: use two that were trained for each other"
        )
    keep = max(1, coarse.options.n_kept) if keep is None else keep
    _check_kept(keep, coarse.options.n_kept, coarse.options.n_output)
    return [_Pass(coarse, keep, options.sampling("coarse"), 2 * options.seed + 1), last]


def _check_kept(keep: int, least: int, n_codebooks: int) -> None:
    """Raise UsageError if `keep` is not from `least` to `n_codebooks` - 1."""
    if not least <= keep < n_codebooks:
        raise UsageError(
            f"`keep_codebooks={keep}` does not fit the refiner: it takes {least} to "
            f"{n_codebooks - 1}"
        )
