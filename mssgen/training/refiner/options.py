"""Network and losses of a refiner: sections [model] and [loss] of a recipe."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from mssgen.codecs.base import Codec
from mssgen.errors import UsageError
from mssgen.recipes.schema import Count
from mssgen.recipes.sections import check_fields
from mssgen.refiners.masked_transformer import MaskedTransformer, MaskedTransformerOptions
from mssgen.training.optimizers import OptimizerOptions


@dataclass(frozen=True)
class RefinerOptions:
    """Section [model]: sizes of the network; a refiner that is trained further keeps its own.

    The input is what gets refined in use: the codes of a separated stem, or of a stem encoder.
    """

    n_codebooks: int | None = None
    """Number of codebooks of the output; None: all of the codec's."""
    n_kept: int = 4
    """Number of codebooks, from the first, that are given and not predicted."""
    n_input: int | Literal["all"] = 0
    """Number of codebooks of the input that are given as well, as extra codebooks that are never
    masked."""
    n_layers: int = 6
    """Number of transformer layers."""
    n_heads: int = 6
    """Number of attention heads."""
    width: int = 384
    """Channels of the transformer."""
    dropout: float = 0.1
    """Dropout probability of the transformer."""
    lora_rank: Count = 0
    """Rank of the low-rank changes of the matrices of an existing refiner (Hu et al. 2021, arXiv
    2106.09685); 0 trains every weight."""

    def __post_init__(self) -> None:
        check_fields(self, "model")

    def build(self, codec: Codec, window_frames: int) -> MaskedTransformer:
        """A network with random weights; raises UsageError if it does not fit the codec."""
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
    """Section [loss]: which codes the network gets, which it predicts, and its optimizer."""

    kept: Literal["clean", "input"] = "clean"
    """Source of the `n_kept` given codebooks: the clean stem or the input."""
    visible: Literal["target", "input"] = "target"
    """Source of the unmasked codes of the other codebooks. In use they are drawn by the network,
    which is closest to "target"."""
    target: Literal["clean", "remainder"] = "clean"
    """"clean": codes of the clean stem; "remainder": codes of the clean stem minus the decoded
    `n_kept` codebooks. A codebook codes the residual of those before it, so the clean stem's own
    codes only fit its own first codebooks."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target's probability that is spread over all codes."""
    optimizer: OptimizerOptions = field(
        default_factory=lambda: OptimizerOptions("adamw", lr=1e-3, weight_decay=0.01)
    )

    def __post_init__(self) -> None:
        check_fields(self, "loss")
        if self.target == "remainder" and (self.kept, self.visible) != ("input", "target"):
            raise UsageError(
                'loss.target "remainder" is the clean stem minus the decoded codes of the input: '
                'set loss.kept to "input" and loss.visible to "target"'
            )

    @property
    def shows_input(self) -> bool:
        """Whether the network gets codes of the input among those of the target."""
        return "input" in (self.kept, self.visible)
