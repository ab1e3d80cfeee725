"""New songs without end: chords at random in the styles of the accompaniment generator mma."""

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
    """Its path below the library, without suffix: what mma knows it by."""
    grooves: tuple[str, ...]
    beats: int = 4
    """A bar; 0 where that changes."""


@dataclass(frozen=True)
class Chord:
    """A bar's harmony."""

    root: int
    """0 to 11 semitones above C."""
    is_minor: bool = False
    seventh: str = ""

    @property
    def name(self) -> str:
        """As mma writes it: Bb, Am7."""
        return _KEYS[self.root] + ("m" if self.is_minor else "") + self.seventh


@dataclass(frozen=True)
class Draft:
    """A song before mma: a bar a chord, in sections of one groove each."""

    key: int
    """0 to 11 semitones above C."""
    tempo: int
    """Quarter notes a minute."""
    sections: tuple[tuple[str, tuple[Chord, ...]], ...]
    """Groove and bars."""

    @property
    def chords(self) -> list[Chord]:
        """Of every bar."""
        return [chord for _, chords in self.sections for chord in chords]


def find_styles(package: Package) -> list[StyleFile]:
    """The styles of the package mma that hold grooves, metronomes left out."""
    styles = []
    library = package.folder / _LIBRARY
    for path in sorted(library.rglob("*.mma")):
        text = path.read_text(encoding="utf-8", errors="replace")
        grooves = tuple(re.findall(r"^\s*DefGroove\s+(\S+)", text, re.M | re.I))
        name = path.relative_to(library).with_suffix("").as_posix()
        if grooves and "metronome" not in name.lower():
            beats = re.findall(r"^\s*Time\s+(\d+)", text, re.M | re.I)
            # A file that changes its time has no bar to count on.
            n_beats = 4 if not beats else int(beats[0]) if len(set(beats)) == 1 else 0
            styles.append(StyleFile(path, name, grooves, n_beats))
    return styles


def draft_song(style: StyleFile, seed: int) -> Draft:
    """Key, tempo, three to five sections of a looped progression, and an end, at random."""
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
    """The draft of this seed in mma's language."""
    draft = draft_song(style, seed)
    lines = [f"Tempo {draft.tempo}", f"RndSeed {seed % 2**31}"]
    for groove, chords in draft.sections:
        lines += [f"Groove {style.name}:{groove}", *(chord.name for chord in chords)]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=8)
def generate(package: Package, style: StyleFile, seed: int) -> MidiFile:
    """The accompaniment as a MIDI file, the same for a seed. MssgenError where mma fails.

    mma runs out of the unpacked package: it needs not be installed.
    """
    program = package.folder / "usr/bin/mma"
    if not program.is_file():
        raise MssgenError(f"the package {package.name} holds no program mma; fetch it again")
    # mma is a script of its own with no need for this environment's packages.
    python = sys.executable or find_tool("python3", "to run mma")
    with scratch_folder() as folder:
        (folder / "song.mma").write_text(write_song(style, seed), encoding="utf-8")
        home = {"MMA_HOME": str(package.folder / "usr/share/mma"), "HOME": str(folder)}
        command = [python, str(program), "song.mma", "-f", "song.mid"]
        run_tool(command, f"on the style {style.name}", folder=folder, environment=home)
        return read_midi((folder / "song.mid").read_bytes(), "song.mid")


def _chord(degree: str, key: int, has_seventh: bool) -> Chord:
    """A degree of a key, such as bVII."""
    flat, roman = degree.startswith("b"), degree.removeprefix("b")
    root, is_minor = (key + _DEGREES[roman.lower()] - flat) % 12, roman.islower()
    seventh = "7" if is_minor or roman == "V" else "M7"
    return Chord(root, is_minor, seventh if has_seventh else "")
