"""Hits of the General MIDI drum channel as notes of a kit whose recordings have names, not keys."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mssgen.rendering.midi import DrumHit
from mssgen.rendering.sampler import Note
from mssgen.rendering.sfz import Instrument

# For each key the names of hits in the order of preference; the first that a kit has plays. They
# are those of MuldjordKit and of Gogodze Phu Vol II; the latter has no cymbals but its hi-hat.
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
_OPEN = ("HihatOpen", "ho", "hh", "hl")
_CLOSING = ("HihatClosed", "hc", "ht", "hf")


def kit_notes(hits: Sequence[DrumHit], kit: Instrument) -> list[Note]:
    """Notes that ring out; hits that the kit has no recording for are silent."""
    known = set(kit.articulations)
    notes = []
    for hit in hits:
        name = next((each for each in _HITS.get(hit.note, ()) if each in known), None)
        if name is not None:
            notes.append(Note(hit.time_s, np.inf, hit.note, midi_velocity(hit), name))
    return notes


def choked(notes: Sequence[Note]) -> list[Note]:
    """An open hi-hat ends where the hi-hat is played next, open or closed."""
    times = sorted(note.start_s for note in notes if note.articulation in (*_OPEN, *_CLOSING))
    found = []
    for note in notes:
        later = (
            [each for each in times if each > note.start_s] if note.articulation in _OPEN else []
        )
        found.append(replace(note, end_s=later[0]) if later else note)
    return found


def is_snare(key: int) -> bool:
    """Whether a key of the drum channel is the snare's."""
    return key in _SNARES


def without_snares(hits: Sequence[DrumHit]) -> list[DrumHit]:
    """All hits but those of the snare."""
    return [hit for hit in hits if not is_snare(hit.note)]


def midi_velocity(hit: DrumHit) -> int:
    """1 to 127."""
    return min(127, max(1, round(hit.velocity * 127)))
