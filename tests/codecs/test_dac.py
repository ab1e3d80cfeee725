"""DAC and the VampNet codec: output equal to the original package's, and the codec contract."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.audio.encodings import AudioInfo
from mssgen.audio.loudness import integrated_lufs
from mssgen.codecs.coding import decode_coded, encode_source
from mssgen.codecs.container import CodedAudio
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.networks.dac import DAC_16KHZ, DAC_24KHZ, DacCodec
from mssgen.codecs.networks.seanet import SeanetCodec
from mssgen.errors import UsageError
from mssgen.pipeline import _ArraySource as ArraySource

SMALL: dict[str, Any] = {"encoder_dim": 4, "decoder_dim": 16, "n_codebooks": 3}
# As DAC at 24 and 16 kHz: a stride of 5.
ODD: dict[str, Any] = {**SMALL, "encoder_rates": [2, 4, 5, 8], "decoder_rates": [8, 5, 4, 2]}
VAMPNET: dict[str, Any] = {
    "encoder_dim": 4,
    "encoder_rates": [2, 6, 8, 8],
    "decoder_dim": 128,
    "decoder_rates": [6, 4, 4, 2, 2, 2],
    "decoder_kind": "mrf",
    "n_codebooks": 3,
}
VARIANTS = pytest.mark.parametrize(
    "options", [SMALL, ODD, VAMPNET], ids=["44khz", "24khz", "vampnet"]
)


def small_codec(options: dict[str, Any], seed: int = 0) -> DacCodec:
    torch.manual_seed(seed)
    codec = DacCodec(**options)
    codec.freeze()
    return codec


def original(options: dict[str, Any], codec: DacCodec) -> Any:
    """Model of the package with the weights of `codec`."""
    model = import_codec_package("dac.model.dac").DAC(**options)
    model.load_state_dict(codec.state_dict())
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The original's numbers


@pytest.mark.parametrize("options", [SMALL, ODD], ids=["44khz", "24khz"])
@pytest.mark.parametrize("n_samples", [1, 1531, 2560])
def test_codes_and_sound_are_those_of_the_package(options: dict[str, Any], n_samples: int) -> None:
    codec = small_codec(options)
    model = original(options, codec)
    audio = noise(2, 1, n_samples)
    with torch.no_grad():
        coded = codec.encode(audio)
        decoded = codec.decode(coded)
        latents, codes, *_ = model.encode(codec.pad(audio))
        sound = model.decode(model.quantizer.from_codes(codes)[0])
    assert torch.equal(coded.codes, codes)
    assert torch.equal(decoded, sound[..., :n_samples])
    torch.testing.assert_close(codec.dequantize(codes), latents)


def test_fewer_codebooks_are_those_of_the_package() -> None:
    codec = small_codec(SMALL)
    audio = noise(1, 1, 1024)
    codes = original(SMALL, codec).encode(audio, n_quantizers=2)[1]
    assert torch.equal(codec.encode(audio, 2).codes, codes)


def test_padding_is_that_of_the_package_where_strides_are_even() -> None:
    codec = small_codec(SMALL)
    model = original(SMALL, codec)
    for n_samples in (1, 511, 512, 513):
        audio = noise(1, 1, n_samples)
        assert torch.equal(codec.pad(audio), model.preprocess(audio, 44_100))


def test_training_gives_the_losses_of_the_package() -> None:
    codec = small_codec(SMALL)
    codec.requires_grad_(True).train()
    model = original(SMALL, codec)
    audio = noise(2, 1, 1024)
    ours, theirs = codec(audio), model(audio)
    expected = 0.25 * theirs["vq/commitment_loss"] + theirs["vq/codebook_loss"]
    torch.testing.assert_close(ours.commitment, expected)
    torch.testing.assert_close(ours.audio, theirs["audio"])
    (ours.audio.square().mean() + ours.commitment).backward()
    (theirs["audio"].square().mean() + expected).backward()
    gradients = dict(model.named_parameters())
    for key, parameter in codec.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad)


@pytest.mark.parametrize(
    ("options", "n_values", "n_keys"),
    [
        ({}, 76_651_890, 301),
        # The counts of the public codec.pth.
        (
            {**VAMPNET, "encoder_dim": 64, "decoder_dim": 1536, "n_codebooks": 14},
            150_182_426,
            680,
        ),
    ],
)
def test_full_size_without_weights(options: dict[str, Any], n_values: int, n_keys: int) -> None:
    with torch.device("meta"):
        codec = DacCodec(**options)
    assert sum(p.numel() for p in codec.parameters()) == n_values
    assert len(codec.state_dict()) == n_keys
    assert codec.latent_dim == 1024


def test_the_published_rates() -> None:
    with torch.device("meta"):
        codecs = [DacCodec(**options) for options in (DAC_24KHZ, DAC_16KHZ)]
    assert [(codec.frame_rate, codec.n_codebooks) for codec in codecs] == [(75, 32), (50, 12)]
    assert [codec.hop_length for codec in codecs] == [320, 320]


def test_the_fusion_is_the_mean_of_its_branches() -> None:
    codec = small_codec(VAMPNET)
    fusion = codec.decoder.get_submodule("model.1.block.2")
    x = noise(1, 64, 20)
    branches: Any = fusion.get_submodule("mrf_blocks")
    assert [branch.block[2].layer[1].kernel_size for branch in branches] == [(3,), (7,), (11,)]
    assert [layer.layer[1].dilation for layer in branches[0].block] == [(1,), (3,), (5,)]
    expected = (branches[0](x) + branches[1](x) + branches[2](x)) / 3
    torch.testing.assert_close(fusion(x), expected)


# What every codec promises


@VARIANTS
@given(n_samples=st.integers(1, 2000), n_codebooks=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_decoding_gives_back_the_length(
    options: dict[str, Any], n_samples: int, n_codebooks: int
) -> None:
    codec = small_codec(options)
    coded = codec.encode(noise(1, 1, n_samples), n_codebooks)
    assert coded.codes.shape == (1, n_codebooks, codec.n_frames(n_samples))
    decoded = codec.decoder(codec.dequantize(coded.codes))
    assert decoded.shape[-1] >= n_samples  # every sample is the decoder's, none is padding
    assert codec.decode(coded).shape == (1, 1, n_samples)


def test_an_odd_stride_needs_one_more_frame_for_the_last_samples() -> None:
    codec = small_codec(ODD)
    assert codec.decoder(torch.zeros(1, codec.latent_dim, 3)).shape[-1] == 3 * 320 - 8
    assert [codec.n_frames(n) for n in (312, 313, 320, 632, 633)] == [1, 2, 2, 2, 3]
    assert small_codec(SMALL).n_frames(512) == 1


@VARIANTS
def test_another_codec_of_the_same_options_takes_the_state(options: dict[str, Any]) -> None:
    codec = small_codec(options)
    rebuilt = DacCodec(**codec.options)
    rebuilt.load_state_dict(codec.state_dict())
    assert rebuilt.codec_id == codec.codec_id
    assert small_codec(options, seed=1).codec_id != codec.codec_id


@VARIANTS
def test_nothing_changes_the_codebooks_but_an_optimiser(options: dict[str, Any]) -> None:
    codec = small_codec(options)
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.requires_grad_(True).train()
    audio = noise(2, 1, 900)
    in_train_mode = codec.encode(audio)
    codec.decode(in_train_mode)
    found = codec(audio, n_codebooks=2)
    assert found.audio.shape == audio.shape
    assert torch.equal(found.codes, in_train_mode.codes[:, :2])  # no dropout of its own
    found.audio.square().mean().backward()
    for part in (codec.encoder, codec.decoder):
        assert any(bool(p.grad.any()) for p in part.parameters() if p.grad is not None)
    assert all(torch.equal(before[key], value) for key, value in codec.state_dict().items())


@VARIANTS
def test_codebooks_look_up_the_codes(options: dict[str, Any]) -> None:
    codec = small_codec(options)
    residual = codec.latents(noise(2, 1, 3000))
    codes = codec.quantize(residual)
    total = torch.zeros_like(residual)
    for level, book in enumerate(codec.codebooks):
        distances = book.distances(residual)
        assert distances.shape == (2, residual.shape[-1], 1024)
        assert torch.equal(distances.argmin(-1), codes[:, level])
        assert float(distances.min()) > -1e-5
        assert float(distances.max()) < 4 + 1e-5
        vectors = book.vectors(codes[:, level])
        certain = torch.nn.functional.one_hot(codes[:, level], 1024).float()
        torch.testing.assert_close(book.expected(certain), vectors)
        residual, total = residual - vectors, total + vectors
    torch.testing.assert_close(codec.dequantize(codes), total)


def test_soft_assignments_have_gradients() -> None:
    codec = small_codec(SMALL)
    latents = codec.latents(noise(1, 1, 1024)).requires_grad_(True)
    book = codec.codebooks[0]
    book.expected(torch.softmax(-book.distances(latents), dim=-1)).square().sum().backward()
    assert latents.grad is not None
    assert bool(latents.grad.any())


def test_the_level_is_kept() -> None:
    """Audio is coded without loudness normalisation."""
    codec = small_codec(SMALL)
    coded = codec.encode(0.01 * noise(1, 1, 1024))
    assert coded.scale is None
    assert torch.equal(codec.decode(coded), codec.decoder(codec.dequantize(coded.codes)))


def test_codes_of_another_family_are_refused() -> None:
    coded = small_codec(SMALL).encode(noise(1, 1, 600))
    with pytest.raises(UsageError, match="made by the codec dac-44100-3x1024-h512-"):
        small_codec(SMALL, seed=1).decode(coded)
    encodec = SeanetCodec(ratios=[2], n_filters=4, latent_dim=4, n_lstm_layers=0, n_codebooks=1)
    with pytest.raises(UsageError, match="decode them with the codec that made them"):
        encodec.decode(coded)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder_rates": [2, 4]}, "different products"),
        ({"decoder_kind": "wavenet"}, "use dac or mrf"),
        ({**ODD, "decoder_kind": "mrf"}, "needs even"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DacCodec(**{**SMALL, **options})


def test_codebooks_of_different_widths() -> None:
    codec = small_codec({**SMALL, "codebook_dim": [8, 4, 2]})
    coded = codec.encode(noise(1, 1, 700))
    assert codec.decode(coded).shape == (1, 1, 700)
    assert codec.options["codebook_dim"] == [8, 4, 2]


# Loudness


def coded_by(codec: DacCodec, samples: Tensor) -> CodedAudio:
    """Samples [C, T] at 44.1 kHz."""
    info = AudioInfo(44_100, len(samples), "", "")
    return encode_source(ArraySource(samples.numpy(), info), codec)


@pytest.mark.parametrize("factor", [0.003, 0.3, 1.0])
def test_vampnets_codec_hears_every_song_at_24_lufs(factor: float) -> None:
    codec = small_codec(VAMPNET)
    samples = noise(2, 44_100) * torch.tensor([[1.0], [0.5]])
    song = coded_by(codec, factor * samples)
    heard = integrated_lufs((song.gain * factor * samples).mean(0, keepdim=True).numpy(), 44_100)
    assert heard == pytest.approx(-24, abs=0.01)
    normalised = song.gain * factor * samples.mean(0)
    assert torch.equal(song.codes.codes[:1], codec.encode(normalised[None, None]).codes)
    # Decoding undoes the gain.
    found = np.concatenate(list(decode_coded(song, codec)), axis=1)
    natural = np.concatenate(list(decode_coded(coded_by(codec, samples), codec)), axis=1)
    assert np.allclose(found, factor * natural, rtol=1e-3, atol=1e-5 * factor)


def test_vampnets_loudness_does_not_clip_peaks_and_leaves_short_sounds() -> None:
    codec = small_codec(VAMPNET)
    click = torch.zeros(1, 44_100)
    click[0, 20_000:20_003] = 0.5
    assert coded_by(codec, click).gain == pytest.approx(2.0)
    assert coded_by(codec, 0.1 * torch.ones(1, 4000)).gain == 1.0
    assert coded_by(small_codec(SMALL), 0.2 * noise(1, 44_100)).gain == 1.0
