"""Refiners at work: a stem's codes to better ones, for songs of any length.

    codes [B, K, N] -> coarse (optional) -> first codebooks -> c2f -> all codebooks [B, K', N]

Coarse-to-fine (c2f) keeps the first levels and makes the others anew, which removed the bleed from
a separated bass; coarse makes also the first levels anew, from the very first (thesis, section
7.2, tables 3 and 4).
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

_N_STEPS = {"coarse": 12, "c2f": 2}  # the original's
# Windows at once. A batch is always full on a GPU, where the last bits of a result depend on it.
_BATCH_SIZES = {"cpu": 4}
_BATCH_SIZE = 16
_GUIDE_UNIT = 0.02  # the guide's temperature at strength 1/2


@dataclass(frozen=True)
class Refinement:
    """What to make anew, and how; contradictions raise UsageError."""

    mode: Mode = "c2f"
    n_steps: int | None = None
    """Of each network; None: 12 of coarse, 2 of c2f."""
    temperature: float = 1.0
    """0 takes the most likely codes."""
    mask_temperature: float = 10.5
    typical_mass: float | None = None
    top_p: float | None = None
    """These three: see `mssgen.refiners.sampling.SamplingOptions`."""
    seed: int = 0
    keep_codebooks: int | None = None
    """Levels that stay as they are; None: what c2f conditions on, and of "coarse+c2f" one."""
    strength: float = 1.0
    """How far the result may go from the input: 1 wherever the network wants; the less, the closer
    to the input's own latents (`Guide`)."""

    def __post_init__(self) -> None:
        if self.mode not in ("c2f", "coarse+c2f"):
            raise UsageError(f"unknown refinement mode {self.mode}; use c2f or coarse+c2f")
        if not 0 < self.strength <= 1:
            raise UsageError(f"`strength` must be more than 0 and at most 1, not {self.strength:g}")
        self.sampling("c2f")  # raises what is wrong with the others

    def sampling(self, network: str) -> SamplingOptions:
        """For "coarse" or "c2f"."""
        return SamplingOptions(
            n_steps=_N_STEPS[network] if self.n_steps is None else self.n_steps,
            temperature=self.temperature,
            mask_temperature=self.mask_temperature,
            typical_mass=self.typical_mass,
            top_p=self.top_p,
        )

    @property
    def is_guided(self) -> bool:
        """Whether the input's latents are needed."""
        return self.strength < 1

    @property
    def guide_temperature(self) -> float:
        """Of the guide; infinite without one."""
        return _GUIDE_UNIT * self.strength / (1 - self.strength) if self.is_guided else math.inf


@dataclass(frozen=True)
class _Stage:
    """One network's turn."""

    network: MaskedTransformer
    n_kept: int
    sampling: SamplingOptions
    seed: int

    def rows(self, original: Tensor, current: Tensor) -> Tensor:
        """What the network takes [..., K, N]: the input's levels, then those to keep or fill in.

        Levels that `current` lacks are hidden anyway.
        """
        options = self.network.options
        missing = max(0, options.n_levels - current.shape[-2])
        levels = F.pad(current, (0, 0, 0, missing))[..., : options.n_levels, :]
        is_hidden = hide_codebooks_from(self.n_kept, levels.shape).to(levels.device)
        levels = apply_mask(levels, is_hidden, self.network.mask_token)
        return torch.cat([original[..., : options.n_input, :], levels], dim=-2)

    def levels(self, rows: Tensor, current: Tensor) -> Tensor:
        """`current` [..., K, N] with the network's levels replaced by those of its rows."""
        options = self.network.options
        return torch.cat([rows[..., options.n_input :, :], current[..., options.n_levels :, :]], -2)


class Refiner:
    """Masked transformers for the codes of one codec.

    Args:
        codec: whose codes they are, in eval mode, on the networks' device.
        c2f: fills in the levels after the first few.
        coarse: fills in those first; needed by the mode that says so.
        options: what to make anew.
        batch_size: windows that a network sees at once; None: what suits the device.

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
        self.n_codebooks = c2f.options.n_levels
        self._device = next(c2f.parameters()).device
        self._batch_size = batch_size or _BATCH_SIZES.get(self._device.type, _BATCH_SIZE)
        for network in (c2f, *([] if coarse is None else [coarse])):
            _check_codec(network.codec_id, codec)
        self._stages = _stages(c2f, coarse, self.options)

    @property
    def networks(self) -> tuple[MaskedTransformer, ...]:
        """In the order of their turns."""
        return tuple(stage.network for stage in self._stages)

    def check(self, codec: Codec, n_codebooks: int) -> None:
        """Raise UsageError unless it can refine codes of `codec` with so many levels."""
        _check_codec(self.codec.codec_id, codec)
        self._check_levels(n_codebooks)

    def __call__(self, codes: Codes, latents: Tensor | None = None) -> Codes:
        """Better codes of `n_codebooks` levels; see `refine`."""
        return self.refine([codes], None if latents is None else [latents])[0]

    def refine(
        self,
        codes: Sequence[Codes],
        latents: Sequence[Tensor] | None = None,
        keys: Sequence[int] | None = None,
    ) -> list[Codes]:
        """Better codes of several songs at once, of any lengths: their windows share batches.

        Args:
            codes: of any number of levels, those to keep at least. Levels beyond the networks' are
                left out: they describe what the old ones left.
            latents: of the input, [B, D, N] each, where the strength is less than 1; None takes
                those of the codes.
            keys: of the noise, one for each; songs of one key have the same. None: all have, so
                that each comes out as it would alone.

        Raises:
            UsageError: codes of another codec, or too few levels.
        """
        for song in codes:
            self.codec.check(song)
            self._check_levels(song.n_codebooks)
        originals = [item for song in codes for item in song.codes.to(self._device)]
        sound: list[Tensor | None] = [None] * len(originals)
        if self.options.is_guided:
            given = latents or [self._dequantized(song.codes) for song in codes]
            sound = [item for song in given for item in song.to(self._device)]
        keys = keys or [0] * len(codes)
        key_of = [key for key, song in zip(keys, codes, strict=True) for _ in song.codes]
        current = originals
        for stage in self._stages:
            window_frames = stage.network.options.window_frames
            pieces = []
            for index, original in enumerate(originals):
                plan = cells(original.shape[-1], window_frames)
                rows = stage.rows(original, current[index])
                pieces.append(Piece(rows, sound[index], (plan[::2], plan[1::2]), key_of[index]))
            filled = fill_pieces(pieces, partial(self._fill, stage))
            current = [stage.levels(*pair) for pair in zip(filled, current, strict=True)]
        items = (item[: self.n_codebooks] for item in current)
        return [
            replace(song, codes=torch.stack(list(itertools.islice(items, len(song.codes)))))
            for song in codes
        ]

    def stream(
        self,
        codes: Iterable[Tensor],
        n_frames: int,
        *,
        latents: Iterable[Tensor] | None = None,
        keys: Sequence[int] | None = None,
    ) -> Iterator[Tensor]:
        """Blocks [B, K, N'] of `n_frames` in all to blocks [B, n_codebooks, N'] of as many.

        The same as `refine` gives, whatever the blocks, with memory of a few windows. The codes
        must be the codec's; `latents` are blocks [B, D, N'] of as many frames.
        """
        blocks = (block.to(self._device, torch.int64) for block in codes)
        head = next(blocks, None)
        if head is None:
            return
        self._check_levels(head.shape[1])
        n_stages = len(self._stages)
        current, *originals = itertools.tee(itertools.chain([head], blocks), 1 + n_stages)
        sounds: Sequence[Iterator[Tensor] | None] = [None] * n_stages
        if self.options.is_guided and latents is not None:
            sounds = itertools.tee((block.to(self._device) for block in latents), n_stages)
        elif self.options.is_guided:
            current, own = itertools.tee(current)
            sounds = itertools.tee(map(self._dequantized, own), n_stages)
        for stage, original, sound in zip(self._stages, originals, sounds, strict=True):
            item_keys = keys or [0] * len(head)
            current = self._streamed(stage, original, current, n_frames, sound, item_keys)
        for block in current:
            yield block[:, : self.n_codebooks]

    def _streamed(
        self,
        stage: _Stage,
        original: Iterator[Tensor],
        current: Iterator[Tensor],
        n_frames: int,
        latents: Iterator[Tensor] | None,
        keys: Sequence[int],
    ) -> Iterator[Tensor]:
        """The blocks of `current` with the stage's levels made anew."""
        before, after = itertools.tee(current)
        filled = fill_stream(
            (stage.rows(*blocks) for blocks in align([original, before])),
            n_frames,
            partial(self._fill, stage),
            window_frames=stage.network.options.window_frames,
            n_together=self._batch_size,
            keys=keys,
            latents=latents,
        )
        for blocks in align([filled, after]):
            yield stage.levels(*blocks)

    def _fill(self, stage: _Stage, windows: Sequence[Window]) -> list[Tensor]:
        """Windows of any lengths through the network, in batches of equal length."""
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
                    stage.seed,
                    [window.key for window in batch],
                    [window.start for window in batch],
                    n_frames,
                    self._device,
                )
                rows = torch.stack([window.rows for window in batch])
                codes = sample(
                    stage.network,
                    rows,
                    stage.sampling,
                    noise,
                    guide=self._guide(batch),
                    n_given=stage.network.options.n_input + stage.n_kept,
                )
                filled.update(zip(chosen, codes, strict=False))  # without what filled it up
        return [filled[index] for index in range(len(windows))]

    def _guide(self, windows: Sequence[Window]) -> Guide | None:
        latents = [window.latents for window in windows if window.latents is not None]
        if not latents:
            return None
        return Guide(torch.stack(latents), self.codec.codebooks, self.options.guide_temperature)

    @torch.inference_mode()
    def _dequantized(self, codes: Tensor) -> Tensor:
        return self.codec.dequantize(codes.to(self._device))

    def _check_levels(self, n_codebooks: int) -> None:
        """Raise UsageError unless the codes have the levels that are kept or shown."""
        n_kept = self._stages[0].n_kept
        n_needed = max(n_kept, *(stage.network.options.n_input for stage in self._stages))
        if n_codebooks < n_needed:
            raise UsageError(
                f"the codes have {n_codebooks} codebooks and the refiner takes the first "
                f"{n_needed}: encode with so many at least"
            )


def _check_codec(codec_id: str, codec: Codec) -> None:
    if codec_id != codec.codec_id:
        raise UsageError(
            f"the refiner was trained for the codec {codec_id} and {codec.name} is "
            f"{codec.codec_id}: use the codec that it was trained for"
        )


def _stages(
    c2f: MaskedTransformer, coarse: MaskedTransformer | None, options: Refinement
) -> list[_Stage]:
    """Which network makes what; UsageError if the options do not fit the networks."""
    keep, n_kept = options.keep_codebooks, c2f.options.n_kept
    last = _Stage(c2f, max(keep or 0, n_kept), options.sampling("c2f"), 2 * options.seed)
    if options.mode == "c2f":
        _check_kept(n_kept if keep is None else keep, n_kept, c2f.options.n_levels)
        return [last]
    if coarse is None:
        raise UsageError("refinement mode coarse+c2f needs a coarse refiner: give one, or use c2f")
    if coarse.options.n_levels != n_kept:
        raise UsageError(
            f"the coarse refiner gives {coarse.options.n_levels} codebooks and the other takes "
            f"{n_kept}: use two that were made for each other"
        )
    keep = max(1, coarse.options.n_kept) if keep is None else keep
    _check_kept(keep, coarse.options.n_kept, coarse.options.n_levels)
    return [_Stage(coarse, keep, options.sampling("coarse"), 2 * options.seed + 1), last]


def _check_kept(keep: int, least: int, n_levels: int) -> None:
    if not least <= keep < n_levels:
        raise UsageError(
            f"`keep_codebooks={keep}` does not fit the refiner: it takes {least} to {n_levels - 1}"
        )
