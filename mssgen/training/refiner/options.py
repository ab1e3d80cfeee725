"""Which refiner is trained, and how: sections [model] and [loss] of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

from mssgen.codecs.base import Codec
from mssgen.errors import UsageError
from mssgen.refiners.masked_transformer import MaskedTransformer, MaskedTransformerOptions
from mssgen.training.optimizers import OptimizerOptions


@dataclass(frozen=True)
class RefinerOptions:
    """[model]: the network's sizes; of a network to go on with they are its own.

    The input is what is refined in use: the codes of a separated stem, or of a stem encoder.
    """

    n_codebooks: int | None = None
    """Levels that come out; None: all of the codec's."""
    n_kept: int = 4
    """The first so many of them are given, not predicted."""
    n_input: int | Literal["all"] = 0
    """So many levels of the input condition besides, as codebooks of their own, never hidden."""
    n_layers: int = 6
    n_heads: int = 6
    width: int = 384
    dropout: float = 0.1
    lora_rank: int = 0
    """0 trains every weight; more trains only low-rank changes of the matrices of the network to
    go on with (Hu et al. 2021, arXiv 2106.09685)."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise UsageError(f"model.lora_rank is {self.lora_rank}; use 1 or more, or 0 for none")

    def build(self, codec: Codec, window_frames: int) -> MaskedTransformer:
        """A network with fresh weights; raises UsageError where it does not fit the codec."""
        n_levels = codec.check_n_codebooks(self.n_codebooks)
        n_input = codec.n_codebooks if self.n_input == "all" else self.n_input
        options = MaskedTransformerOptions(
            n_codebooks=n_input + n_levels,
            n_conditioning=n_input + self.n_kept,
            n_input=n_input,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            width=self.width,
            dropout=self.dropout,
            window_frames=window_frames,
        )
        return MaskedTransformer.for_codec(codec, options)


@dataclass(frozen=True)
class RefinerLossOptions:
    """[loss]: what is seen, what is to be predicted, and how far off it is."""

    kept: Literal["clean", "input"] = "clean"
    """Whose codes the levels are that are given."""
    visible: Literal["target", "input"] = "target"
    """Whose codes the others are where they are not hidden. In use these are what the network drew
    itself, which is like the target."""
    target: Literal["clean", "remainder"] = "clean"
    """Codes of the clean stem, or of what the levels given leave of it: a level codes what those
    before it left, so that the clean stem's own codes fit no others than its own."""
    label_smoothing: float = 0.1
    """Share of the target's probability that is spread over all codes."""
    optimizer: OptimizerOptions = field(
        default_factory=lambda: OptimizerOptions("adamw", lr=1e-3, weight_decay=0.01)
    )

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"loss.label_smoothing is {self.label_smoothing:g}; use 0 to less than 1"
            )
        if self.target == "remainder" and (self.kept, self.visible) != ("input", "target"):
            raise UsageError(
                'loss.target "remainder" is what the levels of the input leave of the clean stem: '
                'set loss.kept to "input" and loss.visible to "target"'
            )

    @property
    def shows_input(self) -> bool:
        """Whether codes of the input stand among those of the target."""
        return "input" in (self.kept, self.visible)
