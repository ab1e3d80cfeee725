"""Fréchet distances between sets of embedding frames, also without the bias of small sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
"""Embeddings [N, D]."""
MIN_FRAMES = 2


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of embedding frames."""

    n_frames: int
    mean: NDArray[np.float64]
    """[D]."""
    covariance: NDArray[np.float64]
    """[D, D], normalised by n - 1; zeros for a single frame."""

    @staticmethod
    def of(frames: NDArray[np.floating]) -> "Moments":
        """Moments of frames [N, D], N >= 1."""
        values = frames.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        return Moments(len(values), mean, values.T @ values / max(1, len(values) - 1))

    def joined(self, other: "Moments") -> "Moments":
        """Moments of the union of both sets (Chan et al. 1983)."""
        n = self.n_frames + other.n_frames
        gap = other.mean - self.mean
        scatter = (
            self.covariance * (self.n_frames - 1)
            + other.covariance * (other.n_frames - 1)
            + np.outer(gap, gap) * (self.n_frames * other.n_frames / n)
        )
        mean = self.mean + gap * (other.n_frames / n)
        return Moments(n, mean, scatter / max(1, n - 1))


@dataclass(frozen=True)
class FrechetDistance:
    """A distance between two sets, and their sizes."""

    value: float
    n_reference_frames: int
    n_frames: int
    infinity: float | None = None
    """Extrapolated to infinitely many frames; None if there are too few frames."""


def frechet_distance(first: Moments, second: Moments) -> float:
    """||m1 - m2||^2 + Tr(C1 + C2 - 2 (C1 C2)^1/2), >= 0 (Dowson and Landau 1982).

    The trace of the root comes from the eigenvalues of C1^1/2 C2 C1^1/2, which is symmetric: no
    complex part to drop, and no ridge for singular covariances.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ second.covariance @ root
    of_root = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    gap = first.mean - second.mean
    return max(0.0, float(gap @ gap + traces - 2 * of_root))


def frechet_audio_distance(
    references: Iterable[Frames], estimates: Iterable[Frames], *, seed: int = 0
) -> FrechetDistance | None:
    """FAD of a set of tracks (Kilgour et al. 2019), and FAD-infinity (Gui et al. 2024).

    Args:
        references: embeddings [N, D] of each track of the reference set.
        estimates: embeddings [N, D] of each track of the evaluated set; may be other tracks.
        seed: random seed for the subsets of FAD-infinity.

    Returns None if either set has fewer than two frames.
    """
    ours, theirs = ([part for part in parts if len(part)] for parts in (references, estimates))
    if min(sum(map(len, ours)), sum(map(len, theirs))) < MIN_FRAMES:
        return None
    reference, frames = Moments.of(np.concatenate(ours)), np.concatenate(theirs)
    return FrechetDistance(
        frechet_distance(reference, Moments.of(frames)),
        reference.n_frames,
        len(frames),
        frechet_infinity(reference, frames, seed=seed),
    )


def frechet_infinity(
    reference: Moments, frames: Frames, *, n_sizes: int = 15, seed: int = 0
) -> float | None:
    """Intercept of a line through the distances of random subsets of N frames against 1 / N.

    Sizes run from a fifth of the frames to all of them, drawn without replacement. May be
    negative. None if the smallest subset does not have more frames than dimensions.
    """
    n_frames, dimension = frames.shape
    if n_frames // 5 <= dimension:
        return None
    random = np.random.default_rng(seed)
    sizes: Sequence[int] = np.linspace(n_frames // 5, n_frames, n_sizes).astype(int).tolist()
    distances = [
        frechet_distance(
            reference, Moments.of(frames[random.choice(n_frames, size, replace=False)])
        )
        for size in sizes
    ]
    slope_and_intercept = np.polyfit(1 / np.array(sizes), distances, 1)
    return float(slope_and_intercept[1])
