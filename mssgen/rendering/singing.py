"""A singing voice: a random melody on the chords, sung by the synthesiser pysinsy."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.resampling import at_rate
from mssgen.errors import MssgenError, UsageError
from mssgen.leftovers import scratch_folder
from mssgen.rendering.accompaniments import Chord, Draft
from mssgen.rendering.sounds import SAMPLE_RATE

SINGER = {
    "package": "pysinsy",
    "version": "0.0.5",
    "path": "htsvoice/nitech_jp_song070_f001.htsvoice",
    "licences": ["MIT", "CC-BY-3.0"],
}
"""The manifest's entry for the synthesiser and its voice, NIT SONG070 F001."""
_EIGHTHS = 8
"""Eighths per bar of four quarter notes."""
_LOWEST, _HIGHEST = 60, 79
"""MIDI pitches that the voice sings well."""
_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_KANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわ"
_STEPS = tuple(zip("CCDDEFFGGAAB", (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0), strict=True))
"""Step and alteration of each semitone above C."""


@dataclass(frozen=True)
class Voice:
    """Variation of the only available voice."""

    semitones: int = 0
    """Shift of the formants; negative values stand for a longer vocal tract."""
    alpha: float = 0.55
    """Frequency warping of the synthesiser; 0.55 is the recorded singer."""


@dataclass(frozen=True)
class SungNote:
    """A note, or a rest."""

    pitch: int | None
    """MIDI pitch; None is a rest."""
    n_eighths: int
    kana: str = ""


def draw_voice(rng: np.random.Generator) -> Voice:
    """A random voice between that of a child and that of a low woman or high man."""
    return Voice(int(rng.integers(-5, 3)), float(rng.uniform(0.51, 0.59)))


def write_melody(draft: Draft, seed: int, *, n_rest: int = 4) -> list[list[SungNote]]:
    """A random walk over the scale with chord tones on each beat, in bars of eight eighths.

    The last bar is silent. Phrases of four bars begin with a rest; on average `n_rest` of ten
    phrases are silent.
    """
    rng = random.Random(seed)
    is_minor = draft.chords[0].is_minor and draft.chords[0].root == draft.key
    scale = {(draft.key + step) % 12 for step in (_MINOR if is_minor else _MAJOR)}
    pitch, is_silent = rng.randint(_LOWEST + 4, _HIGHEST - 4), True
    bars: list[list[SungNote]] = []
    for index, chord in enumerate(draft.chords):
        starts_phrase = index % 4 == 0
        if starts_phrase:
            is_silent = rng.randrange(10) < n_rest
        if is_silent:
            bars.append([SungNote(None, _EIGHTHS)])
            continue
        bar = [SungNote(None, 2)] if starts_phrase else []
        while (n_left := _EIGHTHS - sum(note.n_eighths for note in bar)) > 0:
            at_beat = n_left % 2 == 0
            pitch = _next_pitch(pitch, _tones(chord) if at_beat else scale | _tones(chord), rng)
            n_eighths = min(n_left, rng.choice((1, 1, 2, 2, 2, 3, 4)))
            bar.append(SungNote(pitch, n_eighths, rng.choice(_KANA)))
        bars.append(bar)
    # The synthesiser rejects scores that end in a note.
    return [*bars, [SungNote(None, _EIGHTHS)]]


def music_xml(bars: Sequence[Sequence[SungNote]], tempo: float, semitones: int = 0) -> str:
    """Bars of four quarter notes as MusicXML (score-partwise), transposed by `semitones`."""
    measures = []
    for number, bar in enumerate(bars, start=1):
        head = ""
        if number == 1:
            head = (
                "<attributes><divisions>2</divisions><key><fifths>0</fifths></key>"
                "<time><beats>4</beats><beat-type>4</beat-type></time>"
                "<clef><sign>G</sign><line>2</line></clef></attributes>"
                f'<direction><sound tempo="{tempo:.4f}"/></direction>'
            )
        notes = "".join(_note_xml(note, semitones) for note in bar)
        measures.append(f'<measure number="{number}">{head}{notes}</measure>')
    return (
        '<?xml version="1.0" encoding="UTF-8"?><score-partwise version="2.0"><part-list>'
        '<score-part id="P1"><part-name>voice</part-name></score-part></part-list>'
        f'<part id="P1">{"".join(measures)}</part></score-partwise>'
    )


def sing(draft: Draft, seed: int, voice: Voice) -> NDArray[np.float32]:
    """The sung melody of a draft, [2, T] at 44.1 kHz, aligned with its accompaniment.

    Raises UsageError if pysinsy is not installed, MssgenError if it fails.
    """
    pysinsy = _import_pysinsy()
    # Resampling by this factor shifts pitch, formants and tempo; the score compensates pitch and
    # tempo, so that only the formants move.
    factor = 2 ** (voice.semitones / 12)
    score = music_xml(write_melody(draft, seed), draft.tempo / factor, -voice.semitones)
    with scratch_folder() as folder:
        path = folder / "song.xml"
        path.write_text(score, encoding="utf-8")
        singer = pysinsy.sinsy.Sinsy()
        singer.setLanguages("j", pysinsy.get_default_dic_dir())
        singer.loadVoices(pysinsy.get_default_htsvoice())
        singer.setAlpha(voice.alpha)
        singer.loadScoreFromMusicXML(str(path))
        try:
            wave, rate = singer.synthesize()
        except RuntimeError as error:
            raise MssgenError(f"pysinsy failed to sing: {error}") from error
    # The synthesiser's full scale is that of 16-bit integers.
    mono = np.asarray(wave, dtype=np.float32)[None] / np.float32(2**15)
    return np.repeat(at_rate(mono, round(rate * factor), SAMPLE_RATE), 2, axis=0)


def _import_pysinsy() -> Any:
    try:
        import pysinsy
        import pysinsy.sinsy
    except ImportError as error:
        raise UsageError(
            f"singing needs the package pysinsy ({error}); install it with `pip install "
            "--no-build-isolation pysinsy 'setuptools<81'`, or set singing.songs to 0 in the recipe"
        ) from None
    return pysinsy


def _tones(chord: Chord) -> set[int]:
    return {(chord.root + step) % 12 for step in (0, 3 if chord.is_minor else 4, 7)}


def _next_pitch(pitch: int, classes: set[int], rng: random.Random) -> int:
    """A random pitch near `pitch` whose pitch class is in `classes`."""
    wanted = pitch + rng.randint(-4, 4)
    near = [each for each in range(_LOWEST, _HIGHEST + 1) if each % 12 in classes]
    return min(near, key=lambda each: abs(each - wanted))


_TYPES = {1: "eighth", 2: "quarter", 3: "quarter", 4: "half", 6: "half", 8: "whole"}


def _note_xml(note: SungNote, semitones: int) -> str:
    length = f"<duration>{note.n_eighths}</duration><voice>1</voice>"
    if note.pitch is None:
        return f"<note><rest/>{length}</note>"
    octave, place = divmod(note.pitch + semitones, 12)
    step, alter = _STEPS[place]
    pitch = f"<step>{step}</step><alter>{alter}</alter><octave>{octave - 1}</octave>"
    kind = f"<type>{_TYPES.get(note.n_eighths, 'whole')}</type>"
    dot = "<dot/>" if note.n_eighths in (3, 6) else ""
    lyric = f"<lyric><syllabic>single</syllabic><text>{escape(note.kana)}</text></lyric>"
    return f"<note><pitch>{pitch}</pitch>{length}{kind}{dot}{lyric}</note>"
