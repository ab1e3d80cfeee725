"""Drum kits of the program Hydrogen: one-shot samples in velocity layers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mssgen.audio.reading import open_source
from mssgen.audio.resampling import at_rate
from mssgen.errors import AudioError, MssgenError
from mssgen.library.stems import to_channels
from mssgen.rendering.midi import DrumHit
from mssgen.rendering.sounds import SAMPLE_RATE, pan_gains

_JITTER_S, _JITTER_DB = 0.003, 1.0
_CHOKE_S = 0.03
_MAX_SAMPLE_S = 6.0

# Words in instrument names for each General MIDI key, in order of preference.
_KEYS: dict[tuple[int, ...], tuple[str, ...]] = {
    (35, 36): ("kick", "bass drum", "bassdrum", "bd"),
    (37,): ("stick", "rim", "snare"),
    (38, 40): ("snare", "sd"),
    (39,): ("clap", "snare"),
    (42,): ("hat closed", "closed hat", "hh closed", "closed hh", "closed", "chh", "hat", "hh"),
    (44,): ("pedal", "foot", "closed", "hat", "hh"),
    (46,): ("open", "ohh", "hat", "hh"),
    (41, 43): ("floor", "low tom", "tom low", "tom 3", "tom3", "tom"),
    (45, 47): ("mid tom", "tom mid", "tom 2", "tom2", "tom"),
    (48, 50): ("high tom", "tom hi", "hi tom", "tom 1", "tom1", "tom"),
    (49, 57, 52, 55): ("crash", "china", "splash", "cymbal"),
    (51, 59): ("ride", "cymbal", "crash"),
    (53,): ("bell", "ride"),
    (56,): ("cowbell", "bell"),
    (54, 69, 70, 82): ("tamb", "shaker", "maraca", "hat closed", "closed", "hh", "hat"),
}
_OPEN, _CLOSING = 46, (42, 44)
_CENTRE = ((35, 36), (37,), (38, 40))


@dataclass(frozen=True)
class Layer:
    """One recording of an instrument."""

    path: Path
    lowest: float
    """Lowest velocity, 0 to 1."""
    highest: float
    """Highest velocity, 0 to 1."""
    gain: float


@dataclass(frozen=True)
class DrumKit:
    """A drum kit mapped to the keys of General MIDI."""

    licence: str
    keys: dict[int, tuple[Layer, ...]]

    def play(self, hits: Sequence[DrumHit], rng: np.random.Generator) -> NDArray[np.float32]:
        """Play hits, [2, T] at 44.1 kHz; keys that the kit lacks are silent.

        Every hit is shifted by up to 3 ms and 1 dB; pan positions are drawn once per song. A closed
        hi-hat chokes an open one.
        """
        length_s = max((hit.time_s for hit in hits), default=0.0) + _MAX_SAMPLE_S
        mix = np.zeros((2, round(length_s * SAMPLE_RATE)), np.float32)
        # Most kits are mono: pan toms and cymbals around a centred kick and snare.
        width = rng.uniform(0, 0.6)
        places = {notes: width * rng.uniform(-1, 1) for notes in _KEYS}
        pans = {
            note: 0.0 if notes in _CENTRE else place
            for notes, place in places.items()
            for note in notes
        }
        closings = [hit.time_s for hit in hits if hit.note in _CLOSING]
        for hit in hits:
            late_s, louder_db = rng.uniform(-1, 1, 2) * (_JITTER_S, _JITTER_DB)
            layers = self.keys.get(hit.note)
            if not layers:
                continue
            inside = [each for each in layers if each.lowest <= hit.velocity <= each.highest]
            layer = inside[rng.integers(len(inside))] if inside else layers[-1]
            sound = _one_shot(layer.path)
            if hit.note == _OPEN:
                closing_s = next((time_s for time_s in closings if time_s > hit.time_s), np.inf)
                sound = _choked(sound, closing_s - hit.time_s)
            start = max(0, round((hit.time_s + late_s) * SAMPLE_RATE))
            # Layers already differ in level, so velocity counts less than linearly.
            gain = layer.gain * hit.velocity**0.7 * 10 ** (louder_db / 20)
            sides = pan_gains(pans[hit.note]) * gain
            mix[:, start : start + sound.shape[1]] += sound * sides.astype(np.float32)
        return mix


def find_kits(folder: Path) -> dict[str, Path]:
    """The kits below a folder: name -> drumkit.xml."""
    return {path.parent.name: path for path in sorted(folder.rglob("drumkit.xml"))}


@lru_cache(maxsize=4)
def load_kit(path: Path) -> DrumKit:
    """Read a drumkit.xml; raises AudioError if it is damaged or lacks kick, snare or hi-hat."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        # The newer format has a namespace, the older one has none.
        root = ElementTree.fromstring(re.sub(r'\sxmlns="[^"]+"', "", text, count=1))
    except (OSError, ElementTree.ParseError) as error:
        raise AudioError(f"{path} is not a readable drum kit ({error}); leave it out") from None
    instruments = {}
    for element in root.iter("instrument"):
        layers = _layers(element, path.parent)
        if layers:
            instruments[_words(element.findtext("name") or "")] = layers
    keys: dict[int, tuple[Layer, ...]] = {}
    for notes, words in _KEYS.items():
        found = next((name for word in words for name in instruments if _holds(name, word)), None)
        if found is not None:
            keys |= dict.fromkeys(notes, instruments[found])
    if not {36, 38, 42} <= set(keys):
        raise AudioError(f"{path} has no kick, snare and hi-hat by name; leave this kit out")
    return DrumKit((root.findtext("license") or "").strip(), keys)


def _layers(instrument: ElementTree.Element, folder: Path) -> tuple[Layer, ...]:
    gain = _number(instrument, "volume", 1.0) * _number(instrument, "gain", 1.0)
    found = [
        Layer(
            folder / name,
            _number(layer, "min", 0.0),
            _number(layer, "max", 1.0),
            gain * _number(layer, "gain", 1.0),
        )
        for layer in instrument.iter("layer")
        if (name := layer.findtext("filename")) and (folder / name).is_file()
    ]
    name = instrument.findtext("filename")
    if not found and name and (folder / name).is_file():
        found = [Layer(folder / name, 0.0, 1.0, gain)]
    return tuple(sorted(found, key=lambda layer: layer.highest))


def _number(element: ElementTree.Element, tag: str, default: float) -> float:
    try:
        return float(element.findtext(tag) or default)
    except ValueError:
        return default


def _words(name: str) -> str:
    """The words and numbers of a name in lower case, separated by spaces."""
    return " ".join(re.findall(r"[a-z]+|\d+", name.lower()))


def _holds(name: str, word: str) -> bool:
    """Whether a name contains a word; short ones as a whole word ("bd" is not in "subdued")."""
    return word in name if len(word) > 3 else word in name.split()


@lru_cache(maxsize=256)
def _one_shot(path: Path) -> NDArray[np.float32]:
    """A sample [2, T] at 44.1 kHz; silence if the file is damaged."""
    try:
        with open_source(path) as source:
            rate, blocks = source.info.sample_rate, list(source.blocks())
    except MssgenError:
        return np.zeros((2, 1), np.float32)
    sound = to_channels(np.concatenate(blocks, axis=1), 2)
    sound = at_rate(sound, rate, SAMPLE_RATE)
    return sound[:, : round(_MAX_SAMPLE_S * SAMPLE_RATE) - SAMPLE_RATE]


def _choked(sound: NDArray[np.float32], after_s: float) -> NDArray[np.float32]:
    """Audio [2, T] faded out from `after_s` (seconds) on."""
    n_before, n_fade = after_s * SAMPLE_RATE, round(_CHOKE_S * SAMPLE_RATE)
    if n_before + n_fade >= sound.shape[1]:
        return sound
    start = max(0, round(n_before))
    fade = np.linspace(1, 0, n_fade, dtype=np.float32)
    return np.concatenate([sound[:, :start], sound[:, start : start + n_fade] * fade], axis=1)
