"""Plays notes with the recordings of an instrument (SFZ)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.reading import open_source
from mssgen.audio.resampling import at_rate
from mssgen.library.stems import to_channels
from mssgen.rendering.sfz import Instrument, Region
from mssgen.rendering.sounds import SAMPLE_RATE, Audio, mixed, pan_gains

_MAX_SAMPLE_S = 30.0
_EDGE_S = 0.0015
"""Length of the fade where a recording is cut, to avoid clicks."""
_TAIL_FADE_S = 0.3
"""Length of the fade of recordings that end before their note."""


@dataclass(frozen=True)
class Note:
    """A note to play."""

    start_s: float
    end_s: float
    """Infinite for notes that ring out."""
    key: int
    """MIDI key."""
    velocity: int
    """1 to 127."""
    articulation: str = ""
    """The name of a drum hit, for which `key` is ignored."""
    gain_db: float = 0.0


class Sampler:
    """An instrument that plays notes; round robins continue from call to call.

    Args:
        instrument: see `load_sfz`.
        rng: draws one of several equivalent recordings.
        alternates: play one of several regions for the same keys and velocities, never the same
            twice in a row; False plays all of them, as the format specifies.
        veltrack: effect of velocity on the level, percent, if the instrument does not specify it.
        least_release_s: minimum length of the fade-out of notes, seconds.
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
        """Audio [2, T] at 44.1 kHz from time 0 until the last note has decayed.

        Keys beyond the instrument's range are transposed by octaves into it.
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
        return mixed(placed)

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
        """The regions to play for a note."""
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
            # A gap between velocity layers: use the nearest one.
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
        """One of several equivalent regions, never the same twice in a row."""
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
        """The audio [2, T] of a note: pitch, loop, envelope, level, pan."""
        semitones = 0.0 if note.articulation else (key - region.pitch_keycenter)
        semitones *= region.pitch_keytrack / 100
        semitones += region.transpose + region.tune / 100
        looped_s = note.end_s - note.start_s if np.isfinite(note.end_s) else 0.0
        sound = _pitched(region, round(semitones, 4), round(looped_s + 1) if _loops(region) else 0)
        sound = _shaped(sound, region, note, self._least_release_s)
        track = self._veltrack if region.amp_veltrack is None else region.amp_veltrack
        # https://sfzformat.com/opcodes/amp_veltrack/: gain is the square of velocity.
        share = abs(track) / 100
        loudness = (note.velocity / 127) ** 2 if track >= 0 else 1 - (note.velocity / 127) ** 2
        gain = (1 - share + share * loudness) * 10 ** ((region.volume + note.gain_db) / 20)
        sides = pan_gains(float(np.clip(region.pan, -100, 100)) / 100) * gain
        return sound * sides.astype(np.float32)


def _loops(region: Region) -> bool:
    is_looped = region.loop_mode in ("loop_continuous", "loop_sustain")
    return is_looped and region.loop_end > region.loop_start


def _shaped(sound: Audio, region: Region, note: Note, least_release_s: float) -> Audio:
    """Apply the envelope: attack, release at the end of the note, and fades at cuts."""
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
    """A fade [T] from 1 to 0 in the shape of half a cosine."""
    return (0.5 + 0.5 * np.cos(np.pi * (np.arange(n_samples) + 1) / max(1, n_samples))).astype(
        np.float32
    )


@lru_cache(maxsize=128)
def _pitched(region: Region, semitones: float, looped_s: int) -> Audio:
    """The recording of a region, [2, T] at 44.1 kHz, transposed up by `semitones`."""
    sound, rate = _recording(region.sample)
    sound = sound[:, region.offset :]
    if looped_s:
        start, end = region.loop_start - region.offset, region.loop_end + 1 - region.offset
        if 0 <= start < end <= sound.shape[1]:
            n_wanted = round(looped_s * rate * 2 ** max(0.0, semitones / 12))
            n_times = max(1, -(-(n_wanted - start) // (end - start)))
            loop = np.tile(sound[:, start:end], (1, n_times))
            sound = np.concatenate([sound[:, :start], loop, sound[:, end:]], axis=1)
    # Transpose by resampling from a higher rate, with a resolution of a hundredth of a cent.
    scale = 1000
    from_rate = round(rate * 2 ** (semitones / 12) * scale)
    if from_rate != SAMPLE_RATE * scale:
        sound = at_rate(sound, from_rate, SAMPLE_RATE * scale)
    return np.broadcast_to(sound, (2, sound.shape[1]))


@lru_cache(maxsize=256)
def _recording(path: Path) -> tuple[Audio, int]:
    """A recording [1 or 2, T] and its rate in Hz; raises AudioError if missing or damaged."""
    with open_source(path) as source:
        rate = source.info.sample_rate
        sound = source.segment(0, min(source.n_samples, round(_MAX_SAMPLE_S * rate)))
    return (sound if len(sound) == 1 else to_channels(sound, 2)), rate
