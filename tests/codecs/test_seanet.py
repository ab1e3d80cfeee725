"""EnCodec and its family: output equal to the original package's, and the codec contract."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.codecs.base import Codec
from mssgen.codecs.networks.compat import import_codec_package
from mssgen.codecs.networks.pqmf import Pqmf
from mssgen.codecs.networks.seanet import ENCODEC_48KHZ, SeanetCodec
from mssgen.errors import UsageError

from support.toys import snr_db, tiny_codec

# EnCodec 48 kHz in small: stereo, segments that overlap and have a gain each.
SEGMENTED: dict[str, Any] = {
    "n_channels": 2,
    "causal": False,
    "norm": "time_group_norm",
    "segment_s": 0.1,
    "segment_overlap": 0.05,
    "normalize": True,
}
VARIANTS = pytest.mark.parametrize("options", [{}, SEGMENTED], ids=["24khz", "48khz"])


def original(codec: SeanetCodec) -> Any:
    """Model of the encodec package with the weights of `codec`."""
    modules = import_codec_package("encodec.modules")
    options = codec.options
    common = {
        "channels": options["n_channels"],
        "n_filters": options["n_filters"],
        "n_residual_layers": options["n_residual_layers"],
        "ratios": options["ratios"],
        "causal": options["causal"],
        "norm": options["norm"],
        "lstm": options["n_lstm_layers"],
    }
    model = import_codec_package("encodec.model").EncodecModel(
        modules.SEANetEncoder(dimension=codec.latent_dim, **common),
        modules.SEANetDecoder(dimension=codec.latent_dim, **common),
        import_codec_package("encodec.quantization").ResidualVectorQuantizer(
            dimension=codec.latent_dim, n_q=codec.n_codebooks, bins=codec.codebook_size
        ),
        [codec.bandwidth_kbps(k + 1) for k in range(codec.n_codebooks)],
        codec.sample_rate,
        codec.n_channels,
        normalize=options["normalize"],
        segment=options["segment_s"],
        overlap=options["segment_overlap"],
    )
    model.load_state_dict(codec.state_dict())
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def snapshot(codec: Codec) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in codec.state_dict().items()}


def unchanged(codec: Codec, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[key], value) for key, value in codec.state_dict().items())


# The original's numbers


@VARIANTS
@pytest.mark.parametrize("n_samples", [1, 7, 1600, 2027])
def test_codes_and_sound_are_those_of_the_package(options: dict[str, Any], n_samples: int) -> None:
    codec = tiny_codec(**options)
    model = original(codec)
    audio = noise(2, codec.n_channels, n_samples)
    with torch.no_grad():
        coded = codec.encode(audio)
        decoded = codec.decode(coded)
        frames = model.encode(audio)
        sound = model.decode(frames)[..., :n_samples]
    assert torch.equal(coded.codes, torch.cat([codes for codes, _ in frames], dim=-1))
    if options:
        assert coded.scale is not None
        torch.testing.assert_close(coded.scale, torch.cat([scale for _, scale in frames], dim=-1))
        # Segments are weighted and added in another order there.
        torch.testing.assert_close(decoded, sound, rtol=1e-5, atol=1e-6)
    else:
        assert coded.scale is None
        assert torch.equal(decoded, sound)


def test_fewer_codebooks_are_those_of_the_package() -> None:
    codec = tiny_codec()
    model = original(codec)
    model.set_target_bandwidth(codec.bandwidth_kbps(2))
    audio = noise(1, 1, 500)
    assert torch.equal(codec.encode(audio, 2).codes, model.encode(audio)[0][0])


def test_the_full_size_24khz_model() -> None:
    """The package's constructor and state dict against our defaults."""
    torch.manual_seed(0)
    model = import_codec_package("encodec.model").EncodecModel.encodec_model_24khz(pretrained=False)
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    codec = SeanetCodec()
    codec.load_state_dict(model.state_dict())
    codec.freeze()
    assert (codec.hop_length, codec.frame_rate, len(codec.state_dict())) == (320, 75, 252)
    audio = noise(1, 1, 3217)
    with torch.no_grad():
        frames = model.encode(audio)
        sound = model.decode(frames)[..., :3217]
        coded = codec.encode(audio)
        decoded = codec.decode(coded)
    assert coded.codes.shape == (1, 32, 11)
    assert torch.equal(coded.codes, frames[0][0])
    assert torch.equal(decoded, sound)


def test_the_full_size_48khz_model_has_the_shape_of_the_package() -> None:
    model = import_codec_package("encodec.model").EncodecModel.encodec_model_48khz(pretrained=False)
    codec = SeanetCodec(**ENCODEC_48KHZ)
    codec.load_state_dict(model.state_dict())
    assert (codec.segment_samples, codec.segment_stride) == (48_000, 47_520)
    assert (model.segment_length, model.segment_stride) == (48_000, 47_520)


@VARIANTS
def test_another_codec_of_the_same_options_takes_the_state(options: dict[str, Any]) -> None:
    codec, twin = tiny_codec(0, **options), tiny_codec(1, **options)
    assert codec.codec_id != twin.codec_id
    rebuilt = SeanetCodec(**codec.options)
    rebuilt.load_state_dict(codec.state_dict())
    rebuilt.freeze()
    assert rebuilt.codec_id == codec.codec_id
    audio = noise(1, codec.n_channels, 1234)
    assert torch.equal(rebuilt.decode(rebuilt.encode(audio)), codec.decode(codec.encode(audio)))


# What every codec promises


@VARIANTS
@given(n_samples=st.integers(1, 2000), n_codebooks=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_decoding_gives_back_the_length(
    options: dict[str, Any], n_samples: int, n_codebooks: int
) -> None:
    codec = tiny_codec(**options)
    coded = codec.encode(noise(1, codec.n_channels, n_samples), n_codebooks)
    assert coded.n_codebooks == n_codebooks
    sound = codec.decode(coded)
    assert sound.shape == (1, codec.n_channels, n_samples)
    assert bool(torch.isfinite(sound).all())


@VARIANTS
def test_silence_is_coded_like_any_sound(options: dict[str, Any]) -> None:
    codec = tiny_codec(**options)
    sound = codec.decode(codec.encode(torch.zeros(1, codec.n_channels, 900)))
    assert bool(torch.isfinite(sound).all())
    if options:
        assert float(sound.abs().max()) < 1e-6  # its gain is nothing


@VARIANTS
def test_only_forward_in_training_changes_codebooks(options: dict[str, Any]) -> None:
    codec = tiny_codec(**options)
    audio = noise(2, codec.n_channels, 800)
    before = snapshot(codec)
    codec(audio)
    assert unchanged(codec, before)
    codec.train()
    coded = codec.encode(audio)
    codec.dequantize(codec.quantize(codec.latents(audio)))
    codec.decode(coded)
    assert unchanged(codec, before)
    codec(audio)
    assert not unchanged(codec, before)


def test_truncating_equals_encoding_with_fewer_codebooks() -> None:
    codec = tiny_codec()
    audio = noise(1, 1, 400)
    short = codec.truncate(codec.encode(audio), 2)
    assert torch.equal(short.codes, codec.encode(audio, 2).codes)
    assert codec.decode(short).shape == audio.shape
    for n_codebooks in (0, 5):
        with pytest.raises(UsageError, match="use 1 to 4"):
            codec.truncate(short, n_codebooks)


def test_bandwidth_in_codebooks() -> None:
    codec = tiny_codec()  # 1000 frames a second of 4 bits
    assert [codec.n_codebooks_for(k * codec.bandwidth_kbps(1)) for k in (1, 3)] == [1, 3]
    for bandwidth in (0, 1.7 * codec.bandwidth_kbps(1), 99):
        with pytest.raises(UsageError, match="bandwidth_kbps"):
            codec.n_codebooks_for(bandwidth)
    encodec = SeanetCodec()
    assert [encodec.n_codebooks_for(kbps) for kbps in (1.5, 3, 6, 12, 24)] == [2, 4, 8, 16, 32]


def test_codes_of_another_codec_are_refused() -> None:
    codec, other = tiny_codec(0), tiny_codec(1)
    with pytest.raises(UsageError, match="made by the codec seanet-8000-4x16-h8-"):
        other.decode(codec.encode(noise(1, 1, 100)))


def test_the_id_depends_on_quantiser_and_decoder() -> None:
    codec, tuned = tiny_codec(), tiny_codec()
    with torch.no_grad():
        next(tuned.encoder.parameters()).add_(1)
    assert tuned.codec_id == codec.codec_id
    changed = tiny_codec()
    with torch.no_grad():
        next(changed.decoder.parameters()).add_(1)
    assert changed.codec_id != codec.codec_id


def test_codebooks_look_up_the_codes() -> None:
    codec = tiny_codec()
    residual = codec.latents(noise(2, 1, 333))
    codes = codec.quantize(residual)
    total = torch.zeros_like(residual)
    for level, book in enumerate(codec.codebooks):
        distances = book.distances(residual)
        assert distances.shape == (2, residual.shape[-1], 16)
        assert torch.equal(distances.argmin(-1), codes[:, level])
        vectors = book.vectors(codes[:, level])
        # A distance is that to the vector, and all certainty on a code gives its vector.
        nearest = (residual - vectors).square().sum(1)
        torch.testing.assert_close(distances.amin(-1), nearest, rtol=1e-4, atol=1e-5)
        certain = torch.nn.functional.one_hot(codes[:, level], 16).float()
        torch.testing.assert_close(book.expected(certain), vectors)
        residual, total = residual - vectors, total + vectors
    torch.testing.assert_close(codec.dequantize(codes), total)


def test_another_encoder_replaces_the_codecs() -> None:
    codec, tuned = tiny_codec(0), tiny_codec(1)
    audio = noise(1, 1, 256)
    replaced = codec.latents(audio, encoder=tuned.encoder)
    assert torch.equal(replaced, tuned.latents(audio))
    assert not torch.equal(replaced, codec.latents(audio))


# The rest of the family

FAMILY: dict[str, Callable[[], SeanetCodec]] = {
    "encodec": lambda: tiny_codec(),
    "encodec 48 kHz": lambda: tiny_codec(**SEGMENTED),
    "soundstream": lambda: tiny_codec(n_lstm_layers=0, n_residual_layers=3, dilation_base=3),
    "rave": lambda: tiny_codec(n_lstm_layers=0, n_bands=4, n_noise_channels=3),
    "rave without bands": lambda: tiny_codec(n_noise_channels=2),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_every_kind_trains_encoder_and_decoder(kind: str) -> None:
    codec = FAMILY[kind]().requires_grad_(True).train()
    audio = noise(2, codec.n_channels, 777)
    found = codec(audio, n_codebooks=3)
    assert found.audio.shape == audio.shape
    assert found.codes.shape == (2, 3, codec.n_frames(777))
    assert found.commitment.ndim == 0
    (found.audio.square().mean() + found.commitment).backward()
    for part in (codec.encoder, codec.decoder):
        gradients = [p.grad for p in part.parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        assert any(bool(g.any()) for g in gradients if g is not None)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_kind_decodes_the_same_twice(kind: str) -> None:
    codec = FAMILY[kind]()
    audio = noise(1, codec.n_channels, 501)
    coded = codec.encode(audio)
    sound = codec.decode(coded)
    assert sound.shape == audio.shape
    assert torch.equal(codec.decode(coded), sound)


def test_a_decoder_trained_with_noise_gets_noise() -> None:
    codec = tiny_codec(n_lstm_layers=0, n_noise_channels=3)
    n_channels, width = 3, codec.latent_dim
    latents = noise(2, width, 4000)
    shown = codec.decoder[0](latents)
    assert torch.equal(shown[:, :width], latents)
    added = shown[:, width:]
    assert added.shape == (2, n_channels, latents.shape[-1])
    assert added.std() == pytest.approx(1, abs=0.1)
    assert added.mean() == pytest.approx(0, abs=0.1)
    # Of its own in each channel and each frame, and the same in a piece.
    assert torch.corrcoef(added.transpose(0, 1).flatten(1)).fill_diagonal_(0).abs().max() < 0.15
    assert (
        torch.corrcoef(torch.stack([added[..., 1:].flatten(), added[..., :-1].flatten()]))[
            0, 1
        ].abs()
        < 0.15
    )
    torch.testing.assert_close(codec.decoder[0](latents[:1, :, 100:200]), shown[:1, :, 100:200])


@pytest.mark.parametrize("n_bands", [2, 4, 16])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_filter_bank_reconstructs(n_bands: int, n_channels: int) -> None:
    pqmf = Pqmf(n_bands)
    audio = noise(2, n_channels, 256 * n_bands)
    bands = pqmf.analysis(audio)
    assert bands.shape == (2, n_channels * n_bands, 256)
    edge = 8 * n_bands  # half a filter
    assert snr_db(audio[..., edge:-edge], pqmf.synthesis(bands)[..., edge:-edge]) > 50
