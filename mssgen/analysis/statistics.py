"""Statistics of codes: usage, perplexity, and the sound of the most frequent ones."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.extras import require
from mssgen.inspection.decibels import power_db


@dataclass(frozen=True)
class FrequentCodes:
    """The most frequent code of each codebook, and the sound of holding them."""

    codes: Tensor
    """[K] int64."""
    level_db: dict[int, float]
    """RMS level of the decoded sound in dB (see `is_relative`), by number of codebooks."""
    is_relative: bool
    """Whether 0 dB is the power of the segment (codecs that scale segments), not full scale."""
    is_silence: list[bool]
    """[K], whether digital silence has the same code."""
    audio: Tensor
    """[C, T], about a second from all codebooks, at the sample rate of the codec."""


class FrameSample:
    """A uniform random sample of a stream of frames: those with the smallest random keys."""

    def __init__(self, n_frames: int, seed: int) -> None:
        self._n_frames = n_frames
        self._random = torch.Generator().manual_seed(seed)
        self._keys = torch.zeros(0)
        self.codes = torch.zeros(0, 0, dtype=torch.int64)
        """Sampled frames [P, K], P <= `n_frames`."""

    def add(self, codes: Tensor) -> None:
        """Add codes [B, K, N] to the stream."""
        frames = codes.cpu().transpose(1, 2).flatten(0, 1)
        keys = torch.cat([self._keys, torch.rand(len(frames), generator=self._random)])
        frames = torch.cat([self.codes, frames]) if len(self.codes) else frames
        self._keys, kept = keys.topk(min(self._n_frames, len(keys)), largest=False)
        self.codes = frames[kept]


def count_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """Histogram of the codes per codebook: [B, K, N] -> [K, V] int64."""
    n_codebooks = codes.shape[1]
    first = torch.arange(n_codebooks, device=codes.device)[:, None] * codebook_size
    counts = torch.bincount((codes + first).flatten(), minlength=n_codebooks * codebook_size)
    return counts.view(n_codebooks, codebook_size).cpu()


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of each row of counts [..., V]: the equivalent number of equally used codes.

    Between 1 and V; 1 for a codebook without frames.
    """
    counts = counts.double()
    shares = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    return torch.special.entr(shares).sum(-1).exp()


def dead_share(counts: Tensor) -> Tensor:
    """Share of unused codes in each row of counts [..., V]."""
    return (counts == 0).double().mean(-1)


@torch.inference_mode()
def frequent_codes(codec: Codec, counts: Tensor, n_codebooks: Sequence[int]) -> FrequentCodes:
    """Decode the most frequent code of each codebook, held for a second, and measure its level.

    Args:
        codec: frozen, in eval mode.
        counts: histogram [K, V].
        n_codebooks: numbers of codebooks to decode, the last one K.

    Levels are those of the middle half, without the edges of the decoder.
    """
    device = codec.device
    codes = counts.argmax(dim=-1)
    # One segment, for codecs with segments.
    n_samples = codec.segment_stride or round(codec.frame_rate) * codec.hop_length
    held = codes[None, :, None].expand(-1, -1, codec.n_frames(n_samples)).to(device)
    sounds = {n: codec.synthesize(codec.dequantize(held[:, :n]), n_samples) for n in n_codebooks}
    middle = slice(n_samples // 4, n_samples - n_samples // 4)
    silence = codec.encode(torch.zeros(1, codec.n_channels, n_samples, device=device))
    of_silence = count_codes(silence.codes, codec.codebook_size).argmax(dim=-1)
    return FrequentCodes(
        codes,
        {n: power_db(float(x[..., middle].float().square().mean())) for n, x in sounds.items()},
        silence.scale is not None,
        (codes == of_silence).tolist(),
        sounds[codec.n_codebooks][0].cpu(),
    )


def project(
    points: NDArray[np.float32], method: str, *, seed: int = 0
) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Project points [P, D] to two dimensions: (positions [P, 2], names of the axes).

    "pca": the two directions of most variance, with their shares in the names. "mds": metric
    multidimensional scaling (SMACOF), which preserves distances; it starts from the PCA, so that
    the same points give the same picture.

    Raises UsageError if scikit-learn is not installed.
    """
    decomposition = require("sklearn.decomposition", "analysis", "the analysis")
    manifold = require("sklearn.manifold", "analysis", "the analysis")
    if len(points) < 3 or not np.ptp(points, axis=0).any():  # no variance
        return np.zeros((len(points), 2)), ("1st component", "2nd component")
    pca = decomposition.PCA(2, random_state=seed)
    plane = pca.fit_transform(points.astype(np.float64))
    if method == "pca":
        first, second = (f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
        return plane, (f"1st component ({first})", f"2nd component ({second})")
    with warnings.catch_warnings():
        # Warns of a new default start, which is given here.
        warnings.simplefilter("ignore", FutureWarning)
        mds = manifold.MDS(2, n_init=1, max_iter=100, random_state=seed)
        return mds.fit_transform(points.astype(np.float64), init=plane), ("1st axis", "2nd axis")
