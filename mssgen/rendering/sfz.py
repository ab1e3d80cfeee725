"""Instruments in the text format SFZ, which maps keys and velocities to recordings.

    #define $KEYS c4
    <control> default_path=samples/
    <group> lovel=0 hivel=63 ampeg_release=0.2
    <region> sample=soft.wav key=$KEYS

Supported are the headers control, global, master, group and region, #include, #define, and the
opcodes that `Region` lists (https://sfzformat.com/opcodes/); others are recorded and ignored.
One opcode is our own: `articulation` names a drum hit, which has no key.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mssgen.errors import AudioError

_MAX_DEPTH = 16
_MAX_LINES = 200_000
_MAX_VALUE = 1000
_HEADERS = ("control", "global", "master", "group", "region")
_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_DIRECTIVE = re.compile(r'#define\s+(\$\w+)\s+(\S*)|#include\s+"([^"]*)"')
_NAME = re.compile(r"(?:^|(?<=\s))([A-Za-z_]\w*)=")

Trigger = Literal["attack", "release", "first", "legato", "release_key"]
LoopMode = Literal["no_loop", "one_shot", "loop_continuous", "loop_sustain"]


@dataclass(frozen=True)
class Region:
    """One recording and the notes it is for; the defaults are those of the format."""

    sample: Path
    lokey: int = 0
    """Lowest MIDI key."""
    hikey: int = 127
    """Highest MIDI key."""
    pitch_keycenter: int = 60
    """MIDI key at which the recording is not transposed."""
    pitch_keytrack: float = 100.0
    """Cents per key."""
    lovel: int = 0
    """Lowest velocity."""
    hivel: int = 127
    """Highest velocity."""
    lorand: float = 0.0
    """Lower bound of the random number (0 to 1, drawn per note) for which it plays."""
    hirand: float = 1.0
    """Upper bound of that number, exclusive."""
    seq_length: int = 1
    """Length of the round robin."""
    seq_position: int = 1
    """Position in the round robin, from 1."""
    trigger: Trigger = "attack"
    articulation: str = ""
    transpose: int = 0
    """Transposition, semitones."""
    tune: float = 0.0
    """Fine tuning, cents."""
    volume: float = 0.0
    """Gain, dB."""
    pan: float = 0.0
    """Pan position, -100 (left) to 100 (right)."""
    amp_veltrack: float | None = None
    """Effect of velocity on the level, percent; None if not specified."""
    offset: int = 0
    """Number of samples skipped at the start of the recording."""
    loop_mode: LoopMode | None = None
    loop_start: int = 0
    """First sample of the loop."""
    loop_end: int = 0
    """Last sample of the loop; 0 if there is none."""
    ampeg_attack: float = 0.0
    """Attack time, seconds."""
    ampeg_release: float = 0.001
    """Release time, seconds."""


@dataclass(frozen=True)
class Instrument:
    """The content of an SFZ file."""

    path: Path
    regions: tuple[Region, ...]
    ignored: tuple[str, ...]
    """Unsupported opcodes and headers, each once."""

    @property
    def keys(self) -> tuple[int, int]:
        """The lowest and the highest MIDI key with a recording."""
        pitched = [region for region in self.regions if not region.articulation]
        return (
            min((region.lokey for region in pitched), default=0),
            max((region.hikey for region in pitched), default=127),
        )

    @property
    def articulations(self) -> tuple[str, ...]:
        """The names of drum hits, each once."""
        return tuple(dict.fromkeys(each.articulation for each in self.regions if each.articulation))


@lru_cache(maxsize=32)
def load_sfz(path: Path, root: Path | None = None) -> Instrument:
    """Read an SFZ file.

    Args:
        path: the file.
        root: the folder that must contain samples and included files; None: the folder of `path`.
            Some instruments keep programs and samples in separate folders below a common one.

    Raises AudioError for a file that cannot be read, includes itself, refers to a file outside of
    `root`, has a malformed number, or has no regions. Samples are not opened.
    """
    root = (root or path.parent).resolve()
    levels: dict[str, dict[str, str]] = {header: {} for header in _HEADERS}
    ignored: dict[str, None] = {}
    regions = []
    for header, opcodes in _sections(path, root):
        if header not in _HEADERS:
            ignored[f"<{header}>"] = None
            continue
        if header != "control":  # which adds to earlier control headers
            for lower in _HEADERS[_HEADERS.index(header) :]:
                levels[lower] = {}
        levels[header] = {**levels[header], **opcodes}
        if header == "region":
            merged = {key: value for each in levels.values() for key, value in each.items()}
            region = _region(merged, path, root, ignored)
            regions += [region] if region else []
    if not regions:
        raise AudioError(f"{path} describes no recordings; choose another SFZ file")
    return Instrument(path, tuple(regions), tuple(ignored))


def by_pitch(instrument: Instrument, without: Collection[int] = ()) -> Instrument:
    """The instrument with every key mapped to the recording nearest in pitch.

    For files with unusable key ranges. Regions whose pitch_keycenter is in `without`, because it
    is wrong, are left out.
    """
    pitched = [each for each in instrument.regions if not each.articulation]
    centres = sorted({each.pitch_keycenter for each in pitched} - set(without))
    ranges = {
        centre: (
            max(0, centre - 5) if not place else (centres[place - 1] + centre) // 2 + 1,
            min(127, centre + 7)
            if place + 1 == len(centres)
            else (centre + centres[place + 1]) // 2,
        )
        for place, centre in enumerate(centres)
    }
    moved = [
        replace(each, lokey=ranges[each.pitch_keycenter][0], hikey=ranges[each.pitch_keycenter][1])
        for each in pitched
        if each.pitch_keycenter in ranges
    ]
    hits = [each for each in instrument.regions if each.articulation]
    return replace(instrument, regions=(*moved, *hits))


def _sections(path: Path, root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every header with its opcodes, in order."""
    header, opcodes = "", dict[str, str]()
    for line in _Reader(path.parent, root).lines(path):
        for place, part in enumerate(re.split(r"<(\w+)>", line)):
            if place % 2:
                if header:
                    yield header, opcodes
                header, opcodes = part.lower(), {}
            else:
                opcodes.update(_opcodes(part))
    if header:
        yield header, opcodes


def _opcodes(text: str) -> dict[str, str]:
    """Opcodes in a part of a line; a value may contain spaces and ends at the next name."""
    found: dict[str, str] = {}
    names = list(_NAME.finditer(text))
    for place, each in enumerate(names):
        end = names[place + 1].start() if place + 1 < len(names) else len(text)
        name, value = each[1].lower(), text[each.end() : end].strip()
        # `key` sets all three; later opcodes override them.
        found.update(dict.fromkeys(_KEYS if name == "key" else (name,), value))
    return found


class _Reader:
    """Reads an SFZ file and the files it includes, with #define variables replaced."""

    def __init__(self, start: Path, root: Path) -> None:
        self._start, self._root = start, root
        self._defined: dict[str, str] = {}
        self._n_lines = 0

    def lines(self, path: Path, depth: int = 0) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise AudioError(f"{path} includes itself; correct the SFZ file")
        try:
            text = path.read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff")
        except OSError as error:
            raise AudioError(f"{path} cannot be read ({error.strerror or error})") from error
        for line in _COMMENT.sub(" ", text).splitlines():
            self._n_lines += 1
            if self._n_lines > _MAX_LINES:
                raise AudioError(f"{path} is too long for an instrument; leave it out")
            at = 0
            for found in _DIRECTIVE.finditer(line):
                yield self._filled(line[at : found.start()])
                at = found.end()
                name, value, included = found.groups()
                if name:
                    self._defined[name] = self._filled(value)[:_MAX_VALUE]
                else:
                    inner = _inside(self._filled(included), self._start, self._root, path)
                    yield from self.lines(inner, depth + 1)
            yield self._filled(line[at:])

    def _filled(self, text: str) -> str:
        """`text` with $NAMES replaced by their values, longest name first."""
        if "$" in text:
            for name in sorted(self._defined, key=len, reverse=True):
                text = text.replace(name, self._defined[name])
        return text


def _inside(name: str, start: Path, root: Path, path: Path) -> Path:
    """The path of a file named in an SFZ file; raises AudioError if it is outside of `root`."""
    target = (start / PurePosixPath(name.replace("\\", "/"))).resolve()
    if not target.is_relative_to(root):
        raise AudioError(f"{path} names {name}, which is outside of {root}; do not use this file")
    return target


def _region(
    opcodes: dict[str, str], path: Path, root: Path, ignored: dict[str, None]
) -> Region | None:
    """A region from its merged opcodes; None if it has a generator instead of a recording."""
    values: dict[str, Any] = {}
    shift = _number("note_offset", opcodes, path) + 12 * _number("octave_offset", opcodes, path)
    for key, text in opcodes.items():
        name = _ALIASES.get(key, key)
        if name in _PARSERS:
            try:
                values[name] = _PARSERS[name](text)
            except ValueError:
                raise _refusal(path, key, text, _wanted(name)) from None
        elif key not in _STRUCTURE:
            ignored[key] = None
    for name in _KEYS:
        if name in values:
            values[name] += shift
    sample = opcodes.get("sample", "")
    if not sample or sample.startswith("*"):
        return None
    place = opcodes.get("default_path", "") + sample
    return Region(_inside(place, path.parent, root, path), **values)


def _number(key: str, opcodes: Mapping[str, str], path: Path) -> int:
    try:
        return int(opcodes.get(key, "0"))
    except ValueError:
        raise _refusal(path, key, opcodes[key], "a whole number") from None


def _refusal(path: Path, key: str, text: str, wanted: str) -> AudioError:
    return AudioError(f"{path} has {key}={text[:40]}; it must be {wanted}; correct the SFZ file")


def _key(text: str) -> int:
    """A MIDI key from a number or a name (c4 is 60); -1 means none."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    found = re.fullmatch(r"([a-g])([#b♯♭]?)(-?\d)", text.lower())
    if found is None:
        raise ValueError(text)
    letter, sign, octave = found.groups()
    raised = {"#": 1, "♯": 1, "b": -1, "♭": -1, "": 0}[sign]
    return _NOTES[letter] + raised + 12 * (int(octave) + 1)


def _whole(text: str) -> int:
    """A whole number, which some files write with a decimal point."""
    return int(_finite(text))


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < 1e12:
        raise ValueError(text)
    return number


def _trigger(text: str) -> str:
    return text if text in ("attack", "release", "first", "legato", "release_key") else "attack"


def _loop_mode(text: str) -> str | None:
    return text if text in ("no_loop", "one_shot", "loop_continuous", "loop_sustain") else None


def _wanted(name: str) -> str:
    return "a key such as 60 or c4" if _PARSERS[name] is _key else "a number"


_ALIASES = {
    "gain": "volume",
    "loopmode": "loop_mode",
    "loopstart": "loop_start",
    "loopend": "loop_end",
    "pitch": "tune",
}
_STRUCTURE = ("sample", "default_path", "note_offset", "octave_offset")
_KEYS = ("lokey", "hikey", "pitch_keycenter")
_SPECIAL: dict[str, Callable[[str], Any]] = {
    "trigger": _trigger,
    "loop_mode": _loop_mode,
    "articulation": str,
}
_PARSERS: dict[str, Callable[[str], Any]] = {
    field.name: _key
    if field.name in _KEYS
    else _SPECIAL.get(field.name, _finite if "float" in str(field.type) else _whole)
    for field in fields(Region)
    if field.name != "sample"
}
