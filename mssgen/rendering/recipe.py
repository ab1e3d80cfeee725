"""Recipes of data: what is rendered from what, in one small TOML file that says why it exists.

    why = "what this data is for, in a line"
    inherits = "base"           # beside this file, else among the recipes that ship
    [render] [treatment] [instruments] [modules] [midi] [accompaniments] [singing] [recorded]

A recipe is merged over what it inherits, key by key. Sources are named for each split, and nothing
may be in two: the same composer, soundfont or kit in training and in test would flatter the test.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mssgen.errors import UsageError, closest
from mssgen.library.stems import SPLITS
from mssgen.recipes.sections import from_section
from mssgen.rendering.treatment import Treatment

SHIPPED = Path(__file__).parents[1] / "recipes" / "data"

# Packages that share recordings: what is heard in one is heard in all. MuseScore's font grew out of
# FluidR3 (the same bass line on both correlates by 0.99, drums by 0.88), and Csound's bank has the
# drums and basses of TimGM6mb (0.95, 0.87); between the two families it is 0.25 to 0.42.
_TWINS = (
    {
        "fluid-soundfont-gm",
        "fluid-soundfont-gs",
        "fluidr3mono-gm-soundfont",
        "musescore-general-soundfont",
        "musescore-general-soundfont-lossless",
        "musescore-general-soundfont-small",
    },
    {"csound-soundfont", "timgm6mb-soundfont"},
    {"tuxmath-data", "tuxtype-data"},
)


@dataclass(frozen=True)
class Names:
    """Packages or kits of each split."""

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def of(self, split: str) -> tuple[str, ...]:
        """Those of one split."""
        return getattr(self, split)


@dataclass(frozen=True)
class Counts:
    """A number for each split."""

    train: int = 0
    valid: int = 0
    test: int = 0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0:
            raise UsageError("a recipe of data counts below zero; use 0 or more")

    def of(self, split: str) -> int:
        """That of one split."""
        return getattr(self, split)


@dataclass(frozen=True)
class RenderOptions:
    """Section [render]: what holds for every song."""

    seed: int = 0
    min_duration_s: float = 20.0
    max_duration_s: float = 300.0
    """Longer songs end here."""
    min_stems: int = 2
    """Songs of which fewer of drums, bass and other are ever heard are left out."""


@dataclass(frozen=True)
class Instruments:
    """Section [instruments]: what plays MIDI files and accompaniments."""

    fonts: Names = Names()
    """Packages of soundfonts; one that is named twice is drawn twice as often."""
    kits: Names = Names()
    """Drum kits of Hydrogen, by their folders' names."""
    kit_packages: tuple[str, ...] = ("hydrogen-drumkits", "hydrogen-data")
    p_kit: float = 0.5
    """How often a kit plays the drums where the split has any."""
    p_reverb: float = 0.3
    """How often the synthesiser adds its own reverb."""
    semitones: int = 4
    """Songs are transposed by up to this ..."""
    tempo: float = 0.1
    """... and faster or slower by up to this share."""
    velocity_jitter: int = 8


@dataclass(frozen=True)
class Modules:
    """Section [modules]: tracker modules, stems by muting their instruments."""

    packages: Names = Names()
    versions: Counts = Counts()
    """How often each file is rendered, every time played and treated otherwise."""
    avoid: tuple[str, ...] = ()
    """Files left out, by name: covers of songs that are not free."""
    min_named: float = 0.0
    """The least share of the energy that must come from instruments whose names say what they are,
    0 to 1; where names are silent the labels are guesses by sound."""
    max_error_db: float = -40.0
    """Of the sum of the stems against the mixture: effects that share state spoil it."""
    semitones: float = 2.0
    tempo: float = 0.08


@dataclass(frozen=True)
class Midi:
    """Section [midi]: MIDI files."""

    packages: Names = Names()
    versions: Counts = Counts()
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accompaniments:
    """Section [accompaniments]: songs of the generator mma; each style is in one split only."""

    songs: Counts = Counts()
    package: str = "mma"


@dataclass(frozen=True)
class Singing:
    """Section [singing]: accompaniments with a voice that sings a melody on their chords.

    There is one voice only: it says nothing about how a model does on voices it has not heard.
    """

    songs: Counts = Counts()


@dataclass(frozen=True)
class RecordedSource:
    """Where a recorded instrument comes from."""

    repository: str
    """OWNER/NAME on GitHub."""
    commit: str
    licence: str
    author: str = ""
    """To be named where the licence asks for it."""
    file: str = "instrument.sfz"
    """The SFZ file below the folder of this instrument."""
    transpose: int = 0
    """What its keys are above what sounds, semitones: 12 where a bass is written an octave up."""
    nearest: bool = False
    """Every key is played by the recording nearest in pitch, whatever ranges of keys say."""
    without_keycenters: tuple[int, ...] = ()
    """With `nearest`: recordings to leave out, whose pitch_keycenter is wrong."""


@dataclass(frozen=True)
class Recorded:
    """Section [recorded]: instruments that are recordings (SFZ), instead of soundfonts, for bass,
    guitars and drums of MIDI files and accompaniments; what a split has none of is played as usual.
    """

    folder: str = ""
    """Holds a folder for each of `sources`, of the same name."""
    sources: dict[str, RecordedSource] = field(default_factory=dict)
    basses: Names = Names()
    guitars: Names = Names()
    kits: Names = Names()
    snares: Names = Names()
    """Drums of `snare_source`: the articulations of these names, or of names that go on with _."""
    snare_source: str = ""
    cabinets: str = ""
    """A package with impulse responses of amplifiers (guitarix-common); empty: none."""
    alternates: bool = True
    """Of several regions for the same keys and velocities one is played; false: all of them."""
    p_snare: float = 0.5
    """How often another snare takes the place of the kit's."""
    p_amplifier: float = 0.75
    """How often bass and guitars are amplified; else they are heard direct."""
    p_double: float = 0.4
    """How often a guitar is played twice, left and right."""
    p_guitar: float = 0.6
    """How often a guitar takes over a part of a song that has none for guitar."""
    timing_ms: float = 7.0
    """Standard deviation of a player's time."""
    velocity: float = 8.0
    """Standard deviation of how hard a note is struck, of 127."""
    veltrack: float = 30.0
    """How much velocity changes the level of a recording, percent, where the SFZ file is silent:
    layers are as loud as they were played."""

    def __post_init__(self) -> None:
        for name in ("p_snare", "p_amplifier", "p_double", "p_guitar"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"recorded.{name} is {getattr(self, name):g}; use 0 to 1")
        groups = (self.basses, self.guitars, self.kits)
        named = [name for names in groups for split in SPLITS for name in names.of(split)]
        named += [self.snare_source] if self.snare_source else []
        for name in named:
            if name not in self.sources:
                raise UsageError(
                    f"recipe: recorded names {name}, whose origin is unknown; add a section "
                    f"[recorded.sources.{name}]"
                )


@dataclass(frozen=True)
class RenderRecipe:
    """A set of data, with all that its recipe inherits."""

    name: str
    why: str
    render: RenderOptions = field(default_factory=RenderOptions)
    treatment: Treatment = field(default_factory=Treatment)
    instruments: Instruments = field(default_factory=Instruments)
    modules: Modules = field(default_factory=Modules)
    midi: Midi = field(default_factory=Midi)
    accompaniments: Accompaniments = field(default_factory=Accompaniments)
    singing: Singing = field(default_factory=Singing)
    recorded: Recorded = field(default_factory=Recorded)

    def __post_init__(self) -> None:
        units = (
            ("modules.packages", self.modules.packages),
            ("midi.packages", self.midi.packages),
            ("instruments.fonts", self.instruments.fonts),
            ("instruments.kits", self.instruments.kits),
            ("recorded.basses", self.recorded.basses),
            ("recorded.guitars", self.recorded.guitars),
            ("recorded.kits", self.recorded.kits),
            ("recorded.snares", self.recorded.snares),
        )
        for name, names in units:
            _check_apart(name, names)

    def identity(self) -> dict[str, Any]:
        """All that decides what a song sounds like; a set may be continued while it is the same.

        Left out is how many songs there are, which may grow.
        """
        record = asdict(self)
        for key in ("name", "why"):
            del record[key]
        del record["modules"]["versions"], record["midi"]["versions"]
        del record["accompaniments"]["songs"], record["singing"]["songs"]
        del record["recorded"]["folder"]
        return record


def recipe_names() -> list[str]:
    """The recipes of data that ship with mssgen."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_recipe(path_or_name: str | Path) -> RenderRecipe:
    """Read a recipe and merge it over what it inherits.

    Raises UsageError for what is missing, unknown, damaged, goes in circles, or is in two splits.
    """
    tables = list(_chain(_find(str(path_or_name))))
    merged: dict[str, Any] = {}
    for _, table in reversed(tables):
        merged = _merge(merged, {key: table[key] for key in table if key in _KINDS})
    sections = {
        name: from_section(kind, merged[name], name)
        for name, kind in _KINDS.items()
        if name in merged
    }
    path, first = tables[0]
    return RenderRecipe(path.stem, first["why"], **sections)


_KINDS: dict[str, type[Any]] = {
    "render": RenderOptions,
    "treatment": Treatment,
    "instruments": Instruments,
    "modules": Modules,
    "midi": Midi,
    "accompaniments": Accompaniments,
    "singing": Singing,
    "recorded": Recorded,
}


def _chain(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A recipe and all that it inherits, from itself on."""
    seen: list[Path] = []
    while True:
        if path in seen:
            raise UsageError(f"recipe {seen[0]} inherits in a circle; break it")
        seen.append(path)
        table = _read(path)
        yield path, table
        if "inherits" not in table:
            return
        beside = (path.parent / f"{table['inherits']}.toml").resolve()
        # A file may bear the name of the shipped recipe that it inherits.
        path = beside if beside.is_file() and beside != path else _find(table["inherits"])


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"recipe {path} does not exist; check its spelling")
        return path.resolve()
    shipped = SHIPPED / f"{path_or_name}.toml"
    if path_or_name not in recipe_names():
        raise UsageError(
            f"recipe {path_or_name} is neither a file nor the name of one"
            f"{closest(path_or_name, recipe_names())}"
        )
    return shipped.resolve()


def _read(path: Path) -> dict[str, Any]:
    """One file, its outermost keys checked."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not valid TOML: {error}") from None
    known = [*_KINDS, "why", "inherits"]
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"recipe {path} has an unknown section '{key}'{closest(key, known)}")
        if not isinstance(value, dict if key in _KINDS else str):
            wanted = "[section]" if key in _KINDS else "string"
            raise UsageError(f"recipe {path}: {key} must be a {wanted}")
    if not table.get("why", "").strip():
        raise UsageError(f'recipe {path} does not say why it exists; add one line: why = "..."')
    return table


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _check_apart(name: str, names: Names) -> None:
    """Raise UsageError where something, or its twin, is in two splits."""
    places: dict[str, str] = {}
    for split in SPLITS:
        for each in names.of(split):
            unit = next((min(twins) for twins in _TWINS if each in twins), each)
            if places.setdefault(unit, split) != split:
                raise UsageError(
                    f"recipe: {name} has {each} in {split}, but it or a twin of it is in "
                    f"{places[unit]} as well; keep it in one split"
                )
