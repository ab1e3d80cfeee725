"""EnCodec's loss balancer: weights are shares of the gradient, whatever the losses' own scales.

Défossez et al. 2022 (arXiv 2210.13438), section 3.4. The `encodec` package comes without it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mssgen.training.parallel import average


class Balancer(nn.Module):
    """Sums gradients with respect to the codec's output, each scaled to its share.

    With g_i the gradient of loss i, n_i the moving average of its norm and w_i its weight, the sum
    is that of (w_i / sum of w) * g_i / n_i. The averages are buffers, so that a resumed run goes on
    as the first would have; they are the same in all processes.
    """

    _norm_sums: Tensor
    _norm_counts: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        """Weights of 0 or more by the names of the losses; `decay` of the average, in [0, 1)."""
        super().__init__()
        self._weights, self._decay = dict(weights), decay
        self._rows = {name: row for row, name in enumerate(self._weights)}
        zeros = torch.zeros(len(self._weights))
        self.register_buffer("_norm_sums", zeros)
        # Corrects the average's start from zero, for losses that join later too.
        self.register_buffer("_norm_counts", zeros.clone())

    @torch.no_grad()
    def forward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Gradients [B, ...] by name, those of the losses in use, to their sum [B, ...]."""
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
