"""The optimizers of a recipe."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from mssgen.errors import UsageError


@dataclass(frozen=True)
class OptimizerOptions:
    """A section such as [loss.optimizer]."""

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UsageError(f"the lr of an optimizer must be more than 0, not {self.lr:g}")

    def build(self, module: nn.Module) -> Optimizer:
        """Over what learns of a module."""
        kind = {"adam": Adam, "adamw": AdamW}[self.name]
        learning = [weight for weight in module.parameters() if weight.requires_grad]
        return kind(learning, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
