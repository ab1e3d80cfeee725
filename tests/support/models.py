"""Tiny models of the real architecture, short real music, and what this machine has."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]


SHARED = Path(os.environ.get("MSSGEN_SHARED", ROOT.parent / "shared"))


EXCERPT = ROOT / "tests" / "data" / "excerpt.flac"


TINY_OPTIONS = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "t_layers": 2,
    "t_heads": 2,
    "bottom_channels": 16,
    "dconv_mode": 3,
    "samplerate": 44100,
}


def write_tiny_model(folder: Path, *, segment: Fraction = Fraction(1, 2), seed: int = 0) -> Path:
    """A random HTDemucs of a few thousand weights in our checkpoint form; returns its folder."""
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(seed)
    network = HTDemucs(segment=segment, **TINY_OPTIONS)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    fraction = {"fraction": [segment.numerator, segment.denominator]}
    config = {
        "format_version": 1,
        "architecture": "htdemucs",
        "options": {**TINY_OPTIONS, "segment": fraction},
        "sample_rate": TINY_OPTIONS["samplerate"],
        "stems": TINY_OPTIONS["sources"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def has_ffmpeg() -> bool:
    """Whether .stem.mp4 can be read, and stempeg and museval be imported."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def needs_ffmpeg() -> None:
    """Skip the test without it."""
    if not has_ffmpeg():
        pytest.skip("needs ffmpeg, which is not installed")


def shared(*parts: str) -> Path:
    """A file of the reference material; skips the test where that is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the reference material, which is not here")
    return path
