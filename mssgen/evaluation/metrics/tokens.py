"""Agreement of an estimate with its reference in the tokens of a codec."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.audio.resampling import at_rate
from mssgen.codecs.base import Codec
from mssgen.codecs.streaming import encode_stream
from mssgen.evaluation.metrics.base import Metric, Score, TrackAudio, Undefined
from mssgen.evaluation.metrics.embeddings import codec_items, in_blocks
from mssgen.evaluation.metrics.signals import pair, per_track

_GATE_DB = -60.0


@dataclass(frozen=True)
class _Agreement:
    n_frames: int
    accuracies: list[float]
    """[K], share of frames with the same code."""
    majorities: list[float]
    """[K], share of frames that have the most frequent code of the reference."""


def token_metrics(codec: Codec) -> list[Metric]:
    """Token accuracy and its floor for each codebook of `codec`, which is frozen and in eval mode.

    Both signals are encoded independently ("free running": each codebook codes the residual of its
    own signal, so errors accumulate over codebooks). Frames with a silent reference do not count,
    because silence has a few very frequent codes. With a mono codec only the mid channel of stereo
    counts; the side channel is close to silence.
    """
    accuracies = [
        Metric(
            name=f"token_accuracy_{k + 1}",
            title=f"Tokens of codebook {k + 1} (%)",
            unit="%",
            better="higher",
            definition=f"Share of frames in which {codec.codec_id} has the same code {k + 1} of "
            f"{codec.n_codebooks} for reference and estimate, each encoded by itself (free "
            f"running), where the reference is above -60 dBFS. Chance is "
            f"{100 / codec.codebook_size:.3g} %.",
            group="tokens",
            function=partial(_share, codec, "accuracies", k),
        )
        for k in range(codec.n_codebooks)
    ]
    floors = [
        Metric(
            name=f"token_floor_{k + 1}",
            title=f"Most frequent token of codebook {k + 1} (%)",
            unit="%",
            better="lower",
            definition=f"Share of the same frames that have the most frequent code {k + 1} of the "
            f"reference in {codec.codec_id}: the accuracy of always guessing it.",
            group="tokens",
            function=partial(_share, codec, "majorities", k),
        )
        for k in range(codec.n_codebooks)
    ]
    return accuracies + floors


def _share(codec: Codec, field: str, codebook: int, track: TrackAudio, stem: str) -> Score:
    found = _compare(track, stem, codec)
    return Score(100 * getattr(found, field)[codebook], found.n_frames)


@per_track
def _compare(track: TrackAudio, stem: str, codec: Codec) -> _Agreement:
    items, others = (
        codec_items(codec, at_rate(audio, track.sample_rate, codec.sample_rate))
        for audio in pair(track, stem)
    )
    ours, theirs = (
        encode_stream(codec, in_blocks(codec, part)).codes.cpu() for part in (items, others)
    )
    counts = _is_audible(codec, items, ours.shape[-1])
    if not counts.any():
        raise Undefined("no frame above the gate")
    # [B, K, N] of the frames that count -> [K, M]
    ours, theirs = (codes.transpose(1, 2)[counts].T for codes in (ours, theirs))
    accuracies = (ours == theirs).double().mean(dim=1)
    majorities = [float(torch.bincount(row).max()) / ours.shape[1] for row in ours]
    return _Agreement(ours.shape[1], accuracies.tolist(), majorities)


def _is_audible(codec: Codec, items: Tensor, n_frames: int) -> Tensor:
    """Whether the samples of each frame are above the gate, [B, N] bool."""
    power = items.square().mean(dim=1)
    if codec.segment_samples is not None:
        # Frames of overlapping segments are not one hop apart: spread them evenly.
        power = F.adaptive_avg_pool1d(power[:, None], n_frames)[:, 0]
    else:
        power = F.pad(power, (0, max(0, n_frames * codec.hop_length - power.shape[-1])))
        power = power[:, : n_frames * codec.hop_length]
        power = power.unflatten(1, (n_frames, codec.hop_length)).mean(dim=2)
    return power > 10 ** (_GATE_DB / 10)
