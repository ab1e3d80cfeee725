"""Stage 1: our networks against the demucs package, and the separator around them."""

import copy
import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.apply import apply_model
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs as DemucsHTDemucs
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mssgen.checkpoints.formats import Checkpoint
from mssgen.checkpoints.resolving import resolve
from mssgen.devices import choose_device, choose_precision
from mssgen.errors import CheckpointError, OutOfMemoryError, UsageError
from mssgen.pipeline import load_separator, separate
from mssgen.separators.base import measure_level
from mssgen.separators.demucs import (
    DemucsSeparator,
    Member,
    SeparationOptions,
)
from mssgen.separators.htdemucs.attention import attention
from mssgen.separators.htdemucs.network import HTDemucs
from mssgen.separators.loading import build_network, build_separator
from mssgen.separators.original import OriginalNetwork

from support.models import TINY_OPTIONS, shared, write_tiny_model
from support.toys import SOURCES, ToyNetwork, snr_db, toy_separator

RATE = 44_100
CPU = torch.device("cpu")
HDEMUCS_OPTIONS: dict[str, Any] = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4}


def lively(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """New networks hide most of their layers behind tiny scales: open them, so that all count."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.3, 1.0)
            elif "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def checkpoint_of(network: Any, options: dict[str, Any], kind: str = "htdemucs") -> Checkpoint:
    return Checkpoint(kind, options, dict(network.state_dict()), Path("tiny"))


def normalised(samples: NDArray[np.float32]) -> Tensor:
    """[1, C, T] with zero mean and unit deviation, as demucs.api does."""
    mixture = torch.from_numpy(samples)
    mono = mixture.mean(0)
    return ((mixture - mono.mean()) / (mono.std() + 1e-8))[None]


NETWORKS = {
    "bottom": {"bottom_channels": 16},
    "no bottom": {"bottom_channels": 0},
    "branches in the encoder": {"dconv_mode": 1},
    "branches in the decoder": {"dconv_mode": 2},
    "no branches": {"dconv_mode": 0},
    "one branch": {"dconv_depth": 1},
    "one layer": {"t_layers": 1},
    "three layers": {"t_layers": 3},
    "no transformer": {"t_layers": 0, "bottom_channels": 0},
    "two stems": {"sources": ["vocals", "rest"]},
    "six stems": {"sources": ["drums", "bass", "other", "vocals", "guitar", "piano"]},
    "odd segment": {"segment": Fraction(5003, RATE)},
    "whole hops": {"segment": Fraction(5120, RATE)},
    "odd positions": {"t_weight_pos_embed": 0.5, "t_max_period": 1000.0},
    "other embedding": {"freq_emb": 0.5, "emb_scale": 3},
    "short transform": {"nfft": 2048},
    "other rate": {"samplerate": 22_050},
    "mono": {"audio_channels": 1},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_our_network_gives_what_the_original_gives(name: str, music: NDArray[np.float32]) -> None:
    options = {**TINY_OPTIONS, "segment": Fraction(1, 8), **NETWORKS[name]}
    original = lively(DemucsHTDemucs(**options))
    ours = build_network(checkpoint_of(original, options))
    if options["t_layers"]:
        assert isinstance(ours, HTDemucs)
    assert ours.sources == tuple(options["sources"])
    n_channels, length = options.get("audio_channels", 2), ours.segment_samples
    mixture = normalised(music)[:, :n_channels]
    segments = torch.cat([mixture[..., :length], mixture[..., length : 2 * length]])
    with torch.no_grad():
        expected = original(segments)
    assert snr_db(expected, ours(segments)) >= 90


OTHER_OPTIONS: list[dict[str, Any]] = [
    {"t_cross_first": True},
    {"norm_starts": 2},
    {"freq_emb": 0},
    {"t_norm_in_group": True},
]


@pytest.mark.parametrize("other", OTHER_OPTIONS, ids=lambda other: next(iter(other)))
def test_options_that_ours_lacks_go_to_the_original(
    other: dict[str, Any], music: NDArray[np.float32]
) -> None:
    options = {**TINY_OPTIONS, "segment": Fraction(1, 8), **other}
    original = lively(DemucsHTDemucs(**options))
    network = build_network(checkpoint_of(original, options))
    assert isinstance(network, OriginalNetwork)
    segment = normalised(music)[..., : network.segment_samples]
    with torch.no_grad():
        torch.testing.assert_close(network(segment), original(segment))


def test_batches_do_not_change_segments(music: NDArray[np.float32]) -> None:
    options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
    network = build_network(checkpoint_of(lively(DemucsHTDemucs(**options)), options))
    length = network.segment_samples
    segments = normalised(music)[..., : 4 * length].unflatten(-1, (4, length))[0].transpose(0, 1)
    alone = torch.cat([network(segment[None]) for segment in segments])
    assert snr_db(alone, network(segments)) >= 100


def test_attention_rounds_alike_on_any_number_of_threads() -> None:
    query, key, value = torch.randn(3, 1, 2, 2688, 64, generator=torch.manual_seed(0)).bfloat16()
    expected = torch.softmax(query.float() @ key.float().mT / 8, dim=-1) @ value.float()
    n_threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(attention(query, key, value))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(*results)
    assert snr_db(expected, results[0].float()) >= 30


def test_a_lone_segment_gets_the_free_threads(
    monkeypatch: pytest.MonkeyPatch, music: NDArray[np.float32]
) -> None:
    options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
    network = build_network(checkpoint_of(DemucsHTDemucs(**options), options))
    assert isinstance(network, HTDemucs)
    segment = normalised(music)[..., : network.segment_samples]
    used: list[int] = []
    forward = network._forward

    def spy(mixture: Tensor) -> Tensor:
        used.append(torch.get_num_threads())
        return forward(mixture)

    monkeypatch.setattr(network, "_forward", spy)
    for n_free in (1, 3):
        monkeypatch.setattr(network, "_free_threads", lambda n_free=n_free: n_free)
        network(segment)
    assert used == [1, 3]


def test_bf16_is_close(music: NDArray[np.float32]) -> None:
    options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
    checkpoint = checkpoint_of(DemucsHTDemucs(**options), options)
    exact = build_network(checkpoint)
    reduced = build_network(checkpoint, dtype=torch.bfloat16)
    segment = normalised(music)[..., : exact.segment_samples]
    result = reduced(segment)
    assert result.dtype == torch.float32
    assert snr_db(exact(segment), result) >= 25


def test_auto_is_fp32_for_networks_of_the_package(tmp_path: Path) -> None:
    """bf16 was measured with our network only; whoever asks for it gets it."""
    state = {
        key: tensor.contiguous() for key, tensor in HDemucs(**HDEMUCS_OPTIONS).state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    config = {"format_version": 1, "architecture": "hdemucs", "options": HDEMUCS_OPTIONS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    resolved = resolve(str(tmp_path))
    assert build_separator(resolved, device=CPU).precision == "fp32"
    assert build_separator(resolved, device=CPU, precision="bf16").precision == "bf16"


class TestCheckpointsThatDoNotFit:
    @pytest.fixture
    def checkpoint(self) -> Checkpoint:
        options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
        return checkpoint_of(DemucsHTDemucs(**options), options)

    @pytest.mark.parametrize(
        "key", ["encoder.0.conv.weight", "crosstransformer.layers.1.cross_attn.in_proj_weight"]
    )
    def test_a_missing_tensor_is_named(self, checkpoint: Checkpoint, key: str) -> None:
        del checkpoint.state[key]
        with pytest.raises(CheckpointError):
            build_network(checkpoint)

    def test_a_tensor_too_many_is_named(self, checkpoint: Checkpoint) -> None:
        checkpoint.state["encoder.9.conv.weight"] = torch.zeros(1)
        with pytest.raises(CheckpointError, match=r"encoder\.9\.conv\.weight"):
            build_network(checkpoint)

    @pytest.mark.parametrize("change", [{"t_layers": 1}, {"depth": 3}, {"t_layers": 3}])
    def test_options_of_another_model(self, checkpoint: Checkpoint, change: dict[str, int]) -> None:
        checkpoint.options.update(change)
        with pytest.raises(CheckpointError):
            build_network(checkpoint)

    def test_a_wrong_shape(self, checkpoint: Checkpoint) -> None:
        checkpoint.state["decoder.1.rewrite.weight"] = torch.zeros(3, 5, 3, 3)
        with pytest.raises(CheckpointError):
            build_network(checkpoint)

    def test_the_original_says_so_too(self) -> None:
        checkpoint = checkpoint_of(HDemucs(**HDEMUCS_OPTIONS), HDEMUCS_OPTIONS, "hdemucs")
        checkpoint.state.pop("encoder.0.conv.weight")
        with pytest.raises(CheckpointError, match="does not fit hdemucs"):
            build_network(checkpoint)

    def test_the_original_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = checkpoint_of(HDemucs(**HDEMUCS_OPTIONS), HDEMUCS_OPTIONS, "hdemucs")
        monkeypatch.setitem(sys.modules, "demucs.hdemucs", None)
        with pytest.raises(UsageError, match="package demucs is not installed, and this model"):
            build_network(checkpoint)

    def test_members_of_a_bag_agree(self) -> None:
        members = [
            Member(ToyNetwork(sample_rate=8000), SOURCES),
            Member(ToyNetwork(sample_rate=9000), SOURCES),
        ]
        with pytest.raises(CheckpointError, match="bag differ in sample_rate"):
            DemucsSeparator(members, name="bag")


class TestWholeMixtures:
    """Against demucs.apply.apply_model, which is what `demucs --shifts 0` runs."""

    @pytest.mark.parametrize("overlap", [0.25, 0.1])
    def test_stems_agree(self, overlap: float, music: NDArray[np.float32]) -> None:
        options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
        original = lively(DemucsHTDemucs(**options))
        ours = DemucsSeparator(
            [Member(build_network(checkpoint_of(original, options)), SOURCES)],
            name="tiny",
            options=SeparationOptions(overlap=overlap),
        )
        check_agreement(ours, original, music[:, : 2 * RATE // 3], overlap=overlap)

    @pytest.mark.parametrize("n_samples", [1, 1000, 5512, 5513, 9000])
    def test_short_mixtures_agree(self, n_samples: int, music: NDArray[np.float32]) -> None:
        """Below, at and above one segment."""
        options = {**TINY_OPTIONS, "segment": Fraction(1, 8)}
        original = lively(DemucsHTDemucs(**options))
        network = build_network(checkpoint_of(original, options))
        ours = DemucsSeparator([Member(network, SOURCES)], name="tiny")
        if n_samples == 1:
            one = torch.from_numpy(music[:, :1])[None]
            assert ours(one).shape == (1, 4, 2, 1)
            return
        check_agreement(ours, original, music[:, 30_000 : 30_000 + n_samples])

    @pytest.mark.parametrize("n_samples", [500, 8000, 11_025, 15_000, 20_000])
    def test_hybrid_demucs_agrees(self, n_samples: int, music: NDArray[np.float32]) -> None:
        """Lengths below, about and above the segment of 1/4 s: this one takes any length."""
        original = lively(HDemucs(**HDEMUCS_OPTIONS))
        checkpoint = checkpoint_of(original, HDEMUCS_OPTIONS, "hdemucs")
        network = build_network(checkpoint, segment_s=0.25)
        assert not network.has_fixed_length
        ours = DemucsSeparator([Member(network, SOURCES)], name="hdemucs")
        check_agreement(ours, original, music[:, :n_samples], segment=0.25)

    @pytest.mark.slow
    @pytest.mark.parametrize("song", ["sodium", "potassium", "caesium"])
    def test_the_real_network_agrees_on_real_songs(self, song: str) -> None:
        import soundfile as sf

        path = shared("audio", song, "mixture.flac")
        resolved = resolve(str(shared("weights", "htdemucs", "model.safetensors")))
        ours = build_separator(resolved, device=CPU, precision="fp32")
        samples, _ = sf.read(path, frames=20 * RATE, dtype="float32")
        network = ours.members[0].network
        assert isinstance(network, HTDemucs)
        from mssgen.checkpoints.formats import read_checkpoint

        checkpoint = read_checkpoint(resolved.paths[0])
        original = DemucsHTDemucs(**checkpoint.options)
        original.load_state_dict({k: v.float() for k, v in checkpoint.state.items()})
        check_agreement(ours, original.eval(), np.ascontiguousarray(samples.T))


def check_agreement(
    ours: DemucsSeparator, original: Any, samples: NDArray[np.float32], **how: Any
) -> None:
    """At least 60 dB on every stem, as demucs.api does it: normalise, apply, undo.

    Of sound without offset: that is the one thing which mssgen treats in another way.
    """
    samples = samples - samples.mean(axis=1, keepdims=True)
    mixture = torch.from_numpy(samples)
    mono = mixture.mean(0)
    with torch.no_grad():
        expected = apply_model(original, normalised(samples), shifts=0, **{"overlap": 0.25} | how)
    expected = expected * (mono.std() + 1e-8)
    result = ours(mixture[None])
    assert result.shape == expected.shape
    for index, source in enumerate(ours.sources):
        assert snr_db(expected[:, index], result[:, index]) >= 60, source


def white(n_samples: int = 5000, n_mixtures: int = 1, seed: int = 0) -> Tensor:
    """[B, 2, T] of noise."""
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(n_mixtures, 2, n_samples, generator=numbers) * 0.1 + 0.05


class Offset(ToyNetwork):
    """Adds the place in the segment, so that shifts of the segments show."""

    def __call__(self, mixture: Tensor) -> Tensor:
        place = torch.linspace(0, 1, self.segment_samples)[: mixture.shape[-1]]
        return super().__call__(mixture * place)


class TestSeparator:
    def test_stems_come_in_the_order_asked_for(self) -> None:
        mixture = white()
        separator = toy_separator()
        everything = separator(mixture)
        level = measure_level([mixture])
        some = torch.cat(list(separator.stream([mixture], level, stems=["vocals", "bass"])), -1)
        torch.testing.assert_close(some, everything[:, [3, 1]])

    def test_an_unknown_stem_is_named(self) -> None:
        mixture = white()
        with pytest.raises(UsageError, match="no stem 'horn'"):
            list(toy_separator().stream([mixture], measure_level([mixture]), stems=["horn"]))

    def test_the_level_comes_back(self) -> None:
        """A network that gives its input back gives the mixture back, but for its offset."""
        mixture = torch.cat([white(seed=1) * 20 + 100, white(seed=2) * 0.001])
        mixture[1] -= mixture[1].mean()
        separator = toy_separator(ToyNetwork(gains=(1.0, 1.0, 1.0, 1.0)))
        result = separator(mixture)
        mixture = mixture - measure_level([mixture]).offset[..., None]
        assert mixture.mean(dim=-1).abs().max() < 0.1
        expected = mixture[:, None].expand_as(result)
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)

    def test_the_network_sees_a_normal_level(self) -> None:
        seen: list[Tensor] = []
        network = ToyNetwork(before=seen.append, segment_samples=30_000)
        separator = toy_separator(network, options=SeparationOptions(overlap=0, batch_size=1))
        separator(white(30_000) * 30 - 7)
        mono = torch.cat(seen).mean(1)
        assert abs(float(mono.mean())) < 0.05
        assert abs(float(mono.std()) - 1) < 1e-3

    @pytest.mark.parametrize("ratio", [-1.0, -0.999, -0.5, 0.0])
    def test_what_cancels_in_mono_is_separated_like_anything_else(self, ratio: float) -> None:
        left = white()[:, :1] - 0.05
        mixture = torch.cat([left, ratio * left], dim=1)
        seen: list[Tensor] = []
        network = ToyNetwork(gains=(1.0, 0.0, 0.0, 0.0), before=seen.append)
        result = toy_separator(network)(mixture)
        assert snr_db(mixture, result[:, 0]) > 50  # what the mean of so short a sound may take
        assert torch.cat(seen).abs().max() < 100  # and the network is not overrun

    @pytest.mark.parametrize("offsets", [(0.01, 0.01), (0.02, -0.02), (0.0, -0.05)])
    def test_an_offset_is_in_no_stem(self, offsets: tuple[float, float]) -> None:
        mixture = white(40_000) - 0.05 + torch.tensor(offsets)[:, None]
        result = toy_separator(ToyNetwork(gains=(1.0, 0.5, 0.1, 0.0)))(mixture)
        assert result.mean(dim=-1).abs().max() < 2e-3
        assert not result[:, 3].any()

    @pytest.mark.parametrize("n_samples", [6000, 60_000])
    def test_the_mean_of_a_hit_makes_no_step(self, n_samples: int) -> None:
        """A decay that ends in silence: its mean is no offset, and silence stays where it is."""
        times = torch.arange(n_samples)
        hit = torch.exp(-times / 500) * torch.cos(times / 100)
        mixture = hit.expand(1, 2, -1)
        assert hit.mean() > 1e-4
        result = toy_separator()(mixture)
        assert result[..., -1].abs().max() < 1e-4

    @pytest.mark.parametrize("value", [0.0, 0.25])
    def test_silence_and_constants_give_silence(self, value: float) -> None:
        network = ToyNetwork()
        result = toy_separator(network)(torch.full((1, 2, 3000), value))
        assert result.shape == (1, 4, 2, 3000)
        assert not result.any()
        assert network.n_calls == 0

    def test_a_silent_pair_stays_silent_beside_a_loud_one(self) -> None:
        mixture = torch.cat([white(), torch.zeros(1, 2, 5000)])
        result = toy_separator()(mixture)
        assert torch.isfinite(result).all()
        assert result[0].abs().max() > 0.01
        assert result[1].abs().max() < 1e-6

    @pytest.mark.parametrize("batch_size", [2, 3, 16])
    def test_the_batch_size_does_not_matter(self, batch_size: int) -> None:
        mixture = white(7777, n_mixtures=2)
        results = []
        for size in (1, batch_size):
            network = Offset(segment_samples=1000)
            options = SeparationOptions(batch_size=size)
            results.append(toy_separator(network, options=options)(mixture))
        torch.testing.assert_close(results[0], results[1])

    def test_blocks_of_the_stream_do_not_matter(self) -> None:
        mixture = white(6000)
        separator = toy_separator(Offset())
        level = measure_level([mixture])
        pieces = list(separator.stream(mixture.split(77, dim=-1), level))
        torch.testing.assert_close(torch.cat(pieces, dim=-1), separator(mixture))


class TestShifts:
    def separate(self, **options: Any) -> Tensor:
        network = Offset(segment_samples=6000)
        return toy_separator(network, options=SeparationOptions(**options))(white(20_000))

    def test_a_seed_gives_the_same_again(self) -> None:
        assert torch.equal(self.separate(shifts=2, seed=7), self.separate(shifts=2, seed=7))

    def test_another_seed_differs(self) -> None:
        assert not torch.allclose(self.separate(shifts=2, seed=7), self.separate(shifts=2, seed=8))

    def test_shifts_differ_from_none(self) -> None:
        assert not torch.allclose(self.separate(shifts=1, seed=7), self.separate(shifts=0))

    def test_several_shifts_are_the_mean_of_single_ones(self) -> None:
        separator = toy_separator(
            Offset(segment_samples=6000), options=SeparationOptions(shifts=3, seed=5)
        )
        mixture = white(20_000)
        level = measure_level([mixture])
        single = [
            torch.cat(list(with_leads(separator, [lead]).stream([mixture], level)), dim=-1)
            for lead in separator._leads()
        ]
        torch.testing.assert_close(separator(mixture), torch.stack(single).mean(0))

    def test_shifts_longer_than_a_segment(self) -> None:
        """Half a second of shift against a segment of an eighth: nothing breaks at the start."""
        network = ToyNetwork(segment_samples=1000)
        mixture = white(3000)
        result = toy_separator(network, options=SeparationOptions(shifts=4))(mixture)
        torch.testing.assert_close(result, toy_separator()(mixture), atol=1e-5, rtol=1e-4)


def with_leads(separator: DemucsSeparator, leads: list[int]) -> DemucsSeparator:
    class Fixed(DemucsSeparator):
        def _leads(self) -> list[int]:
            return leads

    return Fixed(separator.members, name="fixed", options=separator.options)


class TestBags:
    def bag(self, *stems_of: tuple[str, ...]) -> tuple[DemucsSeparator, list[ToyNetwork]]:
        networks = [
            ToyNetwork(gains=[0.1 * (index + 1)] * 4, segment_samples=1000)
            for index in range(len(stems_of))
        ]
        members = [Member(n, stems) for n, stems in zip(networks, stems_of, strict=True)]
        return DemucsSeparator(members, name="bag"), networks

    def test_only_the_members_of_wanted_stems_run(self) -> None:
        separator, networks = self.bag(("drums",), ("bass",), ("other",), ("vocals",))
        mixture = white()
        level = measure_level([mixture])
        pieces = list(separator.stream([mixture], level, stems=["bass", "vocals"]))
        result = torch.cat(pieces, dim=-1)
        assert [network.n_calls > 0 for network in networks] == [False, True, False, True]
        expected = [(mixture - level.offset[..., None]) * gain for gain in (0.2, 0.4)]
        torch.testing.assert_close(result, torch.stack(expected, dim=1), atol=1e-5, rtol=1e-4)

    def test_a_stem_of_several_members_is_their_mean(self) -> None:
        separator, _ = self.bag(SOURCES, SOURCES, ("bass",))
        mixture = white()
        mixture = mixture - measure_level([mixture]).offset[..., None]
        result = separator(mixture)
        for index, gain in enumerate((0.15, 0.2, 0.15, 0.15)):
            torch.testing.assert_close(result[:, index], mixture * gain, atol=1e-5, rtol=1e-3)

    def test_a_thinned_bag_gives_fewer_stems(self) -> None:
        separator, _ = self.bag(("vocals",), ("bass",))
        assert separator.sources == ("bass", "vocals")
        assert separator(white()).shape[1] == 2


class TestOutOfMemory:
    @staticmethod
    def small(limit: int, error: Exception) -> Callable[[Tensor], None]:
        def check(mixture: Tensor) -> None:
            if len(mixture) > limit:
                raise copy.copy(error)

        return check

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            MemoryError(),
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_batches_shrink_and_the_result_stays(self, error: Exception) -> None:
        mixture = white(9000)
        network = Offset(before=self.small(1, error))
        separator = toy_separator(network, options=SeparationOptions(batch_size=4))
        warnings: list[str] = []
        level = measure_level([mixture])
        pieces = list(separator.stream([mixture], level, warn=warnings.append))
        expected = toy_separator(Offset(), options=SeparationOptions(batch_size=4))(mixture)
        torch.testing.assert_close(torch.cat(pieces, dim=-1), expected)
        assert separator.batch_size == 1
        assert len(warnings) == 2  # 4 -> 2 -> 1
        assert "`batch_size=1`" in warnings[-1]

    def test_one_segment_that_does_not_fit_is_said_in_a_sentence(self) -> None:
        network = ToyNetwork(before=self.small(0, torch.OutOfMemoryError("no")))
        separator = toy_separator(network, options=SeparationOptions(batch_size=2))
        with pytest.raises(OutOfMemoryError, match="too small for one segment of toy"):
            separator(white())

    def test_other_errors_pass(self) -> None:
        network = ToyNetwork(before=self.small(0, RuntimeError("a bug")))
        with pytest.raises(RuntimeError, match="a bug"):
            toy_separator(network)(white())


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"overlap": float("nan")},
        {"shifts": -1},
        {"batch_size": 0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"`{next(iter(options))}`"):
        SeparationOptions(**options)


class TestDevices:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
    def test_an_absent_gpu_is_a_wrong_call(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"`device='{name}'` .*`device='cpu'`") as caught:
            choose_device(name)
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "mps:0", "", "cuda:-1"])
    def test_unknown_devices(self, name: str) -> None:
        with pytest.raises(UsageError, match="unknown"):
            choose_device(name)

    def test_cpu(self) -> None:
        assert choose_device("cpu") == CPU

    def test_unknown_precision(self) -> None:
        with pytest.raises(UsageError, match="`precision='int3'`"):
            choose_precision("int3", CPU)

    def test_fp16_on_a_cpu(self) -> None:
        with pytest.raises(UsageError, match="needs a GPU"):
            choose_precision("fp16", CPU)

    def test_auto_is_one_of_the_others(self) -> None:
        assert choose_precision("auto", CPU) in ("fp32", "bf16")


class TestLoading:
    def test_a_checkpoint_of_ours(self, tiny_model: Path) -> None:
        separator = load_separator(str(tiny_model), device="cpu", precision="fp32")
        assert separator.sources == SOURCES
        assert separator.sample_rate == RATE
        assert (separator.device, separator.precision) == ("cpu", "fp32")

    def test_checkpoints_in_one_bag(self, tmp_path: Path, music: NDArray[np.float32]) -> None:
        """Two networks: drums and bass from one, the rest from the other."""
        for name, seed in (("one", 1), ("two", 2)):
            write_tiny_model(tmp_path / name, seed=seed, segment=Fraction(1, 8))
        alone = [load_separator(str(tmp_path / n), precision="fp32") for n in ("one", "two")]
        members = [
            Member(alone[0].members[0].network, ("drums", "bass")),
            Member(alone[1].members[0].network, ("other", "vocals")),
        ]
        mixture = torch.from_numpy(music[:, :9000])[None]
        result = DemucsSeparator(members, name="bag")(mixture)
        one, two = (separator(mixture) for separator in alone)
        torch.testing.assert_close(result[:, :2], one[:, :2])
        torch.testing.assert_close(result[:, 2:], two[:, 2:])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_segment_of_digital_silence_gives_digital_silence(
    tiny_model: Path, music: NDArray[np.float32], precision: str
) -> None:
    """Its spectrogram has no deviation to divide by."""
    separator = load_separator(str(tiny_model), device="cpu", precision=precision)
    quiet = np.zeros((2, 3 * 44_100), np.float32)
    mixture = np.concatenate([quiet, music, quiet], axis=1)
    for stem in separate(mixture, 44_100, separator=separator).values():
        assert np.isfinite(stem).all()
        assert not stem[:, :44_100].any()
        assert not stem[:, -44_100:].any()
        assert stem[:, 3 * 44_100 : -3 * 44_100].any()
