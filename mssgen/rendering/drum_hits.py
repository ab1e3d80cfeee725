"""From General MIDI drum hits to notes of a kit whose recordings have names instead of keys."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mssgen.rendering.midi import DrumHit
from mssgen.rendering.sampler import Note
from mssgen.rendering.sfz import Instrument

# Names of recordings for each key, in order of preference, from MuldjordKit and Gogodze Phu Vol II
# (whose only cymbal is the hi-hat).
_HITS: dict[int, tuple[str, ...]] = {
    35: ("KdrumR", "KdrumL", "ks"),
    36: ("KdrumL", "KdrumR", "ks"),
    37: ("ss", "Snare"),
    38: ("Snare", "sc"),
    39: ("Snare", "se"),
    40: ("Snare", "se", "sc"),
    41: ("Tom4", "tl"),
    43: ("Tom3", "tl"),
    45: ("Tom3", "tm"),
    47: ("Tom2", "tm"),
    48: ("Tom2", "th"),
    50: ("Tom1", "th"),
    42: ("HihatClosed", "hc", "ht"),
    44: ("hf", "HihatClosed", "hc"),
    46: ("HihatOpen", "ho"),
    49: ("CrashL", "ho"),
    57: ("CrashR", "ho"),
    52: ("China", "CrashR", "ho"),
    55: ("CrashR", "ho"),
    51: ("RideL", "hl"),
    59: ("RideR", "hl"),
    53: ("RideLBell", "RideRBell", "hh"),
    54: ("HihatClosed", "ht"),
    69: ("HihatClosed", "ht"),
    70: ("HihatClosed", "ht"),
    82: ("HihatClosed", "ht"),
}
_SNARES = (38, 39, 40)
_HATS, _RIDES, _CRASHES = (42, 44, 46, 54, 69, 70, 82), (51, 53, 59), (49, 52, 55, 57)
# All recordings have about the same level; in a mix cymbals are quieter than drums.
_LEVELS_DB = {
    **dict.fromkeys(_HATS, -9.0),
    **dict.fromkeys(_RIDES, -12.0),
    **dict.fromkeys(_CRASHES, -6.0),
    **dict.fromkeys((41, 43, 45, 47, 48, 50), -2.0),
}
_SPREAD_DB = 3.0
_MAX_VOICES = 2
_OPEN = ("HihatOpen", "ho", "hh", "hl")
_CLOSING = ("HihatClosed", "hc", "ht", "hf")


def kit_notes(
    hits: Sequence[DrumHit], kit: Instrument, rng: np.random.Generator | None = None
) -> list[Note]:
    """Notes that ring out, without hits that the kit has no recording for.

    `rng` draws a gain for each drum; None uses the average gains.
    """
    known = set(kit.articulations)
    spread = rng.normal(0, _SPREAD_DB / 2, 128) if rng is not None else np.zeros(128)
    notes = []
    for hit in hits:
        name = next((each for each in _HITS.get(hit.note, ()) if each in known), None)
        if name is not None:
            gain_db = _LEVELS_DB.get(hit.note, 0.0) + float(spread[hit.note])
            notes.append(Note(hit.time_s, np.inf, hit.note, midi_velocity(hit), name, gain_db))
    return notes


def choked(notes: Sequence[Note]) -> list[Note]:
    """Notes that end when the same instrument is hit again: an open hi-hat at the next hit, all
    others at the second next, since a cymbal does not ring several times at once."""
    strokes: dict[str, list[float]] = defaultdict(list)
    for note in sorted(notes, key=lambda each: each.start_s):
        strokes[_struck(note)].append(note.start_s)
    found = []
    for note in notes:
        times = strokes[_struck(note)]
        n_strokes = 1 if note.articulation in _OPEN else _MAX_VOICES
        later = times[bisect_right(times, note.start_s) :]
        found.append(replace(note, end_s=later[n_strokes - 1]) if len(later) >= n_strokes else note)
    return found


def _struck(note: Note) -> str:
    """The name of the instrument that is hit; open and closed hi-hat are one."""
    return "hi-hat" if note.articulation in (*_OPEN, *_CLOSING) else note.articulation


def is_snare(key: int) -> bool:
    """Whether a key of the drum channel is a snare."""
    return key in _SNARES


def without_snares(hits: Sequence[DrumHit]) -> list[DrumHit]:
    """All hits except snare hits."""
    return [hit for hit in hits if not is_snare(hit.note)]


def midi_velocity(hit: DrumHit) -> int:
    """The MIDI velocity of a hit, 1 to 127."""
    return min(127, max(1, round(hit.velocity * 127)))
