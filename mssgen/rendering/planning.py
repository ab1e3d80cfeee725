"""From a recipe to songs: fetches its packages and lists every song in a fixed order."""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mssgen.errors import MssgenError, UsageError
from mssgen.events import Failed, Hook, Warned
from mssgen.library.stems import SPLITS
from mssgen.rendering.accompaniments import StyleFile, find_styles
from mssgen.rendering.amplifiers import find_cabinets
from mssgen.rendering.band import Band, find_band
from mssgen.rendering.drumkits import find_kits
from mssgen.rendering.fetch import Package, fetch
from mssgen.rendering.recipe import RenderRecipe

Kind = Literal["module", "midi", "accompaniment", "sung"]
_MODULE_SUFFIXES = (".xm", ".mod", ".it", ".s3m", ".stm")
_MIDI_SUFFIXES = (".mid", ".midi")
_FONT_SUFFIXES = (".sf2", ".sf3")


@dataclass(frozen=True)
class SourceFile:
    """A file of a package."""

    package: Package
    path: Path
    sha256: str
    """Digest of the content, decompressed."""

    def read(self) -> bytes:
        """The content, decompressed."""
        return unpacked(self.path)


@dataclass(frozen=True)
class Song:
    """One track to render; together with the recipe it determines every sample."""

    key: str
    """SPLIT/NAME."""
    split: str
    kind: Kind
    file: SourceFile
    """The module, the MIDI file, or the style of an accompaniment."""
    seed: int
    style: StyleFile | None = None

    def rng(self, purpose: str) -> np.random.Generator:
        """A random generator for one purpose, independent of those for other purposes."""
        return np.random.default_rng(_seed(self.seed, purpose))


@dataclass(frozen=True)
class Sounds:
    """Instruments for the MIDI files of one split."""

    fonts: tuple[SourceFile, ...]
    kits: tuple[SourceFile, ...]
    """The drumkit.xml of each drum kit."""
    band: Band | None = None
    """Recorded instruments, preferred to fonts and kits."""


@dataclass(frozen=True)
class Plan:
    """All songs to render, and their sources."""

    songs: tuple[Song, ...]
    sounds: dict[str, Sounds]
    """Instruments by split."""
    packages: tuple[Package, ...]


def plan_songs(recipe: RenderRecipe, cache: Path, hook: Hook) -> Plan:
    """Fetch the packages of a recipe and list its songs: modules, MIDI files, accompaniments.

    Packages that cannot be fetched are reported to `hook` as `Failed`, and the songs that need them
    are left out, as are MIDI files and generated songs of a split without soundfonts.
    Raises UsageError if a tool is missing or a kit is unknown.
    """
    bands = {split: find_band(recipe.recorded, split) for split in SPLITS}  # before any download
    shelf = _Shelf(cache, hook)
    songs = list(_songs_of_files(recipe, shelf, "module"))
    needs_sounds = any(recipe.midi.packages.of(s) for s in SPLITS if recipe.midi.versions.of(s))
    new = (recipe.accompaniments.songs, recipe.singing.songs)
    needs_sounds |= any(songs.of(split) for songs in new for split in SPLITS)
    sounds = {}
    if needs_sounds:
        sounds = _sounds(recipe, shelf, bands)
        with_sounds = {split for split in SPLITS if sounds[split].fonts}
        notes = (
            *_songs_of_files(recipe, shelf, "midi"),
            *_new_songs(recipe, shelf, "sung"),
            *_new_songs(recipe, shelf, "accompaniment"),
        )
        songs += [song for song in notes if song.split in with_sounds]
    used = tuple(package for package in shelf.packages.values() if package)
    return Plan(tuple(songs), sounds, used)


def unpacked(path: Path) -> bytes:
    """The content of a file, decompressed if it is a .gz file."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


class _Shelf:
    """The packages, each fetched on first use."""

    def __init__(self, cache: Path, hook: Hook) -> None:
        self._cache, self._hook = cache, hook
        self.packages: dict[str, Package | None] = {}

    def package(self, name: str, *, is_optional: bool = False) -> Package | None:
        """The package; where it cannot be fetched, None and a `Failed`, a `Warned` if optional."""
        if name not in self.packages:
            try:
                self.packages[name] = fetch(name, self._cache)
            except UsageError:
                raise
            except MssgenError as error:
                self.packages[name] = None
                warned = Warned(name, f"left out: {error}")
                self._hook(warned if is_optional else Failed(name, str(error)))
        return self.packages[name]

    def files(
        self, name: str, suffixes: tuple[str, ...], avoid: tuple[str, ...] = ()
    ) -> list[SourceFile]:
        """The files of a package with these suffixes, without duplicates."""
        package = self.package(name)
        if package is None:
            return []
        found: dict[str, SourceFile] = {}
        for path in sorted(package.folder.rglob("*")):
            plain = path.name.lower().removesuffix(".gz")
            # A link may point to a file of another package, which may not be installed.
            is_own = path.is_file() and path.resolve().is_relative_to(package.folder.resolve())
            if plain.endswith(suffixes) and is_own and path.name not in avoid:
                digest = hashlib.sha256(unpacked(path)).hexdigest()
                found.setdefault(digest, SourceFile(package, path, digest))
        return list(found.values())


def _songs_of_files(
    recipe: RenderRecipe, shelf: _Shelf, kind: Literal["module", "midi"]
) -> Iterator[Song]:
    """The songs of modules or MIDI files.

    Every file comes once before any file comes twice, so that an interrupted set is as broad as
    possible. A file that is in two splits goes to the later one (test last).
    """
    how = recipe.modules if kind == "module" else recipe.midi
    suffixes = _MODULE_SUFFIXES if kind == "module" else _MIDI_SUFFIXES
    counts = {split: how.versions.of(split) for split in SPLITS}
    seen: set[str] = set()
    found: dict[str, list[SourceFile]] = {}
    for split in reversed(SPLITS):
        names = how.packages.of(split) if counts[split] else ()
        files = [each for name in names for each in shelf.files(name, suffixes, how.avoid)]
        found[split] = [each for each in files if each.sha256 not in seen]
        seen |= {each.sha256 for each in files}
    for version in range(max(counts.values())):
        for split in SPLITS:
            taken: set[str] = set()
            for file in found[split] if version < counts[split] else ():
                name = _name(file, taken)
                taken.add(name)
                key = f"{split}/{name}-{version + 1}"
                yield Song(key, split, kind, file, _seed(recipe.render.seed, key))


def _new_songs(
    recipe: RenderRecipe, shelf: _Shelf, kind: Literal["accompaniment", "sung"]
) -> Iterator[Song]:
    songs = recipe.singing.songs if kind == "sung" else recipe.accompaniments.songs
    counts = {split: songs.of(split) for split in SPLITS}
    package = shelf.package(recipe.accompaniments.package) if max(counts.values()) else None
    if package is None:
        return
    styles: dict[str, list[StyleFile]] = {split: [] for split in SPLITS}
    for style in find_styles(package):
        if kind == "sung" and style.beats != 4:
            continue
        styles[_kept_split(style.name)].append(style)
    for split, n_songs in counts.items():
        for index in range(n_songs if styles[split] else 0):
            key = f"{split}/{'sung' if kind == 'sung' else package.name}-{index + 1:04d}"
            seed = _seed(recipe.render.seed, key)
            style = styles[split][seed % len(styles[split])]
            digest = hashlib.sha256(style.path.read_bytes()).hexdigest()
            file = SourceFile(package, style.path, digest)
            yield Song(key, split, kind, file, seed, style)


def _sounds(
    recipe: RenderRecipe, shelf: _Shelf, bands: Mapping[str, Band | None]
) -> dict[str, Sounds]:
    how = recipe.instruments
    kits: dict[str, SourceFile] = {}
    if how.p_kit and any(how.kits.of(split) for split in SPLITS):
        for name in how.kit_packages:
            package = shelf.package(name)
            for kit, path in find_kits(package.folder).items() if package else ():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                kits.setdefault(kit, SourceFile(package, path, digest))  # type: ignore[arg-type]
        unknown = [kit for split in SPLITS for kit in how.kits.of(split) if kit not in kits]
        if unknown:
            raise UsageError(
                f"recipe: instruments.kits names {unknown[0]!r}, which is not a kit of "
                f"{', '.join(how.kit_packages)}; they hold {', '.join(kits)}"
            )
    cabinets, source = _cabinets(recipe, shelf)
    # A package may hold a font twice, under several paths: `files` takes each once.
    fonts = {
        split: [each for name in how.fonts.of(split) for each in shelf.files(name, _FONT_SUFFIXES)]
        for split in SPLITS
    }
    chosen = {split: [kits[kit] for kit in how.kits.of(split) if kit in kits] for split in SPLITS}
    return {
        split: Sounds(
            tuple(fonts[split]),
            tuple(chosen[split]),
            (band := bands[split])
            and replace(band, cabinets=cabinets[split], cabinet_source=source),
        )
        for split in SPLITS
    }


def _cabinets(
    recipe: RenderRecipe, shelf: _Shelf
) -> tuple[dict[str, tuple[Path, ...]], dict[str, Any] | None]:
    """The cabinets of each split, and the manifest's entry for them; both empty if the package is
    not named or cannot be fetched, since cabinets are optional."""
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    package = (
        shelf.package(recipe.recorded.cabinets, is_optional=True)
        if recipe.recorded.cabinets
        else None
    )
    if package is None:
        return dict.fromkeys(SPLITS, ()), None
    for path in find_cabinets(package.folder):
        found[_kept_split(path.stem)].append(path)
    source = {
        "role": "cabinet",
        "package": package.name,
        "version": package.version,
        "licences": list(package.licences),
    }
    return {split: tuple(paths) for split, paths in found.items()}, source


def _kept_split(name: str) -> str:
    """The split of a name by its hash: 10 % valid, 10 % test, the rest train."""
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return {0: "valid", 1: "test"}.get(place, "train")


def _name(file: SourceFile, taken: set[str]) -> str:
    """PACKAGE-FILE, with a digest if two folders of a package have a file of that name."""
    stem = file.path.name.lower().removesuffix(".gz").rpartition(".")[0]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem)
    name = f"{file.package.name}-{plain}"
    return name if name not in taken else f"{name}-{file.sha256[:6]}"


def _seed(seed: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:7])
