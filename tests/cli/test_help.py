"""Help texts: their panels and widths, and the choices that they list."""

from typing import Any, get_args

import pytest
from typer.main import get_command

from mssgen.analysis.codec import STEM_SOURCES
from mssgen.audio.encodings import BIT_DEPTHS, CONTAINERS
from mssgen.audio.reading import MAX_RATE, MIN_RATE
from mssgen.audio.writing import CLIP_MODES
from mssgen.cli import app
from mssgen.cli import options as given
from mssgen.devices import DTYPES
from mssgen.enhancers.blend import MODES
from mssgen.evaluation.report.page import FORMATS
from mssgen.evaluation.thesis_tables import TABLES
from mssgen.library.stems import SPLITS
from mssgen.refiners.refine import Mode
from mssgen.training.export import STORAGES

from support.program import Program


def commands(command: Any = None, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    command = command or get_command(app)
    found = {words: command}
    for name, each in getattr(command, "commands", {}).items():
        found |= commands(each, (*words, name))
    return found


def choices(option: str, *words: str) -> tuple[str, ...]:
    params = commands()[words].params
    return next(p for p in params if option in p.opts).type_descriptor.choices


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_help_fits_100_columns(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = Program(capsys)(*words, "--help")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 100
    assert "<str>" not in result.out


def test_options_stand_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    text = Program(capsys)("separate", "--help").out
    panels = ["Arguments", "Input files", "Output files", "Stems", "Model", "Enhancement"]
    panels += ["Refinement (experts)", "Speed and quality", "Options", "Messages"]
    assert [line[:-1] for line in text.splitlines() if line in {f"{p}:" for p in panels}] == panels


def test_choices_are_those_of_the_library() -> None:
    assert choices("--format", "separate") == tuple(CONTAINERS)
    assert choices("--bit-depth", "separate") == tuple(BIT_DEPTHS)
    assert choices("--clip", "separate") == CLIP_MODES
    assert choices("--blend", "separate") == tuple(MODES)
    assert choices("--refine", "enhance") == get_args(Mode)
    assert set(choices("--precision", "separate")) == {"auto", *DTYPES}
    assert set(choices("--format", "report")) == set(FORMATS)
    assert choices("--table", "evaluate") == tuple(TABLES)
    assert choices("--split", "data", "pairs") == tuple(SPLITS)
    assert choices("--storage", "models", "export") == tuple(STORAGES)
    assert choices("--stem-from", "codec", "analyze") == tuple(STEM_SOURCES)
    rate = get_args(given.SampleRate)[1]
    assert (rate.min, rate.max) == (MIN_RATE, MAX_RATE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clip", "soft"), "--clip soft is unknown; use one of rescale, clamp, none"),
        (("--refine", "fine"), "--refine fine is unknown; use c2f or coarse+c2f"),
        (("--threads", "0"), "--threads 0 is out of range; use 1 to 1024"),
        (("--shifts", "-1"), "--shifts -1 is out of range; use 0 or more"),
        (("--shifts", "1.5"), "--shifts 1.5 is not a whole number"),
        (("--mix", "much"), "--mix much is not a number"),
        (("--mix", "nan"), "--mix nan is out of range; use 0 to 1"),
    ],
)
@pytest.mark.parametrize("piped", [False, True], ids=["files", "pipe"])
def test_wrong_values_are_told_to_people_and_programs(
    words: tuple[str, ...], said: str, piped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Program(capsys)("separate", "song.wav", *words)
    assert (result.code, result.out, result.err) == (2, "", f"mssgen: {said}\n")
    result = Program(capsys)("separate", "song.wav", *words, "--json", *["-o-"][: int(piped)])
    assert result.code == 2
    told = result.err if piped else result.out
    assert f'{{"event": "error", "track": "", "message": "{said}"}}\n' in told
    assert result.out == "" or not piped
