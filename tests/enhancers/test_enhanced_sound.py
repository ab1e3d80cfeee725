"""Enhanced stems are not broken: no clicks where pieces meet, no jumps of level, the stereo stays.

Each measure is shown to catch what it is for.
"""

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mssgen
from mssgen.checkpoints.formats import CONFIG
from mssgen.checkpoints.resolving import embedded_dir
from mssgen.codecs import streaming
from mssgen.codecs.networks.stem_codec import StemCodec
from mssgen.encoders.files import load_stem_encoder
from mssgen.encoders.mixture_aware import MixtureAwareEncoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers import blend as blending
from mssgen.enhancers.blend import Blend
from mssgen.enhancers.chain import StemEnhancer
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.training.codec.start import start_from_sound

from support.toys import snr_db

Audio = NDArray[np.float32]
RATE = 44_100
PIECE_SAMPLES = 2**14
BLEND_STEP_S = 0.8
SHIPPED = sorted(
    str(path.parent.relative_to(embedded_dir()))
    for path in embedded_dir().rglob(CONFIG)
    if json.loads(path.read_bytes()).get("architecture") == "stem_encoder"
)
CASES = [("tiny", "full"), ("tiny", "auto"), *((name, "auto") for name in SHIPPED)]


@pytest.fixture(scope="module")
def stem(music: Audio) -> Audio:
    """What a separator's bass is like: music without treble, wider than mono."""
    music = music[:, : 2 * RATE]
    spectrum = np.fft.rfft(music)
    hz = np.fft.rfftfreq(music.shape[1], 1 / RATE)
    low = np.fft.irfft(spectrum / (1 + (hz / 400) ** 4), music.shape[1])
    return np.ascontiguousarray(low, np.float32)


@pytest.fixture(scope="module")
def tiny(stem: Audio) -> StemEncoder:
    """An encoder for a codec that never learned, and is not bad at this sound all the same."""
    torch.manual_seed(0)
    codec = StemCodec(
        n_fft=256,
        hop_length=128,
        width=64,
        n_encoder_blocks=1,
        n_decoder_blocks=1,
        latent_dim=64,
        n_codebooks=8,
        codebook_size=64,
    )
    start_from_sound(codec, [torch.from_numpy(stem)])
    codec.freeze()
    return StemEncoder(codec, StemEncoderOptions(stem="bass")).eval()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def enhanced(request: pytest.FixtureRequest, stem: Audio, tiny: StemEncoder) -> Audio:
    """The stem as `mssgen enhance` gives it, in shorter pieces than usual: more borders."""
    name, mode = request.param
    encoder = tiny if name == "tiny" else load_stem_encoder(embedded_dir() / name)
    enhancer = StemEnhancer(CodecEnhancer(encoder, name=name), Blend(mode))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "PIECE_SAMPLES", PIECE_SAMPLES)
        patched.setattr(blending, "_STEP_S", BLEND_STEP_S)
        return mssgen.separate(stem, RATE, separator=enhancer)[enhancer.stem]


def borders(n_samples: int) -> NDArray[np.int64]:
    """Where pieces of the codec, and of the blend, meet."""
    hop = 512
    blend = round(BLEND_STEP_S * RATE / hop) * hop
    places = {*range(PIECE_SAMPLES, n_samples, PIECE_SAMPLES), *range(blend, n_samples, blend)}
    return np.array(sorted(places))


def click_db(audio: Audio) -> float:
    """How far the second difference stands out at borders, over all but 0.5 % of other places."""
    n = 32
    bend = np.abs(np.diff(audio, n=2)).max(axis=0)
    bend = bend[: len(bend) // n * n].reshape(-1, n).max(axis=1) + 1e-9
    around = np.lib.stride_tricks.sliding_window_view(np.pad(bend, 20, mode="reflect"), 41)
    outstanding = 20 * np.log10(bend / np.median(around, axis=1))
    at = borders(audio.shape[1])[:, None] // n + np.arange(-1, 2)
    is_border = np.zeros(len(bend), bool)
    is_border[at] = True
    return float(outstanding[is_border].max() - np.quantile(outstanding[~is_border], 0.995))


def jump_db(before: Audio, after: Audio) -> float:
    """The largest change of gain from a third of a second to the next."""
    n = RATE // 20
    frames = [x[:, : x.shape[1] // n * n].reshape(len(x), -1, n) for x in (before, after)]
    levels = [10 * np.log10(np.square(x).mean(axis=(0, 2)) + 1e-9) for x in frames]
    gains = levels[1] - levels[0]
    third = np.convolve(gains, np.full(7, 1 / 7), mode="valid")
    return float(np.abs(third[7:] - third[:-7]).max())


def width_db(audio: Audio) -> float:
    """Side over middle."""
    left, right = audio
    sides = np.square(left - right).mean() / np.square(left + right).mean()
    return float(10 * np.log10(sides + 1e-12))


def test_no_clicks_where_pieces_meet(enhanced: Audio) -> None:
    assert click_db(enhanced) < 0
    # A step of gain where the wave crosses zero is none.
    level = np.abs(enhanced).max(axis=0)
    place = int(max(borders(enhanced.shape[1])[1:-1], key=lambda at: level[at - 1 : at + 1].min()))
    late = np.concatenate([enhanced[:, :place], enhanced[:, place + 8 :]], axis=1)
    louder = enhanced.copy()
    louder[:, place:] *= 1.1
    assert min(click_db(late), click_db(louder)) > 10


def test_no_jumps_of_level(stem: Audio, enhanced: Audio) -> None:
    assert jump_db(stem, enhanced) < 0.5
    broken = enhanced.copy()
    broken[:, enhanced.shape[1] // 2 :] *= 0.9
    assert jump_db(stem, broken) > 0.7


def test_the_stereo_stays(stem: Audio, enhanced: Audio) -> None:
    assert abs(width_db(enhanced) - width_db(stem)) < 1
    middle = enhanced.mean(axis=0, keepdims=True)
    narrow = 0.5 * enhanced + 0.5 * middle
    assert width_db(narrow) - width_db(stem) < -5


@pytest.fixture(scope="module")
def in_song(tiny: StemEncoder) -> CodecEnhancer:
    """An encoder that adds some of the song to what it hears of the stem."""
    encoder = StemEncoder(tiny.codec, StemEncoderOptions(stem="bass", input="separated+mixture"))
    torch.manual_seed(0)
    with torch.no_grad():
        ear = encoder.encoder
        assert isinstance(ear, MixtureAwareEncoder)
        ear.merge.weight.add_(0.02 * torch.randn_like(ear.merge.weight))
    return CodecEnhancer(encoder.eval(), name="in song")


def enhance(enhancer: CodecEnhancer, mode: str, stem: Audio, mixture: Audio | None = None) -> Audio:
    blended = StemEnhancer(enhancer, Blend(mode))
    made: Audio = mssgen.enhance(stem, RATE, mixture=mixture, enhancer=blended)
    return made


def test_an_encoder_takes_the_mixture(in_song: CodecEnhancer, stem: Audio, music: Audio) -> None:
    mixture = music[:, : stem.shape[1]]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "PIECE_SAMPLES", PIECE_SAMPLES)
        in_pieces = enhance(in_song, "full", stem, mixture)
    whole = enhance(in_song, "full", stem, mixture)
    assert snr_db(torch.from_numpy(whole), torch.from_numpy(in_pieces)) > 60
    without = enhance(in_song, "full", stem)
    silence = enhance(in_song, "full", stem, np.zeros_like(mixture))
    assert snr_db(torch.from_numpy(whole), torch.from_numpy(without)) < 40
    # A silent mixture stands for a missing one, except for the bound, which it sets.
    assert np.abs(silence).max() > 0


@pytest.mark.parametrize("mode", ["auto", "fill"])
def test_without_the_mixture_nothing_is_added(
    in_song: CodecEnhancer, stem: Audio, music: Audio, mode: str
) -> None:
    alone = enhance(in_song, mode, stem)
    np.testing.assert_allclose(alone, stem, atol=1e-4)  # this codec has no band energies
    beside = enhance(in_song, mode, stem, music[:, : stem.shape[1]])
    assert np.abs(beside - stem).max() > 1e-3


def test_mono_stays_mono_beside_a_stereo_mixture(
    in_song: CodecEnhancer, stem: Audio, music: Audio
) -> None:
    mono = np.repeat(stem.mean(axis=0, keepdims=True), 2, axis=0)
    enhanced = enhance(in_song, "full", mono, music[:, : stem.shape[1]])
    np.testing.assert_array_equal(enhanced[0], enhanced[1])
    assert np.abs(enhanced).max() > 0.01
