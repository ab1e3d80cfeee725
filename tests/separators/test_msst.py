"""Our networks against those of the package msst 0.1.0, with the same weights.

It is installed by hand: `pip install --no-deps msst==0.1.0 beartype rotary-embedding-torch==0.6.5`;
it needs einops and librosa too.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mssgen.separators.loading import TRUNKS
from mssgen.separators.state_dicts import StateDictNetwork

from support import families
from support.toys import snr_db

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(3600),
]
_PARAMETERS = {"norm": "InstanceNorm", "act": "gelu", "scale": [2, 2], "bottleneck_factor": 4}


def theirs(name: str, options: dict[str, Any]) -> nn.Module:
    """The network of msst; skips the test if the package is not installed."""
    pytest.importorskip("msst", reason="needs the package msst")
    if name.startswith("scnet"):
        from importlib import import_module

        module = "scnet_masked" if "masked" in name else "scnet"
        return import_module(f"msst.models.scnet.{module}").SCNet(**options)
    if name.startswith("bs_roformer"):
        from msst.models.bs_roformer.bs_roformer import BSRoformer

        bands = tuple(options["freqs_per_bands"])
        return BSRoformer(**{**options, "freqs_per_bands": bands})
    if name.startswith("mel_roformer"):
        from msst.models.bs_roformer.mel_band_roformer import MelBandRoformer

        return MelBandRoformer(**options)
    # Its helper imports the whole training program.
    helper = SimpleNamespace(prefer_target_instrument=lambda config: config.training.instruments)
    sys.modules.setdefault("msst.utils.model_utils", helper)  # type: ignore[arg-type]
    from msst.models.mdx23c_tfc_tdf_v3 import TFC_TDF_net

    audio = {key: options[key] for key in ("n_fft", "hop_length", "dim_f")}
    model = {**_PARAMETERS, "num_blocks_per_scale": 2, **options}
    stems = [str(number) for number in range(options.get("num_stems", 2))]
    return TFC_TDF_net(
        SimpleNamespace(
            audio=SimpleNamespace(num_channels=2, **audio),
            model=SimpleNamespace(**model),
            training=SimpleNamespace(instruments=stems),
        )
    )


def run(network: nn.Module, mixture: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(weights from the seed, stems [B, S, C, T]) of a network of msst."""
    layout = {key: list(value.shape) for key, value in network.state_dict().items()}
    state = families.weights(layout)
    for key, value in network.state_dict().items():
        if key.endswith("freqs"):
            state[key] = value
    network.load_state_dict(state)
    with torch.inference_mode():
        stems: Tensor = network.eval()(mixture)
    return state, stems if stems.dim() == 4 else stems[:, None]


@pytest.mark.parametrize("name", families.CASES)
def test_the_fixtures_are_what_msst_gives(name: str) -> None:
    case = families.CASES[name]
    state, stems = run(theirs(name, case.theirs), families.noise())
    layout, stored = families.fixture(name)
    assert layout == {key: list(value.shape) for key, value in state.items()}
    assert snr_db(stored, stems[0, ..., families.SHOWN]) > 100


def write_fixture(name: str) -> None:
    """Write a fixture again."""
    state, stems = run(theirs(name, families.CASES[name].theirs), families.noise())
    layout = json.dumps({key: list(value.shape) for key, value in state.items()}).encode()
    np.savez_compressed(
        families.FOLDER / f"{name}.npz",
        layout=np.frombuffer(layout, np.uint8),
        stems=stems[0, ..., families.SHOWN].numpy(),
    )


_BANDS = [2] * 24 + [4] * 12 + [12] * 8 + [24] * 8 + [48] * 8 + [128, 129]
_WIDE = {"stft_n_fft": 2048, "stft_win_length": 2048, "flash_attn": False, "stereo": True}
_LARGE = {"dims": [4, 64, 128, 256], "band_SR": [0.225, 0.372, 0.403]}
_BS = {"freqs_per_bands": _BANDS, "mask_estimator_depth": 2, **_WIDE}
FULL_SIZE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scnet": ({}, {"band_shares": [0.175, 0.392, 0.433], "band_strides": [1, 4, 16]}),
    "scnet_masked": ({}, {"band_shares": [0.175, 0.392, 0.433], "band_strides": [1, 4, 16]}),
    "scnet_large": (_LARGE, {"band_shares": _LARGE["band_SR"], "band_strides": [1, 4, 16]}),
    "scnet_xl_ihf": (
        {
            "dims": [4, 64, 128, 256],
            "band_SR": [0.23, 0.37, 0.4],
            "band_stride": [1, 4, 4],
            "band_kernel": [3, 4, 4],
            "conv_depths": [3, 3, 3],
            "num_dplayer": 8,
        },
        {"band_shares": [0.23, 0.37, 0.4], "band_strides": [1, 4, 4]},
    ),
    "bs_roformer": (
        {**_BS, "dim": 256, "depth": 12, "num_stems": 1, "stft_hop_length": 512},
        {"hop_length": 512},
    ),
    "mel_roformer": (
        {**_WIDE, "dim": 384, "depth": 6, "num_stems": 1, "num_bands": 60}
        | {"stft_hop_length": 441, "mask_estimator_depth": 2},
        {"hop_length": 441},
    ),
    "mdx23c": (
        {"n_fft": 8192, "hop_length": 1024, "dim_f": 4096, "num_subbands": 4, "num_scales": 5}
        | {"num_channels": 128, "growth": 128},
        {"n_fft": 8192, "hop_length": 1024},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_networks_of_full_size_agree_with_msst(name: str) -> None:
    their_options, options = FULL_SIZE[name]
    n_samples = {"mel_roformer": 44_100, "mdx23c": 1024 * 31}.get(name, 51_200)
    mixture = families.noise(n_samples)
    state, expected = run(theirs(name, their_options), mixture)
    family = "scnet" if name.startswith("scnet") else name
    sources = [f"stem{number}" for number in range(expected.shape[1])]
    ours = StateDictNetwork(
        TRUNKS[family], {"segment_samples": n_samples, "sources": sources, **options}, state
    )
    assert snr_db(expected, ours(mixture)) > 100
