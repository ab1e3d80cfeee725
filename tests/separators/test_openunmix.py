"""Open-Unmix against the package openunmix.

`tests/data/openunmix` holds two networks of that package (1.3.0) with random weights of a few
channels, and the stems that its separator gave for the mixture of `tests/data/spleeter` with zero,
one and two rounds of the Wiener filter, as 16-bit numbers, each scaled to full scale.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mssgen.checkpoints.formats import read_checkpoint
from mssgen.checkpoints.warned import check_origin
from mssgen.errors import CheckpointError, UsageError
from mssgen.pipeline import load_separator
from mssgen.separators.converting import convert
from mssgen.separators.demucs import SeparationOptions
from mssgen.separators.loading import build_network

from support.models import ROOT
from support.program import Program
from support.toys import snr_db

DATA = ROOT / "tests" / "data" / "openunmix"
ORIGINAL = np.load(DATA / "original.npz")
MIXTURE = np.load(DATA.parent / "spleeter" / "original.npz")["mixture"]
SONG = torch.from_numpy(MIXTURE.astype(np.float32) / 2**13)[None]


def expected(n_iterations: int) -> Tensor:
    """Stems [S, C, T] that the package's separator gave."""
    peaks = torch.from_numpy(ORIGINAL[f"iterations_{n_iterations}_peaks"])
    stems = torch.from_numpy(ORIGINAL[f"iterations_{n_iterations}"].astype(np.float32))
    return stems / 32767 * peaks[:, None, None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openunmix") / "small"
    convert(DATA, folder)
    return folder


@pytest.mark.parametrize("n_iterations", [0, 1, 2])
def test_it_is_the_package(model: Path, n_iterations: int) -> None:
    checkpoint = read_checkpoint(model)
    checkpoint.options["wiener_iterations"] = n_iterations
    found = build_network(checkpoint)(SONG)[0]
    stems = expected(n_iterations)
    assert min(snr_db(*each) for each in zip(stems, found, strict=False)) > 80


def test_a_long_song_has_no_seams(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["options"]["segment_samples"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    options = SeparationOptions(wiener_iterations=0)
    separator = load_separator(str(folder), device="cpu", options=options)
    assert separator.sources == ("vocals", "drums")
    # In segments the recurrent layers hear less: what they give still is the whole song's.
    stems = separator(SONG)[0]
    assert stems.shape == (2, *SONG.shape[1:])
    assert snr_db(expected(0)[0], stems[0]) > 15


def test_consent_to_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digest = hashlib.sha256((DATA / "vocals.pth").read_bytes()).hexdigest()
    monkeypatch.setattr("mssgen.checkpoints.warned._BY_DIGITS", {digest[:8]: "not for trade"})
    with pytest.raises(UsageError, match="not for trade; use `accept_unlicensed=True`"):
        convert(DATA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(DATA, tmp_path / "out", accept_unlicensed=True)
    assert "not for trade" in caplog.text
    check_origin(DATA / "drums.pth", accept_unlicensed=False)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    state = torch.load(DATA / "vocals.pth", weights_only=True)
    for damage, message in (
        ({"output_mean": None}, "lacks the tensor 'output_mean' of the stem vocals"),
        ({"fc2.weight": None}, "'stems.0.fc2.weight' is missing"),
        ({"lstm.weight_hh_l1": torch.zeros(3, 3)}, r"weight_hh_l1' has the shape \[3, 3\], not"),
        ({"fc1.weight": None, "up7.weight": torch.zeros(1)}, "holds the stems drums, vocals"),
    ):
        folder = tmp_path / str(abs(hash(message)))
        folder.mkdir()
        shutil.copy(DATA / "drums.pth", folder)
        changed = {**state, **damage}
        torch.save({k: v for k, v in changed.items() if v is not None}, folder / "vocals.pth")
        if "up7" in str(list(damage)):
            shutil.copy(folder / "vocals.pth", folder / "drums.pth")
        with pytest.raises(CheckpointError, match=message):
            convert(folder, folder / "out")


def test_a_damaged_download_is_told_by_its_name(tmp_path: Path) -> None:
    shutil.copy(DATA / "vocals.pth", tmp_path / "vocals-b62c91ce.pth")
    shutil.copy(DATA / "drums.pth", tmp_path)
    with pytest.raises(CheckpointError, match="promises sha256 b62c91ce"):
        convert(tmp_path, tmp_path / "out")


def test_models_info_prints_licence_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(Program(capsys)("models", "info", "umxl", "--json").out)
    assert "CC BY-NC-SA 4.0" in facts["licence"]
    assert "private" in facts["origin"]
