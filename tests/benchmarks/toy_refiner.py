"""How much better than counting: a small coarse-to-fine refiner on a toy corpus, held-out tracks.

    python tests/benchmarks/toy_refiner.py [--codec FOLDER] [--steps 600] [--tracks 32] [--seed 0]

The corpus is synthesised: lines of notes in a few timbres. Without --codec a small stem codec is
started from it (principal components and k-means, not a step of training). The refiner learns all
levels after the first four through the trainer itself; the unigram baseline counts each level's
codes in the same tracks, with one added to each count. Prints, for each level on tracks that
neither has seen, the share of right codes and the cross-entropy in nats with all predicted levels
hidden, and the margins; and what refining them does at each strength of the guide: how many of the
fine codes change, and the SDR of what is heard. Runs in minutes on one core.
"""

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.masking import apply_mask, hide_codebooks_from
from mssgen.refiners.refine import Refinement, Refiner
from mssgen.training.codec.losses import sdr_db
from mssgen.training.codec.start import start_from_sound
from mssgen.training.data.datasets import Segment, collate
from mssgen.training.loop import train
from mssgen.training.optimizers import OptimizerOptions
from mssgen.training.recipes import TrainOptions
from mssgen.training.refiner.options import RefinerLossOptions, RefinerOptions
from mssgen.training.refiner.task import RefinerTask

RATE = 16_000
TRACK_S, SEGMENT_S = 8.0, 2.0
# Decay in 1/s, level in dB an octave of the overtones, whether even ones are there.
TIMBRES = ((3.0, -6.0, True), (8.0, -3.0, True), (1.0, -9.0, False), (15.0, -1.5, False))


class Segments(Dataset[Segment]):
    """Parts of tracks [2, T], a half overlapping."""

    def __init__(self, tracks: Sequence[Tensor], n_samples: int) -> None:
        hop = n_samples // 2
        parts = (track.unfold(1, n_samples, hop).unbind(dim=1) for track in tracks)
        self.parts = list(itertools.chain.from_iterable(parts))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Segment:
        # Any order will do, but the same in each run.
        number = index * 7919 % len(self.parts)
        return Segment(self.parts[number], self.parts[number], f"segment {number}")


def melody(seed: int, rate: int, duration_s: float = TRACK_S) -> Tensor:
    """A line of notes in one timbre, [2, T], full scale at 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    timbre = int(draw(1) * len(TIMBRES))
    decay, slope_db, has_even = TIMBRES[timbre]
    scale = torch.tensor([0, 2, 4, 5, 7, 9, 11]) + int(draw(1) * 12)
    note_s = 0.125 * (1 + int(draw(1) * 3))
    time_s = torch.arange(round(note_s * rate)) / rate
    notes = []
    for _ in range(math.ceil(duration_s / note_s)):
        pitch = scale[int(draw(1) * 7)] + 12 * int(draw(1) * 2)
        frequency = 55 * 2 ** (float(pitch) / 12)
        orders = torch.arange(1, int(rate / 2 / frequency) + 1, 1 if has_even else 2)
        levels = 10 ** (slope_db * orders.log2() / 20)
        phases = 2 * math.pi * frequency * orders[:, None] * time_s
        attack = (time_s / 0.005).clamp_max(1)
        wave = (levels[:, None] * phases.sin()).sum(0) * torch.exp(-decay * time_s) * attack
        notes.append(0.3 * float(draw(1) + 0.5) * wave / levels.square().sum().sqrt())
    line = torch.cat(notes)[: round(duration_s * rate)]
    pan = float(draw(1)) * 0.5 + 0.25
    return torch.stack([line * (1 - pan), line * pan])


def small_codec(tracks: Sequence[Tensor]) -> Codec:
    """Our own codec with 8 levels of 64 codes, as it is before its first step."""
    torch.manual_seed(0)
    codec = StemCodec(
        name="toy", sample_rate=RATE, n_fft=512, hop_length=256, width=64, latent_dim=64,
        n_encoder_blocks=1, n_decoder_blocks=1, n_codebooks=8, codebook_size=64, codebook_dim=4,
    )  # fmt: skip
    start_from_sound(codec, tracks)
    return codec.freeze()


def unigram_logits(codes: Tensor, codebook_size: int) -> Tensor:
    """ln p [K, V] of each level of codes [M, K, N]."""
    levels = codes.transpose(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(level, minlength=codebook_size) for level in levels])
    return (counts + 1).log() - (counts + 1).sum(dim=1, keepdim=True).log()


@torch.inference_mode()
def refiner_logits(network: MaskedTransformer, codes: Tensor) -> Tensor:
    """Logits [M, P, N, V] from the levels given alone."""
    is_hidden = hide_codebooks_from(network.options.n_conditioning, codes.shape)
    rows = apply_mask(codes, is_hidden, network.mask_token)
    return torch.cat([network(part) for part in rows.split(8)])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", help="name or folder; stereo  [default: a small one]")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tracks", type=int, default=32, help="a quarter of them held out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rate = load_codec(arguments.codec).sample_rate if arguments.codec else RATE
    tracks = [melody(1000 * arguments.seed + n, rate) for n in range(arguments.tracks)]
    n_held_out = len(tracks) // 4
    learned, held_out = tracks[n_held_out:], tracks[:n_held_out]
    codec = load_codec(arguments.codec) if arguments.codec else small_codec(learned)
    n_samples = round(SEGMENT_S * rate)
    torch.manual_seed(arguments.seed)
    model = RefinerOptions(n_layers=3, n_heads=4, width=128)
    network = model.build(codec, codec.n_frames_in_all(n_samples))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        loss = RefinerLossOptions(optimizer=OptimizerOptions("adamw", lr=2e-3, weight_decay=0.01))
        task = RefinerTask(codec, network, model, loss, cache=Path(folder) / "codes")
        options = TrainOptions(
            steps=arguments.steps, batch_size=8, warmup_steps=100, schedule="noam",
            max_grad_norm=5.0, validate_every=0, listen_every=0, n_workers=0,
            seed=arguments.seed,
        )  # fmt: skip
        segments = Segments(learned, n_samples)
        train(task, segments, None, options, Path(folder) / "run", collate=collate, device="cpu")
    network.freeze()
    print(f"{arguments.steps} steps in {time.monotonic() - began:.0f} s")

    seen, new = (
        torch.cat([codec.encode(part[None]).codes for part in Segments(group, n_samples).parts])
        for group in (learned, held_out)
    )
    first = network.options.n_conditioning
    unigram = unigram_logits(seen, codec.codebook_size)[:, None].expand(-1, new.shape[-1], -1)
    logits = {
        "unigram": unigram[first:].expand(len(new), -1, -1, -1),
        "refiner": refiner_logits(network, new),
    }
    print("level   right codes, %        cross-entropy, nats")
    print("        unigram  refiner      unigram  refiner  margin")
    rows = []
    for index in range(network.options.n_predicted):
        target = new[:, first + index]
        row = []
        for each in logits.values():
            level = each[:, index]
            row.append(100 * float((level.argmax(-1) == target).float().mean()))
            row.append(float(F.cross_entropy(level.flatten(0, 1), target.flatten())))
        rows.append(row)
        show(f"{first + index + 1:5}", row)
    show(" mean", torch.tensor(rows).mean(dim=0).tolist())
    show_guides(codec, network, torch.stack(held_out))


@torch.inference_mode()
def show_guides(codec: Codec, network: MaskedTransformer, tracks: Tensor) -> None:
    """What refining tracks [M, 2, T] does, by the strength of the guide."""
    codes, latents = codec.encode(tracks), codec.latents(tracks)
    first = network.options.n_conditioning
    print("strength   fine codes changed, %   SDR of the sound, dB")
    print(f"    none   {0:21.1f}   {float(sdr_db(codec.decode(codes), tracks)):20.2f}")
    for strength in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
        refined = Refiner(codec, network, options=Refinement(strength=strength))(codes, latents)
        changed = (refined.codes != codes.codes)[:, first:].float().mean()
        sdr = sdr_db(codec.decode(refined), tracks)
        print(f"{strength:8.2f}   {100 * float(changed):21.1f}   {float(sdr):20.2f}")


def show(name: str, row: Sequence[float]) -> None:
    """One line of the table."""
    right_unigram, nats_unigram, right, nats = row
    print(
        f"{name}   {right_unigram:7.2f}  {right:7.2f}      {nats_unigram:7.3f}  {nats:7.3f}  "
        f"{nats_unigram - nats:6.3f}"
    )


if __name__ == "__main__":
    main()
