"""EnCodec's loss balancer: weights are shares of the gradient, independent of the losses' scales.

Défossez et al. 2022 (arXiv 2210.13438), section 3.4. The `encodec` package does not include it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mssgen.training.parallel import average


class Balancer(nn.Module):
    """Sums gradients with respect to the codec's output, each scaled to its share.

    With the gradient g_i of loss i, the moving average n_i of its norm and its weight w_i, the
    result is the sum of (w_i / sum of w) * g_i / n_i. The averages are buffers, for resumption, and
    are the same in all processes.
    """

    _norm_sums: Tensor
    _norm_counts: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        """Weights (0 or more) by name of the loss; `decay` of the moving average, in [0, 1)."""
        super().__init__()
        self._weights, self._decay = dict(weights), decay
        self._rows = {name: row for row, name in enumerate(self._weights)}
        zeros = torch.zeros(len(self._weights))
        self.register_buffer("_norm_sums", zeros)
        # Corrects the bias of averages that start from zero, also for losses that start later.
        self.register_buffer("_norm_counts", zeros.clone())

    @torch.no_grad()
    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The balanced sum [B, ...] of the gradients [B, ...] of the current losses, by name."""
        rows = [self._rows[name] for name in gradients]
        norms = [gradient.flatten(1).norm(dim=1).mean() for gradient in gradients.values()]
        self._norm_sums[rows] = self._decay * self._norm_sums[rows] + average(torch.stack(norms))
        self._norm_counts[rows] = self._decay * self._norm_counts[rows] + 1
        means = self._norm_sums[rows] / self._norm_counts[rows]
        total_weight = sum(self._weights[name] for name in gradients)
        shares = [self._weights[name] / total_weight for name in gradients]
        return torch.stack(
            [
                share / (mean + 1e-12) * gradient
                for share, mean, gradient in zip(shares, means, gradients.values(), strict=True)
            ]
        ).sum(0)
