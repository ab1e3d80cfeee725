"""Pairs estimates with references: files of any of these layouts, found at any depth.

* TRACK/STEM.ext, as `mssgen separate` writes and as MUSDB18-HQ has it (train/ and test/ above);
* STEM/TRACK.ext, if the folder has the name of a stem;
* TRACK.stem.mp4 (MUSDB18), and MoisesDB's folders;
* TRACK.ext in the folder itself or in train/, valid/ or test/: one stem per track, "audio";
* one file each for estimate and reference.

Tracks are matched by their path below the folder, or, if those differ (a split in one of them
only), by name. Files without a partner are listed in `Pairing.notes`, never silently dropped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mssgen.checkpoints.registry import STEMS
from mssgen.errors import UsageError
from mssgen.evaluation.recordings import Recording
from mssgen.inputs.folder_scan import SOUND_EXTENSIONS, leads_up, listed
from mssgen.inputs.names import composed
from mssgen.library.stem_mp4 import STREAMS, SUFFIX, StemStream
from mssgen.library.stems import MIXTURE, SPLITS, SoundFile, open_library

ONLY_STEM = "audio"
"""Stem of files whose name is not a stem."""
_STEM_NAMES = {*STEMS, "guitar", "piano"}

Found = dict[str, dict[str, Recording]]
"""By track and stem."""


@dataclass(frozen=True)
class ReferenceTrack:
    """A track that can be scored."""

    key: str
    references: dict[str, Recording]
    """By stem."""
    mixture: Recording | None = None


@dataclass(frozen=True)
class System:
    """A set of estimates: a folder, or a row made from other rows."""

    name: str
    folder: str
    """Path as given by the user."""
    estimates: Found
    """By track key of the references, and stem."""
    is_ceiling: bool = False
    """Whether it was made from the references, and does not compete."""
    checkpoint_hash: str = ""

    @property
    def stems(self) -> set[str]:
        """Stems that it has for at least one track."""
        return {stem for stems in self.estimates.values() for stem in stems}


@dataclass(frozen=True)
class Note:
    """A remark for readers of the scores."""

    system: str
    """Name; "" for the references."""
    track: str
    note: str


@dataclass(frozen=True)
class Pairing:
    """Tracks with references, and the systems to compare on them."""

    tracks: tuple[ReferenceTrack, ...]
    """A key may occur twice, with stems that must not be scored together."""
    systems: tuple[System, ...]
    references: str
    mixture: str | None = None
    notes: tuple[Note, ...] = field(default=())
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Folders that cannot be read, with the reason."""


def pair(
    estimates: Mapping[str, str],
    references: str,
    *,
    mixture: str | None = None,
    exclude: Path | None = None,
) -> Pairing:
    """Find the files of all systems and match them with the references.

    Args:
        estimates: folders or files by the name of the system.
        references: a folder, or a file if all estimates are files.
        mixture: a folder of mixtures, or a file; by default those beside the references.
        exclude: a folder to skip, the output.

    Raises:
        UsageError: no files, no matches, or an ambiguous name.
        AudioError: a damaged MoisesDB folder.
    """
    place, unreadable = Path(references), dict[str, str]()
    found = find_recordings(place, exclude=exclude, unreadable=unreadable)
    mixtures = {key: stems.pop(MIXTURE) for key, stems in found.items() if MIXTURE in stems}
    found = {key: stems for key, stems in found.items() if stems}
    if not found:
        raise UsageError(f"`references` {references} holds mixtures only; name a folder of stems")
    notes: list[Note] = []
    if mixture is not None:
        given = find_recordings(Path(mixture), exclude=exclude, unreadable=unreadable)
        mixtures = _mixtures(found, mixture, given, place, notes)
    systems = []
    for name, folder in estimates.items():
        given = find_recordings(Path(folder), exclude=exclude, unreadable=unreadable)
        if Path(folder).is_dir() != place.is_dir():
            raise UsageError(
                f"{folder} and `references` {references} must be two folders or two files"
            )
        for stems in given.values():
            stems.pop(MIXTURE, None)
        systems.append(_system(name, folder, given, found, references, notes))
    tracks = tuple(ReferenceTrack(key, stems, mixtures.get(key)) for key, stems in found.items())
    return Pairing(tracks, tuple(systems), references, mixture, tuple(notes), unreadable)


def find_recordings(
    path: Path, *, exclude: Path | None = None, unreadable: dict[str, str] | None = None
) -> Found:
    """Recordings of a folder or of one file, by track and stem, sorted by name.

    A track in the folder itself has the folder's name. Folders that cannot be read are added to
    `unreadable`, with the reason. Raises UsageError if there are no recordings.
    """
    found: Found = {}
    unreadable = {} if unreadable is None else unreadable
    if path.is_dir():
        excluded = exclude.resolve() if exclude is not None else None
        excluded = None if excluded == path.resolve() else excluded
        _walk(path, path, excluded, found, unreadable)
        if not found and unreadable:
            raise UsageError(" ".join(next(iter(unreadable.items()))))
    elif path.name.endswith(SUFFIX) and path.is_file():
        found[path.name.removesuffix(SUFFIX)] = _streams(path)
    elif path.is_file():
        is_stem = path.stem.lower() in _STEM_NAMES | {MIXTURE}
        key = path.resolve().parent.name if is_stem else path.stem
        found[key] = {path.stem.lower() if is_stem else ONLY_STEM: Recording((SoundFile(path),))}
    else:
        raise UsageError(f"{path} does not exist; check its spelling")
    if not found:
        raise UsageError(
            f"{path} holds no sound files: TRACK/STEM.wav, TRACK{SUFFIX} or TRACK.wav are expected"
        )
    return {key: found[key] for key in sorted(found)}


def _walk(
    folder: Path, root: Path, excluded: Path | None, found: Found, unreadable: dict[str, str]
) -> None:
    entries = listed(folder, root, unreadable)
    if not entries:
        return
    if (folder / "data.json").is_file() and (moises := _moises(folder)):
        found[_key(folder, root)] = moises
        return
    sounds = [e for e in entries if e.suffix.lower() in SOUND_EXTENSIONS and e.is_file()]
    is_flat = folder.name in SPLITS or (
        folder == root and not {e.stem.lower() for e in sounds} & _STEM_NAMES
    )
    is_stem = folder != root and folder.name.lower() in _STEM_NAMES
    parent = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    for entry in sounds:
        if entry.name.endswith(SUFFIX):
            found[parent + entry.name.removesuffix(SUFFIX)] = _streams(entry)
            continue
        if is_stem:
            above = folder.parent.relative_to(root).as_posix()
            key = entry.stem if above == "." else f"{above}/{entry.stem}"
            stem = folder.name.lower()
        elif is_flat:
            key, stem = parent + entry.stem, ONLY_STEM
        else:
            key, stem = _key(folder, root), composed(entry.stem.lower())
        stems = found.setdefault(key, {})
        if stem in stems:
            raise UsageError(
                f"{stems[stem].path} and {entry} are both {stem} of {key}; keep one of the files"
            )
        stems[stem] = Recording((SoundFile(entry),))
    for entry in entries:
        if entry.is_dir() and entry.resolve() != excluded and not leads_up(entry):
            _walk(entry, root, excluded, found, unreadable)


def _key(folder: Path, root: Path) -> str:
    return folder.resolve().name if folder == root else folder.relative_to(root).as_posix()


def _streams(path: Path) -> dict[str, Recording]:
    return {name: Recording((StemStream(path, i),)) for i, name in enumerate(STREAMS)}


def _moises(folder: Path) -> dict[str, Recording]:
    """Stems of a MoisesDB track; none if data.json belongs to another program."""
    try:
        track = open_library(folder).tracks[0]
    except UsageError:
        return {}
    return {stem: Recording(track.recordings(stem)) for stem in STEMS if track.has(stem)}


def _matched(keys: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """For each of `keys` its partner among `others`: the same path, else the same name.

    Names are compared in composed Unicode form.
    """
    partners = {key: key for key in keys if key in others}
    for same in (composed, lambda key: composed(_name(key))):
        rest = [key for key in keys if key not in partners]
        rest_others = [key for key in others if key not in partners.values()]
        n_same, n_others = Counter(map(same, rest)), Counter(map(same, rest_others))
        by_form = {same(key): key for key in rest_others}
        partners |= {
            key: by_form[same(key)] for key in rest if n_same[same(key)] == 1 == n_others[same(key)]
        }
    # A folder that is itself a track may have any name.
    if not partners and len(keys) == 1 == len(others) and "/" not in keys[0] + others[0]:
        partners[keys[0]] = others[0]
    return partners


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _system(
    name: str, folder: str, given: Found, references: Found, where: str, notes: list[Note]
) -> System:
    partners = _matched(list(references), list(given))
    estimates: Found = {}
    for key, partner in partners.items():
        stems = given[partner]
        if len(stems) == 1 == len(references[key]) and not Path(folder).is_dir():
            # A pair of single files is a pair, whatever their names.
            stems = dict(zip(references[key], stems.values(), strict=True))
        estimates[key] = {stem: stems[stem] for stem in references[key] if stem in stems}
        for stem in stems.keys() - references[key].keys():
            notes.append(Note(name, key, f"{stem} has no reference and was left out"))
    estimates = {key: stems for key, stems in estimates.items() if stems}
    if not estimates:
        some = next(iter(given))
        raise UsageError(
            f"nothing in {folder} ({some}: {', '.join(given[some])}, ...) matches anything in "
            f"`references` {where} ({next(iter(references))}, ...); tracks and stems must "
            "have the same names"
        )
    system = System(name, folder, estimates)
    for key in given.keys() - set(partners.values()):
        notes.append(Note(name, key, "this track has no reference and was left out"))
    all_stems = {stem for stems in references.values() for stem in stems}
    if absent := sorted(all_stems - system.stems):
        notes.append(Note(name, "", f"no estimates of {', '.join(absent)} in any track"))
    for key, stems in references.items():
        missing = [s for s in stems if s in system.stems and s not in estimates.get(key, {})]
        if missing:
            notes.append(Note(name, key, f"no estimate of {', '.join(missing)}"))
    return system


def _mixtures(
    references: Found, mixture: str, found: Found, place: Path, notes: list[Note]
) -> dict[str, Recording]:
    """Mixtures by track key of the references, from what was `found` in a folder or file."""
    mixtures = {key: stems.get(MIXTURE) or stems.get(ONLY_STEM) for key, stems in found.items()}
    known = {key: recording for key, recording in mixtures.items() if recording is not None}
    if not place.is_dir() and len(known) == 1:
        return dict.fromkeys(references, next(iter(known.values())))
    partners = _matched(list(references), list(known))
    if not partners:
        raise UsageError(
            f"`mixture` {mixture} has none of the tracks; TRACK/mixture.wav or TRACK.wav are "
            "expected"
        )
    notes += [
        Note("", key, "the track has no mixture") for key in references if key not in partners
    ]
    return {key: known[partner] for key, partner in partners.items()}
