"""Tokens a second of `mssgen.refiners` against a plain transcription of VampNet's own loop.

    python tests/benchmarks/refiner_speed.py [--batch 1 4 8] [--precision fp32 bf16] [--threads 2]
        [--device cpu] [--networks coarse c2f] [--steps N] [--layers N] [--windows 2] [--runs 3]
        [--minutes 2 10] [--no-memory]

Both have the same random weights, at VampNet's full size (fewer layers with --layers), and refine
random codes: coarse makes 3 codebooks anew in 12 steps, c2f 10 in 2 (others with --steps). The
original sees one window at a time, without overlap and in fp32; ours sees a batch of them, which
overlap: of a song of --windows cells for each item of the batch. Counted are the song's tokens that
are made anew, so that ours pays for its overlap. Each run times the two in turn; printed are the
median, least and greatest ratio of rates, by the clock and (on a CPU) by the processor's time,
which another program beside disturbs less. First it is shown that both give the same logits.

Then memory: peak of a process that refines a stream by both networks, of one layer each (the
weights are no matter of length), for songs of two lengths.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from speed_vs_demucs import run
from torch import Tensor
from torch.nn import functional as F

from mssgen.codecs.networks.dac import DacCodec
from mssgen.devices import DTYPES, choose_device
from mssgen.refiners.masked_transformer import MaskedTransformer, MaskedTransformerOptions
from mssgen.refiners.refine import Refinement, Refiner
from mssgen.refiners.windows import cells

FULL = {
    "coarse": MaskedTransformerOptions(
        n_codebooks=4, n_conditioning=0, n_layers=20, window_frames=575
    ),
    "c2f": MaskedTransformerOptions(),
}
N_KEPT = {"coarse": 1, "c2f": 4}
N_STEPS = {"coarse": 12, "c2f": 2}
FRAME_RATE = 44_100 / 768  # of VampNet's codec
MEMORY_MINUTES = (2.0, 10.0)  # rounds of windows are full from 1 on


class Original:
    """VampNet's network and loop as described, in fp32, for one window [1, K, N] at a time.

    Whatever it computes is computed here too: weight norm in each step, and the typical filter
    whose result it throws away.
    """

    def __init__(self, network: MaskedTransformer) -> None:
        self.options = network.options
        state = {key: value.detach() for key, value in network.state_dict().items()}
        self._tables, self._hidden = state["codebooks"], state["hidden"]
        self._embedding = state["embedding.weight"][..., None], state["embedding.bias"]
        self._bias_table, self._norm = state["position_bias"], state["norm.weight"]
        # Its classifier's rows have the codebook as the fast index.
        self._direction = state["classifier.direction"].transpose(0, 1).flatten(0, 1)[..., None]
        self._length = state["classifier.length"].transpose(0, 1).flatten(0, 1)[..., None]
        self._bias = state["classifier.bias"].T.flatten()
        self._layers = []
        for index in range(self.options.n_layers):
            own = {name.split(".", 2)[2]: value for name, value in state.items()
                   if name.startswith(f"layers.{index}.")}  # fmt: skip
            self._layers.append(
                (
                    own["norm_attention.weight"],
                    *own["query_key_value.weight"].chunk(3),
                    own["attention_output.weight"],
                    own["norm_feed_forward.weight"],
                    own["feed_forward_input.weight"],
                    own["feed_forward_output.weight"],
                )
            )

    def logits(self, codes: Tensor) -> Tensor:
        """[1, K, N] to [1, V, N P], the codebook fastest."""
        latents = []
        for level, rows in enumerate(codes.unbind(dim=1)):
            table = torch.cat([self._tables[level], self._hidden[level, None]])
            latents.append(F.embedding(rows, table).mT)
        x = F.conv1d(torch.cat(latents, dim=1), *self._embedding).mT
        bias = self._position_bias(codes.shape[-1])
        for norm_1, w_qs, w_ks, w_vs, fc, norm_3, w_1, w_2 in self._layers:
            y = self._rms(x, norm_1)
            query, key, value = (
                F.linear(y, weight).unflatten(-1, (self.options.n_heads, -1)).transpose(1, 2)
                for weight in (w_qs, w_ks, w_vs)
            )
            scores = torch.einsum("bhid,bhjd->bhij", query, key) / math.sqrt(query.shape[-1])
            weights = (scores + bias).softmax(dim=-1)
            attended = torch.einsum("bhij,bhjd->bhid", weights, value)
            x = x + F.linear(attended.transpose(1, 2).flatten(2), fc)
            u, g = F.linear(self._rms(x, norm_3), w_1).chunk(2, dim=-1)
            gelu = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
            x = x + F.linear(u * gelu, w_2)
        norm = self._direction.flatten(1).norm(dim=1)[:, None, None]
        weight = self._length * self._direction / norm
        out = F.conv1d(self._rms(x, self._norm).mT, weight, self._bias)
        return out.unflatten(1, (self.options.codebook_size, -1)).mT.flatten(2)

    def generate(self, codes: Tensor, n_steps: int) -> Tensor:
        """Codes [1, K, N] with the mask token where hidden, to codes without it."""
        mask_token, first = self.options.codebook_size, self.options.n_conditioning
        n_predicted, n_frames = self.options.n_predicted, codes.shape[-1]
        n_hidden = int((codes == mask_token).sum())
        for step in range(n_steps):
            progress = (step + 1) / n_steps
            logits = self.logits(codes).mT  # [1, N P, V]
            keep_typical_unused(logits)
            probabilities = logits.softmax(dim=-1)
            drawn = torch.multinomial(probabilities[0], 1)[None, :, 0]
            chosen = probabilities.gather(-1, drawn[..., None])[..., 0]
            flat = codes[:, first:].mT.flatten(1)
            is_hidden = flat == mask_token
            tokens = torch.where(is_hidden, drawn, flat)
            chosen = torch.where(is_hidden, chosen, torch.inf)
            n_left = math.floor(max(math.cos(math.pi / 2 * progress), 1e-10) * n_hidden)
            if step < n_steps - 1:
                n_left = max(1, min(int(is_hidden.sum()) - 1, n_left))
            uniform = torch.rand_like(chosen).clamp_min(1e-20)
            noise = -torch.log(-torch.log(uniform).clamp_max(-1e-20))
            certainty = chosen.log() + 10.5 * (1 - progress) * noise
            threshold = certainty.sort(dim=-1).values[:, n_left : n_left + 1]
            flat = torch.where(certainty < threshold, mask_token, tokens)
            codes = torch.cat([codes[:, :first], flat.view(1, n_frames, n_predicted).mT], dim=1)
        return codes

    def _position_bias(self, n_frames: int) -> Tensor:
        index = torch.arange(n_frames, device=self._bias_table.device)
        distance = index[None, :] - index[:, None]
        far = distance.abs()
        log = 8 + (torch.log(far.clamp_min(1) / 8) / math.log(16) * 8).long()
        bucket = torch.where(far < 8, far, log.clamp_max(15)) + 16 * (distance > 0)
        return self._bias_table[bucket].permute(2, 0, 1)[None]

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def keep_typical_unused(logits: Tensor, mass: float = 0.15, min_tokens: int = 64) -> Tensor:
    """The filter that the original computes from logits [1, N P, V], and whose result it drops."""
    surprise = -logits.log_softmax(dim=-1)
    probabilities = (-surprise).exp()
    entropy = (surprise * probabilities).nansum(dim=-1, keepdim=True)
    order = (surprise - entropy).abs().sort(dim=-1).indices
    cumulative = logits.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (cumulative < mass).sum(dim=-1, keepdim=True).clamp_min(min_tokens)
    is_over = torch.arange(logits.shape[-1], device=logits.device) > last
    return logits.masked_fill(is_over.scatter(-1, order, is_over), -torch.inf)


class Cost(NamedTuple):
    """Seconds by the clock and of the processor, for one token."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--networks", nargs="*", choices=FULL, default=list(FULL))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="of each network")
    parser.add_argument("--layers", type=int, help="of each network")
    parser.add_argument("--windows", type=int, default=2, help="of each song, and of the original")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--minutes", type=float, nargs=2, default=MEMORY_MINUTES, help="of memory")
    parser.add_argument("--stream", type=float, metavar="MINUTES", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if arguments.stream:
        stream(arguments.stream)
        return
    device = choose_device(arguments.device)
    print(f"{arguments.threads} threads, {arguments.windows} windows, {device}", flush=True)
    for name in arguments.networks:
        compare(name, arguments, device)
    if not arguments.no_memory:
        show_memory(arguments.minutes)


def compare(name: str, arguments: argparse.Namespace, device: torch.device) -> None:
    """Print one network's ratios."""
    codec = random_codec()
    options = FULL[name]
    if arguments.layers:
        options = replace(options, n_layers=arguments.layers)
    network = random_network(codec, options).to(device)
    original = Original(network)
    n_kept, n_steps = N_KEPT[name], arguments.steps or N_STEPS[name]
    window_frames, n_made = options.window_frames, options.n_codebooks - n_kept
    codes = torch.randint(1024, (1, options.n_codebooks, window_frames), device=device)
    codes[:, n_kept:] = network.mask_token
    logits = original.logits(codes).unflatten(-1, (window_frames, -1)).permute(0, 3, 2, 1)
    error = (logits - network(codes)).abs().max()
    print(f"{name}: {options.n_layers} layers, {n_steps} steps; logits differ by {error:.1e}")
    if error > 2e-3:
        raise SystemExit("the transcription is not the network that it is compared with")
    refinement = Refinement(
        mode="c2f", n_steps=n_steps, keep_codebooks=n_kept if options.n_conditioning else None
    )
    networks = {
        precision: copy.deepcopy(network).to(DTYPES[precision]) for precision in arguments.precision
    }
    n_frames = song_frames(window_frames, arguments.windows)
    song = torch.randint(1024, (max(arguments.batch), 14, n_frames), device=device)

    def theirs() -> Cost:
        return timed(
            lambda: [original.generate(codes, n_steps) for _ in range(arguments.windows)],
            arguments.windows * window_frames * n_made,
            device,
        )

    def mine(precision: str, batch_size: int) -> Cost:
        worker = Refiner(codec, networks[precision], options=refinement, batch_size=batch_size)
        blocks = [song[:batch_size]]
        return timed(
            lambda: list(worker.stream(blocks, n_frames)), batch_size * n_frames * n_made, device
        )

    contestants = [(p, b) for p in arguments.precision for b in arguments.batch]
    for precision in networks:  # warms up
        networks[precision](codes)
    runs = []
    for _ in range(arguments.runs):
        # Each beside an original of its own: the machine's speed drifts.
        runs.append([(theirs(), mine(*contestant)) for contestant in contestants])
    for (precision, batch_size), pairs in zip(contestants, zip(*runs, strict=True), strict=True):
        line = f"{name} {precision} batch {batch_size}:"
        for field in ("wall_s", "cpu_s") if device.type == "cpu" else ("wall_s",):
            ratios = [getattr(a, field) / getattr(b, field) for a, b in pairs]
            line += (
                f" {field[:-2]} {statistics.median(ratios):.2f} times the original's rate "
                f"({min(ratios):.2f} to {max(ratios):.2f});"
            )
        rates = [1 / statistics.median(pair[i].wall_s for pair in pairs) for i in (0, 1)]
        real = [rate / n_made / FRAME_RATE for rate in rates]
        print(
            f"{line} {rates[1]:.0f} tokens a second and {real[1]:.2f} x real time, of the "
            f"original {rates[0]:.0f} and {real[0]:.2f}",
            flush=True,
        )


def song_frames(window_frames: int, n_cells: int) -> int:
    """Of a song that has so many cells, all of them full."""
    if n_cells == 1:
        return window_frames
    first = cells(100 * window_frames, window_frames)[0]
    return n_cells * (first.last - first.first)


def timed(work: Callable[[], object], n_tokens: int, device: torch.device) -> Cost:
    """What a token costs."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started, busy = time.monotonic(), time.process_time()
    work()
    wait()
    return Cost((time.monotonic() - started) / n_tokens, (time.process_time() - busy) / n_tokens)


def random_codec() -> DacCodec:
    """VampNet's frame rate and codebooks, and hardly any network."""
    return DacCodec(
        encoder_dim=2,
        encoder_rates=[2, 6, 8, 8],
        decoder_dim=32,
        decoder_rates=[8, 8, 6, 2],
        decoder_kind="mrf",
        n_codebooks=14,
    )


def random_network(codec: DacCodec, options: MaskedTransformerOptions) -> MaskedTransformer:
    return MaskedTransformer.for_codec(codec, options).freeze()


def stream(minutes: float) -> None:
    """Refine so many minutes of random codes; in a process of its own."""
    codec = random_codec()
    small = {name: replace(options, n_layers=1) for name, options in FULL.items()}
    worker = Refiner(
        codec,
        random_network(codec, small["c2f"]),
        coarse=random_network(codec, small["coarse"]),
        options=Refinement(mode="coarse+c2f", n_steps=1),
    )
    n_frames, n_block = int(60 * minutes * FRAME_RATE), 64

    def blocks() -> Iterator[Tensor]:
        for first in range(0, n_frames, n_block):
            yield torch.randint(1024, (1, 14, min(n_block, n_frames - first)))

    n_done = sum(block.shape[-1] for block in worker.stream(blocks(), n_frames))
    assert n_done == n_frames


def show_memory(lengths: Sequence[float]) -> None:
    """Peaks of processes that stream songs of two lengths."""
    peaks = [
        run([sys.executable, __file__, "--stream", str(minutes)]).peak_mb for minutes in lengths
    ]
    for minutes, peak_mb in zip(lengths, peaks, strict=True):
        print(f"memory: {minutes:g} min: {peak_mb:.0f} MB")
    print(f"memory: {peaks[-1] / peaks[0]:.2f} times as much for the longer song")


if __name__ == "__main__":
    main()
