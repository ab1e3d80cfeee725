"""A band of recorded instruments: plays the bass, the guitars and the drums of a MIDI file.

Notes are humanised (timing, velocity, strummed chords); bass and guitars go through amplifiers,
drums through a bus. Parts without a recorded instrument are left to soundfonts and drum kits.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mssgen.errors import UsageError
from mssgen.rendering.amplifiers import amplify, drum_bus
from mssgen.rendering.drum_hits import choked, is_snare, kit_notes, midi_velocity, without_snares
from mssgen.rendering.midi import (
    DrumHit,
    MidiFile,
    TimedNote,
    drum_hits,
    timed_notes,
    without_notes,
)
from mssgen.rendering.recipe import Recorded, RecordedSource
from mssgen.rendering.sampler import Note, Sampler
from mssgen.rendering.sfz import Instrument, by_pitch, load_sfz
from mssgen.rendering.sounds import Audio, at_level, mixed, pan_gains

_GUITARS = range(24, 32)
_TAKEN_OVER = range(24)
"""MIDI programs whose parts a guitar may play instead: pianos, mallets, organs."""
_MAX_GUITARS = 3
"""Maximum number of guitar parts; further ones are left to soundfonts."""
_STRUM_S = (0.004, 0.022)
_SNARE = 38
_CHORD_S = 0.03
"""Guitar notes whose starts are closer than this (seconds) form a chord."""


@dataclass(frozen=True)
class RecordedInstrument:
    """A recorded instrument of a recipe, with the path of its SFZ file."""

    name: str
    path: Path
    source: RecordedSource
    sha256: str
    """Digest of the SFZ file."""

    def load(self) -> Instrument:
        """Read the SFZ file, see `load_sfz`; samples may be anywhere in its folder."""
        root = self.path.parents[len(Path(self.source.file).parts) - 1]
        instrument = load_sfz(self.path, root)
        if self.source.nearest:
            instrument = by_pitch(instrument, self.source.without_keycenters)
        return instrument

    def as_source(self, role: str) -> dict[str, Any]:
        """The manifest's entry for this instrument."""
        said = {
            "role": role,
            "package": f"github.com/{self.source.repository}",
            "version": self.source.commit,
            "path": f"{self.name}/{self.path.name}",
            "sha256": self.sha256,
            "licences": [self.source.licence],
        }
        return {**said, "author": self.source.author} if self.source.author else said

    def terms(self) -> str:
        """Origin and licence as text, to be distributed with the audio."""
        source = self.source
        by = f" by {source.author}" if source.author else ""
        lines = f"{self.name}{by}: github.com/{source.repository} at commit {source.commit}.\n"
        lines += f"Licence: {source.licence}.\n"
        said = self.path.parent / "SOURCE.md"
        return lines + (said.read_text(encoding="utf-8") if said.is_file() else "")


@dataclass(frozen=True)
class Band:
    """The recorded instruments of one split."""

    how: Recorded
    basses: tuple[RecordedInstrument, ...] = ()
    guitars: tuple[RecordedInstrument, ...] = ()
    kits: tuple[RecordedInstrument, ...] = ()
    snares: tuple[str, ...] = ()
    snare_source: RecordedInstrument | None = None
    cabinets: tuple[Path, ...] = ()
    cabinet_source: dict[str, Any] | None = None
    """The manifest's entry for the cabinets."""

    @property
    def instruments(self) -> tuple[RecordedInstrument, ...]:
        """All instruments, each once."""
        snares = (self.snare_source,) if self.snare_source and self.snares else ()
        return (*self.basses, *self.guitars, *self.kits, *snares)


@dataclass
class Played:
    """A song as far as the band has played it."""

    stems: dict[str, Audio] = field(default_factory=dict)
    """Played stems out of "drums", "bass" and "other", [2, T] at 44.1 kHz."""
    rest: dict[str, MidiFile] = field(default_factory=dict)
    """Notes by group that soundfonts must still play; without a snare that is in `stems`."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def find_band(how: Recorded, split: str) -> Band | None:
    """The instruments of a split, or None if it has none.

    Raises UsageError if the folder or an instrument is missing, AudioError if one is damaged.
    """
    found = {
        name: _found(how, name)
        for names in (how.basses, how.guitars, how.kits)
        for name in names.of(split)
    }
    snares = how.snares.of(split)
    snare_source = _found(how, how.snare_source) if snares else None
    band = Band(
        how,
        tuple(found[name] for name in how.basses.of(split)),
        tuple(found[name] for name in how.guitars.of(split)),
        tuple(found[name] for name in how.kits.of(split)),
        snares,
        snare_source,
    )
    for name in snares if snare_source else ():
        if not _snare_articulations(band, name):
            raise UsageError(
                f"recipe: recorded.snares has {name}, which {how.snare_source} does not hold; "
                "correct the recipe"
            )
    return band if band.instruments else None


def play_band(groups: Mapping[str, MidiFile], band: Band, rng: np.random.Generator) -> Played:
    """Play the parts of the groups of `split_groups` that the band has instruments for.

    The same state of `rng` gives the same audio.
    """
    played = Played(rest=dict(groups))
    own = {name: np.random.default_rng(rng.integers(2**63)) for name in ("bass", "drums", "other")}
    if band.basses:
        _play_bass(groups["bass"], band, own["bass"], played)
    if band.kits or band.snares:
        _play_drums(groups["drums"], band, own["drums"], played)
    if band.guitars:
        _play_guitar(groups["other"], band, own["other"], played)
    amplifiers = [played.facts.get("bass", {}), *played.facts.get("guitars", [])]
    if band.cabinet_source and any(each.get("amplifier") for each in amplifiers):
        played.sources.append(band.cabinet_source)
    return played


def _found(how: Recorded, name: str) -> RecordedInstrument:
    if not how.folder:
        raise UsageError(
            "this recipe plays recorded instruments; name the folder that holds them by "
            "`instruments`"
        )
    path = Path(how.folder).expanduser() / name / how.sources[name].file
    if not path.is_file():
        source = how.sources[name]
        raise UsageError(
            f"{path} does not exist: put the instrument of "
            f"github.com/{source.repository} (commit {source.commit}) there, or name another "
            "folder by `instruments`"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = RecordedInstrument(name, path, how.sources[name], digest)
    found.load()  # so that a damaged file fails before any work
    return found


def _sampler(
    instrument: RecordedInstrument, how: Recorded, rng: np.random.Generator, release_s: float
) -> Sampler:
    return Sampler(
        instrument.load(),
        rng,
        alternates=how.alternates,
        veltrack=how.veltrack,
        least_release_s=release_s,
    )


def _drawn(
    instruments: tuple[RecordedInstrument, ...], rng: np.random.Generator
) -> RecordedInstrument:
    return instruments[int(rng.integers(len(instruments)))]


def _human(
    notes: list[TimedNote], how: Recorded, transpose: int, rng: np.random.Generator
) -> list[Note]:
    """Notes with random deviations of timing and velocity."""
    late_s = rng.normal(0, how.timing_ms / 1000, len(notes))
    harder = rng.normal(0, how.velocity, len(notes))
    return [
        Note(
            max(0.0, note.start_s + late),
            max(note.start_s + late + 0.03, note.end_s + late / 2),
            note.note + transpose,
            int(np.clip(round(note.velocity + more), 1, 127)),
        )
        for note, late, more in zip(notes, late_s, harder, strict=True)
    ]


def _play_bass(song: MidiFile, band: Band, rng: np.random.Generator, played: Played) -> None:
    notes = timed_notes(song)
    if not notes:
        return
    instrument, is_amplified = _drawn(band.basses, rng), rng.random() < band.how.p_amplifier
    sampler = _sampler(instrument, band.how, rng, float(rng.uniform(0.04, 0.12)))
    human = _human(notes, band.how, instrument.source.transpose, rng)
    sound = sampler.play(_one_at_a_time(human))
    amplifier: dict[str, Any] = {}
    if is_amplified:
        sound, amplifier = amplify(sound, band.cabinets, rng, is_bass=True)
    played.stems["bass"] = sound
    played.rest.pop("bass", None)
    played.sources.append(instrument.as_source("bass"))
    played.facts["bass"] = {"instrument": instrument.name, "amplifier": amplifier}


def _one_at_a_time(notes: list[Note]) -> list[Note]:
    """Notes that end where the next one begins, except double stops (within 30 ms)."""
    ordered = sorted(notes, key=lambda note: note.start_s)
    starts = np.array([note.start_s for note in ordered])
    found = []
    for note in ordered:
        later = starts[np.searchsorted(starts, note.start_s + _CHORD_S) :]
        found.append(replace(note, end_s=min([note.end_s, *later[:1]])))
    return found


def _play_drums(song: MidiFile, band: Band, rng: np.random.Generator, played: Played) -> None:
    hits = _human_hits(drum_hits(song), band.how, rng)
    if not hits:
        return
    takes_snare = bool(band.snares) and (not band.kits or rng.random() < band.how.p_snare)
    others = without_snares(hits) if takes_snare else hits
    facts: dict[str, Any] = {}
    parts, snare_peak = [], 0.0
    if band.kits:
        kit = _drawn(band.kits, rng)
        sampler = _sampler(kit, band.how, rng, 0.1)
        parts.append(sampler.play(choked(kit_notes(others, sampler.instrument, rng))))
        full = kit_notes([DrumHit(0.0, _SNARE, 1.0)], sampler.instrument)
        snare_peak = float(np.abs(sampler.play(full)).max(initial=0.0))
        played.sources.append(kit.as_source("drums"))
        facts["kit"] = kit.name
        del played.rest["drums"]
    elif takes_snare:
        played.rest["drums"] = without_notes(song, lambda message: is_snare(message.note))
    if takes_snare:
        parts.append(
            _play_snare(
                [hit for hit in hits if is_snare(hit.note)], band, snare_peak, rng, played, facts
            )
        )
    total = mixed([(0, part) for part in parts])
    played.stems["drums"] = drum_bus(total, rng) if band.kits else total
    played.facts["drums"] = facts


def _human_hits(hits: list[DrumHit], how: Recorded, rng: np.random.Generator) -> list[DrumHit]:
    late_s = rng.normal(0, how.timing_ms / 1000, len(hits))
    harder = rng.normal(0, how.velocity, len(hits)) / 127
    return [
        DrumHit(max(0.0, hit.time_s + late), hit.note, float(np.clip(hit.velocity + more, 0.01, 1)))
        for hit, late, more in zip(hits, late_s, harder, strict=True)
    ]


def _play_snare(
    hits: list[DrumHit],
    band: Band,
    peak: float,
    rng: np.random.Generator,
    played: Played,
    facts: dict[str, Any],
) -> Audio:
    """Play a snare in place of the kit's, [2, T]; its hardest hit is scaled to `peak` unless 0."""
    assert band.snare_source is not None
    name = band.snares[int(rng.integers(len(band.snares)))]
    choices = _snare_articulations(band, name)
    articulation = choices[int(rng.integers(len(choices)))]
    sampler = _sampler(band.snare_source, band.how, rng, 0.05)
    sound = sampler.play(
        [Note(hit.time_s, np.inf, hit.note, midi_velocity(hit), articulation) for hit in hits]
    )
    hardest = sampler.play([Note(0.0, np.inf, _SNARE, 127, articulation)])
    own_peak = float(np.abs(hardest).max(initial=0.0))
    played.sources.append(band.snare_source.as_source("snare"))
    facts["snare"] = articulation
    return sound * np.float32(peak / own_peak) if peak and own_peak else sound


def _snare_articulations(band: Band, name: str) -> list[str]:
    assert band.snare_source is not None
    names = band.snare_source.load().articulations
    return [each for each in names if each == name or each.startswith(f"{name}_")]


def _play_guitar(song: MidiFile, band: Band, rng: np.random.Generator, played: Played) -> None:
    notes = timed_notes(song)
    counts = Counter(note.channel for note in notes if note.program in _GUITARS)
    channels = {channel for channel, _ in counts.most_common(_MAX_GUITARS)}
    takes_over = rng.random() < band.how.p_guitar
    if not channels and takes_over:
        counts = Counter(note.channel for note in notes if note.program in _TAKEN_OVER)
        channels = {channel for channel, _ in counts.most_common(1)}
    if not channels:
        return
    parts, facts = [], []
    for channel in sorted(channels):
        line = [note for note in notes if note.channel == channel]
        instrument = _drawn(band.guitars, rng)
        place = float(rng.uniform(-0.7, 0.7))
        is_double = rng.random() < band.how.p_double
        for side in (-0.8, 0.8) if is_double else (place,):
            sampler = _sampler(instrument, band.how, rng, float(rng.uniform(0.05, 0.15)))
            human = _human(line, band.how, instrument.source.transpose, rng)
            sound, amplifier = sampler.play(_strummed(human, rng)), dict[str, Any]()
            if rng.random() < band.how.p_amplifier:
                sound, amplifier = amplify(sound, band.cabinets, rng, is_bass=False)
            mono = sound.mean(axis=0, keepdims=True)
            parts.append((0, at_level(mono * pan_gains(side), 1.0)))
            facts.append({"instrument": instrument.name, "amplifier": amplifier})
        played.sources.append(instrument.as_source("guitar"))
    played.stems["other"] = at_level(mixed(parts), 0.05)
    played.rest["other"] = without_notes(song, lambda message: message.channel in channels)
    played.facts["guitars"] = facts


def _strummed(notes: list[Note], rng: np.random.Generator) -> list[Note]:
    """Chords as strums: from the lowest note up, or down, each note a few milliseconds later."""
    ordered = sorted(notes, key=lambda note: note.start_s)
    chords: list[list[Note]] = []
    for note in ordered:
        if chords and note.start_s - chords[-1][0].start_s < _CHORD_S:
            chords[-1].append(note)
        else:
            chords.append([note])
    strummed = []
    for chord in chords:
        step_s, is_up = rng.uniform(*_STRUM_S), rng.random() < 0.3
        start_s = min(note.start_s for note in chord)
        for place, note in enumerate(sorted(chord, key=lambda each: each.key, reverse=is_up)):
            begins_s = start_s + place * step_s
            strummed.append(replace(note, start_s=begins_s, end_s=max(note.end_s, begins_s + 0.05)))
    return strummed
