"""Cutting into segments and putting together again."""

import random
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.streams import align, alongside, apart, in_context, in_step, overlap_add

RATE = 1000


def blocks_of(signal: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """The signal in blocks whose lengths go round `sizes`."""
    start, index = 0, 0
    while start < signal.shape[-1]:
        size = sizes[index % len(sizes)]
        yield signal[..., start : start + size]
        start, index = start + size, index + 1


@settings(max_examples=120, deadline=None)
@given(
    n_samples=st.integers(1, 700),
    segment_samples=st.integers(1, 200),
    overlap=st.floats(0, 0.95),
    batch_size=st.integers(1, 5),
    lead_samples=st.integers(0, 300),
    sizes=st.lists(st.integers(1, 250), min_size=1, max_size=4),
    has_fixed_length=st.booleans(),
)
def test_what_does_nothing_gives_the_signal_back(
    n_samples: int,
    segment_samples: int,
    overlap: float,
    batch_size: int,
    lead_samples: int,
    sizes: list[int],
    has_fixed_length: bool,
) -> None:
    signal = torch.rand(2, n_samples, generator=torch.Generator().manual_seed(n_samples)) * 2 - 1
    lengths: list[int] = []

    def identity(batch: Tensor) -> Tensor:
        assert len(batch) <= batch_size
        lengths.append(batch.shape[-1])
        return batch

    pieces = overlap_add(
        blocks_of(signal, sizes),
        identity,
        n_samples=n_samples,
        segment_samples=segment_samples,
        overlap=overlap,
        batch_size=batch_size,
        lead_samples=lead_samples,
        has_fixed_length=has_fixed_length,
    )
    result = torch.cat(list(pieces), dim=-1)
    assert result.shape == signal.shape
    assert (result - signal).abs().max() <= 1e-6
    assert max(lengths) <= segment_samples
    if has_fixed_length:
        assert set(lengths) == {segment_samples}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_reads_no_more_than_a_few_segments_ahead(batch_size: int) -> None:
    n_samples, segment, block = 50_000, 100, 30
    n_read = 0

    def counted() -> Iterator[Tensor]:
        nonlocal n_read
        for start in range(0, n_samples, block):
            n_read += min(block, n_samples - start)
            yield torch.ones(1, min(block, n_samples - start))

    n_given = worst = 0
    pieces = overlap_add(
        counted(),
        lambda batch: batch,
        n_samples=n_samples,
        segment_samples=segment,
        batch_size=batch_size,
        lead_samples=37,
    )
    for piece in pieces:
        worst = max(worst, n_read - n_given)
        n_given += piece.shape[-1]
    assert n_given == n_samples
    assert worst <= (batch_size + 2) * segment + block


def test_a_stream_that_ends_early_is_an_error() -> None:
    pieces = overlap_add([torch.ones(2, 99)], lambda x: x, n_samples=100, segment_samples=40)
    with pytest.raises(ValueError, match="ended after 99 of 100"):
        list(pieces)


def test_a_longer_stream_is_cut() -> None:
    pieces = overlap_add([torch.ones(2, 130)], lambda x: x, n_samples=100, segment_samples=40)
    assert torch.cat(list(pieces), dim=-1).shape == (2, 100)


class PlaceDependent(torch.nn.Module):
    """A linear network whose gains change along the segment: it tells where a segment began."""

    def __init__(self, segment_samples: int) -> None:
        super().__init__()
        self.sources, self.samplerate = ["a", "b", "c"], RATE
        self.segment = Fraction(segment_samples, RATE)
        random_numbers = torch.Generator().manual_seed(0)
        self.gains = torch.nn.Parameter(torch.rand(3, 1, segment_samples, generator=random_numbers))

    def forward(self, mixture: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return mixture[:, None] * self.gains[..., : mixture.shape[-1]]


class PlaceDependentFixed(PlaceDependent):
    """The same, for segments of full length only, as HTDemucs."""

    def valid_length(self, length: int) -> int:
        return self.gains.shape[-1]


LENGTHS = [1, 49, 50, 99, 100, 101, 149, 150, 151, 175, 224, 225, 226, 300, 301, 374, 376, 1001]


@pytest.mark.parametrize("kind", [PlaceDependent, PlaceDependentFixed])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_segments_are_those_of_demucs(kind: type[PlaceDependent], overlap: float) -> None:
    network = kind(100)
    for n_samples in LENGTHS:
        mixture = torch.rand(1, 2, n_samples, generator=torch.Generator().manual_seed(1))
        expected = apply_model(network, mixture, shifts=0, overlap=overlap)
        with torch.no_grad():
            pieces = overlap_add(
                blocks_of(mixture, [64]),
                lambda batch: network(batch.flatten(0, 1)).unflatten(0, batch.shape[:2]),
                n_samples=n_samples,
                segment_samples=100,
                overlap=overlap,
                batch_size=3,
                has_fixed_length=kind is PlaceDependentFixed,
            )
            result = torch.cat(list(pieces), dim=-1)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6, msg=f"T = {n_samples}")


@pytest.mark.parametrize("kind", [PlaceDependent, PlaceDependentFixed])
def test_a_lead_is_the_shift_of_demucs(kind: type[PlaceDependent]) -> None:
    network, n_samples = kind(100), 731
    mixture = torch.rand(1, 2, n_samples, generator=torch.Generator().manual_seed(1))
    random.seed(5)
    lead_samples = RATE // 2 - random.randint(0, RATE // 2)
    random.seed(5)
    expected = apply_model(network, mixture, shifts=1, overlap=0.25)
    with torch.no_grad():
        pieces = overlap_add(
            [mixture],
            lambda batch: network(batch.flatten(0, 1)).unflatten(0, batch.shape[:2]),
            n_samples=n_samples,
            segment_samples=100,
            lead_samples=lead_samples,
            has_fixed_length=kind is PlaceDependentFixed,
        )
        result = torch.cat(list(pieces), dim=-1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_the_toy_stands_for_the_real_network() -> None:
    assert hasattr(HTDemucs, "valid_length")  # apply_model asks for it: segments of full length


sizes_of_streams = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4)


@given(sizes_of_streams, st.integers(0, 40))
def test_aligned_streams_keep_their_samples(sizes: list[list[int]], n_samples: int) -> None:
    """Every stream, however it is cut, comes out whole and in step with the others."""
    signal = torch.arange(n_samples)

    def cut(lengths: list[int]) -> Iterator[Tensor]:
        start = 0
        for length in lengths:
            yield signal[start : start + length]
            start += length
        if start < n_samples:
            yield signal[start:]

    rows = list(align([cut(lengths) for lengths in sizes]))
    for row in rows:
        assert len({block.shape[-1] for block in row}) == 1
        assert row[0].shape[-1] > 0
    for index in range(len(sizes)):
        joined = torch.cat([row[index] for row in rows]) if rows else signal[:0]
        assert torch.equal(joined, signal)


def test_streams_of_different_length_do_not_align() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        list(align([[torch.ones(3)], [torch.ones(2), torch.ones(2)]]))


class Pair(NamedTuple):
    """Two signals in step, of which the second may be missing."""

    first: Tensor
    second: Tensor | None = None


def cut_at(signal: Tensor, length: int) -> Iterator[Tensor]:
    yield from signal.split(length, dim=-1)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 20))
def test_a_block_waits_for_what_a_stage_makes_of_it(
    n_samples: int, length: int, step: int, context: int
) -> None:
    signal = torch.arange(n_samples)
    lanes = (Pair(block, -block) for block in cut_at(signal, length))

    def stage(lanes: Iterator[Pair]) -> Iterator[Tensor]:
        doubled = (2 * lane.first for lane in lanes)
        return in_context(doubled, lambda held: held, step=step, context=context)

    n_done = 0
    for lane, doubled in alongside(lanes, stage):
        expected = signal[n_done : n_done + doubled.shape[-1]]
        assert lane.second is not None
        for found in (lane.first, -lane.second, doubled // 2):
            assert torch.equal(found, expected)
        n_done += len(expected)
    assert n_done == n_samples


def test_lanes_pass_in_context_and_apart() -> None:
    signal = torch.arange(50)
    pairs = [Pair(block, 2 * block) for block in cut_at(signal, 7)]

    def total(lane: Pair) -> Tensor:
        assert lane.second is not None
        return lane.first + lane.second

    added = in_context(iter(pairs), total, step=11, context=5)
    assert torch.equal(torch.cat(list(added)), 3 * signal)
    alone = in_context(map(Pair, cut_at(signal, 7)), lambda lane: lane.first, step=9, context=2)
    assert torch.equal(torch.cat(list(alone)), signal)
    seconds, firsts = reversed(apart((pair.first, 2 * pair.first) for pair in pairs))
    assert torch.equal(torch.cat(list(seconds)), 2 * signal)
    assert torch.equal(torch.cat(list(firsts)), signal)


def test_stages_in_step_hold_no_more_than_their_delay() -> None:
    """Weak references to the blocks: what all stages have taken is forgotten."""
    alive: list[weakref.ref[Tensor]] = []

    def blocks() -> Iterator[Tensor]:
        for _ in range(100):
            block = torch.zeros(10)
            alive.append(weakref.ref(block))
            yield block

    def late(stream: Iterator[Tensor]) -> Iterator[Tensor]:
        return in_context((block + 1 for block in stream), lambda x: x, step=50, context=20)

    most = 0
    for _ in in_step(blocks(), iter, late, late):
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 100
    assert most < 15


def test_stages_of_different_length_are_not_in_step() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        list(alongside([torch.ones(3)], lambda blocks: (block[:2] for block in blocks)))
