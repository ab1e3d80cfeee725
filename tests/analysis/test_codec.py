"""Looking into a codec: the numbers by hand, and the report as a user gets it."""

import csv
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mssgen.analysis.codec import AnalysisOptions, analyze_codec, stem_of
from mssgen.analysis.statistics import (
    FrameSample,
    count_codes,
    dead_share,
    frequent_codes,
    perplexity,
    project,
)
from mssgen.audio.channels import to_items
from mssgen.cli import app
from mssgen.cli.console import run
from mssgen.codecs.base import Codes
from mssgen.codecs.loading import save_codec
from mssgen.errors import AudioError, UsageError
from mssgen.events import Event, Failed, Warned
from mssgen.inputs.tracks import Track
from mssgen.inspection.decibels import ratio_db

from support.models import EXCERPT
from support.toys import snr_db, tiny_codec, tiny_stem_codec

RATE = 8000
Audio = np.ndarray


def excerpt(seconds: float, *, n_channels: int = 2) -> Audio:
    """Real music at the tiny codec's rate, [C, T]: every sixth sample is good enough."""
    samples, _ = sf.read(EXCERPT, frames=round(seconds * 48_000), start=44_100, dtype="float32")
    return np.ascontiguousarray(samples[::6, :n_channels].T)


def write(path: Path, audio: Audio) -> Track:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, audio.T, RATE, subtype="FLOAT")
    return Track(str(path), path.stem)


# The numbers.


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 20))
def test_every_frame_is_counted_once(b: int, k: int, n: int, v: int) -> None:
    codes = torch.randint(v, (b, k, n))
    counts = count_codes(codes, v)
    assert counts.shape == (k, v)
    assert (counts.sum(dim=1) == b * n).all()
    level, code = k - 1, int(codes[0, -1, 0])
    assert counts[level, code] == (codes[:, level] == code).sum()


def test_perplexity_and_dead_codes_by_hand() -> None:
    codes = torch.tensor([[[5, 5, 5, 5], [0, 1, 2, 3], [7, 7, 7, 2], [0, 0, 1, 1]]])
    counts = count_codes(codes, 8)
    expected = [1.0, 4.0, 4 / 27**0.25, 2.0]
    assert perplexity(counts).tolist() == pytest.approx(expected)
    assert dead_share(counts).tolist() == pytest.approx([7 / 8, 4 / 8, 6 / 8, 6 / 8])
    assert perplexity(torch.zeros(1, 8)).tolist() == [1.0]


def test_sdr_by_hand() -> None:
    assert ratio_db(4.0, 0.04) == pytest.approx(20.0)
    assert ratio_db(1.0, 2.0) == pytest.approx(-3.0103, abs=1e-4)
    assert ratio_db(1.0, 0.0) == pytest.approx(120.0)


def test_a_frame_sample_is_bounded_uniform_and_repeatable() -> None:
    codes = torch.arange(3000).view(1, 1, -1)

    def sample(n_frames: int) -> Tensor:
        frames = FrameSample(n_frames, seed=3)
        for part in codes.split(700, dim=-1):
            frames.add(part)
        return frames.codes

    drawn = sample(500)
    assert drawn.shape == (500, 1)
    assert len(drawn.unique()) == 500
    assert torch.equal(drawn, sample(500))
    # As many from the first half as from the second, to within five standard deviations.
    assert abs(int((drawn < 1500).sum()) - 250) < 5 * math.sqrt(500) / 2
    assert sorted(sample(5000).flatten().tolist()) == list(range(3000))


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_points_of_a_plane_keep_their_distances(method: str) -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(40, 2)) * (3, 1)
    turned, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    points = (flat @ turned[:2]).astype(np.float32)
    plane, names = project(points, method)

    def distances(x: Audio) -> Audio:
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    assert np.allclose(distances(plane), distances(flat), atol=0.02)
    assert len(set(names)) == 2
    assert np.array_equal(plane, project(points, method)[0])


@pytest.mark.parametrize("points", [np.ones((5, 4)), np.eye(4)[:2], np.ones((1, 4))])
@pytest.mark.parametrize("method", ["pca", "mds"])
def test_points_without_extent_have_a_place(points: Audio, method: str) -> None:
    plane, _ = project(points.astype(np.float32), method)
    assert plane.shape == (len(points), 2)
    assert np.isfinite(plane).all()


def test_held_codes_are_what_the_codec_decodes() -> None:
    codec = tiny_codec()
    counts = torch.zeros(4, 16, dtype=torch.int64)
    counts[torch.arange(4), torch.tensor([3, 9, 0, 15])] = 7
    found = frequent_codes(codec, counts, (1, 4))
    assert found.codes.tolist() == [3, 9, 0, 15]
    for k in (1, 4):
        held = found.codes[None, :k, None].expand(1, k, 1000)
        sound = codec.decode(Codes(held, RATE, codec.codec_id))
        power = sound[..., 2000:6000].square().mean()
        assert found.level_db[k] == pytest.approx(float(10 * power.log10()), abs=1e-3)
    assert torch.allclose(found.audio, sound[0], atol=1e-6)


def test_the_codes_of_silence_are_known_as_such() -> None:
    codec = tiny_codec()
    codes = codec.encode(torch.zeros(1, 1, RATE)).codes
    counts = count_codes(codes, 16)
    assert frequent_codes(codec, counts, (4,)).is_silence == [True] * 4
    other = counts.roll(1, dims=1)
    assert frequent_codes(codec, other, (4,)).is_silence == [False] * 4


# Files.


STEREO = {"n_channels": 2, "segment_s": 0.125, "normalize": True, "causal": False}


@pytest.mark.parametrize("n_file_channels", [1, 2])
@pytest.mark.parametrize("options", [{}, {**STEREO, "norm": "time_group_norm"}])
def test_counts_and_sdr_are_those_of_the_whole_file(
    tmp_path: Path, options: dict[str, object], n_file_channels: int
) -> None:
    codec = tiny_codec(**options)
    audio = excerpt(0.6, n_channels=n_file_channels)
    track = write(tmp_path / "bass.wav", audio)
    found = analyze_codec([track], codec, AnalysisOptions(n_codebooks=(2,)))
    stem, held = found.stems[0], found.frequent["bass"]
    assert held.is_relative == bool(options)
    assert list(held.level_db) == [2, 4]

    items = to_items(audio, codec.n_channels)
    codes = codec.encode(items)
    middle = codes.codes[:1]  # of stereo files in a mono codec the side is not counted
    assert torch.equal(stem.counts, count_codes(middle, 16))
    assert stem.n_frames == middle.shape[-1]
    assert list(stem.files[0].sdr_db) == [2, 4]
    for n, sdr in stem.files[0].sdr_db.items():
        decoded = codec.decode(codec.truncate(codes, n))
        assert sdr == pytest.approx(snr_db(items, decoded), abs=0.01)
    level_db = 10 * math.log10(np.square(audio, dtype=np.float64).mean())
    assert stem.files[0].level_db == pytest.approx(level_db, abs=1e-3)


def test_middle_and_side_have_the_sdr_of_left_and_right() -> None:
    left_right = torch.from_numpy(excerpt(0.2))
    error = 0.1 * torch.randn(left_right.shape, generator=torch.Generator().manual_seed(0))
    coded = [to_items(x.numpy(), 1) for x in (left_right, left_right + error)]
    assert snr_db(*coded) == pytest.approx(snr_db(left_right, left_right + error), abs=1e-3)


def test_a_silent_side_costs_nothing_and_counts_nothing(tmp_path: Path) -> None:
    mono = excerpt(0.3, n_channels=1)
    one = analyze_codec([write(tmp_path / "a" / "x.wav", mono)], tiny_codec())
    two = analyze_codec([write(tmp_path / "b" / "x.wav", np.repeat(mono, 2, axis=0))], tiny_codec())
    assert torch.equal(one.stems[0].counts, two.stems[0].counts)
    assert one.stems[0].files[0].sdr_db == pytest.approx(two.stems[0].files[0].sdr_db)


def test_only_the_first_seconds_are_looked_at(tmp_path: Path) -> None:
    track = write(tmp_path / "bass.wav", excerpt(0.6))
    found = analyze_codec([track], tiny_codec(), AnalysisOptions(max_s=0.25))
    assert found.stems[0].n_frames == 0.25 * RATE / 8
    assert found.stems[0].files[0].duration_s == 0.25


def test_silence_is_counted_and_left_out(tmp_path: Path) -> None:
    silence = write(tmp_path / "a" / "bass.wav", np.full((2, 4000), 1e-5, np.float32))
    sound = write(tmp_path / "b" / "bass.wav", excerpt(0.2))
    no_drums = write(tmp_path / "a" / "drums.wav", np.zeros((1, 800), np.float32))
    events: list[Event] = []
    found = analyze_codec([silence, sound, no_drums], tiny_codec(), hook=events.append)
    bass, drums = found.stems
    alone = analyze_codec([sound], tiny_codec()).stems[0]
    assert [len(bass.files), len(bass.silent), len(drums.files), len(drums.silent)] == [1, 1, 0, 1]
    assert bass.sdr_db(4) == alone.sdr_db(4)
    assert torch.equal(bass.counts, alone.counts)
    assert [type(e) for e in events].count(Warned) == 2
    assert found.heard == [bass]
    assert drums.sdr_db(4) == []
    with pytest.raises(AudioError, match="nothing to analyse"):
        analyze_codec([silence], tiny_codec())


def test_a_file_that_breaks_off_counts_for_nothing(tmp_path: Path) -> None:
    whole = write(tmp_path / "bass.wav", excerpt(0.2))
    damaged = excerpt(0.2)
    damaged[0, -1] = np.nan
    events: list[Event] = []
    found = analyze_codec(
        [write(tmp_path / "bad" / "bass.wav", damaged), whole], tiny_codec(), hook=events.append
    )
    assert found.done.n_failed == 1
    assert found.stems[0].n_frames == 200
    failures = [event for event in events if isinstance(event, Failed)]
    assert len(failures) == 1
    assert "NaN" in failures[0].message


def test_where_the_stem_of_a_file_comes_from() -> None:
    track = Track("songs/a/../Drums/Song.flac", "Song")
    assert [stem_of(track, word) for word in ("name", "folder", "all")] == ["song", "drums", "all"]
    assert stem_of(Track("-", "stdin"), "name") == "all"
    many = [Track(f"{index}.wav", "") for index in range(20)]
    with pytest.raises(UsageError, match="gives 20 stems"):
        analyze_codec(many, tiny_codec())


def test_the_default_numbers_of_codebooks(tmp_path: Path) -> None:
    track = write(tmp_path / "bass.wav", excerpt(0.1))
    assert analyze_codec([track], tiny_codec(n_codebooks=6)).n_codebooks == (1, 2, 4, 6)


# The command.


@dataclass(frozen=True)
class Result:
    code: int
    err: str


Program = Callable[..., Result]


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec") / "tiny"
    save_codec(tiny_codec(), folder)
    return folder


@pytest.fixture
def cli(codec_folder: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    """`mssgen codec analyze` in this process, with the tiny codec."""

    def call(*words: str | Path) -> Result:
        arguments = ["codec", "analyze", *(str(word) for word in words)]
        if "--codec" not in arguments:
            arguments += ["--codec", str(codec_folder)]
        code = run(lambda: app(arguments, standalone_mode=False), verbose=False)
        return Result(code, capsys.readouterr().err)

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


NASTY = "<i>$a$ & _b"


def test_a_folder_of_stems_becomes_a_page(tmp_path: Path, cli: Program) -> None:
    for song in ("one", "two"):
        write(tmp_path / song / "bass.wav", excerpt(0.4 if song == "one" else 0.2))
        write(tmp_path / song / f"{NASTY}.wav", 0.5 * excerpt(0.3))
    write(tmp_path / "three" / "bass.wav", np.zeros((1, 2000), np.float32))
    (tmp_path / "three" / "broken.wav").write_bytes(b"RIFF\0\0\0\0WAVEjunk")
    output = tmp_path / "seen"
    result = cli(tmp_path, "-o", output)
    assert result.code == 1  # of the broken file; the rest is done
    assert "broken.wav" in result.err

    names = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    tables = {"usage.csv", "codes.csv", "sdr.csv", "files.csv"}
    plots = {"sdr.png", "usage.png", "perplexity.png", "pca.png", "mds.png"}
    sounds = {"most_frequent/bass.wav", f"most_frequent/{NASTY}.wav"}
    assert names == tables | plots | sounds | {"index.html"}
    for name in plots:
        assert (output / name).read_bytes().startswith(b"\x89PNG")

    usage = rows(output / "usage.csv")
    assert [(row["stem"], row["codebook"]) for row in usage[:5]] == [
        *((NASTY, str(k)) for k in range(1, 5)),
        ("bass", "1"),
    ]
    n_frames = int(usage[-1]["n_frames"])
    assert n_frames == round((0.4 + 0.2) * RATE / 8)
    counted = [row for row in rows(output / "codes.csv") if row["stem"] == "bass"]
    for codebook in "1234":
        level = [row for row in counted if row["codebook"] == codebook]
        assert sum(int(row["count"]) for row in level) == n_frames
        assert len(level) == int(usage[int(codebook) + 3]["n_used_codes"])
        assert level[0]["code"] == usage[int(codebook) + 3]["top_code"]

    files = [row for row in rows(output / "files.csv") if row["stem"] == "bass"]
    ceiling = [float(row["sdr_db"]) for row in files if row["n_codebooks"] == "4"]
    assert len(ceiling) == 2  # the silent one is not among them
    summary = {(row["stem"], row["n_codebooks"]): row for row in rows(output / "sdr.csv")}
    row = summary["bass", "4"]
    assert (row["n_files"], row["n_silent_files"]) == ("2", "1")
    assert float(row["mean_sdr_db"]) == pytest.approx(sum(ceiling) / 2, abs=0.001)
    assert {stem for stem, _ in summary} == {"bass", NASTY}

    page = (output / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == len(plots) + len(sounds)
    assert all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;i&gt;$a$ &amp; _b" in page

    sound, rate = sf.read(output / "most_frequent" / "bass.wav")
    assert (rate, len(sound)) == (RATE, RATE)
    power_db = 10 * math.log10(np.square(sound[2000:6000]).mean())
    assert power_db == pytest.approx(float(row["held_level_db"]), abs=0.01)

    # Again: what is there is kept, and its sounds are no input.
    assert cli(tmp_path, "-o", output).code == 1
    assert "--overwrite" in cli(tmp_path / "one", "-o", output).err
    again = cli(tmp_path / "one", "-o", output, "--overwrite", "--stem-from", "folder", "--quiet")
    assert again == Result(0, "")
    assert {row["stem"] for row in rows(output / "sdr.csv")} == {"one"}
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--stem-from", "artist"], "--stem-from artist"),
        (["--max-seconds", "0"], "--max-seconds 0"),
        (["--max-seconds", "nan"], "--max-seconds nan"),
        (["--n-codebooks", "9"], "use 1 to 4"),
        (["--output", ""], "--output"),
        (["--output", "-"], "--output"),
        (["--codec", "no_such_codec"], "no_such_codec"),
        (["--device", "toaster"], "--device toaster"),
        (["--wrong"], "--wrong"),
    ],
)
def test_wrong_calls_exit_with_2(tmp_path: Path, cli: Program, words: list[str], says: str) -> None:
    write(tmp_path / "bass.wav", excerpt(0.1))
    result = cli(tmp_path / "bass.wav", "-o", tmp_path / "out", *words)
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_call_without_files_exits_with_2(cli: Program) -> None:
    assert cli().code == 2


def test_a_folder_that_cannot_be_made_exits_with_1(tmp_path: Path, cli: Program) -> None:
    write(tmp_path / "bass.wav", excerpt(0.1))
    (tmp_path / "file").write_text("here")
    result = cli(tmp_path / "bass.wav", "-o", tmp_path / "file")
    assert result.code == 1
    assert "choose another --output" in result.err
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib",) * 2])
def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, cli: Program, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    write(tmp_path / "bass.wav", excerpt(0.1))
    monkeypatch.setitem(sys.modules, module, None)
    result = cli(tmp_path / "bass.wav", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"the package {package} is not installed" in result.err
    assert f"run `pip install '{package}" in result.err
    assert "`pip install '.[analysis]'` in a checkout of mssgen" in result.err


def test_too_few_points_for_a_projection_still_make_a_report(tmp_path: Path, cli: Program) -> None:
    write(tmp_path / "bass.wav", excerpt(0.1)[:, :9])
    result = cli(tmp_path / "bass.wav", "-o", tmp_path / "out")
    assert (result.code, (tmp_path / "out" / "index.html").is_file()) == (0, True)


@pytest.mark.parametrize("n_levels", [0, 2])
def test_codebooks_without_a_waveform_are_named(
    n_levels: int, tmp_path: Path, cli: Program
) -> None:
    save_codec(tiny_stem_codec(n_level_codebooks=n_levels), tmp_path / "codec")
    write(tmp_path / "bass.wav", excerpt(0.4))
    assert cli(tmp_path / "bass.wav", "--codec", tmp_path / "codec", "-o", tmp_path / "x").code == 0
    usage = [row["codes"] for row in rows(tmp_path / "x" / "usage.csv")]
    assert usage == ["band energies only"] * n_levels + ["waveform"] * 4
    said = {row["n_codebooks"]: row["codes"] for row in rows(tmp_path / "x" / "sdr.csv")}
    assert said["1"] == ("band energies only" if n_levels else "waveform")
    assert said["4"] == "waveform"
    page = (tmp_path / "x" / "index.html").read_text(encoding="utf-8")
    assert ("band energies only" in page) == bool(n_levels)
