"""Streams of blocks: overlap-add, context windows, and signals kept in step, of any length.

A stream is an iterable of blocks: tensors [..., T'] that follow each other along the last axis, or
lanes, (named) tuples of tensors of one length T'. At most a few segments are in memory, whatever
the length of the signal.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Block = TypeVar("Block")
Result = TypeVar("Result")
First = TypeVar("First")
Second = TypeVar("Second")


def overlap_add(
    blocks: Iterable[Tensor],
    process: Callable[[Tensor], Tensor],
    *,
    n_samples: int,
    segment_samples: int,
    overlap: float = 0.25,
    batch_size: int = 1,
    lead_samples: int = 0,
    has_fixed_length: bool = True,
) -> Iterator[Tensor]:
    """Apply `process` to overlapping segments and cross-fade the results.

    Segments and weights are those of Demucs (`demucs.apply.apply_model`), so the same network
    gives the same result: one segment every `(1 - overlap) * segment_samples`, triangular weights
    normalised by their sum. The last, shorter segments are centred in a full one: the signal
    before them is the context, and zeros follow the end.

    Args:
        blocks: the signal, blocks [..., T'] with at least `n_samples` in total.
        process: maps [B, ..., L] to [B, ..., L], any axes in between; L is `segment_samples`, or
            less for the last segments if `has_fixed_length` is false.
        n_samples: length of the signal.
        segment_samples: length of a segment.
        overlap: fraction of a segment that the next one repeats, 0 <= overlap < 1.
        batch_size: largest number of segments per call of `process`.
        lead_samples: zeros assumed before the signal; they shift the grid of segments.
        has_fixed_length: whether `process` takes segments of full length only.

    Yields:
        The result in order, blocks [..., T'] with `n_samples` in total.

    Raises:
        ValueError: the stream ends before `n_samples`.
    """
    stride = max(1, int((1 - overlap) * segment_samples))
    window = SlidingReader(blocks, n_samples)
    fader = CrossFader(segment_samples, -lead_samples)

    batch: list[Tensor] = []
    starts: list[int] = []
    offsets = range(-lead_samples, n_samples, stride)
    for index, offset in enumerate(offsets):
        length = min(segment_samples, n_samples - offset)
        n_context = segment_samples - length if has_fixed_length else 0
        start = offset - n_context // 2
        batch.append(window.read(start, start + length + n_context))
        starts.append(n_context // 2)
        # Later segments look back by no more than half of their length.
        window.forget(offset + stride - segment_samples // 2)
        is_last = index == len(offsets) - 1
        next_length = 0 if is_last else min(segment_samples, n_samples - offset - stride)
        changes_length = not has_fixed_length and next_length != length
        if len(batch) == batch_size or is_last or changes_length:
            results = process(torch.stack(batch))
            first = offset - (len(batch) - 1) * stride
            for number, (result, skip) in enumerate(zip(results, starts, strict=True)):
                position = first + number * stride
                end = min(segment_samples, n_samples - position)
                fader.add(result[..., skip : skip + end], position)
            done = fader.take(n_samples if is_last else offset + stride)
            if done.shape[-1]:
                yield done
            batch, starts = [], []


class SlidingReader:
    """Random access to the recent part of a stream, zero-padded before its start and after its end.

    `blocks` are [..., T'], with `n_samples` in total.
    """

    def __init__(self, blocks: Iterable[Tensor], n_samples: int) -> None:
        self._blocks, self._n_samples = iter(blocks), n_samples
        self._held: list[Tensor] = []
        self._start = self._end = 0

    def read(self, start: int, stop: int) -> Tensor:
        """Samples `start` to `stop` as [..., stop - start]; ValueError if the stream is too short.

        `start` must not lie before the position given to `forget`.
        """
        inner_start, inner_stop = max(0, start), max(0, min(stop, self._n_samples))
        while self._end < inner_stop or not self._held:
            block = next(self._blocks, None)
            if block is None:
                raise ValueError(f"the stream ended after {self._end} of {self._n_samples} samples")
            self._held.append(block)
            self._end += block.shape[-1]
        self._held = [torch.cat(self._held, dim=-1)]
        inner = self._held[0][..., max(0, inner_start - self._start) : inner_stop - self._start]
        n_before = min(inner_start, stop) - start
        return F.pad(inner, (n_before, stop - start - n_before - inner.shape[-1]))

    def forget(self, before: int) -> None:
        """Free the samples before position `before`; they cannot be read again."""
        n_old = min(max(0, before - self._start), self._held[0].shape[-1])
        self._held = [self._held[0][..., n_old:].clone()]
        self._start += n_old


class CrossFader:
    """Overlap-add of segments with triangular weights, normalised by the sum of the weights.

    A segment shorter than `segment_samples` gets the first part of the weights, as in Demucs and
    EnCodec.

    Args:
        segment_samples: length of a full segment.
        start: position of the first segment; output before position 0 is dropped.
    """

    def __init__(self, segment_samples: int, start: int = 0) -> None:
        rising = torch.arange(1, segment_samples // 2 + 1)
        falling = torch.arange(segment_samples - segment_samples // 2, 0, -1)
        self._weight = torch.cat([rising, falling]) / (segment_samples - segment_samples // 2)
        self._start = start
        self._sum: Tensor | None = None  # [..., held]
        self._weights = self._weight.new_zeros(0)  # [held]

    def add(self, result: Tensor, position: int) -> None:
        """Add a segment [..., T'] that starts at sample `position`."""
        result = result.to("cpu", torch.float32)
        weight = self._weight[: result.shape[-1]]
        if self._sum is None:
            self._sum = result.new_zeros(*result.shape[:-1], 0)
        place = slice(position - self._start, position - self._start + result.shape[-1])
        n_missing = place.stop - self._sum.shape[-1]
        if n_missing > 0:
            self._sum = F.pad(self._sum, (0, n_missing))
            self._weights = F.pad(self._weights, (0, n_missing))
        self._sum[..., place] += weight * result
        self._weights[place] += weight

    def take(self, stop: int) -> Tensor:
        """Samples from the last `stop` up to this one, [..., T'] fp32 on the CPU.

        No segment added later may start before `stop`.
        """
        assert self._sum is not None
        n_done = stop - self._start
        done = self._sum[..., :n_done] / self._weights[:n_done]
        n_lead = max(0, -self._start)
        self._sum = self._sum[..., n_done:].clone()
        self._weights = self._weights[n_done:].clone()
        self._start = stop
        return done[..., n_lead:]


def in_context(
    blocks: Iterable[Block],
    process: Callable[[Block], Tensor],
    *,
    step: int,
    context: int,
    hop_in: int = 1,
    hop_out: int = 1,
) -> Iterator[Tensor]:
    """Apply `process` to a long signal in steps, each with the signal around it as context.

    For networks with a bounded receptive field: with enough context the result equals that of one
    call on the whole signal. The length need not be known in advance.

    Args:
        blocks: the signal, blocks [..., T'], or lanes (see `align`).
        process: maps [..., L] to [..., about L * hop_out / hop_in].
        step: samples per call, without the context; a multiple of `hop_in`.
        context: samples of context on each side; a multiple of `hop_in`.
        hop_in, hop_out: `hop_in` samples of the input become `hop_out` of the output.

    Yields:
        The result in order, without the context.
    """
    held: Block | None = None
    n_before = 0  # samples of `held` that are context
    is_more = True
    iterator = iter(blocks)
    while is_more:
        parts = [] if held is None else [held]
        n_held = sum(map(_length, parts))
        while is_more and n_held <= n_before + step + context:
            block = next(iterator, None)
            if block is None:
                is_more = False
            else:
                parts.append(block)
                n_held += _length(block)
        if n_held == n_before:
            return
        held = map_lanes(lambda *signals: torch.cat(signals, dim=-1), *parts)
        stop = n_before + step
        result = process(held if not is_more else _cut(held, slice(stop + context)))
        n_skip = n_before // hop_in * hop_out
        yield (
            result[..., n_skip:] if not is_more else result[..., n_skip : stop // hop_in * hop_out]
        )
        held = map_lanes(Tensor.clone, _cut(held, slice(max(0, stop - context), None)))
        n_before = min(stop, context)


def align(streams: Sequence[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """Read several streams of blocks [..., T'] in steps of equal length.

    A block is an array, a tensor, or lanes: a (named) tuple of blocks of one length, with None for
    a signal that is missing. Yields one tuple per step, with one block of each stream. Raises
    ValueError if the streams differ in length.
    """
    iterators = [iter(stream) for stream in streams]
    held: list[Any] = [None] * len(iterators)
    while True:
        for index, iterator in enumerate(iterators):
            while held[index] is None or _length(held[index]) == 0:
                held[index] = next(iterator, None)
                if held[index] is None:
                    break
        if all(block is None for block in held):
            return
        if any(block is None for block in held):
            raise ValueError("the streams have different lengths")
        length = min(map(_length, held))
        yield tuple(_cut(block, slice(length)) for block in held)
        held = [_cut(block, slice(length, None)) for block in held]


def in_step(
    blocks: Iterable[Block], *stages: Callable[[Iterator[Block]], Iterable[Any]]
) -> Iterator[tuple[Any, ...]]:
    """Give one stream to several stages, and yield what they make of it in blocks of equal length.

    A stage takes an iterator of blocks and yields blocks, late and cut as it likes. What a slower
    stage has not taken yet waits here, and nowhere else.

    Raises:
        ValueError: the stages give different lengths.
    """
    copies = _copies(blocks, len(stages))
    yield from align([stage(copy) for stage, copy in zip(stages, copies, strict=True)])


def alongside(
    blocks: Iterable[Block], stage: Callable[[Iterator[Block]], Iterable[Result]]
) -> Iterator[tuple[Block, Result]]:
    """Yield every block again beside what a stage makes of it, cut alike; see `in_step`."""
    yield from in_step(blocks, iter, stage)


def apart(
    lanes: Iterable[tuple[First, Second]],
) -> tuple[Iterator[First], Iterator[Second]]:
    """The two signals of a stream of pairs as streams of their own, which may be read apart."""
    firsts, seconds = _copies(lanes, 2)
    return (first for first, _ in firsts), (second for _, second in seconds)


def _copies(blocks: Iterable[Block], n_copies: int) -> list[Iterator[Block]]:
    """As itertools.tee, which keeps up to 57 blocks that all copies have read already."""
    source, queues = iter(blocks), [deque[Block]() for _ in range(n_copies)]

    def copy(queue: deque[Block]) -> Iterator[Block]:
        while queue or _fill(queues, source):
            yield queue.popleft()

    return [copy(queue) for queue in queues]


def _fill(queues: Sequence[deque[Block]], source: Iterator[Block]) -> bool:
    """Append the next block to all queues; False at the end of the source."""
    for block in source:
        for queue in queues:
            queue.append(block)
        return True
    return False


def map_lanes(change: Callable[..., Any], *blocks: Block) -> Block:
    """`change` for every signal of a block, or of blocks of one form, in the same form.

    A missing signal (None) stays missing.
    """
    first = blocks[0]
    if not isinstance(first, tuple):
        return first if first is None else change(*blocks)
    signals = [map_lanes(change, *each) for each in zip(*blocks, strict=True)]
    return first._make(signals) if hasattr(first, "_make") else tuple(signals)  # type: ignore[return-value]


def _length(block: Any) -> int:
    if isinstance(block, tuple):
        return next(_length(each) for each in block if each is not None)
    return int(block.shape[-1])


def _cut(block: Any, part: slice) -> Any:
    """That part of the time axis."""
    return map_lanes(lambda signal: signal[..., part], block)
