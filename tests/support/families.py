"""Tiny networks of every family of released separators, with weights made from a seed.

Fixtures in tests/separators/fixtures hold tensor names and shapes of a network of the package msst
0.1.0 (MIT) and what it gave for `noise()` with `weights()`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "separators" / "fixtures"
N_SAMPLES = 64 * 63
SHOWN = slice(1700, 2100)
"""Samples of each stem that a fixture holds."""
_BANDS = [4] * 8 + [16] * 4 + [33]
_SCNET = {"segment_samples": N_SAMPLES, "n_fft": 256, "hop_length": 64} | {
    "band_shares": [0.175, 0.392, 0.433],
    "band_strides": [1, 4, 16],
}
_ROFORMER = {"segment_samples": N_SAMPLES, "n_fft": 256, "hop_length": 64}


@dataclass(frozen=True)
class Tiny:
    """One case: our options, and the keyword arguments of the network in msst."""

    architecture: str
    options: dict[str, Any]
    theirs: dict[str, Any]

    @property
    def sources(self) -> list[str]:
        return list(self.options["sources"])


_SCNET_THEIRS = {
    "sources": ["bass", "other"],
    "dims": [4, 4, 8, 8],
    "nfft": 256,
    "hop_size": 64,
    "win_size": 256,
    "conv_depths": [2, 1, 1],
    "num_dplayer": 2,
}
_ROFORMER_THEIRS = {
    "dim": 8,
    "depth": 2,
    "stereo": True,
    "dim_head": 4,
    "heads": 2,
    "stft_n_fft": 256,
    "stft_hop_length": 64,
    "stft_win_length": 256,
    "flash_attn": False,
}
CASES = {
    "scnet": Tiny("scnet", {**_SCNET, "sources": ["bass", "other"]}, _SCNET_THEIRS),
    "scnet_masked": Tiny("scnet", {**_SCNET, "sources": ["bass", "other"]}, _SCNET_THEIRS),
    "bs_roformer": Tiny(
        "bs_roformer",
        {**_ROFORMER, "sources": ["vocals", "other"]},
        {**_ROFORMER_THEIRS, "num_stems": 1, "freqs_per_bands": _BANDS, "mask_estimator_depth": 2},
    ),
    "bs_roformer_skip": Tiny(
        "bs_roformer",
        {**_ROFORMER, "sources": ["bass", "drums"], "skip_connection": True, "zero_dc": False},
        {
            **_ROFORMER_THEIRS,
            "num_stems": 2,
            "freqs_per_bands": _BANDS,
            "mask_estimator_depth": 1,
            "skip_connection": True,
            "zero_dc": False,
            "mlp_expansion_factor": 2,
        },
    ),
    "mel_roformer": Tiny(
        "mel_roformer",
        {**_ROFORMER, "sources": ["vocals", "other"]},
        {**_ROFORMER_THEIRS, "num_stems": 1, "num_bands": 8, "mask_estimator_depth": 2},
    ),
    "mdx23c": Tiny(
        "mdx23c",
        {**_ROFORMER, "sources": ["kick", "snare"]},
        {
            "n_fft": 256,
            "hop_length": 64,
            "dim_f": 96,
            "num_subbands": 2,
            "num_scales": 2,
            "num_channels": 4,
            "growth": 4,
        },
    ),
}


def noise(n_samples: int = N_SAMPLES, n_channels: int = 2) -> Tensor:
    """Noise [1, C, T] of a tenth of full scale."""
    draw = np.random.default_rng(7).standard_normal((1, n_channels, n_samples))
    return torch.from_numpy(0.1 * draw).float()


def weights(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict of lively random weights."""
    rng = np.random.default_rng(5)
    state = {}
    for key, shape in layout.items():
        draw = rng.standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            draw *= np.prod(shape[1:]) ** -0.5
        else:
            draw = 0.1 * draw + (key.endswith(("weight", "gamma")))
        state[key] = torch.from_numpy(draw.astype(np.float32))
    return state


@cache
def fixture(name: str) -> tuple[dict[str, list[int]], Tensor]:
    """(names and shapes of the tensors, samples `SHOWN` of the stems [S, C, T'])."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        layout = json.loads(stored["layout"].tobytes())
        return layout, torch.from_numpy(stored["stems"])


def state_of(name: str) -> dict[str, Tensor]:
    """State dict of a case."""
    return weights(fixture(name)[0])


def yaml_text(name: str, **training: Any) -> str:
    """The YAML file that a training of the case would leave beside the checkpoint."""
    case = CASES[name]
    options = case.options
    model: dict[str, Any] = {"num_stems": 2, "multi_stft_resolutions_window_sizes": (4096, 2048)}
    audio = {"chunk_size": 1, "sample_rate": 44_100, "n_fft": 256, "hop_length": 64}
    if case.architecture == "scnet":
        model |= {"nfft": 256, "hop_size": 64, "sources": case.sources}
        model |= {"band_SR": options["band_shares"], "band_stride": options["band_strides"]}
    elif case.architecture == "mdx23c":
        model |= {"norm": "InstanceNorm", "act": "gelu"}
    else:
        model |= {"stft_n_fft": 256, "stft_hop_length": 64, "mlp_expansion_factor": 4}
    is_single = {"target_instrument": case.sources[0]} if name.endswith("_roformer") else {}
    table = {
        "audio": audio,
        "model": model,
        "training": {"instruments": case.sources, "target_instrument": None} | is_single | training,
        "inference": {"chunk_size": N_SAMPLES, "num_overlap": 2},
    }
    return str(yaml.dump(table))  # a tuple becomes !!python/tuple
