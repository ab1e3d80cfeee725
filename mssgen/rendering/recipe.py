"""Recipes of data: the sources and settings of rendered songs in one small TOML file.

    why = "one line: the purpose of this data"
    inherits = "base"           # a file beside this one, else a shipped recipe
    [render] [treatment] [instruments] [modules] [midi] [accompaniments] [singing] [recorded]

Sources are listed per split and may be in one split only: the same composer, soundfont or kit in
training and test would make the test too optimistic.
"""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from mssgen.errors import UsageError
from mssgen.library.stems import SPLITS
from mssgen.recipes.inheritance import Family, load_merged, shipped_names
from mssgen.recipes.schema import Count, Share
from mssgen.recipes.sections import check_fields, from_section
from mssgen.rendering.treatment import Treatment

# Packages that share recordings. MuseScore's font is derived from FluidR3 (correlation of the same
# bass line 0.99, of drums 0.88), and Csound's bank has the drums and basses of TimGM6mb (0.95,
# 0.87); between the two families it is 0.25 to 0.42.
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
        """The names of one split."""
        return getattr(self, split)


@dataclass(frozen=True)
class Counts:
    """A number for each split."""

    train: Count = 0
    valid: Count = 0
    test: Count = 0

    def __post_init__(self) -> None:
        check_fields(self, "counts")

    def of(self, split: str) -> int:
        """The number of one split."""
        return getattr(self, split)


@dataclass(frozen=True)
class RenderOptions:
    """Section [render]: settings for every song."""

    seed: int = 0
    min_duration_s: float = 20.0
    max_duration_s: float = 300.0
    """Longer songs are cut here."""
    min_stems: int = 2
    """Minimum number of audible stems out of drums, bass and other."""


@dataclass(frozen=True)
class Instruments:
    """Section [instruments]: soundfonts and drum kits for MIDI files and accompaniments."""

    fonts: Names = Names()
    """Packages with soundfonts; one that is listed twice is drawn twice as often."""
    kits: Names = Names()
    """Hydrogen drum kits, by the names of their folders."""
    kit_packages: tuple[str, ...] = ("hydrogen-drumkits", "hydrogen-data")
    """Packages with drum kits."""
    p_kit: float = 0.5
    """Probability that a drum kit plays the drums, if the split has kits."""
    p_reverb: float = 0.3
    """Probability of the synthesiser's reverb and chorus."""
    semitones: int = 4
    """Largest transposition, up or down."""
    tempo: float = 0.1
    """Largest relative change of the tempo, up or down."""
    velocity_jitter: int = 8
    """Largest random change of each note's velocity (1 to 127)."""


@dataclass(frozen=True)
class Modules:
    """Section [modules]: tracker modules, stems by muting their instruments."""

    packages: Names = Names()
    versions: Counts = Counts()
    """Number of renderings of each file, each with another style and treatment."""
    avoid: tuple[str, ...] = ()
    """Names of files to leave out: covers of songs that are not free."""
    min_named: float = 0.0
    """Minimum share of the energy from instruments that are labelled by name, 0 to 1; the others
    are guessed from their sound."""
    max_error_db: float = -40.0
    """Largest error of the sum of the stems relative to the mixture, caused by effects with shared
    state."""
    semitones: float = 2.0
    """Largest change of pitch, up or down."""
    tempo: float = 0.08
    """Largest relative change of the tempo, up or down."""


@dataclass(frozen=True)
class Midi:
    """Section [midi]: MIDI files."""

    packages: Names = Names()
    versions: Counts = Counts()
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accompaniments:
    """Section [accompaniments]: songs by the generator mma; each style is in one split only."""

    songs: Counts = Counts()
    package: str = "mma"


@dataclass(frozen=True)
class Singing:
    """Section [singing]: accompaniments with a voice that sings a melody on their chords.

    There is only one voice, so results do not generalise to other voices.
    """

    songs: Counts = Counts()


@dataclass(frozen=True)
class RecordedSource:
    """Origin, licence and quirks of a recorded instrument."""

    repository: str
    """GitHub repository, OWNER/NAME."""
    commit: str
    licence: str
    author: str = ""
    """Author to credit, if the licence requires it."""
    file: str = "instrument.sfz"
    """SFZ file in the folder of this instrument."""
    transpose: int = 0
    """Keys above sounding pitch, semitones: 12 if a bass is written an octave up."""
    nearest: bool = False
    """Map every key to the recording nearest in pitch, ignoring the file's key ranges."""
    without_keycenters: tuple[int, ...] = ()
    """With `nearest`: values of pitch_keycenter that are wrong; their recordings are left out."""


@dataclass(frozen=True)
class Recorded:
    """Section [recorded]: recorded instruments (SFZ) instead of soundfonts for bass, guitars and
    drums of MIDI files and accompaniments; soundfonts play what a split has no instrument for.
    """

    folder: str = ""
    """Folder with a subfolder for each of `sources`, of the same name."""
    sources: dict[str, RecordedSource] = field(default_factory=dict)
    basses: Names = Names()
    guitars: Names = Names()
    kits: Names = Names()
    snares: Names = Names()
    """Articulations of `snare_source` with these names, or with these names before a "_"."""
    snare_source: str = ""
    """The source that holds the snares."""
    cabinets: str = ""
    """Package with impulse responses of amplifiers (guitarix-common); empty: none."""
    alternates: bool = True
    """Play one of several regions for the same keys and velocities; false: all of them."""
    p_snare: Share = 0.5
    """Probability that another snare replaces that of the kit."""
    p_amplifier: Share = 0.75
    """Probability of an amplifier for bass and guitars; otherwise the signal is direct."""
    p_double: Share = 0.4
    """Probability that a guitar is double-tracked, left and right."""
    p_guitar: Share = 0.6
    """Probability that a guitar plays another part of a song without guitar parts."""
    timing_ms: float = 7.0
    """Standard deviation of the timing of notes."""
    velocity: float = 8.0
    """Standard deviation of the velocity of notes (1 to 127)."""
    veltrack: float = 30.0
    """Effect of velocity on the level, percent, if the SFZ file does not specify it; layers already
    have the level at which they were played."""

    def __post_init__(self) -> None:
        check_fields(self, "recorded")
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
    """A recipe of data, merged with everything it inherits."""

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
        for section in _SECTIONS:
            for name, value in vars(getattr(self, section)).items():
                if isinstance(value, Names):
                    _check_apart(f"{section}.{name}", value)

    def identity(self) -> dict[str, Any]:
        """All settings that affect the audio; a set can be continued as long as they are the same.

        The numbers of songs and versions are left out, as they may grow.
        """
        record = asdict(self)
        for key in ("name", "why"):
            del record[key]
        del record["modules"]["versions"], record["midi"]["versions"]
        del record["accompaniments"]["songs"], record["singing"]["songs"]
        del record["recorded"]["folder"]
        return record


_SECTIONS: dict[str, Any] = {
    each.name: each.type for each in fields(RenderRecipe) if is_dataclass(each.type)
}
_FAMILY = Family(("data",), tuple(_SECTIONS))


def recipe_names() -> list[str]:
    """Names of the shipped recipes of data."""
    return shipped_names("data")


def load_recipe(path_or_name: str | Path, *, instruments: Path | None = None) -> RenderRecipe:
    """Read a recipe of data and merge it over what it inherits; see `load_merged`.

    `instruments` replaces `recorded.folder`, the folder of recorded instruments. Raises UsageError
    also for a source that is in two splits.
    """
    merged = load_merged(path_or_name, _FAMILY, kind="data")
    if instruments is not None:
        merged.sections["recorded"]["folder"] = str(instruments)
    sections = {
        name: from_section(_SECTIONS[name], section, name)
        for name, section in merged.sections.items()
    }
    return RenderRecipe(merged.name, merged.why, **sections)


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
