"""The stem encoder: shapes and gradients of every configuration, windows, checkpoints."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mssgen.codecs.loading import save_codec
from mssgen.codecs.networks.seanet import SeanetCodec
from mssgen.encoders.files import load_stem_encoder, save_stem_encoder
from mssgen.encoders.heads import DenseHead, TransformerHead, positions, windows
from mssgen.encoders.stem_encoder import StemEncoder, StemEncoderOptions
from mssgen.errors import CheckpointError, UsageError

from support.toys import tiny_codec, tiny_stem_codec

CONFIGURATIONS = [
    StemEncoderOptions(
        encoder=encoder,
        head=head,
        head_output=output,
        head_codebooks=n_codebooks,
        is_causal=is_causal,
        is_residual=is_residual,
    )
    for encoder, (head, output, n_codebooks), (is_causal, is_residual) in itertools.product(
        ("frozen", "warm", "random"),
        (
            ("none", "latents", None),
            ("dense", "latents", None),
            ("dense", "tokens", 2),
            ("transformer", "latents", None),
            ("transformer", "tokens", None),
            ("transformer", "tokens", 1),
        ),
        ((False, True), (True, False)),
    )
    if (encoder, head) != ("frozen", "none") and (head == "transformer" or not is_causal)
]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=lambda o: f"{o.encoder}-{o.head}")
def test_every_configuration_runs_and_learns_where_it_should(options: StemEncoderOptions) -> None:
    codec = tiny_codec()
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    encoder = StemEncoder(codec, options)
    prediction = encoder(noise(2, 1, 203))
    n_frames = codec.n_frames(203)
    assert prediction.latents.shape == (2, 8, n_frames)
    if options.gives_tokens:
        n_codebooks = options.head_codebooks or 4
        assert prediction.logits is not None
        assert prediction.logits.shape == (2, n_codebooks, n_frames, 16)
        assert encoder.codes(prediction).shape == (2, n_codebooks, n_frames)
    else:
        assert prediction.logits is None
    codes = encoder.codes(prediction, 4)
    assert codes.shape == (2, 4, n_frames)
    assert codes.min() >= 0
    assert codes.max() < 16

    output = prediction.latents if prediction.logits is None else prediction.logits
    output.square().mean().backward()
    has_gradient = {name: weight.grad is not None for name, weight in encoder.named_parameters()}
    assert has_gradient == {
        name: name.startswith("head.") or options.encoder != "frozen" for name in has_gradient
    }
    assert all(weight.grad is None for weight in codec.parameters())
    assert all(torch.equal(before[key], value) for key, value in codec.state_dict().items())


def test_state_holds_its_own_weights_only() -> None:
    codec = tiny_codec()
    encoder = StemEncoder(codec, StemEncoderOptions(head="dense"))
    assert {key.split(".")[0] for key in encoder.state_dict()} == {"encoder", "head"}
    assert not {id(each) for each in encoder.parameters()} & {id(e) for e in codec.parameters()}


def test_a_warm_encoder_starts_as_the_codec_and_a_random_one_does_not() -> None:
    codec = tiny_codec()
    audio = noise(1, 1, 400)
    warm = StemEncoder(codec)
    assert torch.equal(warm(audio).latents, codec.latents(audio))
    # The very same after a head that adds nothing yet.
    refined = StemEncoder(codec, StemEncoderOptions(head="transformer"))
    assert torch.equal(refined(audio).latents, codec.latents(audio))
    plain = StemEncoder(codec, StemEncoderOptions(head="transformer", is_residual=False))
    assert not torch.allclose(plain(audio).latents, codec.latents(audio))
    torch.manual_seed(7)
    fresh = StemEncoder(codec, StemEncoderOptions(encoder="random"))
    shapes = {key: value.shape for key, value in warm.state_dict().items()}
    assert {key: value.shape for key, value in fresh.state_dict().items()} == shapes
    assert not torch.allclose(fresh(audio).latents, codec.latents(audio))


def test_a_frozen_encoder_stays_in_eval_mode() -> None:
    encoder = StemEncoder(tiny_codec(), StemEncoderOptions(encoder="frozen", head="dense"))
    assert encoder.head is not None
    assert encoder.head.training
    assert not any(module.training for module in encoder.encoder.modules())
    warm = StemEncoder(encoder.codec)
    assert all(module.training for module in warm.modules())
    assert not any(module.training for module in encoder.codec.modules())


def test_segments_and_scales_stay_with_the_codec() -> None:
    codec = tiny_codec(n_channels=2, segment_s=0.1, normalize=True)
    encoder = StemEncoder(codec)
    audio = noise(2, 2, 2003)
    scale = codec.scales(noise(2, 2, 2003, seed=1))
    assert torch.equal(encoder(audio).latents, codec.latents(audio))
    assert torch.equal(encoder(audio, scale).latents, codec.latents(audio, scale))


def with_mixture(n_level_codebooks: int = 2) -> StemEncoder:
    codec = tiny_stem_codec(n_level_codebooks=n_level_codebooks)
    return StemEncoder(codec, StemEncoderOptions(input="separated+mixture")).eval()


@pytest.mark.parametrize("n_level_codebooks", [0, 2])
def test_the_mixture_matters_only_after_training(n_level_codebooks: int) -> None:
    encoder = with_mixture(n_level_codebooks)
    stem, mixture = noise(2, 2, 403), noise(2, 2, 403, seed=1)
    both = torch.cat([stem, mixture], dim=1)
    alone = torch.cat([stem, torch.zeros_like(mixture)], dim=1)
    # Initially it equals the codec's own encoder, for any mixture.
    torch.testing.assert_close(encoder(both).latents, encoder.codec.latents(stem))
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    for _ in range(3):  # the last band-energy layer of this untrained codec is zero, too
        optimizer.zero_grad()
        (encoder(both).latents - encoder.codec.latents(mixture)).square().mean().backward()
        optimizer.step()
    difference = (encoder(both).latents - encoder(alone).latents).abs().amax(dim=(0, 2))
    # Both the spectrum and the band energies depend on it.
    n_bands = encoder.codec.n_band_dims
    assert difference[: len(difference) - n_bands].max() > 1e-4
    assert (difference[len(difference) - n_bands :] > 1e-6).any() == (n_bands > 0)
    # The stem enters the added layers, too, also with a silent mixture.
    assert not torch.equal(encoder(alone).latents, encoder.codec.latents(stem))


@torch.no_grad()
def test_band_energies_depend_on_the_phase_between_stem_and_mixture() -> None:
    """Stems of equal energy that correlate differently with the mixture leave residuals of
    different energy."""
    encoder = with_mixture()
    for weight in encoder.parameters():
        weight.add_(0.01 * torch.randn_like(weight))
    stem, mixture = noise(2, 2, 403), noise(2, 2, 403, seed=1)
    both = [encoder(torch.cat([sign * stem, mixture], dim=1)).latents for sign in (1, -1)]
    n_bands = encoder.codec.n_band_dims
    assert (both[0] - both[1])[:, -n_bands:].abs().max() > 1e-3
    mirrored = encoder(torch.cat([-stem, -mixture], dim=1)).latents
    torch.testing.assert_close(mirrored[:, -n_bands:], both[0][:, -n_bands:])
    alone = encoder(torch.cat([stem, mixture], dim=1), bands_only=True).latents
    torch.testing.assert_close(alone, both[0][:, -n_bands:], atol=1e-4, rtol=1e-4)


def test_only_the_stem_codec_takes_the_mixture() -> None:
    with pytest.raises(UsageError, match="tiny is not"):
        StemEncoder(tiny_codec(), StemEncoderOptions(input="separated+mixture"))


@torch.no_grad()
def test_a_checkpoint_that_takes_the_mixture(tmp_path: Path) -> None:
    encoder = with_mixture()
    for weight in encoder.parameters():
        weight.add_(0.01 * torch.randn_like(weight))
    save_stem_encoder(encoder, tmp_path)
    loaded, audio = load_stem_encoder(tmp_path), noise(1, 4, 777)
    assert loaded.options.takes_mixture
    assert torch.equal(loaded(audio).latents, encoder(audio).latents)


def test_codec_on_sub_bands() -> None:
    codec = tiny_codec(n_bands=4, n_noise_channels=8)
    assert StemEncoder(codec)(noise(1, 1, 333)).latents.shape[-1] == codec.n_frames(333)


def test_codebooks_beyond_the_head_quantise_the_residual() -> None:
    codec = tiny_codec()
    encoder = StemEncoder(codec, StemEncoderOptions(head="dense", head_codebooks=2))
    prediction = encoder(noise(1, 1, 200))
    assert encoder.n_codebooks == 2
    codes = encoder.codes(prediction, 4)
    assert prediction.logits is not None
    assert torch.equal(codes[:, :2], prediction.logits.argmax(-1))
    residual = prediction.latents - codec.dequantize(codes[:, :2])
    third = codec.codebooks[2].distances(residual).argmin(-1)
    assert torch.equal(codes[:, 2], third)


def test_trained_codebooks_follow_the_target() -> None:
    codec = tiny_codec()
    assert StemEncoder(codec).n_codebooks == 4
    assert StemEncoder(codec, StemEncoderOptions(n_target_codebooks=2)).n_codebooks == 2


@settings(deadline=None, max_examples=60)
@given(n_frames=st.integers(1, 300), length=st.integers(1, 80))
def test_windows_keep_every_frame_once(n_frames: int, length: int) -> None:
    kept = []
    for window in windows(n_frames, length):
        assert 0 <= window.start <= window.first < window.last <= window.stop <= n_frames
        assert window.stop - window.start <= length
        kept += range(window.first, window.last)
    assert kept == list(range(n_frames))


def test_refining_in_windows_equals_streaming() -> None:
    codec = tiny_codec()
    options = StemEncoderOptions(head="transformer", context_s=0.05, is_residual=False)
    encoder = StemEncoder(codec, options).eval()
    assert encoder.head_window_frames == 50
    latents = noise(1, 8, 183)
    whole = encoder.refine(latents).latents
    parts = []
    for window in encoder.head_windows(183):
        part = encoder.refine(latents[..., window.start : window.stop])
        parts.append(part.frames(window.first - window.start, window.last - window.start))
    assert torch.equal(torch.cat([part.latents for part in parts], dim=-1), whole)
    # Dense heads see single frames.
    assert StemEncoder(codec, StemEncoderOptions(head="dense")).head_window_frames is None


def test_a_context_of_segments_counts_their_frames() -> None:
    codec = tiny_codec(segment_s=0.1)
    encoder = StemEncoder(codec, StemEncoderOptions(head="transformer", context_s=0.5))
    assert encoder.head_window_frames is not None
    assert encoder.head_window_frames >= encoder(noise(1, 1, 4000)).latents.shape[-1] > 0


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_causal_transformer_looks_back_only(is_causal: bool) -> None:
    torch.manual_seed(0)
    head = TransformerHead(8, is_causal=is_causal, is_residual=False).eval()
    latents = noise(1, 8, 20)
    changed = latents.clone()
    changed[..., 12:] += 1
    same = torch.isclose(head(latents), head(changed), atol=1e-6).all(dim=1)[0]
    assert bool(same[:12].all()) == is_causal
    assert not same[12:].all()


def test_positions_are_sines_and_cosines() -> None:
    table = positions(5, 6, torch.zeros(1))
    assert table.shape == (5, 6)
    torch.testing.assert_close(table[3, 2], torch.sin(torch.tensor(3 / 10_000 ** (2 / 6))))
    torch.testing.assert_close(table[3, 3], torch.cos(torch.tensor(3 / 10_000 ** (2 / 6))))
    assert positions(3, 5, torch.zeros(1)).shape == (3, 5)


def test_the_dense_head_is_the_thesis() -> None:
    head = DenseHead(128, 256, 32, 1024)
    shapes = [tuple(weight.shape) for weight in head.parameters()]
    assert shapes == [(256, 128), (256,), (32 * 1024, 256), (32 * 1024,)]
    latents = torch.randn(1, 128, 3)
    frame = head.layers(latents[0, :, 1]).view(32, 1024)
    torch.testing.assert_close(head(latents)[0, :, 1], frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "frozen"}, "nothing to train"),
        ({"head_codebooks": 2}, "head_codebooks needs a head"),
        ({"context_s": 0.0}, "context_s"),
        ({"dropout": 1.0}, "dropout"),
        ({"head": "dense", "n_target_codebooks": 2}, "set head_codebooks to 2 or less"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StemEncoderOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (StemEncoderOptions(head="dense", head_codebooks=5), "4 codebooks"),
        (StemEncoderOptions(n_target_codebooks=5), "4 codebooks"),
        (StemEncoderOptions(head="transformer", n_heads=3), "do not divide"),
    ],
)
def test_what_does_not_fit_the_codec_is_refused(options: StemEncoderOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StemEncoder(tiny_codec(), options)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[StemEncoder, Path]:
    """A stem encoder with weights of its own, and its checkpoint."""
    torch.manual_seed(3)
    options = StemEncoderOptions(
        stem="drums", input="mixture", encoder="random", head="transformer", is_residual=False
    )
    encoder = StemEncoder(tiny_codec(), options).eval()
    save_stem_encoder(encoder, tmp_path / "checkpoint")
    return encoder, tmp_path / "checkpoint"


@torch.no_grad()
def test_a_checkpoint_gives_the_same_outputs(trained: tuple[StemEncoder, Path]) -> None:
    encoder, folder = trained
    loaded = load_stem_encoder(folder)
    assert loaded.options == encoder.options
    assert not loaded.training
    assert loaded.codec.codec_id == encoder.codec.codec_id
    audio = noise(2, 1, 777)
    assert torch.equal(loaded(audio).latents, encoder(audio).latents)
    assert torch.equal(loaded.codes(loaded(audio)), encoder.codes(encoder(audio)))
    config = json.loads((folder / "config.json").read_text())
    assert (config["stem"], config["input"], config["codec"]) == ("drums", "mixture", "codec/")
    assert sorted(path.name for path in folder.iterdir()) == [
        "codec",
        "config.json",
        "model.safetensors",
    ]
    save_stem_encoder(encoder, folder)  # over itself
    assert torch.equal(load_stem_encoder(folder)(audio).latents, encoder(audio).latents)


@torch.no_grad()
def test_a_checkpoint_on_sub_bands(tmp_path: Path) -> None:
    encoder = StemEncoder(tiny_codec(n_bands=4), StemEncoderOptions(encoder="random")).eval()
    save_stem_encoder(encoder, tmp_path)
    audio = noise(1, 1, 777)
    assert torch.equal(load_stem_encoder(tmp_path)(audio).latents, encoder(audio).latents)


def test_another_codec_is_refused(trained: tuple[StemEncoder, Path]) -> None:
    _, folder = trained
    save_codec(tiny_codec(seed=1), folder / "codec")
    with pytest.raises(CheckpointError, match="was trained for the codec seanet-8000-4x16-h8-"):
        load_stem_encoder(folder)


def _without_a_weight(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop(next(iter(state)))
    save_file(state, folder / "model.safetensors")
    _set("sha256", None, folder)  # what is wrong is found without the hash, too


def _set(key: str, value: object, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config["options"] if key in config["options"] else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "damaged"),
        (_without_a_weight, "does not fit its own config.json"),
        (lambda folder: _set("n_layers", 2, folder), "does not fit its own config.json"),
        (lambda folder: _set("n_layers", 10**9, folder), "n_layers = 1000000000, which"),
        (lambda folder: _set("n_heads", "many", folder), "n_heads = 'many', which must be"),
        (lambda folder: _set("encoder", "frozen", folder), None),
        (lambda folder: _set("colour", 1, folder), None),
        (lambda folder: _set("codec", "../elsewhere", folder), "does not name its codec"),
        (lambda folder: _set("codec", "x", folder), "does not name its codec"),
        (lambda folder: _set("architecture", "seanet", folder), "holds a codec"),
        (lambda folder: _set("format_version", 2, folder), "format_version"),
    ],
)
def test_damage_is_reported_in_a_sentence(
    trained: tuple[StemEncoder, Path], damage: object, message: str | None
) -> None:
    _, folder = trained
    damage(folder)  # type: ignore[operator]
    if message is None:  # harmless
        load_stem_encoder(folder)
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        load_stem_encoder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a stem encoder"):
        load_stem_encoder(tmp_path)


def test_the_architecture_of_encodec() -> None:
    """N1's and N8's sizes with EnCodec at 24 kHz."""
    codec = SeanetCodec()
    codec.freeze()
    for layer in codec.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    encoder = StemEncoder(codec, StemEncoderOptions(head="transformer"))
    assert encoder.head_window_frames == 1200
    prediction = encoder(noise(1, 1, 2401))
    assert prediction.latents.shape == (1, 128, 8)
    assert encoder.codes(prediction).shape == (1, 32, 8)
