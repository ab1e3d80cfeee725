"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

import io
from functools import partial
from typing import Any

import pytest
import rich.console

from mssgen.cli import bars
from mssgen.cli.reporters import reporter
from mssgen.events import Done, Failed, Loading, Progress, Skipped, Start, Warned

SONG = "music/[bold]A\x1b[31m long name of a song, \u66f2.wav"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now = [100.0]
    monkeypatch.setattr("mssgen.cli.bars.time.monotonic", lambda: now[0])
    return now


def events(clock: list[float]) -> Any:
    """Two songs of ten seconds, each in two steps of five seconds."""
    yield Loading("htdemucs")
    for index in (1, 2):
        yield Start(SONG, 10.0, 44_100, 2, "cpu", "bf16", index=index, total=2)
        for step in (1, 2):
            clock[0] += 2.5
            left_s = 10.0 - 5.0 * (index - 1) - 2.5 * step
            yield Progress(SONG, 5.0 * step, 10.0, index=index, total=2, left_s=left_s)
    yield Skipped("other.wav", "another run of mssgen is writing its outputs")
    yield Done(2, 1, 0, 12.0, audio_s=20.0, device="cpu", precision="bf16")


def test_lines_have_the_place_the_speed_and_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with reporter(as_json=False, quiet=False, verbose=False) as hook:
        for event in events(clock):
            hook(event)
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert lines[0].startswith("mssgen: [1/2] music/[bold]A\\x1b[31m")
    assert lines[0].endswith(": 10.0 s, on cpu in bf16")
    assert lines[1].endswith("done at 2.0 × real time, 0:00:05 left")
    assert lines[3].endswith("done at 2.0 × real time")
    assert lines[4] == ("mssgen: other.wav: another run of mssgen is writing its outputs, skipped")
    assert lines[5] == (
        "mssgen: 2 done, 1 skipped, 0 failed, on cpu in bf16 at 1.7 × real time (12.0 s)"
    )
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("width", [30, 60, 120])
def test_a_bar_fits_its_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = io.StringIO()
    console = partial(rich.console.Console, file=screen, width=width, force_terminal=True)
    monkeypatch.setattr("rich.console.Console", lambda stderr: console())
    hook = bars.BarReporter(lambda event: None)
    for event in events(clock):
        hook(event)
        assert hook._bars is not None
        hook._bars.refresh()
    hook.close()
    text = screen.getvalue()
    assert "loading" in text
    assert "\x1b[31m long" not in text  # a name cannot colour the terminal
    assert "[1/2] mu" not in text  # the name of the file, not its path
    assert "[1/2] [b" in text
    if width > 60:
        assert "2.0 × real time" in text
        assert "0:00:05 left" in text


def test_speed_counts_all_songs_and_waiting(clock: list[float]) -> None:
    speed = bars.Speed()
    assert speed.at(0) == 0
    speed.start()
    clock[0] += 4
    assert speed.at(8) == 2  # before the second step of the first song
    speed.start()
    clock[0] += 4
    assert speed.at(4) == 1.5


def test_quiet_says_only_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(as_json=False, quiet=True, verbose=False) as hook:
        for event in (
            Loading("m"),
            Warned("a", "odd"),
            Failed("b", "no sound"),
            Done(0, 0, 1, 1.0),
        ):
            hook(event)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "mssgen: b: no sound\n")


def test_many_failures_are_not_all_named_again(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(as_json=False, quiet=False, verbose=False) as hook:
        for number in range(50):
            hook(Failed(f"{number:02}", "broken"))
        hook(Done(0, 0, 50, 1.0, n_left=7))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("18, 19, ..., 7 not tried (1.0 s)")
