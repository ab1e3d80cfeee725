"""Recorded instruments: SFZ files are read as the format says, and notes are played at their
time, pitch and level, without clicks."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mssgen.errors import AudioError
from mssgen.rendering.sampler import Note, Sampler
from mssgen.rendering.sfz import Instrument, by_pitch, load_sfz

RATE = 44100
ONE_FOLDER = [HealthCheck.function_scoped_fixture]
LETTERS = '<>=#$"/* \nregionsamplekyincludef0.-'
Audio = NDArray[np.float32]
KEY_NAMES = ("c", "c#", "d", "eb", "e", "f", "f#", "g", "ab", "a", "a#", "b")


def write(folder: Path, text: str, name: str = "instrument.sfz") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def tone(path: Path, hz: float, seconds: float = 2.0, level: float = 0.5, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * rate)) / rate
    sf.write(path, level * np.sin(2 * np.pi * hz * time_s), rate, "FLOAT")


def pitch_hz(sound: Audio) -> float:
    """Of the loudest partial."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8 * len(sound)))
    return float(np.argmax(spectrum)) * RATE / (8 * len(sound))


def sampler(instrument: Instrument, **how: Any) -> Sampler:
    return Sampler(instrument, np.random.default_rng(0), **how)


def test_levels_inherit_and_are_reset(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        // a comment with <region> sample=no.wav
        <control> default_path=samples\\ #define $SOFT 40
        #define $SOFTER 20
        <global> volume=-6 ampeg_release=0.25 tune=10
        <master> pan=-50 <group> lovel=0 hivel=$SOFT /* over
        two lines key=3 */ lokey=c2 hikey=d#2
        <region> sample=a b.wav pitch_keycenter=c#2 tune=-5
        <region> sample=c.wav key=60 hivel=$SOFTER
        <group> seq_length=3 seq_position=2 lorand=0.25 hirand=0.5 trigger=release
        <region> sample=d.wav cutoff=300 amp_veltrack=0
        <master> <region> sample=e.wav
        <curve> v000=0
        """,
    )
    found = load_sfz(path)
    first, second, third, fourth = found.regions
    assert [each.sample.name for each in found.regions] == ["a b.wav", "c.wav", "d.wav", "e.wav"]
    assert first.sample == (tmp_path / "samples" / "a b.wav").resolve()
    assert (first.lokey, first.hikey, first.pitch_keycenter) == (36, 39, 37)
    assert (first.tune, first.volume, first.pan, first.hivel) == (-5, -6, -50, 40)
    assert (second.lokey, second.hikey, second.pitch_keycenter, second.hivel) == (60, 60, 60, 20)
    assert (third.lokey, third.hivel, third.pan, third.trigger) == (0, 127, -50, "release")
    assert (third.seq_length, third.seq_position, third.lorand, third.hirand) == (3, 2, 0.25, 0.5)
    assert (third.amp_veltrack, fourth.amp_veltrack, fourth.pan) == (0, None, 0)
    assert fourth.ampeg_release == 0.25
    assert set(found.ignored) == {"cutoff", "<curve>"}


def test_files_are_included_where_they_stand(tmp_path: Path) -> None:
    write(tmp_path, '<group> volume=-3 #include "parts/region.sfz"', "group.sfz")
    write(tmp_path, "<region> sample=$NAME.wav key=$KEY", "parts/region.sfz")
    text = '#define $NAME one #define $KEY 50\n#include "group.sfz"\n'
    text += '#define $KEY 51\n#include "parts/region.sfz"\n'
    regions = load_sfz(write(tmp_path, text)).regions
    assert [(each.lokey, each.volume, each.sample.name) for each in regions] == [
        (50, -3, "one.wav"),
        (51, -3, "one.wav"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "describes no recordings"),
        ("<region> key=60", "describes no recordings"),
        ("<region> sample=../a.wav", "outside of"),
        ("<region> sample=/etc/passwd", "outside of"),
        ('#include "../other.sfz"', "outside of"),
        ('#include "instrument.sfz"', "includes itself"),
        ('#include "missing.sfz"', "cannot be read"),
        ("<region> sample=a.wav key=h9", "key=h9; it must be a key such as 60 or c4"),
        ("<region> sample=a.wav volume=loud", "volume=loud; it must be a number"),
        ("<region> sample=a.wav offset=nan", "offset=nan; it must be a number"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(AudioError, match=told):
        load_sfz(write(tmp_path, text))


def test_samples_may_lie_beside_the_programs(tmp_path: Path) -> None:
    path = write(tmp_path, "<region> sample=../Samples/a.wav", "Programs/x.sfz")
    assert load_sfz(path, tmp_path).regions[0].sample == (tmp_path / "Samples/a.wav").resolve()


@st.composite
def described(draw: st.DrawFn) -> dict[str, Any]:
    """A region's opcodes, by which it can be known again."""
    lokey = draw(st.integers(0, 127))
    lovel = draw(st.integers(0, 127))
    optional = {
        "pitch_keycenter": st.integers(0, 127),
        "tune": st.integers(-100, 100),
        "transpose": st.integers(-24, 24),
        "volume": st.integers(-60, 6),
        "pan": st.integers(-100, 100),
        "offset": st.integers(0, 10**6),
        "seq_position": st.integers(1, 8),
        "ampeg_release": st.integers(0, 9),
        "trigger": st.sampled_from(["attack", "release", "first", "legato"]),
    }
    found = {"lokey": lokey, "hikey": draw(st.integers(lokey, 127))}
    found |= {"lovel": lovel, "hivel": draw(st.integers(lovel, 127))}
    for name, values in optional.items():
        if draw(st.booleans()):
            found[name] = draw(values)
    return found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(regions=st.lists(described(), min_size=1, max_size=6), style=st.data())
def test_however_it_is_written_it_reads_the_same(
    tmp_path: Path, regions: list[dict[str, Any]], style: st.DataObject
) -> None:
    """Line breaks, names of keys, definitions, comments and levels are the writer's choice."""
    text = ""
    for number, region in enumerate(regions):
        parts = [f"sample=take {number}.wav"]
        shared = []
        for name, value in region.items():
            if name in ("lokey", "hikey", "pitch_keycenter") and style.draw(st.booleans()):
                value = f"{KEY_NAMES[value % 12]}{value // 12 - 1}"
            if style.draw(st.booleans()):
                text += f"#define $V{number}{name} {value}\n"
                value = f"$V{number}{name}"
            target = shared if style.draw(st.booleans()) else parts
            target.append(f"{name}={value}")
        gap = style.draw(st.sampled_from([" ", "\n", "  \t", " // key=1\n", "\r\n"]))
        text += gap.join(
            [f"<{style.draw(st.sampled_from(['group', 'master', 'global']))}>", *shared]
        )
        text += "\n" + gap.join(["<region>", *parts]) + "\n"
        # What a level says holds until it is said again: each region here begins all levels anew.
        text += "<global>\n"
    load_sfz.cache_clear()
    found = load_sfz(write(tmp_path, text)).regions
    assert len(found) == len(regions)
    for number, (region, wanted) in enumerate(zip(found, regions, strict=True)):
        assert region.sample.name == f"take {number}.wav"
        assert {name: getattr(region, name) for name in wanted} == wanted


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(alphabet=st.sampled_from('<>=#$"/* \nregionsamplekyincludef0.-'), max_size=200))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    load_sfz.cache_clear()
    path = write(tmp_path, text)
    with suppress(AudioError):
        assert load_sfz(path).regions


def test_keys_go_to_the_nearest_pitch(tmp_path: Path) -> None:
    text = "".join(
        f"<region> sample={key}.wav lokey=1 hikey=2 pitch_keycenter={key}\n"
        for key in (40, 43, 50, 90)
    )
    regions = by_pitch(load_sfz(write(tmp_path, text)), without=[90]).regions
    for key in range(35, 58):
        playing = [each for each in regions if each.lokey <= key <= each.hikey]
        assert len(playing) == 1, key
        nearest = min(abs(key - centre) for centre in (40, 43, 50))
        assert abs(key - playing[0].pitch_keycenter) == nearest


@pytest.mark.parametrize("rate", [44100, 48000, 22050])
@pytest.mark.parametrize("key", [57, 60, 64, 72])
def test_notes_have_their_pitch_time_and_end(tmp_path: Path, key: int, rate: int) -> None:
    tone(tmp_path / "a.wav", 220.0, rate=rate)  # A3
    path = write(tmp_path, "<region> sample=a.wav pitch_keycenter=57 ampeg_release=0.1")
    sound = sampler(load_sfz(path)).play([Note(0.5, 1.2, key, 127)])
    assert sound.dtype == np.float32
    assert not np.any(sound[:, : RATE // 2 - 50])
    heard = sound[0, round(0.55 * RATE) : round(1.15 * RATE)]
    assert pitch_hz(heard) == pytest.approx(220 * 2 ** ((key - 57) / 12), rel=1e-3)  # 2 cents
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert sound.shape[1] == pytest.approx(1.3 * RATE, abs=2)


def test_notes_end_without_a_click(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 100.0)
    path = write(tmp_path, "<region> sample=a.wav key=60 offset=110")  # not at a zero
    sound = sampler(load_sfz(path)).play([Note(0.0, 0.7531, 60, 127), Note(2.0, 9.0, 60, 127)])[0]
    # A tone of 100 Hz has no energy at 5 kHz; a step has.
    frames = sound[: len(sound) // 256 * 256].reshape(-1, 256) * np.hanning(256)
    treble = np.abs(np.fft.rfft(frames))[:, 30:].max(axis=1)
    assert treble.max() < 0.02 * np.abs(np.fft.rfft(frames)).max()
    assert np.abs(np.diff(sound)).max() < 0.02


def test_velocity_chooses_the_layer_and_its_level(tmp_path: Path) -> None:
    tone(tmp_path / "soft.wav", 200.0, level=0.1)
    tone(tmp_path / "hard.wav", 400.0, level=0.1)
    text = "<group> amp_veltrack=0 key=60 <region> sample=soft.wav hivel=63"
    text += " <region> sample=hard.wav lovel=80"
    instrument = load_sfz(write(tmp_path, text))
    for velocity, expected in ((1, 200), (63, 200), (70, 200), (75, 400), (80, 400), (127, 400)):
        sound = sampler(instrument).play([Note(0, 1, 60, velocity)])
        assert pitch_hz(sound[0, :RATE]) == pytest.approx(expected, rel=1e-3), velocity
        assert np.abs(sound).max() == pytest.approx(0.1, rel=0.02)
    hard = load_sfz(write(tmp_path, "<region> sample=hard.wav", "hard.sfz"))
    loud, soft = (np.abs(sampler(hard).play([Note(0, 1, 60, v)])).max() for v in (127, 64))
    assert soft / loud == pytest.approx((64 / 127) ** 2, rel=1e-3)


def takes(instrument: Instrument, n_notes: int, **how: Any) -> list[int]:
    """Which of the tones of 100, 200, ... Hz sounds for each of some notes."""
    notes = [Note(float(i), i + 0.5, 60, 100) for i in range(n_notes)]
    sound = sampler(instrument, **how).play(notes)[0]
    parts = [sound[i * RATE : i * RATE + RATE // 2] for i in range(n_notes)]
    return [round(pitch_hz(part) / 100) for part in parts]


def test_round_robins(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        tone(tmp_path / f"{number}.wav", 100.0 * number)
    alike = "".join(f"<region> sample={n}.wav key=60\n" for n in (1, 2, 3))
    drawn = takes(load_sfz(write(tmp_path, alike, "alike.sfz")), 30)
    assert set(drawn) == {1, 2, 3}
    assert all(first != second for first, second in pairwise(drawn))
    turns = "<group> key=60 seq_length=3\n"
    turns += "".join(f"<region> sample={n}.wav seq_position={n}\n" for n in (1, 2, 3))
    instrument = load_sfz(write(tmp_path, turns, "turns.sfz"))
    for alternates in (True, False):
        assert takes(instrument, 7, alternates=alternates) == [1, 2, 3, 1, 2, 3, 1]
    chance = "<group> key=60 <region> sample=1.wav hirand=0.5 <region> sample=2.wav lorand=0.5"
    drawn = takes(load_sfz(write(tmp_path, chance, "chance.sfz")), 40, alternates=False)
    assert 10 <= drawn.count(1) <= 30
    assert set(drawn) == {1, 2}


def test_layers_sound_together_where_they_are_no_alternatives(tmp_path: Path) -> None:
    for number in (1, 2):
        tone(tmp_path / f"{number}.wav", 100.0 * number, level=0.1)
    instrument = load_sfz(
        write(tmp_path, "<region> sample=1.wav key=60 <region> sample=2.wav key=60")
    )
    together = sampler(instrument, alternates=False).play([Note(0, 1, 60, 127)])
    alone = sampler(instrument).play([Note(0, 1, 60, 127)])
    power = [float(np.mean(sound[0, : RATE // 2] ** 2)) for sound in (together, alone)]
    assert power[0] == pytest.approx(2 * power[1], rel=0.01)


def test_releases_hits_and_one_shots(tmp_path: Path) -> None:
    tone(tmp_path / "note.wav", 100.0, 0.4)
    tone(tmp_path / "thump.wav", 300.0, 0.2)
    tone(tmp_path / "kick.wav", 60.0, 0.8)
    tone(tmp_path / "bell.wav", 500.0, 0.8)
    text = """<region> sample=note.wav key=60
    <region> sample=thump.wav key=60 trigger=release
    <region> sample=bell.wav key=70 loop_mode=one_shot
    <region> sample=kick.wav articulation=kick"""
    instrument = load_sfz(write(tmp_path, text))
    sound = sampler(instrument).play([Note(0.0, 1.0, 60, 127)])[0]
    assert not np.any(sound[round(0.41 * RATE) : RATE - 50])
    assert pitch_hz(sound[RATE : round(1.15 * RATE)]) == pytest.approx(300, rel=0.01)
    hit = sampler(instrument).play([Note(0.0, np.inf, 3, 127, "kick")])[0]
    assert pitch_hz(hit) == pytest.approx(60, rel=0.02)
    assert len(hit) == pytest.approx(0.8 * RATE, abs=2)
    assert sampler(instrument).play([Note(0.0, 0.1, 70, 127)]).shape[1] == len(hit)
    assert instrument.articulations == ("kick",)


def test_keys_out_of_range_sound_in_another_octave(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 220.0)
    text = "<region> sample=a.wav lokey=50 hikey=65 pitch_keycenter=57"
    for key, hz in ((33, 220.0), (81, 220.0), (28, 329.63 / 2)):
        sound = sampler(load_sfz(write(tmp_path, text))).play([Note(0, 1, key, 127)])
        assert pitch_hz(sound[0, :RATE]) == pytest.approx(hz, rel=1e-3)


def test_level_and_place(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 220.0, level=0.1)
    peaks = {}
    for place in (-100, 0, 100):
        text = f"<region> sample=a.wav key=60 volume=6 pan={place}"
        sound = sampler(load_sfz(write(tmp_path, text, f"{place}.sfz"))).play([Note(0, 1, 60, 127)])
        peaks[place] = np.abs(sound).max(axis=1) / (0.1 * 10 ** (6 / 20))
    np.testing.assert_allclose(peaks[0], [1, 1], rtol=0.01)
    np.testing.assert_allclose(peaks[-100], [np.sqrt(2), 0], atol=0.01)
    np.testing.assert_allclose(peaks[100], [0, np.sqrt(2)], atol=0.01)


def test_a_loop_sounds_for_as_long_as_the_note(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 441.0, 0.5)  # a period is 100 samples
    text = "<region> sample=a.wav key=60 loop_mode=loop_continuous loop_start=10000 loop_end=19999"
    sound = sampler(load_sfz(write(tmp_path, text))).play([Note(0, 3.0, 60, 127)])[0]
    for second in (0.1, 1.5, 2.8):
        part = sound[round(second * RATE) :][: RATE // 10]
        assert np.abs(part).max() == pytest.approx(0.5, rel=0.02)
    assert np.abs(np.diff(sound)).max() < 0.04


def test_a_missing_sample_is_told(tmp_path: Path) -> None:
    instrument = load_sfz(write(tmp_path, "<region> sample=gone.wav key=60"))
    with pytest.raises(AudioError, match=r"gone\.wav"):
        sampler(instrument).play([Note(0, 1, 60, 127)])
