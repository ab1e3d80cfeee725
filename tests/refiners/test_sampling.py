"""Masks, the sampler, and refinement of long signals, independent of batches and blocks."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mssgen.codecs.base import Codes
from mssgen.errors import UsageError
from mssgen.refiners import masking
from mssgen.refiners.masked_transformer import MaskedTransformer
from mssgen.refiners.noise import FrameNoise
from mssgen.refiners.refine import Refinement, Refiner
from mssgen.refiners.sampling import (
    Guide,
    SamplingOptions,
    draw,
    keep_likely,
    keep_typical,
    left_hidden,
    sample,
)
from mssgen.refiners.windows import cells

from support.toys import tiny_refiner, tiny_stem_codec

CODEC = tiny_stem_codec()


def shown(mask: Tensor) -> list[str]:
    """A mask as lines of text, with # for hidden codes."""
    return ["".join("#" if hidden else "." for hidden in row) for row in mask.tolist()]


def test_masks_hide_what_their_names_say() -> None:
    shape = (3, 10)
    assert shown(masking.hide_codebooks_from(1, shape)) == ["." * 10, "#" * 10, "#" * 10]
    assert shown(masking.hide_after(4, shape)) == ["....######"] * 3
    assert shown(masking.hide_before(3, shape)) == ["#######..."] * 3
    assert shown(masking.hide_between(2, 3, shape)) == ["..#####..."] * 3
    assert shown(masking.hide_frames(2, 4, shape)) == ["..##......"] * 3
    assert shown(masking.hide_between_prompts(4, shape)) == [".###.###.#"] * 3
    assert shown(masking.hide_between_prompts(4, shape, width=3, offset=1)) == ["...#...#.."] * 3
    assert masking.hide_between_prompts(0, shape).all()
    assert shown(masking.hide_away_from([1, 7], 2, shape)) == ["...##....#"] * 3
    # Combinations: both, either.
    prompts, upper = masking.hide_between_prompts(5, shape), masking.hide_codebooks_from(2, shape)
    assert shown(prompts & upper) == ["." * 10, "." * 10, ".####.####"]
    assert shown(prompts | upper) == [".####.####", ".####.####", "#" * 10]
    assert masking.hide_all((2, *shape)).all()
    assert not masking.hide_none(shape).any()


def test_random_masks_hide_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    progress = torch.tensor([0.0, 0.5, 1.0])
    mask = masking.hide_for_training(progress, (3, 4, 2000), 1, generator=generator)
    assert not mask[:, 0].any()
    shares = mask[:, 1:].float().mean(dim=(1, 2))
    assert torch.allclose(shares, torch.tensor([1.0, math.cos(math.pi / 4), 0.0]), atol=0.03)
    frames = masking.hide_random_frames(0.5, (4, 2000), generator=generator)
    assert (frames[0] == frames[3]).all()
    assert 0.3 < frames.float().mean() < 0.5


def test_the_schedule_is_the_originals_and_counts_per_item() -> None:
    """The numbers of the original for one item of 2292 hidden codes and 12 steps."""
    expected = [2272, 2213, 2117, 1984, 1818, 1620, 1395, 1146, 877, 593, 299]
    n_hidden, n_codes = torch.tensor([2292, 3, 0]), 2400
    now = n_hidden
    for step, n_left in enumerate(expected):
        is_hidden = torch.arange(n_codes) < now[:, None]
        now = left_hidden(n_hidden, is_hidden[:, None], (step + 1) / 12)
        assert now[0] == n_left
        assert now[1] == max(1, 2 - step)


def test_noise_is_uniform_and_depends_on_the_frame() -> None:
    noise = FrameNoise(5, [0, 0, 9], [0, 100, 0], 1000)
    numbers = noise.uniform(3)
    assert torch.equal(numbers[0, 100:], numbers[1, :900])
    others = [numbers[2], noise.uniform(4)[0], FrameNoise(6, [0], [0], 1000).uniform(3)[0]]
    for other in [numbers[0].roll(1), *others]:
        assert abs(torch.corrcoef(torch.stack([numbers[0], other]))[0, 1]) < 0.1
    for row in [numbers[0], *others]:
        counts = torch.histc(row, 10, 0, 1)
        assert counts.sub(100).square().sum() / 100 < 28  # chi square, 9 degrees: one in a thousand
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert noise.gumbel(0).mean() == pytest.approx(0.5772, abs=0.1)


def test_codes_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, -torch.inf]).expand(1, 20_000, 5)
    uniform = FrameNoise(0, [0], [0], 20_000).uniform(0)
    for temperature in (1.0, 0.5):
        codes, certainty = draw(logits, uniform, SamplingOptions(temperature=temperature))
        expected = (logits[0, 0] / temperature).softmax(dim=-1)
        found = torch.bincount(codes[0], minlength=5) / 20_000
        assert torch.allclose(found, expected, atol=0.015)
        assert torch.allclose(certainty[0].exp(), expected[codes[0]])
    codes, _ = draw(logits, uniform, SamplingOptions(temperature=0))
    assert (codes == 0).all()
    # The largest number there is still draws a code that can be.
    codes, _ = draw(logits[:, :1], torch.tensor([[1 - 2.0**-23]]), SamplingOptions())
    assert codes.item() == 3


def test_filters_follow_their_papers() -> None:
    logits = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()

    def kept(filtered: Tensor) -> list[int]:
        return filtered.isfinite().nonzero().flatten().tolist()

    assert kept(keep_likely(logits, 0.6)) == [0, 1]
    assert kept(keep_likely(logits, 0.45)) == [0]
    # Surprises are 0.69, 1.61, 1.90, 2.30, 3.00 nats and their mean is 1.33.
    assert kept(keep_typical(logits, 0.15, 1)) == [1]
    assert kept(keep_typical(logits, 0.3, 1)) == [1, 2]
    assert kept(keep_typical(logits, 0.15, 3)) == [0, 1, 2]


def hidden_codes(n_items: int = 3, n_frames: int = 16) -> Tensor:
    """Random codes whose last two codebooks are hidden except for a prompt."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(32, (n_items, 4, n_frames), generator=generator)
    hidden = masking.hide_codebooks_from(2, codes.shape) & masking.hide_after(3, codes.shape)
    return masking.apply_mask(codes, hidden, 32)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(n_steps=1),
        SamplingOptions(n_steps=5),
        SamplingOptions(n_steps=12, temperature=0),
        SamplingOptions(n_steps=3, top_p=0.9, typical_mass=0.5, typical_min_tokens=4),
    ],
)
def test_sampling_fills_in_what_is_hidden_only(options: SamplingOptions) -> None:
    network, codes = tiny_refiner(CODEC), hidden_codes()
    codes[2, 2:, 3:] = 7  # nothing of the last item is hidden
    noise = FrameNoise(0, [0] * 3, [0] * 3, 16)
    filled = sample(network, codes, options, noise)
    assert torch.equal(filled[codes < 32], codes[codes < 32])
    assert filled.max() < 32
    assert torch.equal(filled, sample(network, codes, options, noise))
    alone = [
        sample(network, codes[index, None], options, FrameNoise(0, [0], [0], 16))
        for index in range(3)
    ]
    assert torch.equal(filled, torch.cat(alone))


@pytest.mark.parametrize("is_guided", [False, True])
def test_given_codebooks_are_not_computed_and_change_nothing(is_guided: bool) -> None:
    network, codes = tiny_refiner(CODEC, n_conditioning=1), hidden_codes()
    noise, options = FrameNoise(0, [0] * 3, [0] * 3, 16), SamplingOptions(n_steps=3)
    guide = Guide(torch.randn(3, 16, 16), CODEC.codebooks, 0.1) if is_guided else None
    expected = sample(network, codes, options, noise, guide=guide)
    asked: list[int] = []
    level = network.classifier.logits

    def counted(frames: Tensor, index: int, weight: Tensor) -> Tensor:
        asked.append(index)
        return level(frames, index, weight)

    network.classifier.logits = counted  # type: ignore[method-assign]
    filled = sample(network, codes, options, noise, guide=guide, n_given=2)
    assert torch.equal(filled, expected)
    assert asked == [1, 2] * 3


class NoWaiting(TorchFunctionMode):
    """Raises where code would wait for a GPU or copy data to it."""

    WAITS = re.compile(
        "item|tolist|__(bool|int|float|index|setitem)__|numpy|cpu|cuda|tensor|as_tensor|nonzero|"
        "masked_select|argwhere|unique|equal|allclose|repeat_interleave"
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not self.WAITS.fullmatch(func.__name__), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_guided", [False, True])
def test_sampling_never_waits_for_the_device(is_guided: bool) -> None:
    network, codes = tiny_refiner(CODEC), hidden_codes()
    options = SamplingOptions(n_steps=3, top_p=0.9, typical_mass=0.9)
    guide = Guide(torch.randn(3, 16, 16), CODEC.codebooks, 0.1) if is_guided else None
    noise = FrameNoise(0, [0] * 3, [0] * 3, 16)
    with NoWaiting():
        sample(network, codes, options, noise, guide=guide)
        with pytest.raises(AssertionError, match="item"):
            codes.max().item()


def test_each_step_decides_the_most_certain() -> None:
    """In each item the network gets as many masked codes as the schedule states."""
    network, codes = tiny_refiner(CODEC), hidden_codes()
    codes[0, 3] = 5  # half as many in the first item
    seen: list[list[int]] = []
    frames = network.frames

    def counted(codes: Tensor, biases: Tensor) -> Tensor:
        seen.append((codes == 32).flatten(1).sum(dim=1).tolist())
        return frames(codes, biases)

    network.frames = counted  # type: ignore[method-assign]
    sample(network, codes, SamplingOptions(n_steps=4), FrameNoise(0, [0] * 3, [0] * 3, 16))
    shares = [1, *(math.cos(math.pi * step / 8) for step in (1, 2, 3))]
    assert seen == [[int(13 * share), *[int(26 * share)] * 2] for share in shares]


def coded(n_frames: int, n_items: int = 1, seed: int = 0) -> Codes:
    """Codes of noise, made with the tiny codec."""
    generator = torch.Generator().manual_seed(seed)
    audio = 0.3 * torch.randn(n_items, 2, 32 * n_frames, generator=generator)
    with torch.inference_mode():
        return CODEC.encode(audio)


def refiner(batch_size: int | None = None, **options: Any) -> Refiner:
    c2f = tiny_refiner(CODEC, n_conditioning=2)
    coarse = tiny_refiner(CODEC, seed=1, n_codebooks=2, n_conditioning=0, window_frames=24)
    return Refiner(CODEC, c2f, coarse=coarse, options=Refinement(**options), batch_size=batch_size)


@given(n_frames=st.integers(1, 300), window=st.integers(1, 40))
def test_cells_cover_a_signal_once_each_inside_its_window(n_frames: int, window: int) -> None:
    plan = cells(n_frames, window)
    assert [cell.first for cell in plan] == [0, *(cell.last for cell in plan[:-1])]
    assert plan[-1].last == n_frames
    margin = window // 8
    for cell in plan:
        assert 0 <= cell.start <= max(0, cell.first - margin)
        assert min(n_frames, cell.last + margin) <= cell.stop <= n_frames
        assert cell.stop - cell.start == min(window, n_frames)


@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    block=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    mode=st.sampled_from(["c2f", "coarse+c2f"]),
    strength=st.sampled_from([1.0, 0.5]),
)
def test_the_result_depends_on_no_batch_and_no_block(
    lengths: list[int], block: int, batch_size: int, mode: str, strength: float
) -> None:
    songs = [coded(n_frames, seed=index) for index, n_frames in enumerate(lengths)]
    options = {"mode": mode, "strength": strength, "n_steps": 2, "seed": 3}
    together = refiner(batch_size, **options).refine(songs)
    for song, refined in zip(songs, together, strict=True):
        alone = refiner(**options)(song)
        assert torch.equal(alone.codes, refined.codes)
        blocks = song.codes.split(block, dim=-1)
        streamed = refiner(batch_size, **options).stream(blocks, song.codes.shape[-1])
        assert torch.equal(torch.cat(list(streamed), dim=-1), refined.codes)
        assert CODEC.decode(refined).shape == (1, 2, song.n_samples)


def test_a_stream_holds_a_few_windows_only() -> None:
    n_frames, n_read, n_done, lead = 1000, 0, 0, 0

    def blocks() -> Iterator[Tensor]:
        nonlocal n_read
        for _ in range(n_frames // 5):
            n_read += 5
            yield torch.zeros(1, 4, 5, dtype=torch.int64)

    worker = refiner(2, mode="coarse+c2f", n_steps=1, strength=0.5)
    for block in worker.stream(blocks(), n_frames):
        n_done += block.shape[-1]
        lead = max(lead, n_read - n_done)
    assert n_done == n_frames
    assert lead < 5 * (16 + 24)


def test_which_codebooks_are_kept_and_which_are_regenerated() -> None:
    song = coded(50, n_items=2)
    for options, n_kept in (
        ({"n_steps": 2}, 2),
        ({"keep_codebooks": 3}, 3),
        ({"mode": "coarse+c2f", "n_steps": 3}, 1),
        ({"mode": "coarse+c2f", "n_steps": 1, "keep_codebooks": 0}, 0),
    ):
        refined = refiner(**options)(song).codes
        is_same = (refined == song.codes).float().mean(dim=(0, 2))
        assert (is_same[:n_kept] == 1).all()
        assert (is_same[n_kept:] < 0.3).all()
        assert not torch.equal(refined, refiner(seed=1, **options)(song).codes)
        # Levels that are made anew need not be there.
        first = replace(song, codes=song.codes[:, : max(n_kept, 1)])
        assert torch.equal(refiner(**options)(first).codes, refined)
    keyed = refiner().refine([song, song], keys=[0, 1])
    assert torch.equal(keyed[0].codes, refiner()(song).codes)
    assert not torch.equal(keyed[0].codes, keyed[1].codes)


def test_cells_depend_on_their_neighbours_only() -> None:
    """A change of one given code affects neighbouring cells, never distant ones."""
    song = coded(120)
    changed = song.codes.clone()
    changed[0, 0, 60] = (changed[0, 0, 60] + 7) % 32
    network = tiny_refiner(CODEC)
    with torch.no_grad():
        network.classifier.length *= 20  # fresh weights hardly listen
    before = Refiner(CODEC, network)(song).codes
    after = Refiner(CODEC, network)(replace(song, codes=changed)).codes
    differs = (before != after)[0, 2:].any(dim=0).nonzero().flatten().tolist()
    assert differs
    assert min(differs) > 60 - 3 * 16
    assert max(differs) < 60 + 3 * 16


def test_the_guide_keeps_close_to_the_input() -> None:
    """Lower strength keeps more codes of the input, and the latents closer."""
    generator = torch.Generator().manual_seed(0)
    audio = 0.3 * torch.randn(1, 2, 32 * 60, generator=generator)
    with torch.inference_mode():
        latents = CODEC.latents(audio)
        song = Codes(CODEC.quantize(latents), audio.shape[-1], CODEC.codec_id)
        errors, same = [], []
        for strength in (1e-6, 0.2, 0.6, 1.0):
            refined = refiner(strength=strength, n_steps=3)(song, latents).codes
            errors.append((CODEC.dequantize(refined) - latents).square().mean().item())
            same.append((refined == song.codes).float().mean().item())
    assert same[0] == 1
    assert same == sorted(same, reverse=True)
    # The input's own codes are the nearest level by level, which others in sum may be by a hair.
    assert errors[0] < 1.01 * errors[1]
    assert errors[1:] == sorted(errors[1:])
    assert errors[-1] > 1.01 * errors[0]


def test_the_residual_is_latents_minus_entries() -> None:
    codes = coded(8).codes
    latents = torch.randn(1, CODEC.latent_dim, 8)
    guide = Guide(latents, CODEC.codebooks, 1.0)
    with torch.inference_mode():
        expected = latents - CODEC.dequantize(codes)
        assert torch.allclose(guide.residual(codes), expected, atol=1e-5)
        expected = latents - CODEC.dequantize(codes[:, :2])
        assert torch.allclose(guide.residual(codes[:, :2]), expected, atol=1e-5)


def test_the_network_may_take_codes_of_the_input() -> None:
    """A translator takes the codes of the input and regenerates all codebooks."""
    network = tiny_refiner(CODEC, n_codebooks=8, n_conditioning=4, n_input=4)
    song = coded(40)
    refined = Refiner(CODEC, network)(song)
    assert refined.codes.shape == song.codes.shape
    other = replace(song, codes=song.codes.flip(0, 2))
    assert not torch.equal(Refiner(CODEC, network)(other).codes, refined.codes)
    with pytest.raises(
        UsageError, match="codes have 3 codebooks and the refiner takes the first 4"
    ):
        Refiner(CODEC, network)(replace(song, codes=song.codes[:, :3]))


def test_codes_and_networks_of_another_codec_are_refused() -> None:
    other = tiny_stem_codec(seed=1)
    with pytest.raises(UsageError, match="use the codec that it was trained for"):
        Refiner(other, tiny_refiner(CODEC))
    with pytest.raises(UsageError, match="decode them with the codec that made them"):
        refiner()(replace(coded(4), codec_id=other.codec_id))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fine"}, "use c2f or coarse\\+c2f"),
        ({"strength": 0.0}, "`strength` must be more than 0"),
        ({"n_steps": 0}, "at least 1 step"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"top_p": 1.5}, "top_p"),
        ({"keep_codebooks": 1}, "takes 2 to 3"),
        ({"keep_codebooks": 2, "mode": "coarse+c2f"}, "takes 0 to 1"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refiner(**options)


def test_the_mode_needs_its_network() -> None:
    c2f: MaskedTransformer = tiny_refiner(CODEC)
    with pytest.raises(UsageError, match="needs a coarse refiner"):
        Refiner(CODEC, c2f, options=Refinement(mode="coarse+c2f"))
    coarse = tiny_refiner(CODEC, n_codebooks=3, n_conditioning=0)
    with pytest.raises(UsageError, match="gives 3 codebooks and the other takes 2"):
        Refiner(CODEC, c2f, coarse=coarse, options=Refinement(mode="coarse+c2f"))
