"""Initialisation of codebooks with moving averages, and replacement of unused codes.

The moving average is that of the `encodec` package. Its k-means stores the difference of every
frame and code (gigabytes for a usual batch), and its replacements of dead codes are undone by the
average in the same step, so both are done here, after SoundStream (arXiv 2107.03312).
"""

from typing import Any

import torch
from torch import Tensor, nn

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.seanet import EuclideanCodebook
from mssgen.training.parallel import average, broadcast


class CodebookKeeper:
    """Maintains the codebooks of a codec in training; codebooks with gradients are left alone.

    Initialises each codebook by k-means on its first input. `refresh` averages its statistics over
    processes and replaces dead codes by frames of the last batch.
    """

    def __init__(self, codec: Codec, dead_share: float) -> None:
        """A code is dead if it is used less than `dead_share` times as often as the mean code."""
        self._dead_share = dead_share
        self._frames: dict[nn.Module, Tensor] = {}
        for layer in getattr(getattr(codec.quantizer, "vq", None), "layers", ()):
            layer._codebook.threshold_ema_dead_code = 0
            layer._codebook.register_forward_pre_hook(self._see)

    def _see(self, codebook: Any, inputs: tuple[Tensor]) -> None:
        """Store the frames [B, N, D] of this step; initialise the codebook from the first ones."""
        if not codebook.training:
            return
        frames = inputs[0].detach().float().flatten(0, 1)
        self._frames[codebook] = frames
        if not codebook.inited:
            n_codes = codebook.codebook_size
            # As many centres as frames would leave no residual for later codebooks.
            n_clusters = max(1, min(n_codes, len(frames) // 2))
            centres, counts = k_means(frames, n_clusters, codebook.kmeans_iters)
            for own, value in (
                (codebook.embed, centres),
                (codebook.cluster_size, counts),
                (codebook.embed_avg, centres * counts[:, None]),
            ):
                own[:n_clusters] = broadcast(value)
            # Far from every frame, so dead until `refresh`.
            codebook.embed[n_clusters:] = centres[0] + 1e6
            codebook.inited.fill_(1)

    @torch.no_grad()
    def refresh(self) -> Tensor:
        """Call after each forward pass in training; returns how many codes were replaced."""
        counts = [self._refresh(codebook, frames) for codebook, frames in self._frames.items()]
        self._frames.clear()
        return torch.stack(counts).sum() if counts else torch.zeros(())

    def _refresh(self, codebook: Any, frames: Tensor) -> Tensor:
        counts, sums = average(codebook.cluster_size), average(codebook.embed_avg)
        mean_count = counts.mean()
        is_dead = counts < self._dead_share * mean_count
        chosen = broadcast(frames[torch.randint(len(frames), (len(counts),)).to(frames.device)])
        # A new code starts with the mean count, so that it is not replaced at once.
        counts.copy_(torch.where(is_dead, mean_count, counts))
        sums.copy_(torch.where(is_dead[:, None], chosen * mean_count, sums))
        smoothed = (counts + codebook.epsilon) / (1 + len(counts) * codebook.epsilon / counts.sum())
        codebook.embed.copy_(sums / smoothed[:, None])
        return is_dead.sum()


@torch.no_grad()
def k_means(frames: Tensor, n_clusters: int, n_iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on frames [N, D]: centres [n_clusters, D], and frames per centre.

    Starts from randomly drawn frames, without repetition if there are enough; a centre without
    frames is not moved.
    """
    order = torch.randperm(len(frames)).to(frames.device)
    centres = frames[order.repeat(-(-n_clusters // len(frames)))[:n_clusters]]
    counts = frames.new_zeros(n_clusters)
    for _ in range(n_iterations):
        nearest = EuclideanCodebook(centres).distances(frames.T[None])[0].argmin(-1)
        counts = torch.bincount(nearest, minlength=n_clusters).to(frames.dtype)
        sums = torch.zeros_like(centres).index_add_(0, nearest, frames)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
    return centres, counts
