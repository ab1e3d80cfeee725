"""Networks whose sizes follow from a released state dict, and what all such families share.

A family gives a `Trunk`: a torch module that is built from its options and from the shapes of the
tensors, and maps a mixture to stems. Everything else is here: checked options, an untrusted state
dict that must match the module exactly, precision, and the stem that remains.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mssgen.checkpoints.blueprints import blueprint, misfit
from mssgen.errors import CheckpointError
from mssgen.recipes.schema import SampleRate, StemName, checked_options

StemNames = Annotated[tuple[StemName, ...], Field(strict=False, min_length=1, max_length=64)]
SegmentSamples = Annotated[int, Field(ge=1024, le=2**21)]
FFTSize = Annotated[int, Field(ge=16, le=2**15, multiple_of=2)]
HopLength = Annotated[int, Field(ge=1, le=2**14)]
_MAX_COUNT = 256


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """What every family's options have; a family adds what its tensors do not tell."""

    sources: StemNames
    """The network's stems in its order, and optionally one more: the mixture minus all of them."""
    samplerate: SampleRate = 44_100
    segment_samples: SegmentSamples
    is_normalised: bool = False
    """Whether the network was trained on mixtures of unit variance."""


class Shapes:
    """Shapes of the tensors of an untrusted state dict.

    Reading sizes from tensors that exist bounds them: what is built from them is as large as the
    file at most.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._shapes = {key: tuple(value.shape) for key, value in state.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def of(self, key: str, n_axes: int) -> tuple[int, ...]:
        """Shape of the tensor `key`; CheckpointError if it is missing or has other axes."""
        if key not in self._shapes:
            raise CheckpointError(f"'{key}' is missing: get the file again")
        shape = self._shapes[key]
        if len(shape) != n_axes or 0 in shape:
            raise CheckpointError(
                f"'{key}' has the shape {list(shape)}, not one of {n_axes} axes: get the file again"
            )
        return shape

    def count(self, prefix: str) -> int:
        """Number of different N in the tensor names "<prefix>N.…" ("layers." or "blocks.0.")."""
        numbers = re.compile(re.escape(prefix) + r"(\d{1,9})\.")
        found = {match[1] for key in self._shapes if (match := numbers.match(key))}
        if not 1 <= len(found) <= _MAX_COUNT:
            raise CheckpointError(
                f"it has {len(found)} groups of tensors '{prefix}N', not 1 to {_MAX_COUNT}: get "
                "the file again"
            )
        return len(found)


class Trunk(nn.Module):
    """A family's network; `options` are an instance of `Options`.

    It is built on the meta device: constants name their device ("cpu"). Sizes in `options` that
    contradict the tensors raise CheckpointError.
    """

    Options: ClassVar[type[TrunkOptions]]
    ignored: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    """Names of tensors that are not needed, such as tables that can be computed."""
    takes_bf16: ClassVar[bool] = False
    """Whether the precision "auto" may be bf16."""
    n_stems: int
    """Number of stems that the tensors give."""
    n_channels: int

    def __init__(self, options: Any, shapes: Shapes) -> None:
        super().__init__()

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32, perhaps under torch's autocast."""
        raise NotImplementedError


class StateDictNetwork:
    """A trunk with weights as a `base.Network`.

    Args:
        trunk: the family's class.
        options: its options, from a file.
        state: state dict in any floating dtype.
        device, dtype: where it runs, and its precision under torch's autocast.

    Raises:
        CheckpointError: an option is out of range, or a tensor is missing, unknown or of another
            shape.
    """

    has_fixed_length = True

    def __init__(
        self,
        trunk: type[Trunk],
        options: Mapping[str, Any],
        state: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        given = trunk.Options(**checked_options(trunk.Options, options, "the checkpoint"))
        needed = {key: value for key, value in state.items() if not trunk.ignored.fullmatch(key)}
        with blueprint():
            self.trunk = trunk(given, Shapes(needed))
        if (problem := misfit(self.trunk, needed)) is not None:
            raise CheckpointError(f"{problem}: get the file again")
        n_rest = len(given.sources) - self.trunk.n_stems
        if n_rest not in (0, 1):
            raise CheckpointError(
                f"its options name the stems {', '.join(given.sources)}, but its tensors give "
                f"{self.trunk.n_stems}: check them"
            )
        self.gives_rest = n_rest == 1
        self.trunk.load_state_dict(
            {key: value.float() for key, value in needed.items()}, assign=True
        )
        self.device, self.dtype = torch.device(device), dtype
        self.trunk.to(self.device).eval().requires_grad_(False)
        self.sources, self.sample_rate = given.sources, given.samplerate
        self.segment_samples, self.is_normalised = given.segment_samples, given.is_normalised
        self.n_channels = max(2, self.trunk.n_channels)

    @torch.inference_mode()
    def __call__(self, mixture: Tensor) -> Tensor:
        """Mixture [B, C, T] fp32 -> stems [B, S, C, T] fp32."""
        mixture = mixture.to(self.device, torch.float32)
        with (
            contextlib.nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(self.device.type, self.dtype)
        ):
            stems: Tensor = self._run(mixture)
        if self.gives_rest:
            stems = torch.cat([stems, (mixture - stems.sum(1))[:, None]], dim=1)
        return stems

    def _run(self, mixture: Tensor) -> Tensor:
        """The trunk; one for mono signals gets each channel on its own."""
        if self.trunk.n_channels == mixture.shape[1]:
            return self.trunk(mixture)
        stems: Tensor = self.trunk(mixture.flatten(0, 1)[:, None])
        return stems.unflatten(0, mixture.shape[:2]).squeeze(3).transpose(1, 2)
