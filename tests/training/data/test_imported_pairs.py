"""`mssgen data pairs --import`: stems of any separator become training pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mssgen.errors import UsageError
from mssgen.library.stems import open_library
from mssgen.training.data.imported_pairs import import_pairs
from mssgen.training.data.pairs import open_pairs, paired

from support.program import Program

RATE = 8000
N_SAMPLES = 2000


def write(path: Path, *, rate: int = RATE, n_samples: int = N_SAMPLES, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_samples, 2))
    sf.write(path, samples, rate, subtype="PCM_24")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library of two tracks."""
    for name in ("train/A", "train/B"):
        for place, stem in enumerate(("bass", "drums", "vocals")):
            write(tmp_path / "library" / name / f"{stem}.wav", seed=place)
    return tmp_path / "library"


@pytest.fixture
def separated(tmp_path: Path) -> Path:
    """What Spleeter wrote, in folders with the tracks' names."""
    for name in "AB":
        for place, stem in enumerate(("vocals", "accompaniment")):
            write(tmp_path / "spleeter" / name / f"{stem}.wav", seed=10 + place)
    return tmp_path / "spleeter"


def test_the_stems_are_the_pairs(
    folder: Path, separated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mssgen, output = Program(capsys), tmp_path / "pairs"
    words = ("data", "pairs", folder, "--import", separated, "-o", output)
    assert "2 done, 0 skipped, 0 failed" in mssgen(*words).err
    library = open_library(folder)
    pairs = open_pairs(output, library.tracks, "vocals")
    expected, _ = sf.read(separated / "A" / "vocals.wav", dtype="float32")
    assert np.array_equal(pairs["train/A"].read(0, N_SAMPLES), expected.T)
    # "other" is what the separator does not name.
    assert paired(library, output).tracks[0].parts("other") == ("drums", "bass")
    assert "0 done, 2 skipped, 0 failed" in mssgen(*words).err
    assert mssgen(*words, "--excerpt-s", 1).code == 2


def test_another_rate_and_a_lossy_length(folder: Path, separated: Path, tmp_path: Path) -> None:
    write(separated / "A" / "vocals.wav", rate=2 * RATE, n_samples=2 * N_SAMPLES + 100)
    library = open_library(folder)
    done = import_pairs(library, tmp_path / "pairs", separated, stems=["vocals"])
    assert (done.n_done, done.n_failed) == (2, 0)
    found = open_pairs(tmp_path / "pairs", library.tracks, "vocals")["train/A"]
    assert (found.sample_rate, found.n_samples) == (RATE, N_SAMPLES)


def test_what_does_not_belong_together(folder: Path, separated: Path, tmp_path: Path) -> None:
    write(separated / "A" / "vocals.wav", n_samples=2 * N_SAMPLES)
    (separated / "B").rename(separated / "C")
    messages: list[str] = []
    library, output = open_library(folder), tmp_path / "pairs"

    def hook(event: object) -> None:
        messages.append(str(getattr(event, "message", "")))

    assert import_pairs(library, output, separated, hook=hook).n_failed == 2
    assert "0.25 s longer than the track" in messages[0]
    assert "has no folder train/B" in messages[1]
    import_pairs(library, output, separated, stems=["bass"], hook=hook)
    assert "no separated bass of train/A, only vocals, accompaniment" in "".join(messages)
    write(separated / "D" / "vocals.wav")
    with pytest.raises(UsageError, match=r"stems separated by spleeter \(imported\)"):
        import_pairs(library, output, separated)
    manifest = json.loads((output / "pairs.json").read_text())
    assert manifest["stems"] == ["accompaniment", "vocals"]
