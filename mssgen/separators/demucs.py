"""Networks as a separator: one or a bag of them, on music of any length.

As in `demucs.api` and `demucs.apply`, the mixture is normalised to unit standard deviation and cut
into overlapping segments; random shifts and the members of a bag are averaged, and the
normalisation is undone. Unlike there, it works on streams, batches segments, runs only the members
of a bag that the wanted stems need, and reduces the batch when memory runs out.

It serves the networks of other families too: those that expect the level of the recording get it.

Two more differences. Demucs subtracts the mixture's mean and adds it to every stem, so that four
stems have four times the DC offset, even silent ones. Here the offset (see `offset`) is subtracted
and no stem has it; the mixture keeps it, and with it the residual and `no_STEM`. And channels that
cancel in mono still have a level (see `base.measure_level`).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mssgen.errors import CheckpointError, UsageError
from mssgen.separators.base import Level, Network, chosen_stems, measure_level
from mssgen.separators.batches import BatchRunner
from mssgen.separators.htdemucs.network import HTDemucs
from mssgen.separators.wiener import MAX_ITERATIONS
from mssgen.streams import align, overlap_add

_MAX_AUTO_BATCH_CPU = 4
_MAX_AUTO_BATCH_GPU = 8
_MAX_SEED = 2**63 - 1  # limit of torch's generator
_SILENCE_STD = 1e-8  # as in demucs.api: keeps the division finite
HighFrequencies = Literal["zeros", "average", "mixture"]


@dataclass(frozen=True)
class Member:
    """One network of a bag and the stems to take from it."""

    network: Network
    stems: tuple[str, ...]


@dataclass(frozen=True)
class SeparationOptions:
    """How a mixture is cut into segments; values out of range raise UsageError."""

    overlap: float = 0.25
    """Fraction of a segment shared with the next one, 0 <= overlap < 1."""
    shifts: int = 0
    """Number of random time shifts of up to 0.5 s to average over; 0: no shift."""
    seed: int = 0
    """Random seed for the shifts."""
    batch_size: int | None = None
    """Segments per batch; None: chosen for the device."""
    high_frequencies: HighFrequencies | None = None
    """Sound of the stems above the highest bin that Spleeter sees; None: as the checkpoint says."""
    wiener_iterations: int | None = None
    """Rounds of the Wiener filter of Spleeter and Open-Unmix; None: as the checkpoint says."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UsageError(f"`overlap` {self.overlap:g} is out of range; use 0 to 0.99")
        if self.shifts < 0:
            raise UsageError(f"`shifts` {self.shifts} is negative; use 0 or more")
        if not 0 <= self.seed <= _MAX_SEED:
            raise UsageError(f"`seed` {self.seed} is out of range; use 0 to {_MAX_SEED}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(
                f"`batch_size` {self.batch_size} is too small; use 1 or more, or leave it out"
            )
        if self.wiener_iterations is not None and not 0 <= self.wiener_iterations <= MAX_ITERATIONS:
            raise UsageError(
                f"`wiener_iterations` {self.wiener_iterations} is out of range; use 0 to "
                f"{MAX_ITERATIONS}"
            )

    @property
    def of_masks(self) -> dict[str, str | int]:
        """The options that only networks with masks have, as far as they are given."""
        given = {
            "high_frequencies": self.high_frequencies,
            "wiener_iterations": self.wiener_iterations,
        }
        return {name: value for name, value in given.items() if value is not None}


class DemucsSeparator(BatchRunner):
    """Separates streams or whole mixtures; a `base.Separator`.

    Args:
        members: networks with the same sources, sample rate and channels.
        name: model name shown to users.
        device, precision: of the networks, as shown to users ("cuda:0", "bf16").
        options: how mixtures are cut into segments.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        name: str,
        device: str = "cpu",
        precision: str = "fp32",
        options: SeparationOptions | None = None,
    ) -> None:
        first, *others = [member.network for member in members]
        for fact in ("sources", "sample_rate", "n_channels", "is_normalised"):
            if any(getattr(network, fact) != getattr(first, fact) for network in others):
                raise CheckpointError(f"the members of {name} differ in {fact}")
        self.members, self.name, self.device, self.precision = members, name, device, precision
        given = {stem for member in members for stem in member.stems}
        self.sources = tuple(source for source in first.sources if source in given)
        self.sample_rate, self.n_channels = first.sample_rate, first.n_channels
        self.options = options or SeparationOptions()
        self.batch_size = self.options.batch_size or self._auto_batch_size()

    @property
    def settings(self) -> str:
        """The options that change the result, as text for tags."""
        options = self.options
        shifts = f", shifts {options.shifts}, seed {options.seed}" if options.shifts else ""
        of_masks = "".join(f", {name} {value}" for name, value in options.of_masks.items())
        return f"overlap {options.overlap:g}{shifts}{of_masks}"

    def __call__(self, mixture: Tensor) -> Tensor:
        """Separate whole mixtures.

        Args:
            mixture: [B, C, T] fp32 at `sample_rate`; each example is normalised separately.

        Returns:
            Stems [B, S, C, T] fp32 in the order of `sources`.
        """
        blocks = list(self.stream([mixture], measure_level([mixture])))
        return torch.cat(blocks, dim=-1)

    def stream(
        self,
        blocks: Iterable[Tensor],
        level: Level,
        *,
        stems: Sequence[str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Tensor]:
        """Separate a stream; memory does not depend on its length.

        Args:
            blocks: mixture blocks [B, C, T'] fp32 at `sample_rate`.
            level: result of `measure_level` for the same stream.
            stems: stems to output, in this order; None: all of `sources`.
            warn: called with a message when the batch is reduced to save memory.

        Yields:
            Stem blocks [B, S, C, T'] fp32, `level.n_samples` samples in total.

        Raises:
            UsageError: a stem is not in `sources`.
            OutOfMemoryError: memory is too small for a single segment.
        """
        stems = chosen_stems(self, stems)
        if level.is_silent:
            for block in blocks:
                yield block.new_zeros(len(block), len(stems), *block.shape[1:])
            return
        scale = level.std[:, None, None] + _SILENCE_STD
        if not self.members[0].network.is_normalised:
            scale = torch.ones_like(scale)
        normalised = ((block - level.offset[..., None]) / scale for block in blocks)
        needed = [member for member in self.members if set(member.stems) & set(stems)]
        leads = self._leads() or [0]
        passes = [(member, lead) for member in needed for lead in leads]
        # All passes read the same stream in step, so that `tee` buffers little.
        copies = itertools.tee(normalised, len(passes))
        streams = [
            self._pass(member.network, copy, level.n_samples, lead, warn)
            for (member, lead), copy in zip(passes, copies, strict=True)
        ]
        weights = self._weights([member for member, _ in passes], stems)
        order = [needed[0].network.sources.index(stem) for stem in stems]
        for pieces in align(streams):
            mixed = sum(
                weight[:, None, None] * piece[:, order]
                for weight, piece in zip(weights, pieces, strict=True)
            )
            assert isinstance(mixed, Tensor)
            yield mixed * scale[:, None]

    def _pass(
        self,
        network: Network,
        blocks: Iterable[Tensor],
        n_samples: int,
        lead_samples: int,
        warn: Callable[[str], None] | None,
    ) -> Iterator[Tensor]:
        """Run one network over the whole stream, with segments shifted by `lead_samples`."""
        return overlap_add(
            blocks,
            lambda segments: self.run(network, segments, warn),
            n_samples=n_samples,
            segment_samples=network.segment_samples,
            overlap=self.options.overlap,
            batch_size=self.batch_size,
            lead_samples=lead_samples,
            has_fixed_length=network.has_fixed_length,
        )

    def _leads(self) -> list[int]:
        """Random shifts of up to half a second in samples, as in demucs.apply but seeded."""
        random = torch.Generator().manual_seed(self.options.seed)
        half_second = self.sample_rate // 2
        shape = (self.options.shifts,)
        return torch.randint(0, half_second + 1, shape, generator=random).tolist()

    @staticmethod
    def _weights(members: Sequence[Member], stems: Sequence[str]) -> Tensor:
        """Weight of each pass in each stem, [passes, S]: the average of those that have it."""
        has_stem = torch.tensor([[float(stem in m.stems) for stem in stems] for m in members])
        return has_stem / has_stem.sum(0)

    def _auto_batch_size(self) -> int:
        """Segments per batch for this device."""
        if self.device.startswith("cuda"):
            return _MAX_AUTO_BATCH_GPU
        # On a CPU, HTDemucs runs the segments of a batch in parallel, on a share of threads each.
        is_ours = all(isinstance(member.network, HTDemucs) for member in self.members)
        is_cpu = self.device == "cpu"
        return min(_MAX_AUTO_BATCH_CPU, torch.get_num_threads()) if is_ours and is_cpu else 1
