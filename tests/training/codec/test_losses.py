"""Losses of codecs against values computed by hand or naively, the balancer, the codebooks."""

import math

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.errors import UsageError
from mssgen.training.codec import losses as losses
from mssgen.training.codec.balancer import Balancer
from mssgen.training.codec.codebooks import CodebookKeeper, k_means
from mssgen.training.codec.discriminators import (
    DISCRIMINATORS,
    DiscriminatorOptions,
    build_discriminator,
)

from support.toys import tiny_codec

SMALL = {"n_filters": 4, "windows": (128, 64), "rates": (1, 2), "periods": (2,)}


def sounds(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(*shape, generator=generator) * 0.1 for _ in range(2))
    return first, second


def naive_mel(audio: Tensor, window: int, n_mels: int) -> np.ndarray:
    """By librosa alone: [B * C, M, N], empty bands left in."""
    hann = np.hanning(window + 1)[:-1]
    spectra = [
        np.abs(
            librosa.stft(
                channel.astype(np.float64),
                n_fft=window,
                hop_length=window // 4,
                window=hann / np.sqrt((hann**2).sum()),
                pad_mode="constant",
            )
        )
        for channel in audio.flatten(0, 1).numpy()
    ]
    filters = librosa.filters.mel(sr=8000, n_fft=window, n_mels=n_mels, htk=True, norm=None)
    return np.stack([filters @ spectrum for spectrum in spectra])


def test_mel_distance_is_l1_plus_l2_of_mel_spectra_as_librosa_gives_them() -> None:
    estimate, reference = sounds(2, 2, 1000)
    expected = []
    for window, n_mels in ((128, 16), (256, 32)):
        difference = naive_mel(estimate, window, n_mels) - naive_mel(reference, window, n_mels)
        difference = difference[:, np.abs(difference).sum((0, 2)) > 0]
        l1 = np.abs(difference).mean()
        l2 = np.sqrt((difference**2).mean(1)).mean()
        expected.append(l1 + l2)
    found = losses.mel_distance(
        estimate, reference, sample_rate=8000, windows=(128, 256), n_mels=(16, 32)
    )
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_soundstream_and_dac_forms_weigh_logarithms() -> None:
    estimate, reference = sounds(1, 1, 1000)
    a, b = (naive_mel(x, 256, 16) for x in (estimate, reference))
    log_l2 = np.sqrt(((np.log(a + 1e-5) - np.log(b + 1e-5)) ** 2).mean(1)).mean()
    options = {"sample_rate": 8000, "windows": (256,), "n_mels": 16}
    soundstream = losses.mel_distance(estimate, reference, form="soundstream", **options)
    assert float(soundstream) == pytest.approx(
        np.abs(a - b).mean() + math.sqrt(128) * log_l2, rel=1e-4
    )
    dac = losses.mel_distance(estimate, reference, form="dac", **options)
    expected = np.abs(np.log10(a + 1e-5) - np.log10(b + 1e-5)).mean()
    assert float(dac) == pytest.approx(expected, rel=1e-4)


@given(
    n_samples=st.integers(40, 3000),
    n_channels=st.integers(1, 2),
    form=st.sampled_from(list(losses.MEL_FORMS)),
)
@settings(max_examples=15, deadline=None)
def test_mel_distance_takes_any_length_and_has_gradients_at_silence(
    n_samples: int, n_channels: int, form: str
) -> None:
    reference = torch.zeros(2, n_channels, n_samples)
    estimate = torch.zeros_like(reference).requires_grad_()
    found = losses.mel_distance(
        estimate, reference, sample_rate=24_000, windows=(32, 64), form=form
    )
    assert float(found.detach()) == 0
    found.backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()


def test_stft_distance_is_relative_error_plus_l1_of_logarithms() -> None:
    estimate, reference = sounds(2, 1, 1000)
    expected = []
    for window in (64, 128):
        a, b = (
            torch.stft(
                x[:, 0], window, window // 4, window=torch.hann_window(window), return_complex=True
            ).abs()
            for x in (estimate, reference)
        )
        expected.append((a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean())
    found = losses.stft_distance(estimate, reference, windows=(64, 128))
    assert float(found) == pytest.approx(float(sum(expected) / 2), rel=1e-3)


def test_hinge_and_least_squares_by_hand() -> None:
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-2.0, 0.0])]
    hinge, squares = losses.GAN_LOSSES["hinge"], losses.GAN_LOSSES["least_squares"]
    assert float(hinge.discriminator(real, fake)) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert float(hinge.generator(fake)) == pytest.approx((3 + 1) / 2)
    assert float(squares.discriminator(real, fake)) == pytest.approx((1 + 0.25) / 2 + (4 + 0) / 2)
    assert float(squares.generator(fake)) == pytest.approx((9 + 1) / 2)
    # The mean over discriminators, whatever the size of their logits.
    two = [fake[0], torch.full((5, 3), 1.0)]
    assert float(hinge.generator(two)) == pytest.approx((2 + 0) / 2)


def test_feature_matching_is_relative_to_the_real_features() -> None:
    real = [[torch.tensor([2.0, -2.0]), torch.tensor([10.0])]]
    fake = [[torch.tensor([3.0, -2.0]), torch.tensor([5.0])]]
    assert float(losses.feature_matching(real, fake)) == pytest.approx(
        (0.5 / 2 + 5 / 10) / 2, rel=1e-4
    )
    plain = losses.feature_matching(real, fake, relative=False)
    assert float(plain) == pytest.approx((0.5 + 5) / 2)
    parameter = torch.tensor([1.0], requires_grad=True)
    losses.feature_matching([[parameter]], [[torch.zeros(1, requires_grad=True)]]).backward()
    assert parameter.grad is None


def test_perplexity_and_sdr_by_hand() -> None:
    codes = torch.tensor([[[0, 1, 2, 3], [5, 5, 5, 5]], [[0, 1, 2, 3], [5, 5, 5, 5]]])
    assert losses.perplexity(codes, 8).tolist() == pytest.approx([4, 1])
    reference = torch.ones(1, 2, 10)
    assert float(losses.sdr_db(0.9 * reference, reference)) == pytest.approx(20, abs=1e-3)


# The balancer.


@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_balancer_gives_each_loss_its_share_of_the_gradient(
    scales: list[float], weights: list[float]
) -> None:
    names = [str(index) for index in range(len(scales))]
    balancer = Balancer(dict(zip(names, weights, strict=False)))
    # Orthogonal, so that each one's part of the sum can be read off.
    directions = torch.eye(len(scales))
    for _ in range(3):
        gradients = {
            name: scale * row.expand(2, 1, -1)
            for name, scale, row in zip(names, scales, directions, strict=True)
        }
        total = balancer(gradients)
    shares = torch.tensor(weights[: len(scales)])
    torch.testing.assert_close(total[0, 0], shares / shares.sum(), rtol=1e-3, atol=1e-6)


def test_balancer_averages_norms_over_steps_and_keeps_them() -> None:
    weights = {"a": 1.0, "b": 1.0}
    balancer, direction = Balancer(weights, decay=0.5), torch.ones(1, 1, 1)
    balancer({"a": direction, "b": direction})
    # The average of norms 1 and 4, weighted 0.5 and 1.
    total = balancer({"a": 4 * direction})
    assert float(total) == pytest.approx(4 / ((0.5 * 1 + 4) / 1.5), rel=1e-4)
    resumed = Balancer(weights, decay=0.5)
    resumed.load_state_dict(balancer.state_dict())
    gradients = {"a": 2 * direction, "b": 3 * direction}
    assert torch.equal(resumed(gradients), balancer(gradients))


# Discriminators.


@pytest.mark.parametrize("kind", DISCRIMINATORS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_discriminators_judge_each_item_by_itself(kind: str, n_channels: int) -> None:
    torch.manual_seed(0)
    options = DiscriminatorOptions(kind=kind, **SMALL)
    judge = build_discriminator(options, 8000, n_channels).eval()
    first, second = sounds(2, n_channels, 600)
    with torch.no_grad():
        halves = judge(torch.cat([first, second])).halves()
        alone = judge(first), judge(second)
    for half, expected in zip(halves, alone, strict=True):
        assert len(half.logits) == len(half.features) > 0
        for found, wanted in zip(half.logits, expected.logits, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        for layers, wanted_layers in zip(half.features, expected.features, strict=True):
            for found, wanted in zip(layers, wanted_layers, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_unknown_discriminator_is_refused() -> None:
    with pytest.raises(UsageError, match=r"kind = 'wavelet' is unknown; use one of stft"):
        build_discriminator(DiscriminatorOptions(kind="wavelet"), 8000, 1)  # type: ignore[arg-type]


# Codebooks that learn by moving averages.


def test_k_means_finds_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    frames = (centres[:, None] + 0.1 * torch.randn(3, 50, 2)).flatten(0, 1)
    found, counts = k_means(frames, 6, 20)
    distances = torch.cdist(centres, found)
    assert (distances.min(1).values < 0.5).all()
    assert int(counts.sum()) == 150


def test_dead_codes_are_replaced_and_perplexity_rises() -> None:
    codec = tiny_codec(n_codebooks=2).requires_grad_(True).train()
    keeper = CodebookKeeper(codec, dead_share=0.1)
    codebook = codec.quantizer.vq.layers[0]._codebook
    # All codes but one are out of reach, as after a collapse.
    codebook.embed[1:] = 100
    codebook.embed_avg.copy_(codebook.embed)
    codebook.cluster_size.fill_(1)
    latents = torch.randn(4, 8, 200)
    perplexities, n_replaced = [], 0
    for _ in range(300):
        _, codes, _ = codec.quantizer.vq(latents)
        perplexities.append(float(losses.perplexity(codes.transpose(0, 1), 16)[0]))
        n_replaced += int(keeper.refresh())
    assert perplexities[0] == 1
    assert perplexities[-1] > 8
    assert n_replaced >= 15
    assert codebook.embed.abs().max() < 10


def test_codebooks_start_from_the_first_frames_and_later_levels_too() -> None:
    codec = tiny_codec(n_codebooks=3, codebook_size=64).requires_grad_(True).train()
    keeper = CodebookKeeper(codec, dead_share=0.1)
    for layer in codec.quantizer.vq.layers:
        layer._codebook.inited.zero_()
        layer._codebook.embed.zero_()
    # Fewer frames than codes.
    for _ in range(3):
        _, codes, _ = codec.quantizer.vq(torch.randn(1, 8, 50))
        keeper.refresh()
    assert (losses.perplexity(codes.transpose(0, 1), 64) > 10).all()
    for layer in codec.quantizer.vq.layers:
        assert bool(layer._codebook.inited)
        assert 0 < layer._codebook.embed.abs().max() < 10


def test_codebooks_learn_nothing_in_eval_mode() -> None:
    codec = tiny_codec()
    keeper = CodebookKeeper(codec, dead_share=0.1)
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.quantizer.vq(torch.randn(1, 8, 50))
    assert int(keeper.refresh()) == 0
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())
