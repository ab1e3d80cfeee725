"""The optimizers of a recipe."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from mssgen.recipes.sections import check_fields


@dataclass(frozen=True)
class OptimizerOptions:
    """A section such as [loss.optimizer]."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")

    def build(self, module: nn.Module) -> Optimizer:
        """An optimizer of the parameters of `module` that require gradients."""
        kind = {"adam": Adam, "adamw": AdamW}[self.name]
        learning = [weight for weight in module.parameters() if weight.requires_grad]
        return kind(learning, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
