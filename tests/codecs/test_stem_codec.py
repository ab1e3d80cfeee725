"""The stem codec: inverse transforms, dead codebook entries, band energies, and training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.codecs.loading import load_codec, save_codec
from mssgen.codecs.networks.factorized import FactorizedQuantizer
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.codecs.networks.stem_spectrum import InverseSpectrum, Spectrum, to_log
from mssgen.errors import UsageError
from mssgen.training.codec.losses import level_distance, spectrum_distance
from mssgen.training.codec.options import CodecLossOptions
from mssgen.training.codec.start import start_from_sound, start_levels, with_levels
from mssgen.training.codec.task import CodecTask
from mssgen.training.optimizers import OptimizerOptions
from mssgen.training.recipes import load_recipe
from mssgen.training.task import Batch

from support.toys import snr_db, tiny_codec, tiny_stem_codec


@pytest.mark.parametrize(("n_fft", "hop"), [(2048, 512), (128, 32), (64, 32), (256, 16)])
def test_the_transforms_invert_each_other(n_fft: int, hop: int) -> None:
    """Also at both ends, where fewer frames overlap."""
    audio = 0.3 * torch.randn(2, 2, 40 * hop, generator=torch.Generator().manual_seed(0))
    values = Spectrum(n_fft, hop, 0.4)(audio)
    assert values.shape == (2, 4 * (n_fft // 2 + 1), 40)
    back = InverseSpectrum(n_fft, hop, 0.4)(values)
    assert snr_db(audio, back) > 80


def test_a_full_scale_sine_has_the_stated_magnitude() -> None:
    time = torch.arange(44_100) / 44_100
    sine = torch.sin(2 * torch.pi * 40 * 44_100 / 2048 * time).expand(1, 2, -1)[..., : 512 * 80]
    values = Spectrum(2048, 512, 0.4)(sine).view(1, 2, 2, 1025, 80)
    magnitude = values.square().sum(2).sqrt()
    assert magnitude[0, 0, 40, 10:70].mean() == pytest.approx(10.0, rel=1e-3)
    assert magnitude[0, 1].max() < 0.3  # nothing on the side


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3000), st.integers(1, 4))
def test_lengths_and_codebooks(n_samples: int, n_codebooks: int) -> None:
    codec = tiny_stem_codec()
    audio = 0.2 * torch.randn(1, 2, n_samples, generator=torch.Generator().manual_seed(1))
    codes = codec.encode(audio, n_codebooks)
    assert codes.codes.shape == (1, n_codebooks, -(-n_samples // 32))
    assert codec.decode(codes).shape == audio.shape


def test_the_codebooks_agree_with_the_codes() -> None:
    codec = tiny_stem_codec()
    latents = codec.latents(0.2 * torch.randn(2, 2, 640))
    codes = codec.quantize(latents)
    residual, total = latents, torch.zeros_like(latents)
    for level, codebook in enumerate(codec.codebooks):
        distances = codebook.distances(residual)
        assert torch.equal(distances.argmin(-1), codes[:, level])
        assert float(distances.min()) > -1e-3
        one_hot = torch.nn.functional.one_hot(codes[:, level], 32).float()
        torch.testing.assert_close(codebook.expected(one_hot), codebook.vectors(codes[:, level]))
        total = total + codebook.vectors(codes[:, level])
        residual = residual - codebook.vectors(codes[:, level])
    torch.testing.assert_close(codec.dequantize(codes), total)


def test_training_and_coding_give_the_same_codes() -> None:
    codec = tiny_stem_codec()
    audio = 0.2 * torch.randn(2, 2, 640)
    step = codec(audio)
    assert torch.equal(step.codes, codec.encode(audio).codes)
    torch.testing.assert_close(step.audio, codec.decode(codec.encode(audio)), atol=1e-5, rtol=1e-4)


def test_coding_changes_nothing_even_in_train_mode() -> None:
    codec = tiny_stem_codec().train()
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.decode(codec.encode(torch.randn(1, 2, 640)))
    for key, value in codec.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_codebooks_start_from_data_and_dead_entries_are_replaced() -> None:
    torch.manual_seed(0)
    quantizer = FactorizedQuantizer(8, 64, 4, [(0, 8)] * 2).train()
    latents = torch.randn(4, 8, 200)
    quantizer(latents, 2)
    stage = quantizer.levels[0]
    projected = stage.in_proj(latents).transpose(1, 2).flatten(0, 1)
    nearest = torch.cdist(stage.codebook.weight, projected).min(dim=1).values
    assert float(nearest.max()) < 0.01
    with torch.no_grad():
        stage.codebook.weight[5:] = -stage.codebook.weight[:1]  # all but five are equal
        stage.usage[5:] = 0
    quantizer(latents, 2)
    assert len(torch.unique(quantizer(latents, 1)[1])) > 40
    assert float(stage.usage.min()) > 0


def test_the_spectral_distance_counts_phase_and_is_zero_for_equals() -> None:
    audio = 0.1 * torch.randn(1, 1, 5000)
    assert float(spectrum_distance(audio, audio)) == 0
    assert float(spectrum_distance(-audio, audio)) > float(spectrum_distance(0.5 * audio, audio))


def test_the_distance_of_band_energies_depends_on_gain_not_on_phase() -> None:
    noise = torch.randn(2, 2, 20_001, generator=torch.Generator().manual_seed(0))
    assert float(level_distance(noise, noise)) == 0
    assert float(level_distance(-noise, noise)) < 1e-4
    per_db = [float(level_distance(noise * 10 ** (db / 20), noise)) / abs(db) for db in (-6, 1, 6)]
    assert per_db == pytest.approx([0.07] * 3, rel=0.1)
    assert float(level_distance(noise[:, :1], noise[:, 1:])) > 0  # mono, too
    assert float(level_distance(1e-6 * noise, 0 * noise)) < 0.01  # both are silence


def test_it_starts_from_music_and_improves_by_training(music: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    codec = StemCodec(
        sample_rate=44_100,
        n_fft=512,
        hop_length=256,
        width=64,
        n_encoder_blocks=1,
        n_decoder_blocks=2,
        latent_dim=64,
        n_codebooks=8,
        codebook_size=128,
    )
    options = CodecLossOptions(
        **{"time": 0.5, "mel": 0.0, "adversarial": 0.0, "features": 0.0, "spectrum": 0.5},
        start_segments=3,
        optimizer=OptimizerOptions(name="adamw", lr=1e-3),
    )
    task = CodecTask(codec, options)
    sound = torch.from_numpy(music[:, : 256 * 160])
    batch = Batch(sound[None], sound[None], ("excerpt",))
    assert float(task.validate(batch)["sdr"]) < 1
    task.start(sound.split(256 * 60, dim=-1))
    start = task.validate(batch)
    assert float(start["sdr"]) > 6
    assert float(start["perplexity/1"]) > 30
    for step in range(30):
        task.optimizers["codec"].zero_grad()
        task.accumulate(batch, torch.Tensor.backward, step)
        task.optimizers["codec"].step()
    after = task.validate(batch)
    assert float(after["sdr"]) > float(start["sdr"]) + 0.3


def _hats(n_samples: int, seed: int) -> torch.Tensor:
    """A bass note with bursts of bright noise, like cymbals, [2, n_samples]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(n_samples) / 44_100
    noise = torch.randn(2, n_samples, generator=generator).diff(prepend=torch.zeros(2, 1))
    return 0.3 * torch.sin(2 * torch.pi * 70 * time) + 0.1 * noise * (-20 * (time % 0.2)).exp()


def _treble_db(audio: torch.Tensor) -> float:
    """Mean level of the upper half of the spectrum, dB."""
    spectrum = torch.fft.rfft(audio)
    return float(10 * spectrum[..., spectrum.shape[-1] // 2 :].abs().square().mean().log10())


def test_noise_keeps_its_level_though_its_waveform_is_lost() -> None:
    torch.manual_seed(0)
    codec = StemCodec(
        n_fft=512,
        hop_length=256,
        width=32,
        n_encoder_blocks=1,
        n_decoder_blocks=1,
        latent_dim=32,
        n_codebooks=8,
        codebook_size=64,
        n_bands=16,
    )
    start_from_sound(codec, [_hats(44_032, seed) for seed in range(4)])
    codec.eval()
    sound = _hats(44_032, 9)[None]
    with torch.inference_mode():
        latents = codec.dequantize(codec.quantize(codec.latents(sound)))
        full, coherent = codec.sounds(latents, sound.shape[-1])
        assert torch.equal(full, codec.synthesize(latents, sound.shape[-1]))  # nothing random
    # Before the first step already: it learns the rest.
    assert _treble_db(coherent) < _treble_db(sound) - 16
    assert _treble_db(full) == pytest.approx(_treble_db(sound), abs=11)


def test_noise_takes_the_structure_of_another_sound_and_its_own_level() -> None:
    """Noise whose fine structure is given comes close to the waveform (25 dB SNR)."""
    spectrum, inverse = Spectrum(512, 256, 0.6, 16), InverseSpectrum(512, 256, 0.6, 16)
    sound = _hats(256 * 100, 3)[None]
    frames = spectrum(sound)
    traces = 1e-4 * torch.randn(1, spectrum.n_values, 100)  # of a spectrum, to be shuffled
    noise = torch.cat([traces, 1.35 * frames[:, spectrum.n_values :]], dim=1)
    assert snr_db(sound, inverse(inverse.filled(noise, frames))) > 25
    own = inverse(noise)
    assert _treble_db(own) == pytest.approx(_treble_db(sound), abs=1.5)
    assert snr_db(sound, own) < 0  # as loud, of another waveform
    noise[:, spectrum.n_values :] *= -1
    assert _treble_db(inverse(noise)) < _treble_db(sound) - 60


def _two_stages(sounds: list[torch.Tensor]) -> tuple[StemCodec, StemCodec]:
    """An untrained codec without band energies, and the same one with them."""
    torch.manual_seed(0)
    bare = StemCodec(
        n_fft=512,
        hop_length=256,
        width=32,
        n_encoder_blocks=1,
        n_decoder_blocks=1,
        latent_dim=32,
        n_codebooks=2,
        codebook_size=16,
        n_bands=16,
        level_width=16,
        n_level_blocks=1,
    )
    start_from_sound(bare, sounds)
    codec = with_levels(bare, 4)
    start_levels(codec, sounds)
    return bare.eval(), codec.eval()


def test_band_energies_have_codebooks_of_their_own_which_come_first() -> None:
    bare, codec = _two_stages([_hats(44_032, seed) for seed in range(4)])
    sound = _hats(44_032, 9)[None]
    spectrum, inverse = codec.encoder[0], codec.decoder[1]
    with torch.inference_mode():
        codes = codec.encode(sound)
        assert codes.n_codebooks == codec.n_codebooks == 6
        assert torch.equal(codes.codes[:, 4:], bare.encode(sound).codes)
        coded = codec.decoder[0](codec.dequantize(codes.codes))[:, -inverse.n_energies :]
        wanted = to_log(spectrum(codec.pad(sound))[:, spectrum.n_values :])
        heard = codec.decode(codec.truncate(codes, 4))
    assert float((coded - wanted).abs().mean()) < 0.2 * float((wanted - wanted.mean()).abs().mean())
    assert bool(torch.isfinite(heard).all())  # levels alone are a sound already


@pytest.mark.parametrize("change_db", [-30, -20, -6, -1, 0, 1, 6])
def test_bands_have_their_target_energies(change_db: float) -> None:
    """Within 2 dB, a tolerance in which the waveform is left unchanged."""
    spectrum, inverse = Spectrum(512, 256, 0.6, 16), InverseSpectrum(512, 256, 0.6, 16)
    sound = _hats(256 * 100, 3)[None]
    frames = spectrum(sound)
    values, levels = frames.split([spectrum.n_values, spectrum.n_energies], dim=1)
    wanted = to_log(levels * 10 ** (0.6 * change_db / 20))
    heard = inverse(torch.cat([values, torch.zeros_like(levels), wanted], dim=1))
    found_db = _treble_db(heard) - _treble_db(sound)
    if abs(change_db) < 2:
        assert snr_db(sound, heard) > 80
    else:
        assert found_db == pytest.approx(change_db, abs=4)
    silent = inverse(torch.cat([values, torch.zeros_like(levels), 0 * wanted], dim=1))
    assert _treble_db(silent) < _treble_db(sound) - 60


def test_band_energies_of_audio_are_those_of_its_spectrum() -> None:
    spectrum = Spectrum(512, 256, 0.6, 16)
    sound = _hats(256 * 40, 3)[None]
    sound[..., : 256 * 10] = 0
    levels = spectrum(sound)[:, spectrum.n_values :]
    torch.testing.assert_close(spectrum.band_energies_of(sound), levels, atol=1e-4, rtol=1e-5)


def test_missing_waveform_does_not_lower_target_energies() -> None:
    spectrum, inverse = Spectrum(512, 256, 0.6, 16), InverseSpectrum(512, 256, 0.6, 16)
    frames = spectrum(_hats(256 * 40, 3)[None])
    values, levels = frames.split([spectrum.n_values, spectrum.n_energies], dim=1)
    wanted = (to_log(levels) + 0.5).requires_grad_()
    sound, known = inverse.parts(torch.cat([values, torch.ones_like(levels), wanted], dim=1))
    gradients = [
        float(torch.autograd.grad(part.square().sum(), wanted, retain_graph=True)[0].abs().max())
        for part in (sound, known)
    ]
    assert gradients[0] > 0
    assert gradients[1] == 0


def test_band_energies_need_bands() -> None:
    with pytest.raises(ValueError, match="n_bands"):
        StemCodec(n_bands=0, n_level_codebooks=4)


def test_only_a_stem_codec_starts_from_audio() -> None:
    with pytest.raises(UsageError, match="start_segments"):
        CodecTask(tiny_codec(), CodecLossOptions(start_segments=3))
    with pytest.raises(UsageError, match="start_segments"):
        CodecLossOptions(start_segments=-1)


def test_it_is_saved_and_loaded_like_other_codecs(tmp_path: Path) -> None:
    codec = tiny_stem_codec()
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(str(tmp_path / "codec"))
    audio = torch.randn(1, 2, 1000)
    assert loaded.codec_id == codec.codec_id
    assert torch.equal(loaded.encode(audio).codes, codec.encode(audio).codes)


def test_the_recipe_builds_a_codec_of_the_promised_size() -> None:
    task = CodecTask.from_recipe(load_recipe("stem", kind="codec"))
    n_parameters = sum(weight.numel() for weight in task.codec.parameters())
    assert n_parameters < 12_000_000
    assert (task.sample_rate, task.n_channels) == (44_100, 2)
