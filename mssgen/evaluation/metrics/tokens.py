"""How many tokens of a codec an estimate shares with its reference."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.audio.channels import to_items
from mssgen.codecs.base import Codec
from mssgen.codecs.streaming import encode_stream
from mssgen.evaluation.metrics.base import Audio, Metric, Score, Song
from mssgen.evaluation.metrics.signals import at_rate, check, per_song

_GATE_DB = -60.0


@dataclass(frozen=True)
class _Agreement:
    n_frames: int
    accuracies: list[float]
    """[K], shares of the frames."""
    majorities: list[float]
    """[K], shares of the frames that have the reference's most frequent code."""


def token_metrics(codec: Codec) -> list[Metric]:
    """Accuracy and its floor for each codebook of `codec`, which is frozen and in eval mode.

    Both signals are encoded on their own ("free running": each level codes the residual that its
    own signal leaves, so errors add up from level to level). Frames in which the reference is
    silent do not count, because silence owns a few very frequent codes. A mono codec codes the
    middle of stereo; its side is hardly more than silence.
    """

    metrics = []
    for level in range(codec.n_codebooks):
        metrics.append(
            Metric(
                f"token_accuracy_{level + 1}",
                f"Tokens of codebook {level + 1} (%)",
                "%",
                "higher",
                "mean",
                f"Share of frames in which {codec.codec_id} gives reference and estimate the same "
                f"code {level + 1} of {codec.n_codebooks}, both encoded by themselves (free "
                f"running), where the reference is above -60 dBFS; chance is "
                f"{100 / codec.codebook_size:.3g} %.",
                "tokens",
                partial(_share, codec, "accuracies", level),
            )
        )
    for level in range(codec.n_codebooks):
        metrics.append(
            Metric(
                f"token_floor_{level + 1}",
                f"Most frequent token of codebook {level + 1} (%)",
                "%",
                "lower",
                "mean",
                f"Share of those frames that have the reference's most frequent code {level + 1} "
                f"of {codec.codec_id}: what always guessing it would score.",
                "tokens",
                partial(_share, codec, "majorities", level),
            )
        )
    return metrics


def _share(codec: Codec, field: str, level: int, song: Song, stem: str) -> Score:
    missing = check(song, stem)
    found = missing or _compare(song, stem, codec)
    if isinstance(found, Score):
        return found
    return Score(100 * getattr(found, field)[level], found.n_frames)


@per_song
def _compare(song: Song, stem: str, codec: Codec) -> _Agreement | Score:
    reference = at_rate(song.references[stem], song.sample_rate, codec.sample_rate)
    estimate = at_rate(song.estimates[stem], song.sample_rate, codec.sample_rate)
    items = _items(codec, reference)
    ours, theirs = (_codes(codec, part) for part in (items, _items(codec, estimate)))
    counts = _is_heard(codec, items, ours.shape[-1])
    if not counts.any():
        return Score(None, 0, "no frame above the gate")
    # [B, K, N] of the frames that count -> [K, M]
    ours, theirs = (codes.transpose(1, 2)[counts].T for codes in (ours, theirs))
    accuracies = (ours == theirs).double().mean(dim=1)
    majorities = [float(torch.bincount(level).max()) / ours.shape[1] for level in ours]
    return _Agreement(ours.shape[1], accuracies.tolist(), majorities)


def _items(codec: Codec, audio: Audio) -> Tensor:
    """[B, C, T] for the codec; of a mono codec the middles only, and a channel without partner."""
    items = to_items(np.ascontiguousarray(audio), codec.n_channels)
    return items if codec.n_channels > 1 else items[::2]


def _codes(codec: Codec, items: Tensor) -> Tensor:
    device = codec.device
    blocks = (block.to(device) for block in items.split(5 * codec.sample_rate, dim=-1))
    return encode_stream(codec, blocks).codes.cpu()


def _is_heard(codec: Codec, items: Tensor, n_frames: int) -> Tensor:
    """[B, N], whether the samples of a frame are above the gate; with segments: of all frames."""
    power = items.square().mean(dim=1)
    if codec.segment_samples is not None:
        # Frames of overlapping segments are not a hop apart: spread them over the whole.
        power = F.adaptive_avg_pool1d(power[:, None], n_frames)[:, 0]
    else:
        power = F.pad(power, (0, max(0, n_frames * codec.hop_length - power.shape[-1])))
        power = power[:, : n_frames * codec.hop_length]
        power = power.unflatten(1, (n_frames, codec.hop_length)).mean(dim=2)
    return power > 10 ** (_GATE_DB / 10)
