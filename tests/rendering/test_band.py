"""A band of recorded instruments: who plays what, when, how loud, and that no instrument is in two
splits."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from mssgen.audio.levels import level
from mssgen.errors import UsageError
from mssgen.rendering.amplifiers import amplify, drum_bus, find_cabinets, saturate
from mssgen.rendering.band import Band, find_band, play_band
from mssgen.rendering.drum_hits import choked, kit_notes, without_snares
from mssgen.rendering.midi import (
    DrumHit,
    MidiFile,
    count_notes,
    split_groups,
    timed_notes,
    without_notes,
)
from mssgen.rendering.recipe import Names, Recorded, RecordedSource, load_recipe
from mssgen.rendering.sfz import load_sfz

from support.models import shared
from support.program import Program
from support.sources import midi_bytes, package, soundfont

RATE = 44100
Audio = NDArray[np.float32]
Line = Sequence[tuple[float, float, int]]
BASS: Line = ((0.0, 0.4, 40), (0.5, 0.9, 43), (1.0, 1.4, 45))
CHORDS: Line = tuple((beat, beat + 0.4, key) for beat in (0.0, 1.0) for key in (60, 64, 67))
BEAT: Line = ((0.0, 0.1, 36), (0.5, 0.6, 38), (1.0, 1.1, 36), (1.5, 1.6, 46), (1.75, 1.8, 42))


def song(*parts: tuple[int, int, Line]) -> MidiFile:
    """Parts of channel, program and notes of start and end in seconds and key."""
    file = MidiFile(type=1, ticks_per_beat=500)  # a tick is a millisecond
    for channel, program, notes in parts:
        track, at = mido.MidiTrack(), 0
        track.append(mido.Message("program_change", channel=channel, program=program, time=0))
        events = [(round(1000 * s), "note_on", key) for s, _, key in notes]
        events += [(round(1000 * e), "note_off", key) for _, e, key in notes]
        for tick, kind, key in sorted(events):
            message = mido.Message(kind, channel=channel, note=key, velocity=100, time=tick - at)
            track.append(message)
            at = tick
        file.tracks.append(track)
    return file


def write_instrument(folder: Path, name: str, text: str, tones: dict[str, float]) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "instrument.sfz").write_text(text)
    for sample, hz in tones.items():
        time_s = np.arange(2 * RATE) / RATE
        decay = np.exp(-3 * time_s)
        sf.write(folder / name / sample, 0.4 * decay * np.sin(2 * np.pi * hz * time_s), RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bass, a guitar, a kit and two snares, all of decaying tones."""
    root = tmp_path / "instruments"
    one = "<region> sample=a.wav pitch_keycenter={}"
    write_instrument(root, "bass", one.format(45), {"a.wav": 110.0})
    write_instrument(root, "guitar", one.format(57), {"a.wav": 220.0})
    hits = {"ks": 60.0, "sc": 300.0, "hc": 6000.0, "ho": 8000.0}
    kit = "".join(f"<region> sample={name}.wav articulation={name}\n" for name in hits)
    write_instrument(root, "kit", kit, {f"{name}.wav": hz for name, hz in hits.items()})
    snares = {"10_basic": 900.0, "10_brush": 1000.0, "20_basic": 1500.0}
    text = "".join(f"<region> sample={name}.wav articulation={name}\n" for name in snares)
    write_instrument(root, "snares", text, {f"{name}.wav": hz for name, hz in snares.items()})
    return root


def recorded(folder: Path, **how: object) -> Recorded:
    source = RecordedSource("owner/name", "abc", "CC-BY-4.0", author="A. Player")
    options = Recorded(
        folder=str(folder),
        sources=dict.fromkeys(("bass", "guitar", "kit", "snares"), source),
        basses=Names(train=("bass",)),
        guitars=Names(train=("guitar",)),
        kits=Names(train=("kit",)),
        snares=Names(train=("10",), test=("20",)),
        snare_source="snares",
        p_amplifier=0.0,
        p_double=0.0,
        p_snare=0.0,
        timing_ms=0.0,
        velocity=0.0,
    )
    return replace(options, **how)  # type: ignore[arg-type]


def band_of(folder: Path, split: str = "train", **how: object) -> Band:
    band = find_band(recorded(folder, **how), split)
    assert band is not None
    return band


def groups_of(*parts: tuple[int, int, Line]) -> dict[str, MidiFile]:
    return {str(group): notes for group, notes in split_groups(song(*parts)).items()}


def pitches(sound: Audio, at_s: float) -> float:
    """The MIDI key of the loudest partial in a quarter of a second."""
    part = sound[0, round((at_s + 0.05) * RATE) :][: RATE // 4]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16 * len(part)))
    return 69 + 12 * float(np.log2(np.argmax(spectrum) * RATE / (16 * len(part)) / 440))


def energy(sound: Audio, hz: float, at_s: float) -> float:
    """Of a band of 30 Hz in 0.2 s."""
    part = sound[0, round(at_s * RATE) :][: RATE // 5]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), RATE))
    return float(spectrum[round(hz) - 15 : round(hz) + 15].max(initial=0.0))


def test_a_bass_plays_its_line(folder: Path) -> None:
    played = play_band(groups_of((1, 33, BASS)), band_of(folder), np.random.default_rng(0))
    sound = played.stems["bass"]
    for start_s, _, key in BASS:
        assert pitches(sound, start_s) == pytest.approx(key, abs=0.05)
    assert "bass" not in played.rest
    assert played.facts["bass"]["instrument"] == "bass"
    (source,) = played.sources
    assert (source["role"], source["licences"], source["author"]) == (
        "bass",
        ["CC-BY-4.0"],
        "A. Player",
    )
    assert source["package"] == "github.com/owner/name"


def test_written_octaves_are_heard_as_they_sound(folder: Path) -> None:
    """A file whose keys are an octave above what sounds plays a line where it was meant."""
    (folder / "bass/instrument.sfz").write_text("<region> sample=a.wav pitch_keycenter=57")
    source = RecordedSource("o/n", "abc", "CC0-1.0", transpose=12)
    load_sfz.cache_clear()
    how = {"sources": {**recorded(folder).sources, "bass": source}}
    band = band_of(folder, **how)
    played = play_band(groups_of((1, 33, BASS)), band, np.random.default_rng(0))
    for start_s, _, key in BASS:
        assert pitches(played.stems["bass"], start_s) == pytest.approx(key, abs=0.05)


def test_drums_play_their_hits_and_an_open_hat_is_choked(folder: Path) -> None:
    played = play_band(groups_of((9, 0, BEAT)), band_of(folder), np.random.default_rng(0))
    sound = played.stems["drums"]
    for at_s, hz in ((0.0, 60), (0.5, 300), (1.0, 60), (1.5, 8000), (1.75, 6000)):
        before = energy(sound, hz, at_s - 0.21) if at_s else 0.0
        assert energy(sound, hz, at_s) > 3 * before + 1, hz
    # A fifth of a second after the closed hat the open one, which decays for seconds, is gone.
    assert energy(sound, 8000, 1.95) < 0.01 * energy(sound, 8000, 1.52)
    assert played.facts["drums"] == {"kit": "kit"}


def test_another_snare_takes_the_place_of_the_kits(folder: Path) -> None:
    band = band_of(folder, p_snare=1.0)
    played = play_band(groups_of((9, 0, BEAT)), band, np.random.default_rng(0))
    assert played.facts["drums"]["snare"] in ("10_basic", "10_brush")
    hz = {"10_basic": 900, "10_brush": 1000}[played.facts["drums"]["snare"]]
    sound = played.stems["drums"]
    assert energy(sound, hz, 0.5) > 10 * energy(sound, 300, 0.5)
    assert {source["role"] for source in played.sources} == {"drums", "snare"}


def test_a_snare_alone_leaves_the_rest_of_the_drums(folder: Path) -> None:
    played = play_band(groups_of((9, 0, BEAT)), band_of(folder, "test"), np.random.default_rng(0))
    assert played.facts["drums"] == {"snare": "20_basic"}
    assert energy(played.stems["drums"], 1500, 0.5) > 1
    assert energy(played.stems["drums"], 60, 0.0) < 0.01
    left = {note.note for note in timed_notes(played.rest["drums"])}
    assert left == {36, 42, 46}


def test_guitars_strum_their_chords(folder: Path) -> None:
    groups = groups_of((2, 27, CHORDS), (3, 48, BASS))
    played = play_band(groups, band_of(folder), np.random.default_rng(0))
    sound = played.stems["other"]
    for key in (60, 64, 67):
        assert energy(sound, 440 * 2 ** ((key - 69) / 12), 1.05) > 1
    assert count_notes(played.rest["other"]) == len(BASS)  # of the strings
    assert played.facts["guitars"][0]["instrument"] == "guitar"


@pytest.mark.parametrize(("program", "is_taken"), [(0, True), (48, False)])
def test_a_guitar_may_take_over_a_piano(folder: Path, program: int, is_taken: bool) -> None:
    groups = groups_of((2, program, CHORDS))
    played = play_band(groups, band_of(folder, p_guitar=1.0), np.random.default_rng(0))
    assert ("other" in played.stems) == is_taken
    assert count_notes(played.rest["other"]) == (0 if is_taken else len(CHORDS))
    never = play_band(groups, band_of(folder, p_guitar=0.0), np.random.default_rng(0))
    assert "other" not in never.stems


def test_the_same_numbers_give_the_same_sound(folder: Path) -> None:
    parts = groups_of((1, 33, BASS), (2, 27, CHORDS), (9, 0, BEAT))
    band = band_of(folder, p_amplifier=1.0, p_snare=0.5, timing_ms=7.0, velocity=8.0)
    first, again, other = (play_band(parts, band, np.random.default_rng(n)) for n in (1, 1, 2))
    assert set(first.stems) == {"bass", "drums", "other"}
    for name, sound in first.stems.items():
        assert np.all(np.isfinite(sound))
        np.testing.assert_array_equal(sound, again.stems[name])
        assert sound.shape != other.stems[name].shape or np.any(sound != other.stems[name])


def test_silence_is_no_part_of_a_band(folder: Path) -> None:
    played = play_band(groups_of(), band_of(folder), np.random.default_rng(0))
    assert played.stems == {}
    assert set(played.rest) == {"drums", "bass", "other"}
    assert find_band(recorded(folder), "valid") is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"folder": ""}, "folder that holds them by `instruments`"),
        ({"folder": "/nowhere"}, r"github\.com/owner/name \(commit abc\)"),
        ({"snares": Names(train=("11",))}, "recorded.snares has 11"),
    ],
)
def test_what_is_missing_is_told(folder: Path, how: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        find_band(replace(recorded(folder), **how), "train")  # type: ignore[arg-type]


def test_the_command_tells_what_is_missing_before_any_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data", "render", "--recipe", "recorded", "-o", tmp_path / "out")
    result = Program(capsys)(*words, "--packages", tmp_path / "none")
    assert result.code == 2
    assert "--instruments" in result.err
    wrong = Program(capsys)(*words, "--packages", tmp_path / "none", "--instruments", tmp_path)
    assert wrong.code == 2
    assert "bass-growly" in wrong.err
    assert not (tmp_path / "none").exists()


def test_no_instrument_of_the_shipped_recipe_is_in_two_splits() -> None:
    how = load_recipe("recorded").recorded
    for names in (how.basses, how.guitars, how.kits, how.snares):
        splits = [set(names.of(split)) for split in ("train", "valid", "test")]
        assert sum(map(len, splits)) == len(set.union(*splits))
    assert how.sources["drums-muldjord"].licence == "CC-BY-4.0"
    assert "Lars Muldjord" in how.sources["drums-muldjord"].author


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[recorded.basses]\ntrain = ["bass-tuba"]', "bass-tuba, whose origin is unknown"),
        ('[recorded.basses]\nvalid = ["bass-growly"]', "bass-growly in valid"),
        ('[recorded.snares]\ntest = ["10"]', "has 10 in test"),
        ("[recorded]\np_guitar = 2", "p_guitar = 2 is out of range; use 0 to 1"),
        ("[recorded]\nfolders = 'x'", "has no 'folders'; did you mean folder"),
    ],
)
def test_recipes_of_a_band_that_make_no_sense(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'why = "test"\ninherits = "recorded"\n{text}\n')
    with pytest.raises(UsageError, match=told):
        load_recipe(path)


def test_notes_of_a_song_in_seconds() -> None:
    file = song((1, 33, BASS), (2, 0, CHORDS))
    notes = timed_notes(file)
    assert len(notes) == count_notes(file)
    first = next(note for note in notes if note.channel == 1)
    assert (first.start_s, first.program, first.note) == (0.0, 33, 40)
    assert first.end_s == pytest.approx(0.4, abs=1e-3)
    rest = without_notes(file, lambda message: message.channel == 1)
    assert {note.channel for note in timed_notes(rest)} == {2}
    assert [n.start_s for n in timed_notes(rest)] == [n.start_s for n in notes if n.channel == 2]


def test_hits_find_their_names(folder: Path) -> None:
    kit = load_sfz(folder / "kit/instrument.sfz")
    hits = [DrumHit(i / 10, key, 0.5) for i, key in enumerate((36, 38, 42, 46, 49, 56))]
    notes = kit_notes(hits, kit)
    assert [note.articulation for note in notes] == ["ks", "sc", "hc", "ho", "ho"]
    assert {note.velocity for note in notes} == {64}
    ends = {note.start_s: note.end_s for note in choked(notes)}
    assert ends[0.3] == 0.4  # by the crash, which this kit plays on its hi-hat
    assert ends[0.0] == ends[0.4] == np.inf
    levels = {note.key: note.gain_db for note in notes}
    assert levels[42] < levels[49] < levels[36] == levels[38]
    kicks = kit_notes([DrumHit(time_s, 36, 0.5) for time_s in (0.0, 1.0, 2.0, 3.0)], kit)
    assert [note.end_s for note in choked(kicks)] == [2.0, 3.0, np.inf, np.inf]
    assert [hit.note for hit in without_snares(hits)] == [36, 42, 46, 49, 56]


def test_saturation_bends_and_keeps_the_level() -> None:
    time_s = np.arange(RATE) / RATE
    sound = 0.3 * np.sin(2 * np.pi * 440 * time_s, dtype=np.float64)[None].astype(np.float32)

    def harmonics(audio: Audio) -> float:
        spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(RATE)))
        return float(spectrum[1320] / spectrum[440])

    bent = {drive: saturate(sound, drive) for drive in (-30.0, 0.0, 20.0)}
    assert harmonics(bent[-30.0]) < 1e-3 < harmonics(bent[0.0]) < harmonics(bent[20.0])
    for audio in bent.values():
        assert level(audio) == pytest.approx(level(sound), rel=1e-3)
        assert audio.dtype == np.float32
    # What is made above half the rate does not come back between the harmonics.
    high = np.sin(2 * np.pi * 9000 * time_s)[None].astype(np.float32)
    spectrum = np.abs(np.fft.rfft(saturate(high, 12.0)[0] * np.hanning(RATE)))
    assert spectrum[17000:17300].max() < 1e-3 * spectrum.max()  # 3 * 9000 folds to 17100
    silence = np.zeros((2, 100), np.float32)
    np.testing.assert_array_equal(saturate(silence, 10), silence)


@pytest.mark.parametrize("is_bass", [True, False])
def test_amplifiers_keep_length_and_level(tmp_path: Path, is_bass: bool) -> None:
    (tmp_path / "amps").mkdir()
    (tmp_path / "bands").mkdir()
    response = np.exp(-np.arange(2000) / 200) * np.random.default_rng(0).standard_normal(2000)
    for name in ("amps/one.wav", "bands/two.wav"):
        sf.write(tmp_path / name, 0.1 * response, 48000)
    cabinets = find_cabinets(tmp_path)
    assert [path.name for path in cabinets] == ["one.wav"]
    sound = (0.1 * np.random.default_rng(1).standard_normal((2, RATE))).astype(np.float32)
    for given, name in ((cabinets, "one"), ((), "band")):
        heard, facts = amplify(sound, given, np.random.default_rng(3), is_bass=is_bass)
        assert heard.shape == sound.shape
        assert facts["cabinet"] == name
        assert level(heard) == pytest.approx(level(sound.mean(axis=0, keepdims=True)), rel=0.02)
    assert drum_bus(sound, np.random.default_rng(0)).shape == sound.shape


def test_the_shipped_recipe_finds_and_plays_the_recordings() -> None:
    """The real instruments: every name of the recipe is there, in tune, and does not clip."""
    folder = shared("data", "instruments")
    how = replace(load_recipe("recorded").recorded, folder=str(folder), p_amplifier=0.0)
    for split in ("train", "valid", "test"):
        band = find_band(how, split)
        assert band is not None
        for bass in band.basses:
            alone = replace(band, basses=(bass,), guitars=(), kits=(), snares=())
            line = tuple((start, start + 0.9, key) for start, key in ((0.0, 33), (1.0, 40)))
            played = play_band(groups_of((1, 33, line)), alone, np.random.default_rng(0))
            sound = played.stems["bass"]
            assert 0.02 < np.abs(sound).max() < 1.5, bass.name
            for start_s, _, key in line:
                part = sound[0, round((start_s + 0.2) * RATE) :][: RATE // 2]
                assert abs(cents_off(part, key)) < 25, (bass.name, key)


def cents_off(sound: Audio, key: int) -> float:
    """How far a tone is from a key, by the sum of its first six harmonics."""
    n_fft = 8 * len(sound)
    power = np.log(np.abs(np.fft.rfft(sound * np.hanning(len(sound)), n_fft)) + 1e-9)
    found = {}
    for cents in range(-120, 121, 4):
        hz = 440 * 2 ** ((key - 69 + cents / 100) / 12)
        found[cents] = sum(power[round(n * hz * n_fft / RATE)] for n in range(1, 7))
    return max(found, key=lambda cents: found[cents])


def test_the_manifest_names_instruments_and_licences(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a recipe to tracks: the band plays, licences travel with it."""
    if shutil.which("fluidsynth") is None:
        pytest.skip("fluidsynth is not installed")
    cache = tmp_path / "cache"
    long = [(i / 2, i / 2 + 0.4, key) for i in range(8) for key in (40,)]
    file = song((1, 33, long), (2, 48, long), (9, 0, BEAT))
    package(cache, "songs-data", {"usr/a.mid": midi_bytes(file, tmp_path)})
    package(cache, "font", {"usr/one.sf2": soundfont()})
    (tmp_path / "mine.toml").write_text(
        'why = "a test"\n[render]\nmin_duration_s = 1\n[instruments]\np_kit = 0.0\n'
        '[instruments.fonts]\ntrain = ["font"]\n[midi.packages]\ntrain = ["songs-data"]\n'
        "[midi.versions]\ntrain = 1\n[recorded]\n"
        '[recorded.basses]\ntrain = ["bass"]\n[recorded.kits]\ntrain = ["kit"]\n'
        + "".join(
            f'[recorded.sources.{name}]\nrepository = "o/{name}"\ncommit = "abc"\n'
            f'licence = "CC-BY-4.0"\nauthor = "A. Player"\n'
            for name in ("bass", "kit")
        )
    )
    options = ("--recipe", tmp_path / "mine.toml", "--packages", cache, "-o", tmp_path / "out")
    result = Program(capsys)("data", "render", *options, "--instruments", folder)
    assert result.code == 0, result.err
    (track,) = json.loads((tmp_path / "out/manifest.json").read_text())["tracks"].values()
    roles = {source["role"]: source for source in track["sources"]}
    assert set(roles) == {"midi", "bass", "drums", "other"}
    assert roles["bass"]["package"] == "github.com/o/bass"
    assert roles["drums"]["author"] == "A. Player"
    assert min(track["level_db"][stem] for stem in ("bass", "drums", "other")) > -50
    terms = (tmp_path / "out/licences/kit.txt").read_text()
    assert "A. Player" in terms
    assert "CC-BY-4.0" in terms
    assert Program(capsys)("data", "check", tmp_path / "out").code == 0


def test_notes_are_played_one_at_a_time(folder: Path) -> None:
    """A bass that begins a note stops the one before."""
    line = ((0.0, 3.0, 40), (1.0, 2.0, 52))
    played = play_band(groups_of((1, 33, line)), band_of(folder), np.random.default_rng(0))
    sound = played.stems["bass"]
    low = 440 * 2 ** ((40 - 69) / 12)
    assert energy(sound, low, 1.2) < 0.02 * energy(sound, low, 0.5)
