"""No template leads out of the output folder."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mssgen.errors import UsageError
from mssgen.files import safe_target


def expand(output_dir: Path, template: str, track: str = "song", stem: str = "bass") -> Path:
    return safe_target(output_dir, template, track=track, stem=stem, ext="wav", trackext="flac")


@pytest.mark.parametrize(
    ("template", "track", "expected"),
    [
        ("{track}/{stem}.{ext}", "song", "song/bass.wav"),
        ("{track}/{stem}.{ext}", "album/01 song", "album/01 song/bass.wav"),
        ("{track}/{stem}.{ext}", "AC/DC - x", "AC/DC - x/bass.wav"),
        ("{stem}/{track}.{trackext}.{ext}", "曲 🎸", "bass/曲 🎸.flac.wav"),
        ("{track}.{ext}", "...", "....wav"),
        ("{{{track}}}.{ext}", "a", "{a}.wav"),
    ],
)
def test_templates(tmp_path: Path, template: str, track: str, expected: str) -> None:
    assert expand(tmp_path, template, track) == tmp_path / expected


@pytest.mark.parametrize(
    "template",
    [
        "{song}/{stem}.{ext}",
        "{track",
        "track}",
        "{}",
        "{0}",
        "{track!r}.{ext}",
        "{track:>300}.{ext}",
        "{track.__class__}",
        "{track[0]}",
        "",
        "/etc/{stem}",
        "../{stem}.{ext}",
        "{track}/../../{stem}.{ext}",
        "{track}//{stem}",
        "{stem}/",
        "./{stem}",
        "a\0b{stem}",
        "{stem}" + "x" * 300,
    ],
)
def test_bad_templates(tmp_path: Path, template: str) -> None:
    with pytest.raises(UsageError, match="`template`"):
        expand(tmp_path, template)


@pytest.mark.parametrize("track", ["..", "../..", "a/../..", "/etc/passwd", "", "a\0", "é" * 128])
def test_bad_track_names(tmp_path: Path, track: str) -> None:
    with pytest.raises(UsageError, match="`template`"):
        expand(tmp_path, "{track}/{stem}.{ext}", track)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    (output_dir / "song").symlink_to(tmp_path)
    (output_dir / "loop").symlink_to(output_dir / "loop")
    (output_dir / "inside").symlink_to(output_dir)
    for track in ("song", "loop"):
        with pytest.raises(UsageError, match="`template`"):
            expand(output_dir, "{track}/{stem}.{ext}", track)
    assert expand(output_dir, "{track}/{stem}.{ext}", "inside").name == "bass.wav"


def test_an_output_folder_that_is_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    expand(tmp_path / "out", "{track}/{stem}.{ext}")


pieces = st.sampled_from(
    ["{track}", "{stem}", "{ext}", "{trackext}", "..", ".", "/", "\\", "~", "C:", "\0", " ", "🎸"]
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    template=st.one_of(st.lists(pieces, max_size=8).map("".join), st.text(max_size=40)),
    track=st.one_of(st.lists(pieces, max_size=5).map("".join), st.text(max_size=300)),
)
def test_every_target_lies_inside(tmp_path: Path, template: str, track: str) -> None:
    try:
        target = expand(tmp_path, template, track)
    except UsageError:
        assume(False)
    else:
        assert target.resolve().is_relative_to(tmp_path.resolve())
        assert target != tmp_path
        assert ".." not in target.parts
