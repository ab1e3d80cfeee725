"""Blends of a stem and what a codec made of it: what may change, and by how much at most."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from mssgen.audio.loudness import integrated_lufs
from mssgen.enhancers.blend import MODES, Blend, Changes, blend_stream
from mssgen.enhancers.lanes import Lanes
from mssgen.errors import UsageError

from support.program import Program
from support.toys import write_tiny_encoder

RATE = 8000


def noise(n_samples: int, *, seed: int = 0, above_hz: float = 0, below_hz: float = 4000) -> Tensor:
    """Stereo noise [1, 2, T] of a band, RMS about 0.1 over the whole range."""
    white = torch.randn(1, 2, n_samples, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfft(white)
    hz = torch.fft.rfftfreq(n_samples, 1 / RATE)
    return 0.1 * torch.fft.irfft(spectrum * ((hz >= above_hz) & (hz <= below_hz)), n=n_samples)


def blended(
    stem: Tensor,
    enhanced: Tensor,
    mode: str = "auto",
    mix: float = 1.0,
    *,
    mixture: Tensor | None = None,
    lowering: Tensor | None = None,
    block: int = 4096,
    changes: Changes | None = None,
) -> Tensor:
    whole = Lanes(stem, mixture, enhanced, lowering)
    lanes = (
        Lanes(*(None if x is None else x[..., start : start + block] for x in whole))
        for start in range(0, stem.shape[-1], block)
    )
    blend = Blend(mode, mix)
    blocks = list(blend_stream(lanes, blend, sample_rate=RATE, changes=changes))
    return torch.cat(blocks, dim=-1)


def decibels(signal: Tensor) -> float:
    return float(10 * signal.double().square().mean().clamp_min(1e-20).log10())


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    target = reference * (reference * estimate).sum() / reference.square().sum()
    return decibels(target) - decibels(estimate - target)


def regions(signal: Tensor) -> Tensor:
    """Energies of bands of 250 Hz in 64 ms, by another transform than the blend's."""
    frames = signal.unfold(-1, 512, 256) * torch.hamming_window(512)
    return torch.fft.rfft(frames)[..., :256].abs().square().unflatten(-1, (16, 16)).sum(-1)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_alike_stays(mode: str) -> None:
    stem = noise(9 * RATE + 77)
    result = blended(stem, stem, mode, mixture=stem + noise(9 * RATE + 77, seed=1))
    torch.testing.assert_close(result, stem, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_any_chunking_gives_the_same(mode: str) -> None:
    n_samples = 15 * RATE + 77
    stem, song = noise(n_samples, below_hz=1000), noise(n_samples, seed=1)
    results = [blended(stem, song, mode, mixture=song, block=size) for size in (999, 20_000)]
    torch.testing.assert_close(*results, atol=1e-7, rtol=0)
    assert results[0].shape == stem.shape
    assert not torch.equal(results[0], stem)
    torch.testing.assert_close(
        blended(stem, song, mode, 0.25, mixture=song), torch.lerp(stem, results[0], 0.25)
    )
    assert torch.equal(blended(stem, song, mode, 0), stem)


@pytest.mark.parametrize("mode", MODES)
def test_silence_and_mono_stay(mode: str) -> None:
    stem, other = noise(3 * RATE, below_hz=1000), noise(3 * RATE, seed=1)
    assert not blended(torch.zeros_like(stem), other, mode, mixture=other).any()
    stem[:, 1], other[:, 1] = stem[:, 0], other[:, 0]
    left, right = blended(stem, other, mode).unbind(dim=1)
    assert torch.equal(left, right)


@pytest.mark.parametrize("mode", ["fill", "full"])
def test_nothing_is_added_that_the_mixture_has_not(mode: str) -> None:
    """A bass, a song with little treble, and a codec that makes a cymbal of it."""
    bass = noise(4 * RATE, below_hz=1000)
    mixture = bass + 0.003 * noise(4 * RATE, seed=1)
    cymbal = noise(4 * RATE, seed=2, above_hz=2000) * (torch.arange(4 * RATE) % 4000 < 800)
    free = regions(blended(bass, bass + cymbal, mode) - bass)
    bound = regions(blended(bass, bass + cymbal, mode, mixture=mixture) - bass)
    song = regions(mixture)
    treble = slice(9, None)
    assert (free[..., treble] > 100 * song[..., treble]).any()
    # Two transforms do not see the same frames: single regions scatter by a decibel or two.
    assert (bound[..., treble] < 2 * 1.5 * song[..., treble]).all()
    assert bound[..., treble].mean() < 2 * song[..., treble].mean()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made", ["noise", "loud treble", "inverted", "delayed", "silence"])
def test_a_reliable_stem_stays(mode: str, made: str) -> None:
    """25 dB louder than the rest of its mixture: whatever the codec and the encoder say."""
    stem = noise(4 * RATE)
    error = 10 ** (-25 / 20) * noise(4 * RATE, seed=2)
    enhanced = {
        "noise": noise(4 * RATE, seed=3),
        "loud treble": stem + noise(4 * RATE, seed=3, above_hz=2000),
        "inverted": -stem,
        "delayed": stem.roll(3, -1),
        "silence": torch.zeros_like(stem),
    }[made]
    result = blended(stem, enhanced, mode, mixture=stem + error, lowering=-0.9 * stem)
    at_most_db = {"auto": -19, "fill": -19, "full": -14}[mode]
    assert decibels(result - stem) - decibels(stem) < at_most_db


@pytest.mark.parametrize("seed", range(3))
def test_auto_adds_an_eighth_of_the_expected_error_at_most(seed: int) -> None:
    """Added noise, a stem as Wiener's filter leaves it: half a decibel of SI-SDR."""
    reference, other = noise(4 * RATE, seed=seed), noise(4 * RATE, seed=seed + 10)
    error = 10 ** (-8 / 20) * noise(4 * RATE, seed=seed + 20)
    stem = reference + error
    result = blended(stem, noise(4 * RATE, seed=seed + 30), mixture=reference + 0.4 * other)
    assert si_sdr(reference, stem) - si_sdr(reference, result) < 0.5


def test_an_unreliable_stem_becomes_the_codecs() -> None:
    """Treble of which the separator left the rest's bleed, and a codec that knows better."""
    clean = noise(6 * RATE, below_hz=1500) + 0.02 * noise(6 * RATE, above_hz=2000)
    bleed = 0.02 * noise(6 * RATE, seed=1, above_hz=2000)
    stem = noise(6 * RATE, below_hz=1500) + bleed
    mixture = clean + noise(6 * RATE, seed=1, above_hz=2000)
    for mode, in_db in (("auto", 6), ("full", 6)):
        result = blended(stem, clean, mode, mixture=mixture)
        gain = decibels(stem - clean) - decibels(result - clean)
        assert gain > in_db, mode


def test_a_codec_without_bands_takes_bleed_away() -> None:
    """What the codec does not give is taken for bleed, where the rest is as loud."""
    bass, voice = noise(6 * RATE, below_hz=1000), noise(6 * RATE, seed=1, above_hz=2000)
    stem = bass + 0.05 * voice
    for mode in MODES:
        changes = Changes()
        result = blended(stem, bass, mode, mixture=bass + voice, changes=changes)
        assert decibels(result - bass) < decibels(stem - bass) - 10, mode
        assert 0 < changes.taken_away_db < 1


def test_changes_are_counted() -> None:
    stem = noise(3 * RATE, below_hz=1000)
    quiet, added, halved = Changes(), Changes(), Changes()
    blended(stem, stem, mixture=stem, changes=quiet)
    assert (quiet.taken_away_db, quiet.added_db) == (0, -120)
    treble = 0.1 * noise(3 * RATE, seed=1, above_hz=2000)
    result = blended(stem, stem + treble, "fill", changes=added)
    assert added.taken_away_db == 0
    assert added.added_db == pytest.approx(decibels(result - stem) - decibels(stem), abs=0.01)
    blended(stem, stem + treble, "fill", 0.5, changes=halved)
    assert halved.added_db == pytest.approx(added.added_db - 6.02, abs=0.01)


@pytest.mark.parametrize("mode", ["fill", "full"])
def test_the_level_stays(mode: str) -> None:
    stem = noise(8 * RATE, below_hz=1000)
    stem[..., : 2 * RATE] *= 0.03
    bright = stem + 0.5 * noise(8 * RATE, seed=1, above_hz=1500)
    made = partial(blended, stem, mode=mode)
    for enhanced in (0.4 * stem, 2.5 * stem, bright, 3 * bright):
        levels = [integrated_lufs(each[0].numpy(), RATE) for each in (stem, made(enhanced))]
        assert levels[0] == pytest.approx(levels[1], abs=0.5)


@pytest.mark.parametrize("mode", MODES)
def test_no_clicks(mode: str) -> None:
    """Of a tone nothing but a tone comes, wherever blocks and pieces meet."""
    time = torch.arange(14 * RATE) / RATE
    tone = 0.3 * torch.sin(2 * torch.pi * 220 * time).expand(1, 2, -1)
    wobbling = tone * (1 + 0.5 * torch.sin(2 * torch.pi * 0.3 * time))
    result = blended(tone, wobbling, mode, block=1000)
    spectra = regions(result[..., 256:-256])
    assert float(10 * (spectra[..., 3:].sum(-1) / spectra.sum(-1)).max().log10()) < -40
    steps = result.diff(n=2).abs().amax(dim=(0, 1))
    assert steps.max() < 3 * steps.median()


def test_fill_puts_back_what_was_cut_without_combing() -> None:
    clean = noise(6 * RATE)
    stem = noise(6 * RATE, below_hz=1500) + 0.001 * clean
    late = clean.roll(5, -1)
    result = blended(stem, late, "fill")

    def levels(signal: Tensor) -> Tensor:
        return 10 * regions(signal).mean(dim=(0, 1, 2)).log10()

    lost = levels(clean) - levels(stem)
    left = levels(clean) - levels(result)
    assert lost[7:].min() > 30
    # All softer by what the level match took, but no band is hollow, save where the cut runs
    # through a region.
    assert left[7:].max() - left[:6].min() < 5
    assert left[8:].max() - left[8:].min() < 0.1
    assert left[:6].max() - left[:6].min() < 0.2


@pytest.mark.parametrize("mode", MODES)
def test_what_leaked_in_is_taken_away(mode: str) -> None:
    """A drum, a voice in it that the mixture holds louder, and an encoder that knows."""
    time = torch.arange(8 * RATE) / RATE
    drum = noise(8 * RATE, below_hz=1500) * (time % 0.5 < 0.2)
    voice = noise(8 * RATE, seed=1, above_hz=2000)
    for gain in (0.3, 0.03):
        stem = drum + gain * voice
        made = partial(blended, stem, drum, mode, mixture=drum + voice, lowering=-gain * voice)
        left, leaked = made() - drum, stem - drum
        assert left.square().mean() < 0.1 * leaked.square().mean()
        half = made(mix=0.5)
        torch.testing.assert_close(half, (stem + made()) / 2, atol=1e-5, rtol=0)


def test_an_encoder_that_errs_costs_little() -> None:
    stem = noise(8 * RATE, below_hz=1500) + 0.01 * noise(8 * RATE, seed=1)
    result = blended(stem, stem, "auto", lowering=-stem, mixture=stem)
    assert decibels(stem) - decibels(result) < 1.5
    assert decibels(stem) - decibels(stem - result) > 14


def test_wrong_words() -> None:
    with pytest.raises(UsageError, match="auto, fill, full"):
        Blend("half")
    with pytest.raises(UsageError, match="out of range"):
        Blend(mix=1.5)


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mssgen, encoder = Program(capsys), write_tiny_encoder(tmp_path / "encoder")
    song = noise(RATE, seed=1)[0].T.numpy()
    sf.write("song.wav", song, RATE, subtype="FLOAT")
    sf.write("short.wav", song[:999], RATE)
    base = ("enhance", "bass.wav", "--encoder", encoder, "--overwrite")

    def made(*words: object) -> NDArray[np.float64]:
        done = mssgen(*base, *words)
        assert done.code == 0, done.err
        return sf.read("enhanced/bass.wav")[0]

    below = noise(RATE, below_hz=3000)[0].T.numpy()  # there and back to 44.1 kHz as it was
    sf.write("bass.wav", below, RATE, subtype="FLOAT")
    result = made("--blend", "full", "--mix", 0)
    np.testing.assert_allclose(result[99:-99], below[99:-99], atol=1e-3)
    full = made("--blend", "full")
    results = [made("--blend", "auto"), full, made("--mixture", "song.wav")]
    assert not any(np.array_equal(*pair) for pair in pairwise(results))
    np.testing.assert_array_equal(made(), full)  # an encoder that was asked for is heard
    for words, code, says in (
        ((*base, "--blend", "half"), 2, "auto, fill, full"),
        ((*base, "--mixture", "short.wav"), 1, "0.125 s and bass.wav 1.000 s"),
        (("enhance", "song.wav", *base[1:], "--mixture", "song.wav"), 2, "2 inputs are bass stems"),
        ((*base, "--mixture", "-"), 2, "--mixture needs files"),
        (("separate", "song.wav", "--mix", "0.5"), 2, "need --enhance"),
    ):
        done = mssgen(*words)
        assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
        assert says in done.err
