"""Options of Demucs networks: all of the original are known, and absurd ones are refused."""

import inspect
import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from mssgen.errors import CheckpointError
from mssgen.pipeline import load_separator
from mssgen.separators.htdemucs.state import HTDemucsConfig
from mssgen.separators.original_options import HDemucsOptions, HTDemucsOptions


@pytest.mark.parametrize("kind", [HTDemucsOptions, HDemucsOptions])
def test_every_option_of_the_original_constructors_is_known(kind: type) -> None:
    htdemucs = pytest.importorskip("demucs.htdemucs")
    hdemucs = pytest.importorskip("demucs.hdemucs")
    network = htdemucs.HTDemucs if kind is HTDemucsOptions else hdemucs.HDemucs
    expected = set(inspect.signature(network.__init__).parameters) - {"self"}
    assert expected <= {each.name for each in fields(kind)}


def test_options_that_look_like_a_fraction_are_unknown(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["options"] = {"fraction": [1, 2]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_separator(str(folder))
    assert str(folder) in str(caught.value)


def test_a_segment_shorter_than_the_spectrogram_needs_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"a segment of 2559 samples .* nfft of 4096"):
        HTDemucsConfig(("bass",), segment=1, samplerate=2559)
    assert HTDemucsConfig(("bass",), segment=1, samplerate=2560).segment_samples == 2560
