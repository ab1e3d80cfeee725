"""Plays the notes of an instrument from its recordings (SFZ)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.reading import open_source
from mssgen.audio.resampling import resample
from mssgen.library.stems import to_channels
from mssgen.rendering.sfz import Instrument, Region

SAMPLE_RATE = 44100
Audio = NDArray[np.float32]
_MAX_SAMPLE_S = 30.0
_EDGE_S = 0.0015
"""Where a recording is cut at its start or its end it fades, or the cut is a click."""
_TAIL_FADE_S = 0.3
"""Recordings that end while the note goes on fade out over this."""


@dataclass(frozen=True)
class Note:
    """A note to play."""

    start_s: float
    end_s: float
    """Infinite for what rings out."""
    key: int
    velocity: int
    """1 to 127."""
    articulation: str = ""
    """Of a drum; its key does not count."""
    gain_db: float = 0.0


class Sampler:
    """An instrument that plays notes; round robins go on from call to call.

    Args:
        instrument: see `load_sfz`.
        rng: decides between recordings where the instrument leaves it open.
        alternates: of several regions for the same keys and velocities one is played, never the
            same twice in a row; else all of them, as the format says.
        veltrack: how much velocity changes the level, percent, where the instrument does not say.
        least_release_s: notes fade out over at least this: a string is damped, not cut.
    """

    def __init__(
        self,
        instrument: Instrument,
        rng: np.random.Generator,
        *,
        alternates: bool = True,
        veltrack: float = 100.0,
        least_release_s: float = 0.05,
    ) -> None:
        self.instrument, self._rng = instrument, rng
        self._alternates, self._veltrack = alternates, veltrack
        self._least_release_s = least_release_s
        self._n_played: dict[Region, int] = defaultdict(int)
        self._last: dict[tuple[object, ...], Region] = {}

    def play(self, notes: Sequence[Note]) -> Audio:
        """[2, T] at 44.1 kHz, from time 0 until the last note has died away.

        Keys beyond the instrument's range sound in the nearest octave that it has.
        """
        placed: list[tuple[int, Audio]] = []
        for note in sorted(notes, key=lambda each: each.start_s):
            key = self._fitted(note)
            draw = float(self._rng.random())
            for region in self._chosen(note, key, "attack", draw):
                sound = self._sound(region, note, key)
                placed.append((max(0, round(note.start_s * SAMPLE_RATE)), sound))
            if np.isfinite(note.end_s):
                for region in self._chosen(note, key, "release", draw):
                    ringing = Note(note.end_s, np.inf, note.key, note.velocity, note.articulation)
                    start = max(0, round(note.end_s * SAMPLE_RATE))
                    placed.append((start, self._sound(region, ringing, key)))
        mix = np.zeros((2, max((start + s.shape[1] for start, s in placed), default=0)), np.float32)
        for start, sound in placed:
            mix[:, start : start + sound.shape[1]] += sound
        return mix

    def _fitted(self, note: Note) -> int:
        lowest, highest = self.instrument.keys
        key = note.key
        if note.articulation or highest - lowest < 11:
            return key
        while key < lowest:
            key += 12
        while key > highest:
            key -= 12
        return key

    def _chosen(self, note: Note, key: int, trigger: str, draw: float) -> list[Region]:
        """The regions that sound."""
        triggers = ("release", "release_key") if trigger == "release" else ("attack", "first")
        fitting = [
            region
            for region in self.instrument.regions
            if region.trigger in triggers
            and region.articulation == note.articulation
            and (note.articulation or region.lokey <= key <= region.hikey)
            and region.lovel <= region.hivel
        ]
        inside = [each for each in fitting if each.lovel <= note.velocity <= each.hivel]
        if not inside and fitting and trigger == "attack":
            # A gap between the layers: the nearest one plays.
            def distance(each: Region) -> int:
                return max(each.lovel - note.velocity, note.velocity - each.hivel)

            nearest = min(map(distance, fitting))
            inside = [each for each in fitting if distance(each) == nearest]
        drawn = [each for each in inside if each.lorand <= draw < each.hirand]
        in_turn = []
        for region in drawn:
            turn = self._n_played[region] % region.seq_length
            self._n_played[region] += 1
            if turn == region.seq_position - 1:
                in_turn.append(region)
        return self._one_of_each(in_turn) if self._alternates else in_turn

    def _one_of_each(self, regions: list[Region]) -> list[Region]:
        """One of the regions that only differ in their recording, not the one before."""
        groups: dict[tuple[object, ...], list[Region]] = defaultdict(list)
        for each in regions:
            groups[each.lokey, each.hikey, each.lovel, each.hivel, each.articulation].append(each)
        chosen = []
        for key, group in groups.items():
            others = [each for each in group if each is not self._last.get(key)] or group
            region = others[int(self._rng.integers(len(others)))]
            self._last[key] = region
            chosen.append(region)
        return chosen

    def _sound(self, region: Region, note: Note, key: int) -> Audio:
        """A note as long as it sounds: pitch, loop, envelope, level, place."""
        semitones = 0.0 if note.articulation else (key - region.pitch_keycenter)
        semitones *= region.pitch_keytrack / 100
        semitones += region.transpose + region.tune / 100
        looped_s = note.end_s - note.start_s if np.isfinite(note.end_s) else 0.0
        sound = _pitched(region, round(semitones, 4), round(looped_s + 1) if _loops(region) else 0)
        sound = _shaped(sound, region, note, self._least_release_s)
        track = self._veltrack if region.amp_veltrack is None else region.amp_veltrack
        # https://sfzformat.com/opcodes/amp_veltrack/: velocity counts squared.
        share = abs(track) / 100
        loudness = (note.velocity / 127) ** 2 if track >= 0 else 1 - (note.velocity / 127) ** 2
        gain = (1 - share + share * loudness) * 10 ** ((region.volume + note.gain_db) / 20)
        angle = (1 + np.clip(region.pan, -100, 100) / 100) * np.pi / 4  # constant power
        sides = np.array([[np.cos(angle)], [np.sin(angle)]]) * np.sqrt(2) * gain
        return sound * sides.astype(np.float32)


def _loops(region: Region) -> bool:
    is_looped = region.loop_mode in ("loop_continuous", "loop_sustain")
    return is_looped and region.loop_end > region.loop_start


def _shaped(sound: Audio, region: Region, note: Note, least_release_s: float) -> Audio:
    """The envelope: attack, release at the end of the note, and faded cuts."""
    held_s = note.end_s - note.start_s
    if region.loop_mode == "one_shot" or not np.isfinite(held_s):
        n_held = sound.shape[1]
    else:
        n_held = max(1, round(held_s * SAMPLE_RATE))
    n_release = round(max(region.ampeg_release, least_release_s) * SAMPLE_RATE)
    is_released = n_held < sound.shape[1]
    sound = sound[:, : n_held + n_release].copy()
    if is_released:
        n_fade = min(n_release, sound.shape[1] - n_held)
        sound[:, n_held : n_held + n_fade] *= _fall(n_fade)
    else:
        n_fade = min(round(_TAIL_FADE_S * SAMPLE_RATE), sound.shape[1] // 4)
        sound[:, sound.shape[1] - n_fade :] *= _fall(n_fade)
    attack_s = max(region.ampeg_attack, _EDGE_S if region.offset else 0.0)
    n_attack = min(round(attack_s * SAMPLE_RATE), sound.shape[1])
    sound[:, :n_attack] *= 1 - _fall(n_attack)
    return sound


def _fall(n_samples: int) -> NDArray[np.float32]:
    """From 1 to 0 as half a cosine, which has no corner at either end."""
    return (0.5 + 0.5 * np.cos(np.pi * (np.arange(n_samples) + 1) / max(1, n_samples))).astype(
        np.float32
    )


@lru_cache(maxsize=128)
def _pitched(region: Region, semitones: float, looped_s: int) -> Audio:
    """The recording of a region as [2, T] at 44.1 kHz, so many semitones higher."""
    sound, rate = _recording(region.sample)
    sound = sound[:, region.offset :]
    if looped_s:
        start, end = region.loop_start - region.offset, region.loop_end + 1 - region.offset
        if 0 <= start < end <= sound.shape[1]:
            n_wanted = round(looped_s * rate * 2 ** max(0.0, semitones / 12))
            n_times = max(1, -(-(n_wanted - start) // (end - start)))
            loop = np.tile(sound[:, start:end], (1, n_times))
            sound = np.concatenate([sound[:, :start], loop, sound[:, end:]], axis=1)
    # Played faster, a recording is higher: as if it had been made at a higher rate. The fine scale
    # keeps the pitch right to a hundredth of a cent.
    scale = 1000
    from_rate = round(rate * 2 ** (semitones / 12) * scale)
    if from_rate != SAMPLE_RATE * scale:
        blocks = resample([sound], len(sound), from_rate, SAMPLE_RATE * scale)
        sound = np.concatenate(list(blocks), axis=1)
    return np.broadcast_to(sound, (2, sound.shape[1]))


@lru_cache(maxsize=256)
def _recording(path: Path) -> tuple[Audio, int]:
    """[1 or 2, T], and its rate in Hz. AudioError where it is missing or damaged."""
    with open_source(path) as source:
        rate = source.info.sample_rate
        sound = source.segment(0, min(source.n_samples, round(_MAX_SAMPLE_S * rate)))
    return (sound if len(sound) == 1 else to_channels(sound, 2)), rate
