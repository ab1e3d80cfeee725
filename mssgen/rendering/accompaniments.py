"""Generated songs: random chord progressions in the styles of the accompaniment generator mma."""

import random
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mssgen.errors import MssgenError
from mssgen.leftovers import scratch_folder
from mssgen.rendering.fetch import Package, find_tool, run_tool
from mssgen.rendering.midi import MidiFile, read_midi

_LIBRARY = "usr/share/mma/lib"
_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_LOOPS = (
    ("I", "vi", "IV", "V"),
    ("I", "V", "vi", "IV"),
    ("ii", "V", "I", "vi"),
    ("I", "IV", "I", "V"),
    ("vi", "IV", "I", "V"),
    ("I", "iii", "IV", "V"),
    ("I", "bVII", "bVI", "V"),
    ("i", "bVI", "bIII", "bVII"),
    ("i", "iv", "i", "V"),
    ("I", "I", "I", "I", "IV", "IV", "I", "I", "V", "IV", "I", "V"),
)
_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}


@dataclass(frozen=True)
class StyleFile:
    """A style of mma's library and its grooves."""

    path: Path
    name: str
    """Path below the library without suffix, as mma names it."""
    grooves: tuple[str, ...]
    beats: int = 4
    """Beats per bar; 0 if that changes."""


@dataclass(frozen=True)
class Chord:
    """The harmony of one bar."""

    root: int
    """Semitones above C, 0 to 11."""
    is_minor: bool = False
    seventh: str = ""

    @property
    def name(self) -> str:
        """The chord in mma's notation: Bb, Am7."""
        return _KEYS[self.root] + ("m" if self.is_minor else "") + self.seventh


@dataclass(frozen=True)
class Draft:
    """The input of mma: one chord per bar, in sections of one groove each."""

    key: int
    """Semitones above C, 0 to 11."""
    tempo: int
    """Quarter notes per minute."""
    sections: tuple[tuple[str, tuple[Chord, ...]], ...]
    """Groove and chords of each section."""

    @property
    def chords(self) -> list[Chord]:
        """The chord of every bar."""
        return [chord for _, chords in self.sections for chord in chords]


def find_styles(package: Package) -> list[StyleFile]:
    """The styles of the package mma that have grooves, without metronomes."""
    styles = []
    library = package.folder / _LIBRARY
    for path in sorted(library.rglob("*.mma")):
        text = path.read_text(encoding="utf-8", errors="replace")
        grooves = tuple(re.findall(r"^\s*DefGroove\s+(\S+)", text, re.M | re.I))
        name = path.relative_to(library).with_suffix("").as_posix()
        if grooves and "metronome" not in name.lower():
            beats = re.findall(r"^\s*Time\s+(\d+)", text, re.M | re.I)
            # A style that changes its time signature has no fixed bar length.
            n_beats = 4 if not beats else int(beats[0]) if len(set(beats)) == 1 else 0
            styles.append(StyleFile(path, name, grooves, n_beats))
    return styles


def draft_song(style: StyleFile, seed: int) -> Draft:
    """A random key and tempo, three to five sections of a looped progression, and an ending."""
    rng = random.Random(seed)
    key, tempo = rng.randrange(12), rng.randint(75, 165)
    middle = [each for each in style.grooves if not re.search("intro|end|fill", each, re.I)]
    sections = []
    for _ in range(rng.randint(3, 5)):
        groove = rng.choice(middle or list(style.grooves))
        has_sevenths = rng.random() < 0.3
        loop = rng.choice(_LOOPS)
        n_times = 1 if len(loop) > 8 else rng.randint(2, 3)
        chords = tuple(_chord(degree, key, has_sevenths) for degree in loop)
        sections.append((groove, chords * n_times))
    ends = [each for each in style.grooves if re.search("end", each, re.I)]
    if ends:
        sections.append((rng.choice(ends), (_chord("I", key, False),) * 2))
    return Draft(key, tempo, tuple(sections))


def write_song(style: StyleFile, seed: int) -> str:
    """The draft of `seed` as an mma file."""
    draft = draft_song(style, seed)
    lines = [f"Tempo {draft.tempo}", f"RndSeed {seed % 2**31}"]
    for groove, chords in draft.sections:
        lines += [f"Groove {style.name}:{groove}", *(chord.name for chord in chords)]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=8)
def generate(package: Package, style: StyleFile, seed: int) -> MidiFile:
    """The accompaniment as a MIDI file, the same for each seed; raises MssgenError if mma fails.

    mma runs from the unpacked package; it does not need to be installed.
    """
    program = package.folder / "usr/bin/mma"
    if not program.is_file():
        raise MssgenError(f"the package {package.name} has no program mma; fetch it again")
    # mma is a plain Python script without dependencies.
    python = sys.executable or find_tool("python3", "to run mma")
    with scratch_folder() as folder:
        (folder / "song.mma").write_text(write_song(style, seed), encoding="utf-8")
        home = {"MMA_HOME": str(package.folder / "usr/share/mma"), "HOME": str(folder)}
        command = [python, str(program), "song.mma", "-f", "song.mid"]
        run_tool(command, f"on the style {style.name}", folder=folder, environment=home)
        return read_midi((folder / "song.mid").read_bytes(), "song.mid")


def _chord(degree: str, key: int, has_seventh: bool) -> Chord:
    """The chord of a degree such as "bVII" in `key` (semitones above C)."""
    flat, roman = degree.startswith("b"), degree.removeprefix("b")
    root, is_minor = (key + _DEGREES[roman.lower()] - flat) % 12, roman.islower()
    seventh = "7" if is_minor or roman == "V" else "M7"
    return Chord(root, is_minor, seventh if has_seventh else "")
