"""Streaming gives the result of one call on the whole signal, for any block lengths."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.codecs import streaming
from mssgen.codecs.base import Codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.codecs.networks.stem_spectrum import InverseSpectrum
from mssgen.codecs.streaming import decode_stream, encode_stream, stream_latents, stream_waveform
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.streams import align

from support.toys import snr_db, tiny_codec, tiny_stem_codec

SEGMENTED = {"n_channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True}
KINDS: dict[str, dict[str, object]] = {
    "encodec": {},
    "two-sided": {"causal": False},
    "soundstream": {"n_lstm_layers": 0, "n_residual_layers": 3, "dilation_base": 3},
    "rave": {"n_bands": 4, "n_lstm_layers": 0, "n_noise_channels": 4, "causal": False},
    "segmented": {**SEGMENTED, "segment_s": 0.5},
}


def blocks(audio: Tensor, length: int) -> Iterator[Tensor]:
    yield from audio.split(length, dim=-1)


DAC: dict[str, dict[str, object]] = {
    "dac": {"encoder_rates": [2, 4], "decoder_rates": [4, 2]},
    "dac with odd strides": {"encoder_rates": [2, 5], "decoder_rates": [5, 2]},
    "vampnet": {"encoder_rates": [2, 4], "decoder_rates": [4, 2], "decoder_kind": "mrf"},
}


STEM: dict[str, dict[str, int]] = {"stem": {}, "stem with bands": {"n_level_codebooks": 2}}


def build(kind: str) -> Codec:
    if kind in KINDS:
        return tiny_codec(**KINDS[kind])
    if kind in STEM:
        return tiny_stem_codec(**STEM[kind])
    torch.manual_seed(0)
    small = {"sample_rate": 8000, "encoder_dim": 4, "decoder_dim": 16, "n_codebooks": 3}
    return DacCodec(**small, **DAC[kind]).freeze()


@pytest.fixture(params=[*KINDS, *DAC, *STEM])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Codec:
    monkeypatch.setattr(streaming, "PIECE_SAMPLES", 2400)
    return build(request.param)


def noise(codec: Codec, n_samples: int, n_items: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_items, codec.n_channels, n_samples, generator=generator) * 0.3


@pytest.mark.parametrize("n_samples", [1, 7, 8, 2399, 2400, 2401, 20011])
def test_pieces_equal_the_whole(codec: Codec, n_samples: int) -> None:
    audio = noise(codec, n_samples)
    whole = codec.encode(audio)
    pieces = encode_stream(codec, blocks(audio, 1000))
    assert pieces.n_samples == n_samples
    assert pieces.codes.shape == whole.codes.shape
    # A frame that lies between two codes may fall to the other side by rounding.
    assert (pieces.codes != whole.codes).float().mean() < 0.002
    if whole.scale is not None:
        assert pieces.scale is not None
        torch.testing.assert_close(pieces.scale, whole.scale)
    decoded = codec.decode(whole)
    streamed = torch.cat(list(decode_stream(codec, whole)), dim=-1)
    assert streamed.shape == decoded.shape == audio.shape
    assert snr_db(decoded, streamed) > 90


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9000), st.integers(1, 5000), st.sampled_from([*KINDS, *DAC, *STEM]))
def test_the_result_does_not_depend_on_the_blocks(n_samples: int, block: int, kind: str) -> None:
    codec = build(kind)
    audio = noise(codec, n_samples, 1)
    codes = encode_stream(codec, blocks(audio, block), 3)
    assert codes.codes.shape[1] == 3
    decoded = list(decode_stream(codec, codes))
    assert sum(part.shape[-1] for part in decoded) == n_samples


def test_bands_are_attenuated_in_blocks_as_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the energies in the latents: 10 dB less attenuates by 10 dB, more changes nothing."""
    monkeypatch.setattr(streaming, "PIECE_SAMPLES", 2400)
    codec = tiny_stem_codec(n_level_codebooks=2)
    audio = noise(codec, 9000)
    latents = codec.latents(audio)

    def attenuated(change_db: float, length: int) -> Tensor:
        wanted = latents.clone()
        wanted[:, -codec.n_band_dims :] += 0.069 * change_db
        inverse, n_bands = codec.decoder[1], codec.n_band_dims
        assert isinstance(inverse, InverseSpectrum)
        spectra = stream_latents(codec, blocks(audio, length), encoder=codec.encoder[0])
        pairs = align([spectra, blocks(wanted, 37)])
        softer = (inverse.attenuated(found, told[:, -n_bands:]) for found, told in pairs)
        return torch.cat(list(stream_waveform(codec, softer, 9000)), dim=-1)

    assert snr_db(audio, attenuated(0, 1000)) > 80
    assert snr_db(audio, attenuated(6, 1000)) > 80
    softer = attenuated(-10, 1000)
    power_db = 10 * (softer.square().mean() / audio.square().mean()).log10()
    assert float(power_db) == pytest.approx(-10, abs=1)
    assert snr_db(softer, attenuated(-10, 9000)) > 90


@torch.no_grad()
def test_an_encoder_that_takes_the_mixture_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE_SAMPLES", 2400)
    codec = tiny_stem_codec(n_level_codebooks=2)
    encoder = StemEncoder(codec, StemEncoderOptions(input="separated+mixture")).eval()
    for weight in encoder.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    audio = noise(codec, 20011).repeat(1, 2, 1)
    pieces = stream_latents(codec, blocks(audio, 1000), encoder=encoder.encoder)
    streamed = torch.cat(list(pieces), dim=-1)
    whole = encoder(audio).latents
    assert streamed.shape == whole.shape
    assert snr_db(whole, streamed) > 90
    # Parallel branches do not add up to a longer context than the longest needs.
    assert streaming._context(encoder.encoder, 1) < 60 * codec.hop_length * 2
    bands = encoder(audio, bands_only=True).latents
    torch.testing.assert_close(bands, whole[:, -codec.n_band_dims :])


def test_no_piece_is_longer_than_some_seconds(codec: Codec) -> None:
    seen = []
    codec.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    for stage in codec.decoder.modules():
        if isinstance(stage, torch.nn.Conv1d):
            stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    codes = encode_stream(codec, blocks(noise(codec, 80_000, 1), 8000))
    parts = list(decode_stream(codec, codes))
    assert max(part.shape[-1] for part in parts) <= 4000
    assert max(seen) < 10_000


def test_silence_decodes_to_finite_audio(codec: Codec) -> None:
    codes = encode_stream(codec, [torch.zeros(1, codec.n_channels, 5000)])
    audio = torch.cat(list(decode_stream(codec, codes)), dim=-1)
    assert audio.isfinite().all()


def test_an_empty_signal_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="no samples"):
        encode_stream(codec, [])


def test_missing_frames_are_noticed(codec: Codec) -> None:
    with pytest.raises(ValueError, match="too early"):
        list(streaming.stream_audio(codec, [torch.zeros(1, codec.latent_dim, 9)], 20_000))
