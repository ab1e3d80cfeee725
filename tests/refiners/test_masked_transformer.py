"""The refiners' network and its files: VampNet's checkpoints key by key, and our folders."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mssgen.errors import CheckpointError, UsageError
from mssgen.refiners.files import load_refiner, read_vampnet, save_refiner
from mssgen.refiners.layouts import infer_options, merged, to_native
from mssgen.refiners.masked_transformer import (
    MaskedTransformer,
    MaskedTransformerOptions,
    position_buckets,
)
from mssgen.refiners.masking import apply_mask, hide_for_training

from support.models import shared
from support.toys import tiny_codec, tiny_refiner, tiny_stem_codec
from support.vampnet import SIZES, State, vampnet_state, write_vampnet


@pytest.mark.parametrize("kind", ["coarse", "c2f"])
def test_a_released_checkpoint_gives_the_originals_numbers(kind: str) -> None:
    stored = load_file(shared("fixtures", "vampnet", f"{kind}_small_io.safetensors"))
    path = shared("fixtures", "vampnet", f"{kind}_small.pth")
    network = read_vampnet(path, stored["codebooks"]).freeze()
    codes = stored["codes"].long()
    with torch.inference_mode():
        assert torch.equal(network.latents(codes), stored["latents"])
        logits = network(codes)
    n_frames, n_predicted = codes.shape[-1], network.options.n_predicted
    expected = stored["logits"].float().unflatten(-1, (n_frames, n_predicted))
    assert (logits - expected.permute(0, 3, 2, 1)).abs().max() < 2e-3


@pytest.mark.parametrize("kind", ["coarse", "c2f"])
def test_every_tensor_of_the_full_size_models_has_its_place(kind: str) -> None:
    tables = json.loads(shared("fixtures", "vampnet", "full_size_keys.json").read_text())
    byte = torch.zeros((), dtype=torch.int8)  # shapes without the gigabytes
    full = {key: byte.expand(shape) for key, shape in tables[kind].items()}
    state = merged(full, with_lora=False)  # whose factors' shapes are looked at all the same
    options = infer_options(state, 1024, {})
    with torch.device("meta"):
        network = MaskedTransformer(options)
    own = {key: value.shape for key, value in network.state_dict().items() if key != "codebooks"}
    assert own == {key: value.shape for key, value in to_native(state, options).items()}
    assert (options.n_codebooks, options.n_predicted) == {"coarse": (4, 4), "c2f": (14, 10)}[kind]


def by_the_formulas(state: State, codebooks: Tensor, codes: Tensor) -> Tensor:
    """Logits [B, P, N, V] by a plain implementation of the original's description."""
    n, p, v, d, h = (SIZES[key] for key in "npvdh")

    def matrix(name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        if f"{name}.lora_A" not in state:
            return weight
        return weight + state[f"{name}.lora_B"] @ state[f"{name}.lora_A"] / 8

    def norm(x: Tensor, name: str) -> Tensor:
        return state[f"{name}.weight"] * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def bucket(distance: int) -> int:
        a = abs(distance)
        far = a if a < 8 else min(15, 8 + math.floor(8 * math.log(a / 8) / math.log(16) + 1e-9))
        return far + 16 * (distance > 0)

    tables = torch.cat([codebooks[:n], state["embedding.special.MASK"][:, None]], dim=1)
    vectors = torch.cat([tables[k][codes[:, k]] for k in range(n)], dim=-1)  # [B, N, n e]
    x = vectors @ state["embedding.out_proj.weight"][..., 0].T + state["embedding.out_proj.bias"]
    n_frames = codes.shape[-1]
    table = state["transformer.layers.0.self_attn.relative_attention_bias.weight"]
    bias = torch.stack(
        [torch.stack([table[bucket(j - i)] for j in range(n_frames)]) for i in range(n_frames)]
    )
    for index in range(SIZES["layers"]):
        layer = f"transformer.layers.{index}."
        y = norm(x, f"{layer}norm_1")
        query, key, value = (
            (y @ matrix(f"{layer}self_attn.{name}").T).unflatten(-1, (h, d // h))
            for name in ("w_qs", "w_ks", "w_vs")
        )
        scores = torch.einsum("bihd,bjhd->bijh", query, key) / math.sqrt(d // h) + bias
        attended = torch.einsum("bijh,bjhd->bihd", scores.softmax(dim=2), value).flatten(2)
        x = x + attended @ matrix(f"{layer}self_attn.fc").T
        linear, gate = (norm(x, f"{layer}norm_3") @ matrix(f"{layer}feed_forward.w_1").T).chunk(
            2, dim=-1
        )
        inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
        x = x + (linear * gate / 2 * (1 + inner.tanh())) @ matrix(f"{layer}feed_forward.w_2").T
    x = norm(x, "transformer.norm")
    direction = state["classifier.layers.0.weight_v"][..., 0]
    weight = state["classifier.layers.0.weight_g"][..., 0] * direction
    logits = x @ (weight / direction.norm(dim=1, keepdim=True)).T
    logits = logits + state["classifier.layers.0.bias"]
    return logits.unflatten(-1, (v, p)).permute(0, 3, 1, 2)  # the codebook is the fast index


def test_a_checkpoint_equals_the_plain_implementation(tmp_path: Path) -> None:
    state, codebooks = vampnet_state(), torch.randn(5, SIZES["v"], SIZES["e"])
    codes = torch.randint(SIZES["v"] + 1, (2, 3, 30))
    expected = by_the_formulas(state, codebooks, codes)

    def logits(state: State, **options: object) -> Tensor:
        path = write_vampnet(tmp_path / "model.pth", state)
        network = read_vampnet(path, codebooks, **options).freeze()  # type: ignore[arg-type]
        return network(codes)

    assert torch.allclose(logits(state), expected, atol=2e-4)
    # As a compiled model is saved, and with its low-rank changes in a file of their own.
    assert torch.allclose(
        logits({f"_orig_mod.{k}": v for k, v in state.items()}), expected, atol=2e-4
    )
    changes = {f"_orig_mod.{k}": v for k, v in state.items() if "lora" in k}
    plain = {k: v for k, v in state.items() if "lora" not in k}
    torch.save(changes, tmp_path / "lora.pth")
    separate = logits(plain, lora=tmp_path / "lora.pth")
    assert torch.allclose(separate, expected, atol=2e-4)
    # Without them, and with changes that are none.
    without = by_the_formulas(plain, codebooks, codes)
    assert not torch.allclose(without, expected, atol=0.1)
    for other in (
        logits(state, with_lora=False),
        logits(plain),
        logits({k: torch.zeros_like(v) if "lora_B" in k else v for k, v in state.items()}),
    ):
        assert torch.allclose(other, without, atol=2e-4)


@pytest.mark.parametrize(
    ("change", "said", "message"),
    [
        (lambda s: s.pop("transformer.norm.weight"), {}, "'transformer.norm.weight' is missing"),
        (lambda s: s.pop("transformer.layers.1.self_attn.w_ks.weight"), {}, "w_ks.weight' is mis"),
        (lambda s: s.update({"ctrl_encoder.weight": torch.ones(2)}), {}, "belongs to no layer"),
        (lambda s: s.pop("transformer.layers.0.self_attn.fc.lora_B"), {}, "lora_B' is missing"),
        (lambda s: None, {"n_layers": 7}, "it says n_layers 7 but its tensors have 2"),
        (lambda s: s.pop("embedding.special.MASK"), {}, "is not a refiner"),
        (
            lambda s: s.update({"transformer.layers.0.norm_1.weight": torch.ones(9)}),
            {},
            "shape \\[9\\], not \\[8\\]",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    change: Callable[[State], object], said: dict[str, object], message: str, tmp_path: Path
) -> None:
    state = vampnet_state()
    change(state)
    path = write_vampnet(tmp_path / "model.pth", state, **said)
    with pytest.raises(CheckpointError, match=message):
        read_vampnet(path, torch.randn(3, SIZES["v"], SIZES["e"]))


def test_vampnets_models_are_for_its_codec_only(tmp_path: Path) -> None:
    path = write_vampnet(tmp_path / "c2f.pth", vampnet_state())
    with pytest.raises(CheckpointError, match=r"give VampNet's codec.pth with it"):
        load_refiner(path)
    with pytest.raises(CheckpointError, match=r"VampNet's own codec.pth only, not those of tiny"):
        load_refiner(path, codec=tiny_stem_codec())
    with pytest.raises(CheckpointError, match="not trained for codebooks of 3 x 6 x 4"):
        read_vampnet(path, torch.randn(3, 6, 4))


def test_vampnets_codec_and_its_models_fit_together(tmp_path: Path) -> None:
    from mssgen.codecs.networks.dac import DacCodec

    codec = DacCodec(
        encoder_dim=2, encoder_rates=[2, 2], decoder_dim=8, decoder_rates=[2, 2],
        decoder_kind="mrf", n_codebooks=4, codebook_size=6, codebook_dim=2,
    )  # fmt: skip
    path, told = write_vampnet(tmp_path / "c2f.pth", vampnet_state()), []
    network = load_refiner(path, codec=codec, warn=told.append)
    assert network.codec_id == codec.codec_id
    assert torch.equal(network.codebooks[2], codec.quantizer.quantizers[2].codebook.weight)
    assert len(told) == 1
    assert "CC BY-NC-SA 4.0" in told[0]


def test_a_saved_folder_is_loaded_unchanged(tmp_path: Path) -> None:
    codec = tiny_stem_codec()
    network = tiny_refiner(codec, n_conditioning=2)
    save_refiner(network, tmp_path / "refiner")
    back = load_refiner(tmp_path / "refiner", codec=codec)
    assert back.options == network.options
    assert back.codec_id == codec.codec_id
    assert not any(weight.requires_grad for weight in back.parameters())
    codes = torch.randint(33, (1, 4, 9))
    with torch.inference_mode():
        assert torch.equal(back(codes), network(codes))
    with pytest.raises(CheckpointError, match="use it with the codec that it was trained for"):
        load_refiner(tmp_path / "refiner", codec=tiny_stem_codec(seed=1))
    with pytest.raises(CheckpointError, match="exists"):
        save_refiner(network, tmp_path / "refiner")
    config = json.loads((tmp_path / "refiner" / "config.json").read_text())
    config["options"]["n_layers"] = 3
    (tmp_path / "refiner" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"its own config.json \('layers.2"):
        load_refiner(tmp_path / "refiner")


def test_position_buckets_are_t5s() -> None:
    distances = torch.arange(-200, 201)
    # T5's own way, in fp32.
    far = torch.log(distances.abs().clamp_min(1).float() / 8) / math.log(16) * 8
    large = (8 + far.long()).clamp_max(15)
    small = distances.abs()
    expected = torch.where(small < 8, small, large) + 16 * (distances > 0)
    assert torch.equal(position_buckets(distances), expected)


def test_a_network_for_any_codec_takes_its_codebooks_and_learns() -> None:
    """Masked codes, logits of the predicted codebooks, cross-entropy where hidden."""
    codec = tiny_stem_codec()
    network = tiny_refiner(codec, n_conditioning=1, dropout=0.0).train()
    assert torch.allclose(network.codebooks.square().mean(dim=(1, 2)), torch.ones(4), atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    # The upper codes are a function of the first, so that there is something to learn.
    first = torch.randint(32, (8, 1, 16), generator=generator)
    codes = torch.cat([first, (first + 1) % 32, (first * 3) % 32, 31 - first], dim=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        hidden = hide_for_training(
            torch.rand(8, generator=generator), codes.shape, 1, generator=generator
        )
        logits = network(apply_mask(codes, hidden, network.mask_token))
        assert logits.shape == (8, 3, 16, 32)
        target = codes.masked_fill(~hidden, -100)[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        assert all(weight.grad is not None for weight in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3.3  # ln 32 is 3.5
    assert losses[-1] < 2.5


def test_a_codec_without_projections_and_with_input_codebooks() -> None:
    codec = tiny_codec()
    network = tiny_refiner(codec, n_codebooks=7, n_conditioning=4, n_input=4)
    assert network.options.codebook_indices == (0, 1, 2, 3, 0, 1, 2)
    assert torch.equal(network.codebooks[0], network.codebooks[4])
    assert network.options.codebook_dim == codec.latent_dim
    assert network(torch.zeros(2, 7, 5, dtype=torch.int64)).shape == (2, 3, 5, 16)
    with pytest.raises(UsageError, match="has 4 codebooks"):
        tiny_refiner(codec, n_codebooks=5, n_conditioning=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_codebooks": 4, "n_conditioning": 4}, "leave one to predict"),
        ({"n_input": 5}, "leave one to predict"),
        ({"width": 10, "n_heads": 3}, "do not divide"),
        ({"dropout": 1.0}, "dropout"),
        ({"window_frames": 0}, "at least 1"),
    ],
)
def test_contradictions_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MaskedTransformerOptions(**options)  # type: ignore[arg-type]
