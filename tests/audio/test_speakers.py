"""Speakers: every channel stays where it is heard, through every container."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mssgen
from mssgen.audio.channels import downmixed, from_items, from_pairs, to_items, to_pairs
from mssgen.audio.encodings import Encoding
from mssgen.audio.reading import open_source
from mssgen.audio.speakers import (
    NAMES,
    Layout,
    canonical,
    layout_of_mask,
    mask_of_layout,
    order_from,
    pairs_of,
)
from mssgen.audio.writing import StemWriter
from mssgen.events import Event, Warned
from mssgen.inputs.tracks import find_tracks
from mssgen.jobs.batch import separate_files
from mssgen.jobs.options import WriteOptions
from mssgen.outputs import plan_outputs

from support.models import shared
from support.toys import toy_separator

RATE = 48_000
# In the order of WAV, with the masks and names that ffmpeg has for them.
LAYOUTS = {
    "stereo": "L R",
    "2.1": "L R LFE",
    "3.0": "L R C",
    "3.0(back)": "L R Cb",
    "quad": "L R Lb Rb",
    "4.0": "L R C Cb",
    "5.0": "L R C Lb Rb",
    "5.0(side)": "L R C Ls Rs",
    "5.1": "L R C LFE Lb Rb",
    "5.1(side)": "L R C LFE Ls Rs",
    "6.1": "L R C LFE Cb Ls Rs",
    "7.0": "L R C Lb Rb Ls Rs",
    "7.1": "L R C LFE Lb Rb Ls Rs",
    "7.1(wide)": "L R C LFE Lb Rb Lc Rc",
}
# What Vorbis, Opus and bare FLAC can tell.
USUAL = ("stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def layout_of(name: str) -> Layout:
    return tuple(LAYOUTS[name].split())


def tones(layout: Layout, seconds: float = 0.5) -> NDArray[np.float32]:
    """[C, T], each channel with the tone of its speaker."""
    time = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.2 * np.sin(2 * np.pi * tone_hz(name) * time) for name in layout]).astype(
        np.float32
    )


def tone_hz(name: str) -> int:
    """The LFE of Opus and AC-3 holds nothing high."""
    return 60 if name == "LFE" else 200 + 100 * NAMES.index(name)


def heard(samples: NDArray[np.float32]) -> Layout:
    """Which speaker's tone each channel has."""
    names = {tone_hz(name): name for name in NAMES}
    spectra = np.abs(np.fft.rfft(samples * np.hanning(samples.shape[1]), n=RATE))
    return tuple(names[min(names, key=lambda hz: abs(hz - peak))] for peak in spectra.argmax(1))


def behind(layout: Layout) -> Layout:
    """Vorbis and Opus do not tell the side from behind where there is one pair of surrounds."""
    if "Lb" in layout or "Cb" in layout:
        return layout
    return tuple(name.replace("s", "b") for name in layout)


def write(path: Path, layout: Layout, container: str) -> Path:
    samples = tones(layout)
    depth = "24" if container in ("flac", "aiff", "caf") else "32f"
    with StemWriter(
        path,
        sample_rate=RATE,
        n_channels=len(samples),
        n_samples=samples.shape[1],
        encoding=Encoding(container, depth),
        clip="clamp",
        layout=layout,
    ) as writer:
        writer.write(samples)
        return writer.finish()


def read(path: Path) -> tuple[Layout, Layout]:
    """What our reader says the channels are, and what is heard in them."""
    with open_source(path) as source:
        samples = np.concatenate(list(source.blocks()), axis=1)
        middle = source.segment(1000, 4800)
        np.testing.assert_allclose(middle, samples[:, 1000:5800], atol=1e-6)
        return source.info.layout, heard(samples)


def ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True)


def by_ffmpeg(path: Path, folder: Path) -> tuple[Layout, Layout]:
    """The same as ffmpeg decodes it: its mask, and what is heard."""
    ffmpeg("-i", path, "-c:a", "pcm_f32le", folder / "by_ffmpeg.wav")
    data = (folder / "by_ffmpeg.wav").read_bytes()
    samples, _ = sf.read(folder / "by_ffmpeg.wav", dtype="float32", always_2d=True)
    mask = int.from_bytes(data[40:44], "little") if data[20:22] == b"\xfe\xff" else 3
    return layout_of_mask(mask, samples.shape[1]), heard(samples.T)


ROUND_TRIPS = [
    (container, name)
    for container in ("wav", "aiff", "caf", "flac", "ogg", "opus")
    for name in LAYOUTS
    if container not in ("ogg", "opus") or name in (*USUAL, "5.0(side)", "5.1(side)")
]


@pytest.mark.parametrize(("container", "name"), ROUND_TRIPS)
def test_what_is_written_is_read(container: str, name: str, tmp_path: Path) -> None:
    layout = layout_of(name)
    found, sounds = read(write(tmp_path / f"a.{container}", layout, container))
    assert sounds == layout
    assert found == (behind(layout) if container in ("ogg", "opus") else layout)


@needs_ffmpeg
@pytest.mark.parametrize(("container", "name"), ROUND_TRIPS)
def test_what_is_written_is_heard_at_the_same_speakers_elsewhere(
    container: str, name: str, tmp_path: Path
) -> None:
    layout = layout_of(name)
    found, sounds = by_ffmpeg(write(tmp_path / f"a.{container}", layout, container), tmp_path)
    assert sounds == layout
    if container not in ("ogg", "opus"):
        # ffmpeg has the surrounds of a bare FLAC at the side.
        assert found == layout or (container == "flac" and behind(found) == behind(layout))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        *(("wav", name) for name in LAYOUTS),
        *(("flac", name) for name in LAYOUTS),
        *((suffix, name) for name in USUAL for suffix in ("ogg", "mka")),
        *(("opus", name) for name in USUAL if name not in ("3.0", "quad")),  # no such encoder
        *(("caf", name) for name in USUAL if name != "7.1"),  # ffmpeg does not keep the order
        *(("m4a", name) for name in ("stereo", "5.0", "5.1", "7.1")),
        ("ac3", "5.1(side)"),
        ("aiff", "5.1"),
        ("w64", "5.1"),
    ],
)
def test_what_ffmpeg_writes_is_read(suffix: str, name: str, tmp_path: Path) -> None:
    layout = layout_of(name)
    sf.write(tmp_path / "bare.wav", tones(layout).T, RATE, "FLOAT")
    codec = {"ogg": ["-c:a", "libvorbis"], "opus": ["-c:a", "libopus"], "mka": ["-c:a", "flac"]}
    ffmpeg(
        "-channel_layout",
        name,
        "-i",
        tmp_path / "bare.wav",
        *codec.get(suffix, []),
        *(["-mapping_family", "1"] if suffix == "opus" else []),
        tmp_path / f"a.{suffix}",
    )
    _, sounds = read(tmp_path / f"a.{suffix}")
    assert sounds == layout


@settings(deadline=None)
@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_layout(names: set[str], random: object) -> None:
    layout = canonical(tuple(names))
    assert layout_of_mask(mask_of_layout(layout), len(layout)) == layout
    shuffled = list(layout)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    order = order_from(tuple(shuffled)) or tuple(range(len(shuffled)))
    assert tuple(shuffled[index] for index in order) == layout
    block = np.random.default_rng(len(layout)).uniform(-1, 1, (len(layout), 9)).astype(np.float32)
    pairs = to_pairs(block, layout)
    np.testing.assert_allclose(from_pairs(pairs[:, None], len(layout), layout)[0], block, rtol=1e-6)
    for n_channels in (1, 2):
        items = to_items(block, n_channels, layout)
        np.testing.assert_allclose(from_items(items, len(layout), layout), block, atol=1e-6)
    for left, right in pairs_of(layout, len(layout)):
        assert left == right or layout[left].replace("L", "R", 1) == layout[right]
    if len(layout) > 2:
        mixed = downmixed(np.sign(block), layout)
        assert mixed.shape == (2, 9)
        assert np.abs(mixed).max() <= 1 + 1e-6


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.opus", "OPUS")])
def test_chained_parts_with_fewer_channels_keep_their_speakers(
    tmp_path: Path, name: str, subtype: str
) -> None:
    random, data = np.random.default_rng(0), b""
    for n_channels in (1, 2, 6):
        noise = 0.1 * random.normal(size=(48_000, n_channels))
        sf.write(tmp_path / name, noise, 48_000, format="OGG", subtype=subtype)
        data += (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data)
    with open_source(tmp_path / name) as source:
        found = np.concatenate(list(source.blocks()), axis=1)
        assert source.info.layout == ("L", "R", "C", "LFE", "Lb", "Rb")
    sounding = [np.flatnonzero(np.abs(part).max(axis=1) > 1e-3) for part in np.split(found, 3, 1)]
    assert [each.tolist() for each in sounding] == [[2], [0, 1], [0, 1, 2, 3, 4, 5]]


def test_pairs_are_left_and_right() -> None:
    assert pairs_of(layout_of("5.0"), 5) == ((0, 1), (2, 2), (3, 4))
    assert pairs_of(layout_of("5.1"), 6) == ((0, 1), (2, 2), (3, 3), (4, 5))
    assert pairs_of(layout_of("7.1"), 8) == ((0, 1), (2, 2), (3, 3), (4, 5), (6, 7))
    assert pairs_of((), 5) == ((0, 1), (2, 3), (4, 4))


@pytest.mark.parametrize("name", ["quad", "5.0", "5.1", "5.1(side)", "6.1", "7.1"])
def test_a_downmix_is_that_of_bs_775(name: str) -> None:
    layout = layout_of(name)
    gains = {each: mixed[:, 0] for each, mixed in alone(layout).items()}
    full = gains["L"][0]
    for each, (left, right) in gains.items():
        expected = {"C": 2**-0.5, "Cb": 0.5, "LFE": 0}.get(each, 1 if each in "LR" else 2**-0.5)
        assert max(left, right) == pytest.approx(full * expected, abs=1e-6)
        if each in ("C", "Cb"):
            assert left == right
        else:
            assert min(left, right) == 0
            assert (left >= right) == (each[0] == "L")
    assert sum(left for left, _ in gains.values()) == pytest.approx(1)


def alone(layout: Layout) -> dict[str, NDArray[np.float32]]:
    """The downmix of each speaker alone."""
    ones = np.eye(len(layout), dtype=np.float32)
    return {name: downmixed(ones[:, [n]], layout) for n, name in enumerate(layout)}


class TestSeparation:
    """Stems keep the speakers of the song; the toy's stem is the song, only softer."""

    @pytest.mark.parametrize("name", ["5.0", "5.1(side)", "7.1", "quad"])
    @pytest.mark.parametrize("container", ["wav", "flac", "ogg"])
    def test_stems_of_a_file(self, name: str, container: str, tmp_path: Path) -> None:
        layout = layout_of(name)
        song = write(tmp_path / f"song.{container}", layout, container)
        events: list[Event] = []
        separate_files(
            find_tracks([str(song)]),
            toy_separator(),
            plan_outputs(toy_separator().sources, stems=["bass"]),
            output_dir=tmp_path / "out",
            options=WriteOptions(container="wav"),
            hook=events.append,
        )
        kept, _ = read(song)
        found, sounds = read(tmp_path / "out" / "song" / "bass.wav")
        assert found == kept
        assert [tone_hz(each) for each in sounds] == [tone_hz(each) for each in layout]
        assert not [event for event in events if isinstance(event, Warned)]

    @pytest.mark.parametrize(
        ("container", "is_said"), [("raw", True), ("opus", True), ("caf", False)]
    )
    def test_what_a_format_cannot_hold_is_said(
        self, container: str, is_said: bool, tmp_path: Path
    ) -> None:
        song = write(tmp_path / "song.wav", layout_of("4.0"), "wav")
        events: list[Event] = []
        separate_files(
            find_tracks([str(song)]),
            toy_separator(),
            plan_outputs(toy_separator().sources, stems=["bass"]),
            output_dir=tmp_path / "out",
            options=WriteOptions(container=container),
            hook=events.append,
        )
        said = [event.message for event in events if isinstance(event, Warned)]
        assert any("L R C Cb" in message for message in said) == is_said

    def test_surround_of_ogg(self) -> None:
        path = shared("cases", "surround51.ogg")
        stems = mssgen.separate(path, separator=toy_separator(), two_stems="bass")
        peaks = np.abs(np.fft.rfft(stems["no_bass"][:, :RATE], n=RATE)).argmax(axis=1)
        rate = 44_100 if sf.info(path).samplerate == 44_100 else RATE
        assert [round(peak * rate / RATE / 10) * 10 for peak in peaks] == [
            200,
            300,
            400,
            60,
            500,
            600,
        ]

    def test_surround_that_is_alike_stays_alike(self) -> None:
        stems = mssgen.separate(shared("cases", "surround50.flac"), separator=toy_separator())
        for stem in stems.values():
            np.testing.assert_array_equal(stem[3], stem[4])
