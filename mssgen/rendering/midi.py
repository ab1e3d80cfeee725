"""Splits MIDI files into one file per stem: drums, bass and other."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Literal, TypeAlias

import mido

from mssgen.errors import AudioError

MidiFile: TypeAlias = mido.MidiFile

Group = Literal["drums", "bass", "other"]
GROUPS: tuple[Group, ...] = ("drums", "bass", "other")
_DRUM_CHANNEL = 9
_BASS_PROGRAMS = range(32, 40)
_DEFAULT_TEMPO = 500_000
"""Microseconds per quarter note if a file does not set a tempo."""


@dataclass(frozen=True)
class Variation:
    """Alteration of a MIDI file; the defaults change nothing."""

    semitones: int = 0
    """Transposition of everything but drums."""
    tempo: float = 1.0
    """Factor of the tempo."""
    velocity_jitter: int = 0
    """Largest random change of each note's velocity (1 to 127)."""
    seed: int = 0


@dataclass(frozen=True)
class DrumHit:
    """A note of the drum channel."""

    time_s: float
    note: int
    """General MIDI percussion key: 36 is the kick, 38 the snare, ..."""
    velocity: float
    """0 to 1."""


def read_midi(data: bytes, name: str) -> MidiFile:
    """Parse a MIDI file; raises AudioError with `name` if it is damaged or unsupported."""
    try:
        song = MidiFile(file=BytesIO(data), clip=True)
    except Exception as error:  # a damaged file makes mido raise whatever its parser meets
        raise AudioError(
            f"{name} is not a readable MIDI file ({error!s:.100}); leave it out"
        ) from None
    # Type 0 has one track, type 1 several simultaneous ones; type 2 is not a song.
    if song.type not in (0, 1) or (song.type == 0 and len(song.tracks) != 1):
        raise AudioError(
            f"{name} is a MIDI file of type {song.type} with {len(song.tracks)} tracks, which "
            "cannot be played; leave it out"
        )
    if song.ticks_per_beat < 1:
        raise AudioError(f"{name} has no ticks per quarter note; leave it out")
    return song


def split_groups(
    song: MidiFile, *, max_duration_s: float = 600.0, variation: Variation = Variation()
) -> dict[Group, MidiFile]:
    """One file per group, with the notes of that group and all other messages.

    The tenth channel is drums, General MIDI programs 33 to 40 are bass, everything else is other.
    Notes that start after `max_duration_s` are left out.
    """
    programs = _programs(song)
    rng = random.Random(variation.seed)
    end_tick = _tick_at(song, max_duration_s * variation.tempo)
    files = {
        group: MidiFile(type=song.type, ticks_per_beat=song.ticks_per_beat) for group in GROUPS
    }
    for number, track in enumerate(song.tracks):
        events: dict[Group, list[tuple[int, mido.Message]]] = {group: [] for group in GROUPS}
        if number == 0:
            for each in events.values():
                start = mido.MetaMessage("set_tempo", tempo=_scaled(_DEFAULT_TEMPO, variation))
                each.append((0, start))
        sounding: dict[tuple[int, int], list[tuple[Group, int]]] = {}
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                message = message.copy(tempo=_scaled(message.tempo, variation))
            if message.type not in ("note_on", "note_off"):
                if tick < end_tick and message.type != "end_of_track":
                    for each in events.values():
                        each.append((tick, message))
                continue
            key = message.channel, message.note
            if message.type == "note_on" and message.velocity:
                jitter = rng.randint(-variation.velocity_jitter, variation.velocity_jitter)
                if tick >= end_tick:
                    continue
                group = _group(message.channel, _program_at(programs[message.channel], tick))
                pitch = message.note + (0 if group == "drums" else variation.semitones)
                sounding.setdefault(key, []).append((group, pitch))
                message = message.copy(velocity=min(127, max(1, message.velocity + jitter)))
            elif sounding.get(key):
                group, pitch = sounding[key].pop(0)
            else:
                continue
            if 0 <= pitch <= 127:
                events[group].append((tick, message.copy(note=pitch)))
        for group, each in events.items():
            files[group].tracks.append(_deltas(each))
    return files


def count_notes(song: MidiFile) -> int:
    """Number of notes of all tracks."""
    return sum(
        message.type == "note_on" and message.velocity > 0
        for track in song.tracks
        for message in track
    )


@dataclass(frozen=True)
class TimedNote:
    """A note in seconds, with its channel and program."""

    start_s: float
    end_s: float
    note: int
    """MIDI key."""
    velocity: int
    """1 to 127."""
    channel: int
    program: int
    """General MIDI program, from 0."""


def timed_notes(song: MidiFile) -> list[TimedNote]:
    """All notes in order of their starts; notes without an end last until the end of the song."""
    programs, time_s = [0] * 16, 0.0
    sounding: dict[tuple[int, int], list[TimedNote]] = {}
    found: list[TimedNote] = []
    for message in song:
        time_s += message.time
        if message.type == "program_change":
            programs[message.channel] = message.program
        if message.type not in ("note_on", "note_off"):
            continue
        key = message.channel, message.note
        if message.type == "note_on" and message.velocity:
            note = TimedNote(
                time_s,
                time_s,
                message.note,
                message.velocity,
                message.channel,
                programs[message.channel],
            )
            sounding.setdefault(key, []).append(note)
        elif sounding.get(key):
            found.append(replace(sounding[key].pop(0), end_s=time_s))
    left = [replace(note, end_s=time_s) for notes in sounding.values() for note in notes]
    return sorted([*found, *left], key=lambda note: (note.start_s, note.note))


def without_notes(song: MidiFile, leaves_out: Callable[[mido.Message], bool]) -> MidiFile:
    """The song without the notes for whose messages `leaves_out` is true."""
    rest = MidiFile(type=song.type, ticks_per_beat=song.ticks_per_beat)
    for track in song.tracks:
        events, tick = [], 0
        for message in track:
            tick += message.time
            if message.type not in ("note_on", "note_off") or not leaves_out(message):
                events.append((tick, message))
        rest.tracks.append(_deltas(events))
    return rest


def drum_hits(song: MidiFile) -> list[DrumHit]:
    """The notes of the drum channel in order of time."""
    hits, time_s = [], 0.0
    for message in song:
        time_s += message.time
        if message.type == "note_on" and message.velocity and message.channel == _DRUM_CHANNEL:
            hits.append(DrumHit(time_s, message.note, message.velocity / 127))
    return hits


def _programs(song: MidiFile) -> list[list[tuple[int, int]]]:
    """Program changes (tick, program) of every channel over all tracks, in order of time."""
    found: list[list[tuple[int, int]]] = [[(0, 0)] for _ in range(16)]
    for track in song.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "program_change":
                found[message.channel].append((tick, message.program))
    return [sorted(each, key=lambda change: change[0]) for each in found]


def _program_at(changes: list[tuple[int, int]], tick: int) -> int:
    return [program for at, program in changes if at <= tick][-1]


def _group(channel: int, program: int) -> Group:
    if channel == _DRUM_CHANNEL:
        return "drums"
    return "bass" if program in _BASS_PROGRAMS else "other"


def _tick_at(song: MidiFile, time_s: float) -> float:
    """The tick at `time_s` seconds at the song's own tempo."""
    changes, tempo, at_tick, at_s = [], _DEFAULT_TEMPO, 0, 0.0
    for track in song.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                changes.append((tick, message.tempo))
    for tick, next_tempo in sorted(changes):
        passed_s = mido.tick2second(tick - at_tick, song.ticks_per_beat, tempo)
        if at_s + passed_s >= time_s:
            break
        at_s, at_tick, tempo = at_s + passed_s, tick, next_tempo
    return at_tick + (time_s - at_s) * 1e6 * song.ticks_per_beat / tempo


def _scaled(tempo: int, variation: Variation) -> int:
    return min(2**24 - 1, max(1, round(tempo / variation.tempo)))


def _deltas(events: list[tuple[int, mido.Message]]) -> mido.MidiTrack:
    """A track of messages at absolute ticks."""
    track, at = mido.MidiTrack(), 0
    for tick, message in events:
        track.append(message.copy(time=tick - at))
        at = tick
    return track
