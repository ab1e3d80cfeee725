"""`--refine` of `mssgen enhance` and `mssgen separate`, and folders of several stems."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

from mssgen.checkpoints import resolving
from mssgen.checkpoints.registry import REGISTRY
from mssgen.codecs.loading import save_codec
from mssgen.codecs.networks.dac import DacCodec
from mssgen.encoders.files import save_stem_encoder
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.enhancers.blend import Blend
from mssgen.enhancers.chain import StemEnhancer
from mssgen.enhancers.codec import CodecEnhancer
from mssgen.enhancers.loading import Refining, load_codec_enhancer, load_enhancer
from mssgen.errors import CheckpointError, UsageError
from mssgen.pipeline import separate
from mssgen.refiners.files import save_refiner
from mssgen.refiners.refine import Refinement, Refiner
from mssgen.separators.base import measure_level

from support.program import Program
from support.toys import snr_db, tiny_codec, tiny_refiner, tiny_stem_codec
from support.vampnet import vampnet_state, write_vampnet

RATE = 44_100
# What the codec made, as exactly as a file can hold it.
RAW = ("--blend", "full", "--bit-depth", "32f")
C2F = ("--refine", "c2f", "--refiner", "M/c2f")
BOTH = ("--refine", "coarse+c2f", "--refiner", "M/c2f", "--coarse-refiner", "M/coarse")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny codec, encoders for it by stem and what they hear, and refiners of its codes."""
    folder = tmp_path_factory.mktemp("models")
    save_codec(tiny_codec(), folder / "codec")
    for stem, hears in (("bass", "separated"), ("drums", "separated"), ("bass", "mixture")):
        encoder = StemEncoder(tiny_codec(), StemEncoderOptions(stem=stem, input=hears))
        torch.manual_seed(len(stem))
        with torch.no_grad():  # so that it is not the codec's own any more
            for weight in encoder.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        save_stem_encoder(encoder, folder / f"{stem}-{hears}")
    two_levels = StemEncoderOptions(stem="bass", n_target_codebooks=1)
    save_stem_encoder(StemEncoder(tiny_codec(), two_levels), folder / "first-level")
    save_refiner(tiny_refiner(tiny_codec()), folder / "c2f")
    coarse = tiny_refiner(tiny_codec(), n_codebooks=2, n_conditioning=0, window_frames=24)
    save_refiner(coarse, folder / "coarse")
    save_refiner(tiny_refiner(tiny_stem_codec()), folder / "other")
    return folder


@pytest.fixture
def mssgen(
    models: Path,
    music: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """The program; M/ are the models. In its folder is song.wav, 0.2 s of stereo music."""
    sf.write(tmp_path / "song.wav", music[:, RATE : RATE * 6 // 5].T, RATE)
    monkeypatch.chdir(tmp_path)
    program = Program(capsys)
    return lambda *words: program(*(str(word).replace("M/", f"{models}/", 1) for word in words))


def read(path: str) -> NDArray[np.float32]:
    samples, _ = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)


@pytest.mark.parametrize("encoder", ["bass-separated", "codec"])
def test_enhance_refines_the_codes(encoder: str, mssgen: Any, models: Path) -> None:
    """What Python gives for the same words; the same seed the same, another something else."""
    is_codec = encoder == "codec"
    option = "--codec" if is_codec else "--encoder"
    words = ("enhance", "song.wav", "--stem", "bass", option, f"M/{encoder}", *C2F, *RAW)
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        result = mssgen(*words, "--seed", seed, "--keep-codebooks", 3, "-o", folder)
        assert result.code == 0, result.err
    sounds = [read(f"{folder}/song.wav") for folder in "abc"]
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    refining = Refining(Refinement(seed=3, keep_codebooks=3), str(models / "c2f"))
    load = load_codec_enhancer if is_codec else partial(load_enhancer, hears="separated")
    enhancer = load(str(models / encoder), stem="bass", refining=refining, device="cpu")
    expected = separate("song.wav", separator=StemEnhancer(enhancer, Blend("full")))
    assert np.array_equal(sounds[0], expected["bass"])


def test_almost_no_strength_changes_next_to_nothing(mssgen: Any) -> None:
    words = ("enhance", "song.wav", "--encoder", "M/bass-separated", *RAW)
    assert mssgen(*words, "-o", "plain").code == 0
    assert mssgen(*words, *C2F, "--strength", "1e-6", "-o", "guided").code == 0
    assert mssgen(*words, *C2F, "-o", "free").code == 0
    plain, guided, free = (
        torch.from_numpy(read(f"{folder}/song.wav")) for folder in ("plain", "guided", "free")
    )
    assert snr_db(plain, guided) > 60
    assert snr_db(plain, free) < 40


def test_separate_end_to_end_with_refined_codes(mssgen: Any, tiny_model: Path) -> None:
    """A song through an encoder that separates, or through a separator and an encoder."""
    alone = ("separate", "song.wav", "--stem", "bass", "--encoder", "M/bass-mixture")
    chain = ("separate", "song.wav", "-m", tiny_model, "--enhance", "--blend", "full")
    chain = (*chain, "-s", "bass", "-s", "drums", "--encoder", "M/bass-separated")
    for name, words, how in (("alone", alone, BOTH), ("chain", chain, C2F)):
        steps = ("--steps", 2, "--temperature", 0.5)
        for folder, more in (("plain", ()), ("refined", (*how, *steps))):
            result = mssgen(*words, *more, "-o", f"{name}-{folder}")
            assert result.code == 0, result.err
        sounds = [read(f"{name}-{folder}/song/bass.wav") for folder in ("plain", "refined")]
        assert sounds[0].shape == sounds[1].shape
        assert np.abs(sounds[1]).max() > 0
        assert not np.array_equal(*sounds)
    drums = [Path(f"chain-{folder}/song/drums.wav").read_bytes() for folder in ("plain", "refined")]
    assert drums[0] == drums[1]


@pytest.mark.parametrize("head", ["none", "transformer"])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_blocks_do_not_change_what_is_drawn(head: Any, strength: float) -> None:
    codec = tiny_stem_codec()
    torch.manual_seed(0)
    options = StemEncoderOptions(head=head, n_layers=1, context_s=0.1)
    coarse = tiny_refiner(codec, n_codebooks=2, n_conditioning=0)
    how = Refinement("coarse+c2f", n_steps=2, strength=strength)
    refiner = Refiner(codec, tiny_refiner(codec), coarse=coarse, options=how)
    encoder = StemEncoder(codec, options).eval().requires_grad_(False)
    enhancer = CodecEnhancer(encoder, name="tiny", refiner=refiner)
    audio = 0.3 * torch.randn(1, 2, 5000)
    level = measure_level([audio])
    whole = torch.cat(list(enhancer.stream([audio], level)), dim=-1)
    assert whole.shape == (1, 1, 2, 5000)
    in_blocks = enhancer.stream(audio.split(613, dim=-1), level)
    assert torch.equal(torch.cat(list(in_blocks), dim=-1), whole)


def test_the_decoder_gets_the_levels_that_the_refiner_gives() -> None:
    codec = tiny_stem_codec()
    encoder = StemEncoder(codec, StemEncoderOptions(n_target_codebooks=2)).eval()
    network = tiny_refiner(codec, n_codebooks=3)
    refiner = Refiner(codec, network)
    enhancer = CodecEnhancer(encoder, name="tiny", refiner=refiner, has_own_noise=True)
    audio = 0.1 * torch.randn(1, 2, 1000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = codec.encode(audio, n_codebooks=2)
        refined = refiner(codes)
        assert refined.n_codebooks == 3
        assert torch.equal(enhancer(audio)[:, 0], codec.decode(refined))
    with pytest.raises(UsageError, match="1 codebooks and the refiner takes the first 2"):
        CodecEnhancer(encoder, name="tiny", n_codebooks=1, refiner=enhancer.refiner)
    other = StemEncoder(tiny_stem_codec(seed=1), StemEncoderOptions())
    with pytest.raises(UsageError, match="use the codec that it was trained for"):
        CodecEnhancer(other, name="tiny", refiner=enhancer.refiner)


def test_vampnets_own_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its c2f.pth behind its codec's own encoder; behind that of no other codec."""
    codec = DacCodec(
        encoder_dim=2, encoder_rates=[2, 2], decoder_dim=8, decoder_rates=[2, 2], sample_rate=8000,
        decoder_kind="mrf", n_codebooks=4, codebook_size=6, codebook_dim=2,
    ).freeze()  # fmt: skip
    refining = Refining(Refinement(), str(write_vampnet(tmp_path / "c2f.pth", vampnet_state())))
    refiner = refining.refiner(codec, "bass")
    assert caplog.text.count("CC BY-NC-SA 4.0") == 1
    encoder = StemEncoder(codec, StemEncoderOptions()).eval()
    enhancer = CodecEnhancer(encoder, name="LAC", refiner=refiner)
    audio = 0.1 * torch.randn(1, 1, 1500, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = codec.encode(audio)
        refined = refiner(codes)
        assert refined.n_codebooks == 3
        assert not torch.equal(refined.codes, codes.codes[:, :3])
        both = enhancer(audio.expand(-1, 2, -1))[0, 0]
        assert torch.allclose(both, codec.decode(refined)[0].expand(2, -1), atol=1e-5)
    with pytest.raises(CheckpointError, match=r"VampNet's own codec.pth only"):
        refining.refiner(tiny_codec(), "bass")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--seed", "1"), 2, "--seed needs --refine"),
        (("--refiner", "M/c2f"), 2, "--refiner needs --refine"),
        (("--refine", "c2f"), 2, "no c2f refiner ships for the stem bass and the codec tiny"),
        (("--refine", "fine", "--refiner", "M/c2f"), 2, "use c2f or coarse+c2f"),
        (("--refine", "coarse+c2f", "--refiner", "M/c2f"), 2, "yours with --coarse-refiner"),
        ((*C2F, "--coarse-refiner", "M/coarse"), 2, "--coarse-refiner is of no use"),
        ((*C2F, "--strength", "0"), 2, "--strength must be more than 0"),
        ((*C2F, "--steps", "0"), 2, "at least 1 step"),
        ((*C2F, "--keep-codebooks", "4"), 2, "takes 2 to 3"),
        ((*C2F[:3], "M/other"), 1, "use it with the codec that it was trained for"),
        ((*C2F[:3], "M/bass-separated"), 1, "stem encoder"),
        ((*C2F[:3], "warm_drums"), 2, "not a refiner"),
        ((*C2F, "--encoder", "M/first-level"), 2, "takes the first 2"),
        (("--codec", "M/codec"), 2, "use it without --codec"),
    ],
)
def test_wrong_words(words: tuple[str, ...], code: int, says: str, mssgen: Any) -> None:
    result = mssgen("enhance", "song.wav", "--encoder", "M/bass-separated", *words)
    assert (result.code, len(result.err.splitlines())) == (code, 1), result.err
    assert says in result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("separate", "song.wav", "--refine", "c2f"), "--refine needs --encoder or --enhance"),
        (("separate", "song.wav", "--strength", "0.5"), "--strength needs --refine"),
        (
            ("enhance", "song.wav", "--codec", "M/codec"),
            "say which stem the inputs are with --stem",
        ),
    ],
)
def test_wrong_calls(words: tuple[str, ...], says: str, mssgen: Any) -> None:
    result = mssgen(*words)
    assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
    assert says in result.err


@pytest.fixture
def shipped(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encoders for bass and drums ship, none for others, and a refiner for the bass."""
    for other in ("warm_vocals", "warm_other"):
        monkeypatch.delitem(REGISTRY, other)
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, model in (
        ("warm_bass", "bass-separated"),
        ("warm_drums", "drums-separated"),
        ("c2f_bass", "c2f"),
    ):
        (folder / name).symlink_to(models / model)
    row = replace(REGISTRY["warm_bass"], name="c2f_bass", stage="refine")
    monkeypatch.setitem(REGISTRY, "c2f_bass", row)
    monkeypatch.setattr(resolving, "embedded_dir", lambda: folder)
    return folder


def test_a_refiner_that_ships_needs_no_name(mssgen: Any, shipped: Path) -> None:
    words = ("enhance", "song.wav", "--stem", "bass", "--refine", "c2f")
    for folder, more in (("a", ()), ("b", ("--refiner", "c2f_bass"))):
        assert mssgen(*words, *more, "-o", folder).code == 0
    assert Path("a/song.wav").read_bytes() == Path("b/song.wav").read_bytes()
    result = mssgen("enhance", "song.wav", "--stem", "drums", "--refine", "c2f")
    assert "no c2f refiner ships for the stem drums" in result.err


def test_a_folder_of_stems_each_by_its_encoder(
    mssgen: Any, shipped: Path, music: NDArray[np.float32]
) -> None:
    for index, name in enumerate(
        ("one/bass", "one/drums", "one/vocals", "two/Bass", "two/mixture")
    ):
        path = Path("stems", f"{name}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, music[:, 9000 * index :][:, :4000].T, RATE)
    result = mssgen("enhance", "stems", "--json")
    assert result.code == 0, result.err
    told = [event["message"] for event in result.events if event["event"] == "warning"]
    assert len(told) == 1
    assert "2 of 5 inputs are left out, as no encoder is built in" in told[0]
    assert told[0].endswith(": mixture, vocals")
    done = [event for event in result.events if event["event"] == "done"]
    assert [event["n_done"] for event in done] == [3]
    written = {
        (event["path"], event["stem"]) for event in result.events if event["event"] == "written"
    }
    sounds = {("one/bass", "bass"), ("two/Bass", "bass"), ("one/drums", "drums")}
    assert written == {(f"enhanced/{name}.wav", stem) for name, stem in sounds}
    for stem in ("bass", "drums"):
        alone = mssgen("enhance", f"stems/one/{stem}.wav", "--stem", stem, "-o", "alone")
        assert alone.code == 0
        one = Path(f"enhanced/one/{stem}.wav").read_bytes()
        assert one == Path(f"alone/one/{stem}.wav").read_bytes()
    # Once more: what is there is kept, what is missing is made, and a failure is counted.
    Path("enhanced/one/drums.wav").unlink()
    Path("stems/two/drums.wav").write_bytes(b"nothing")
    again = mssgen("enhance", "stems", "--json", "--explain")
    assert again.code == 1
    assert [path.name for path in Path("enhanced").rglob("*.png")] == ["drums.explain.png"]
    done = [event for event in again.events if event["event"] == "done"]
    counts = [(event["n_done"], event["n_skipped"], event["n_failed"]) for event in done]
    assert counts == [(1, 2, 1)]
    # One file for all is found before any work.
    twice = mssgen("enhance", "stems", "--overwrite", "--template", "all.{ext}")
    assert twice.code == 2
    assert "would be written twice" in twice.err
    assert mssgen("enhance", "stems/one/vocals.wav").code == 2
