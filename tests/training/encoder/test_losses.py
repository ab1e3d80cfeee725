"""The losses of stem encoders against plain formulations, and what they keep in memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.codecs.networks.seanet import EuclideanCodebook, SeanetCodec
from mssgen.training.encoder.losses import (
    EmbeddingDiscriminator,
    Residual,
    adversarial_loss,
    codebook_scales,
    discriminator_loss,
    latent_mse,
    residual_loss,
    token_accuracy,
    token_cross_entropy,
)

from support.toys import tiny_codec


def equations_6_to_10(latents: Tensor, codes: Tensor, books: list[Tensor], tau: float) -> Tensor:
    """The thesis' residual loss frame by frame, as it is written (with the sign put back)."""
    total = torch.zeros(())
    n_items, _, n_frames = latents.shape
    for item in range(n_items):
        for frame in range(n_frames):
            v = latents[item, :, frame]
            for level, book in enumerate(books[: codes.shape[1]]):
                weights = torch.exp(-((book - v) ** 2).sum(dim=1) / tau)
                p = weights / weights.sum()
                total = total - torch.log(p[codes[item, level, frame]])
                v = v - (p[:, None] * book).sum(dim=0)
    return total / (n_items * n_frames)


def books_of(codec: SeanetCodec) -> list[Tensor]:
    return [layer.codebook for layer in codec.quantizer.vq.layers]


def tiny_dac() -> DacCodec:
    torch.manual_seed(0)
    codec = DacCodec(
        sample_rate=8000,
        encoder_dim=4,
        encoder_rates=[2, 2],
        decoder_dim=8,
        decoder_rates=[2, 2],
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=4,
    )
    codec.freeze()
    return codec


@settings(deadline=None, max_examples=15)
@given(
    n_items=st.integers(1, 2),
    n_frames=st.integers(1, 5),
    n_levels=st.integers(1, 4),
    tau=st.floats(0.3, 5.0),
)
def test_residual_loss_is_the_thesis_equations(
    n_items: int, n_frames: int, n_levels: int, tau: float
) -> None:
    codec = tiny_codec()
    latents = torch.randn(n_items, 8, n_frames)
    codes = torch.randint(16, (n_items, 4, n_frames))
    got = residual_loss(latents, codes, codec.codebooks, tau, n_levels=n_levels)
    expected = equations_6_to_10(latents, codes[:, :n_levels], books_of(codec), tau)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", ["expected", "chosen", "target"])
@pytest.mark.parametrize("codec", [tiny_codec(), tiny_dac()], ids=["euclidean", "factorised"])
def test_checkpointing_changes_neither_value_nor_gradients(
    codec: Codec, residual: Residual
) -> None:
    latents = torch.randn(2, codec.latent_dim, 7)
    codes = torch.randint(16, (2, codec.n_codebooks, 7))
    results = []
    for is_checkpointed in (False, True):
        leaf = latents.clone().requires_grad_()
        loss = residual_loss(
            leaf, codes, codec.codebooks, 0.7, is_checkpointed=is_checkpointed, residual=residual
        )
        loss.backward()
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_residual_modes_differ_in_what_a_level_leaves() -> None:
    codec = tiny_codec()
    latents, codes = torch.randn(1, 8, 5), torch.randint(16, (1, 4, 5))
    found = {
        mode: residual_loss(latents, codes, codec.codebooks, 0.5, residual=mode)
        for mode in ("expected", "chosen", "target")
    }
    books = books_of(codec)
    vector = latents[0].T
    total = torch.zeros(())
    for book, target in zip(books, codes[0], strict=True):
        total = total + F.cross_entropy(-((vector[:, None] - book) ** 2).sum(-1) / 0.5, target)
        vector = vector - book[target]
    torch.testing.assert_close(found["target"], total, rtol=1e-4, atol=1e-4)
    assert len({round(float(loss), 4) for loss in found.values()}) == 3
    # With hard assignments the expected vector is the chosen one.
    cold = [
        residual_loss(latents, codes, codec.codebooks, 1e-4, residual=mode)
        for mode in ("expected", "chosen")
    ]
    torch.testing.assert_close(cold[0], cold[1], rtol=1e-3, atol=1e-3)


def test_a_temperature_for_each_level() -> None:
    codec = tiny_codec()
    latents, codes = torch.randn(1, 8, 5), torch.randint(16, (1, 4, 5))
    same = residual_loss(latents, codes, codec.codebooks, [0.5] * 4)
    torch.testing.assert_close(same, residual_loss(latents, codes, codec.codebooks, 0.5))
    assert not torch.isclose(
        same, residual_loss(latents, codes, codec.codebooks, [0.5, 0.1, 0.1, 0.1])
    )


@pytest.mark.parametrize("is_checkpointed", [True, False])
def test_memory_of_the_residual_loss_of_encodec(is_checkpointed: bool) -> None:
    """What the graph holds, by the allocator's own account, grows by 1.3 MB a second."""
    torch.manual_seed(0)
    books = [EuclideanCodebook(torch.randn(1024, 128)) for _ in range(32)]

    def held_bytes(n_frames: int) -> int:
        latents = torch.randn(1, 128, n_frames, requires_grad=True)
        codes = torch.randint(1024, (1, 32, n_frames))
        with torch.profiler.profile(profile_memory=True) as profiler:
            loss = residual_loss(latents, codes, books, 10.0, is_checkpointed=is_checkpointed)
        assert loss.requires_grad
        return sum(event.self_cpu_memory_usage for event in profiler.key_averages())

    per_second = (held_bytes(3 * 75) - held_bytes(75)) / 2
    if is_checkpointed:
        assert 0.5e6 < per_second < 1.4e6
    else:
        assert per_second > 9e6


def test_codebook_scales_are_distances_between_neighbours() -> None:
    codec = tiny_codec()
    for scale, book in zip(codebook_scales(codec), books_of(codec), strict=True):
        distances = torch.cdist(book, book).square().fill_diagonal_(math.inf)
        assert scale == pytest.approx(float(distances.amin(dim=1).mean()), rel=1e-3)
    # Vectors that stand twice, as dead codes may, change nothing; nor are they a scale of 0.
    first = books_of(codec)[0]
    first[:8] = first[8:]
    distances = torch.cdist(first[8:], first[8:]).square().fill_diagonal_(math.inf)
    assert codebook_scales(codec)[0] == pytest.approx(float(distances.amin(dim=1).mean()), rel=1e-3)
    first[:] = 0
    assert codebook_scales(codec)[0] == 1
    assert all(0 < scale < 4 for scale in codebook_scales(tiny_dac()))


def test_teacher_forced_residual_loss_alone_finds_the_tokens() -> None:
    """By gradient descent on free latents; the thesis' chain gets stuck on its own errors."""
    codec = tiny_codec()
    codes = codec.quantize(0.3 * torch.randn(1, 8, 20))
    scales = [0.2 * scale for scale in codebook_scales(codec)]
    accuracies: dict[Residual, Tensor] = {}
    modes: tuple[Residual, ...] = ("target", "expected")
    for mode in modes:
        latents = torch.zeros(1, 8, 20, requires_grad=True)
        optimizer = torch.optim.Adam([latents], lr=0.03)
        for _ in range(150):
            optimizer.zero_grad()
            residual_loss(latents, codes, codec.codebooks, scales, residual=mode).backward()
            optimizer.step()
        accuracies[mode] = token_accuracy(codec.quantize(latents.detach()), codes)
    assert accuracies["target"].min() > 0.9
    assert 0.3 < accuracies["expected"].mean() < accuracies["target"].mean()


def test_cross_entropy_of_the_levels_that_logits_have() -> None:
    logits = torch.randn(2, 3, 5, 16)
    codes = torch.randint(16, (2, 4, 5))
    expected = torch.stack(
        [F.cross_entropy(logits[:, k].flatten(0, 1), codes[:, k].flatten()) for k in range(3)]
    ).mean()
    torch.testing.assert_close(token_cross_entropy(logits, codes), expected)
    sure = 50.0 * F.one_hot(codes, 16)
    assert token_cross_entropy(sure, codes) < 1e-6


def test_mse_and_accuracy() -> None:
    assert latent_mse(torch.ones(1, 2, 3), torch.zeros(1, 2, 3)) == 1
    codes = torch.tensor([[[1, 2, 3, 4], [1, 1, 1, 1]]])
    other = torch.tensor([[[1, 2, 3, 0], [0, 0, 0, 0]]])
    assert token_accuracy(codes, other).tolist() == [0.75, 0.0]


def test_discriminator_has_the_thesis_layers_and_learns() -> None:
    discriminator = EmbeddingDiscriminator(128)
    sizes = [tuple(weight.shape) for weight in discriminator.parameters()]
    assert sizes == [(64, 128), (64,), (1, 64), (1,)]
    torch.manual_seed(0)
    real, predicted = torch.randn(2, 128, 30) + 0.5, torch.randn(2, 128, 30) - 0.5
    assert discriminator(real).shape == (2, 30)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    before = float(adversarial_loss(discriminator(predicted)).detach())
    for _ in range(50):
        optimizer.zero_grad()
        loss = discriminator_loss(discriminator(real), discriminator(predicted))
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert adversarial_loss(discriminator(predicted)) > max(2, before)
