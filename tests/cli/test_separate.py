"""`mssgen separate`: what every option does, through the program's own entry."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

import mssgen
from mssgen.checkpoints import hub, warned
from mssgen.cli import app
from mssgen.cli.console import run
from mssgen.files import sha256_of
from mssgen.jobs.manifest import MANIFEST
from mssgen.separators.demucs import SeparationOptions

from support import families
from support.models import EXCERPT, write_tiny_model
from support.program import Result

RATE = 44_100
STEMS = ("drums", "bass", "other", "vocals")
Audio = NDArray[np.float32]


Program = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("cli") / "tiny", segment=Fraction(1, 8))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with song.wav: 0.4 s of music, 16 bit."""
    samples, _ = sf.read(EXCERPT, frames=RATE * 2 // 5, start=RATE)
    sf.write(tmp_path / "song.wav", samples, RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(
    here: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """`mssgen separate` in this process, with the small model and an empty hub cache."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(here / "no-cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Result:
        arguments = ["separate", *words]
        if not {"--model", "-m"} & set(words):
            arguments += ["--model", str(model)]
        code = run(lambda: app(arguments, standalone_mode=False), verbose="--verbose" in arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def program(model: Path, *words: str, **how: Any) -> "subprocess.Popen[bytes]":
    """The same in a process of its own."""
    arguments = [sys.executable, "-m", "mssgen", "separate", *words, "--model", str(model)]
    return subprocess.Popen(
        [*arguments, "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


def read(path: Path | str) -> Audio:
    samples, _ = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)


def files(folder: Path | str) -> set[str]:
    folder = Path(folder)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {name for name in found if Path(name).name != MANIFEST}


def stem_files(*stems: str, track: str = "song") -> set[str]:
    return {f"{track}/{stem}.wav" for stem in stems}


def test_a_released_checkpoint_needs_consent_if_its_origin_says_so(
    cli: Program, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here / "models" / "model.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": families.state_of("mel_roformer")}, path)
    path.with_suffix(".yaml").write_text(families.yaml_text("mel_roformer"))
    known = (path.stat().st_size, sha256_of(path))
    monkeypatch.setitem(warned.WARNED, known, "a document says where it is from")
    result = cli("song.wav", "--model", str(path), "--stem", "other")
    assert result.code == 2
    assert "where it is from; use --accept-unlicensed" in result.err
    result = cli("song.wav", "--model", str(path), "--stem", "other", "--accept-unlicensed")
    assert result.code == 0
    assert "where it is from" in result.err
    assert files("separated") == stem_files("other")


def test_all_stems_by_default(cli: Program) -> None:
    result = cli("song.wav")
    assert (result.code, result.out) == (0, "")
    assert files("separated") == stem_files(*STEMS)
    before, after = sf.info("song.wav"), sf.info("separated/song/bass.wav")
    for name in ("samplerate", "channels", "frames", "subtype", "format"):
        assert getattr(before, name) == getattr(after, name)
    for word in ("song.wav: 0.4 s, on cpu", "× real time", "wrote separated/song/bass.wav"):
        assert word in result.err


class TestOutputs:
    def test_stem(self, cli: Program) -> None:
        assert cli("song.wav", "--stem", "vocals", "-s", "bass").code == 0
        assert files("separated") == stem_files("vocals", "bass")

    def test_two_stems_sum_to_the_mixture(self, cli: Program) -> None:
        assert cli("song.wav", "--two-stems", "vocals", "--bit-depth", "32f").code == 0
        assert files("separated") == stem_files("vocals", "no_vocals")
        total = read("separated/song/vocals.wav") + read("separated/song/no_vocals.wav")
        np.testing.assert_allclose(total, read("song.wav"), atol=1e-6)

    def test_without_twice(self, cli: Program) -> None:
        options = ("--without", "drums", "--without", "bass", "--stem", "drums", "--stem", "bass")
        assert cli("song.wav", *options, "--bit-depth", "32f").code == 0
        assert files("separated") == stem_files("drums", "bass", "no_drums_bass")
        total = sum(read(Path("separated") / name) for name in files("separated"))
        np.testing.assert_allclose(total, read("song.wav"), atol=1e-6)

    def test_residual(self, cli: Program) -> None:
        assert cli("song.wav", "--residual", "--bit-depth", "32f").code == 0
        assert files("separated") == stem_files(*STEMS, "residual")
        total = sum(read(Path("separated") / name) for name in files("separated"))
        np.testing.assert_allclose(total, read("song.wav"), atol=1e-5)

    def test_mix_consistent(self, cli: Program) -> None:
        assert cli("song.wav", "--mix-consistent", "--bit-depth", "32f").code == 0
        total = sum(read(Path("separated") / name) for name in files("separated"))
        np.testing.assert_allclose(total, read("song.wav"), atol=1e-5)


class TestInputsAndNames:
    def test_list_with_comments(self, cli: Program, here: Path) -> None:
        (here / "song.wav").rename(here / "a b.wav")
        Path("songs.txt").write_text("# my songs\n\na b.wav\n")
        assert cli("--list", "songs.txt", "--stem", "bass").code == 0
        assert files("separated") == {"a b/bass.wav"}

    def test_folder_twice_skips_what_is_complete(self, cli: Program, here: Path) -> None:
        (here / "music/album").mkdir(parents=True)
        (here / "song.wav").rename(here / "music/album/song.wav")
        first = cli("music", "--stem", "bass", "--json")
        second = cli("music", "--stem", "bass", "--json")
        assert files("separated") == {"album/song/bass.wav"}
        assert (first.events[-1]["n_done"], second.events[-1]["n_skipped"]) == (1, 1)

    def test_output_and_template(self, cli: Program) -> None:
        template = "{stem}/{track}-{trackext}.{ext}"
        assert cli("song.wav", "-o", "out/deep", "--template", template).code == 0
        assert files("out") == {f"deep/{stem}/song-wav.wav" for stem in STEMS}

    def test_existing_outputs(self, cli: Program) -> None:
        assert cli("song.wav", "--stem", "bass").code == 0
        refused = cli("song.wav")
        assert refused.code == 1
        assert "--overwrite" in refused.err
        assert files("separated") == stem_files("bass")
        before = Path("separated/song/bass.wav").stat().st_mtime_ns
        assert cli("song.wav", "--skip-existing").code == 0
        assert files("separated") == stem_files(*STEMS)
        assert Path("separated/song/bass.wav").stat().st_mtime_ns == before
        assert cli("song.wav", "--overwrite").code == 0
        assert Path("separated/song/bass.wav").stat().st_mtime_ns > before

    def test_one_bad_song(self, cli: Program) -> None:
        Path("bad.wav").write_text("no sound")
        result = cli("bad.wav", "song.wav", "absent.wav", "--stem", "bass")
        assert result.code == 1
        assert files("separated") == stem_files("bass")
        assert "mssgen: bad.wav is text, not sound" in result.err
        assert "1 done, 0 skipped, 2 failed: bad.wav, absent.wav" in result.err
        assert "Traceback" not in result.err


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("wav", ("WAV", "PCM_16")),
            ("flac", ("FLAC", "PCM_16")),
            ("ogg", ("OGG", "VORBIS")),
            ("mp3", ("MP3", "MPEG_LAYER_III")),
            ("aiff", ("AIFF", "PCM_16")),
            ("caf", ("CAF", "PCM_16")),
            ("w64", ("W64", "PCM_16")),
        ],
    )
    def test_format(self, cli: Program, name: str, expected: tuple[str, str]) -> None:
        assert cli("song.wav", "--stem", "bass", "--format", name).code == 0
        info = sf.info(f"separated/song/bass.{name}")
        assert (info.format, info.subtype) == expected
        assert (info.samplerate, info.frames) == (RATE, sf.info("song.wav").frames)

    def test_opus_at_its_own_rate(self, cli: Program) -> None:
        refused = cli("song.wav", "-s", "bass", "-f", "opus")
        assert refused.code == 1
        assert "--sample-rate 48000" in refused.err
        assert cli("song.wav", "-s", "bass", "-f", "opus", "--sample-rate", "48000").code == 0
        info = sf.info("separated/song/bass.opus")
        assert (info.format, info.subtype, info.samplerate) == ("OGG", "OPUS", 48_000)

    def test_raw(self, cli: Program) -> None:
        assert cli("song.wav", "-s", "bass", "--raw").code == 0
        assert cli("song.wav", "-s", "bass", "--bit-depth", "32f").code == 0
        samples = np.fromfile("separated/song/bass.raw", "<f4").reshape(-1, 2).T
        np.testing.assert_array_equal(samples, read("separated/song/bass.wav"))

    @pytest.mark.parametrize(
        ("depth", "subtype"), [("16", "PCM_16"), ("24", "PCM_24"), ("32f", "FLOAT")]
    )
    def test_bit_depth(self, cli: Program, depth: str, subtype: str) -> None:
        assert cli("song.wav", "-s", "bass", "--bit-depth", depth).code == 0
        assert sf.info("separated/song/bass.wav").subtype == subtype

    def test_sample_rate(self, cli: Program) -> None:
        assert cli("song.wav", "-s", "bass", "--sample-rate", "22050").code == 0
        info = sf.info("separated/song/bass.wav")
        assert (info.samplerate, info.frames) == (22_050, sf.info("song.wav").frames // 2)

    def test_clip(self, cli: Program) -> None:
        loud = read("song.wav") * 3
        sf.write("song.wav", loud.T, RATE, "FLOAT")
        peaks = {}
        for clip in ("rescale", "clamp", "none"):
            options = ("--without", "bass", "-o", clip, "--clip", clip, "--bit-depth", "24")
            result = cli("song.wav", *options)
            assert result.code == 0
            assert "dB over full scale" in result.err
            peaks[clip] = np.sort(np.abs(read(f"{clip}/song/no_bass.wav")).ravel())
        assert peaks["rescale"][-1] == pytest.approx(1, abs=1e-5)
        assert (peaks["rescale"] > 0.999).sum() < 10  # lowered, not cut
        assert (peaks["clamp"] > 0.999).sum() > 100
        assert (peaks["none"] > 0.999).sum() > 100

    def test_downmix(self, cli: Program) -> None:
        sf.write("song.wav", np.tile(read("song.wav").T, (1, 3)), RATE)
        assert cli("song.wav", "-s", "bass", "-o", "all").code == 0
        assert cli("song.wav", "-s", "bass", "-o", "two", "--downmix").code == 0
        assert sf.info("all/song/bass.wav").channels == 6
        assert sf.info("two/song/bass.wav").channels == 2


class TestHowItRuns:
    def bass(self, cli: Program, *options: str) -> Audio:
        """The bass in float, by the given options."""
        fixed = ("-s", "bass", "--bit-depth", "32f", "--overwrite")
        assert cli("song.wav", *fixed, *options).code == 0
        return read("separated/song/bass.wav")

    def test_overlap_shifts_and_seed_reach_the_separator(self, cli: Program, model: Path) -> None:
        results = []
        for words, options in (
            ((), SeparationOptions()),
            (("--overlap", "0.6"), SeparationOptions(overlap=0.6)),
            (("--shifts", "1", "--seed", "3"), SeparationOptions(shifts=1, seed=3)),
            (("--shifts", "1", "--seed", "4"), SeparationOptions(shifts=1, seed=4)),
        ):
            result = self.bass(cli, "--precision", "fp32", *words)
            stems = mssgen.separate("song.wav", model=str(model), precision="fp32", options=options)
            np.testing.assert_allclose(result, stems["bass"], atol=1e-6)
            results.append(result)
        for index, result in enumerate(results):
            for other in results[:index]:
                assert np.abs(result - other).max() > 1e-5

    def test_batch_size_changes_nothing_but_speed(self, cli: Program) -> None:
        one, three = (self.bass(cli, "--batch-size", size) for size in ("1", "3"))
        np.testing.assert_allclose(one, three, atol=1e-5)

    def test_precision(self, cli: Program) -> None:
        for precision in ("fp32", "bf16"):
            result = cli("song.wav", "--precision", precision, "--json", "-o", precision)
            assert result.events[1]["precision"] == result.events[-1]["precision"] == precision
        exact, reduced = (read(f"{name}/song/other.wav") for name in ("fp32", "bf16"))
        assert 0 < np.abs(exact - reduced).max() < 0.05

    def test_threads(self, cli: Program) -> None:
        before = torch.get_num_threads()
        try:
            assert cli("song.wav", "-s", "bass", "--threads", "2").code == 0
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_offline_never_asks_the_hub(self, cli: Program) -> None:
        result = cli("song.wav", "--model", "htdemucs_6s", "--offline")
        assert result.code == 1
        assert "htdemucs_6s" in result.err
        assert "offline" in result.err


class TestWhatIsSaid:
    def test_quiet(self, cli: Program) -> None:
        assert cli("song.wav", "--quiet") == Result(0, "", "")
        result = cli("song.wav", "absent.wav", "--quiet", "--overwrite")
        assert result == Result(1, "", "mssgen: absent.wav does not exist; check its spelling\n")

    def test_json(self, cli: Program) -> None:
        Path("bad.wav").touch()
        result = cli("song.wav", "bad.wav", "--json")
        assert result.code == 1
        assert result.err == ""
        names = [event["event"] for event in result.events]
        in_order = [name for name in names if name != "progress"]
        assert in_order == ["loading", "start", *["written"] * 4, "error", "done"]
        assert names[2] == "progress"
        start, done, error = result.events[1], result.events[-1], result.events[-2]
        assert (start["index"], start["total"]) == (1, 2)
        assert start["track"] == "song.wav"
        assert (start["sample_rate"], start["n_channels"], start["duration_s"]) == (RATE, 2, 0.4)
        progress = [event for event in result.events if event["event"] == "progress"]
        assert progress[-1]["done_s"] == progress[-1]["duration_s"] == 0.4
        written = [event for event in result.events if event["event"] == "written"]
        assert [event["stem"] for event in written] == list(STEMS)
        assert all(Path(event["path"]).is_file() for event in written)
        assert error["track"] == "bad.wav"
        assert "empty" in error["message"]
        assert (done["n_done"], done["n_skipped"], done["n_failed"]) == (1, 0, 1)

    def test_json_tells_wrong_calls_too(self, cli: Program) -> None:
        result = cli("song.wav", "--json", "--stem", "horn")
        assert result.code == 2
        assert [event["event"] for event in result.events] == ["error"]
        assert "horn" in result.events[0]["message"]

    def test_tracebacks_only_with_verbose(self, cli: Program) -> None:
        Path("bad.wav").write_text("no sound")
        assert "Traceback" not in cli("bad.wav").err
        verbose = cli("bad.wav", "--verbose")
        assert "Traceback" in verbose.err
        assert "mssgen: bad.wav is text" in verbose.err
        assert "Traceback" not in cli("song.wav", "--stem", "horn").err
        assert "Traceback" in cli("song.wav", "--stem", "horn", "--verbose").err

    def test_a_silent_song_is_said(self, cli: Program) -> None:
        sf.write("song.wav", np.zeros((4000, 2)), RATE)
        result = cli("song.wav")
        assert result.code == 0
        assert "silent" in result.err


WRONG_CALLS: list[tuple[list[str], str]] = [
    ([], "no input"),
    (["song.wav", "--stem", "bas"], "drums, bass, other, vocals"),
    (["song.wav", "--two-stems", "horn"], "--two-stems horn"),
    (["song.wav", "--two-stems", "bass", "--stem", "bass"], "--two-stems cannot be combined with"),
    (["song.wav", "--residual", "--mix-consistent"], "--residual is silent"),
    (["song.wav", "--model", "htdemux"], "did you mean htdemucs"),
    (["song.wav", "--format", "mp4"], "use one of wav, flac"),
    (["song.wav", "--raw", "--format", "flac"], "--raw and --format flac"),
    (["song.wav", "--bit-depth", "8"], "use one of 16, 24, 32f"),
    (["song.wav", "--format", "flac", "--bit-depth", "32f"], "--bit-depth 24"),
    (["song.wav", "--sample-rate", "100"], "8000 to 192000"),
    (["song.wav", "--clip", "soft"], "rescale, clamp, none"),
    (["song.wav", "--overwrite", "--skip-existing"], "contradict"),
    ([""], "an input is empty"),
    (["song.wav", "--output", ""], "--output is empty"),
    (["song.wav", "--threads", "0"], "use 1 to 1024"),
    (["song.wav", "--threads", "99999999999"], "use 1 to 1024"),
    (["song.wav", "--seed", "99999999999999999999"], "--seed 99999999999999999999 is out of"),
    (["song.wav", "--batch-size", "0"], "use auto"),
    (["song.wav", "--batch-size", "many"], "use auto"),
    (["song.wav", "--overlap", "1"], "--overlap 1"),
    (["song.wav", "--shifts", "-1"], "--shifts -1"),
    (["song.wav", "--shifts", "few"], "--shifts"),
    (["song.wav", "--device", "tpu"], "use auto, cpu, cuda"),
    (["song.wav", "--device", "cpu", "--precision", "fp16"], "use bf16 or fp32"),
    (["song.wav", "--precision", "half"], "use one of auto, fp32"),
    (["song.wav", "--template", "../{stem}.{ext}"], "--template"),
    (["song.wav", "--template", "{title}.{ext}"], "{track}, {trackext}, {stem}, {ext}"),
    (["song.wav", "--list", "absent.txt"], "--list absent.txt cannot be read"),
    (["song.wav", "--frobnicate"], "--frobnicate"),
    (["song.wav", "-o", "-"], "takes one input and one output"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG_CALLS, ids=lambda part: " ".join(part)[:40])
def test_a_wrong_call_exits_2_with_one_sentence(
    cli: Program, words: list[str], sentence: str
) -> None:
    result = cli(*words)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.startswith("mssgen: ")
    assert result.err.count("\n") == 1
    assert not Path("separated").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_gpu(cli: Program) -> None:
    result = cli("song.wav", "--device", "cuda")
    assert result.code == 2
    assert "--device cuda is not available" in result.err
    assert "--device cpu" in result.err


def test_a_model_that_is_not_there(cli: Program) -> None:
    result = cli("song.wav", "--model", "./absent")
    assert result.code == 1
    assert result.err.startswith("mssgen: absent does not exist")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["models"]):
        assert run(lambda words=words: app(words, standalone_mode=False), verbose=False) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("Usage: ")
        assert "Commands" in shown
        assert "(see `mssgen --help`)" not in shown


class TestPipes:
    def test_from_pipe_to_pipe(self, cli: Program, model: Path, here: Path) -> None:
        assert cli("song.wav", "-s", "bass").code == 0
        process = program(model, "-", "--stem", "bass", "-o", "-", "--json")
        out, err = process.communicate(Path("song.wav").read_bytes(), timeout=60)
        assert process.returncode == 0
        samples, rate = sf.read(io.BytesIO(out), dtype="float32", always_2d=True)
        assert rate == RATE
        np.testing.assert_allclose(samples.T, read("separated/song/bass.wav"), atol=2**-12)
        events = [json.loads(line) for line in err.splitlines()]  # JSON keeps out of the sound
        assert events[-1]["event"] == "done"
        told = {event["track"] for event in events[:-1] if event["event"] != "loading"}
        assert told == {"standard input"}
        assert files(here) == {"song.wav", "separated/song/bass.wav"}

    def test_raw_has_no_header(self, model: Path, here: Path) -> None:
        process = program(model, "song.wav", "-s", "bass", "-o", "-", "--raw", "--bit-depth", "16")
        out, _ = process.communicate(timeout=60)
        assert len(out) == sf.info("song.wav").frames * 2 * 2

    @pytest.mark.parametrize("words", [("-s", "bass", "-o", "-"), ("--json",)])
    def test_a_closed_pipe_ends_quietly(
        self, model: Path, here: Path, words: tuple[str, ...]
    ) -> None:
        sf.write("long.wav", np.tile(read("song.wav"), 10).T, RATE)
        process = program(model, "long.wav", *words, "--quiet")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
        assert files(here) == {"song.wav", "long.wav"}


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_run_leaves_nothing(
    model: Path, here: Path, number: signal.Signals, code: int
) -> None:
    sf.write("long.wav", np.tile(read("song.wav"), 60).T, RATE)
    process = program(model, "long.wav", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if b'"progress"' in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert files(here) == {"song.wav", "long.wav"}
    if number == signal.SIGINT:
        assert err.startswith(b"mssgen: interrupted")
        assert err.count(b"\n") == 1
    else:
        assert err == b""
