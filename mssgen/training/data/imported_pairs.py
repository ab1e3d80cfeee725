"""Stems that any separator wrote, as training input: the pairs of `pairs` without separating.

The thesis trained on Spleeter's stems; whoever has such folders, or stems of a service, can too.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from mssgen.errors import MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Skipped, Written, ignore
from mssgen.files import is_there
from mssgen.inputs.names import composed
from mssgen.library.stems import Library, TrackStems, open_library
from mssgen.training.data.pairs import begin, remember, target_of, write_whole

_MAX_DIFFERENCE_S = 0.05  # lossy codecs and resamplers add or drop some milliseconds at the end


def import_pairs(
    library: Library,
    output: Path,
    source: Path,
    *,
    stems: Sequence[str] = (),
    overwrite: bool = False,
    hook: Hook = ignore,
) -> Done:
    """Take the separated stems of every track of a library from a folder into `output`.

    They get the rate and length of the track, and two channels. Stems that are there are kept, so
    an interrupted run continues where it stopped.

    Args:
        library: see `open_library`.
        output: the folder to write to; must not hold pairs of another model.
        source: folder with one folder per track, of the same path or name as in the library, that
            holds its separated stems as sound files.
        stems: stems to take; empty: all that a track has.
        overwrite: take everything again.
        hook: receives events; tracks are named by their keys. Failures of single tracks are
            reported here and counted.

    Raises:
        UsageError: `source` holds no stems, or `output` holds pairs of another model.
    """
    started = time.monotonic()
    separated = open_library(source)
    lines = "\n".join(f"{track.key} {track.fingerprint}" for track in separated.tracks)
    hashes = [hashlib.sha256(lines.encode()).hexdigest()]
    manifest = begin(output, f"{source.name} (imported)", hashes, None, overwrite=overwrite)
    manifest["stems"] = sorted({stem for track in separated.tracks for stem in track.files})
    by_key = {composed(track.key): track for track in separated.tracks}
    by_name = {key.rpartition("/")[2]: track for key, track in by_key.items()}
    counts = {"done": 0, "skipped": 0, "failed": 0}
    for track in library.tracks:
        key = composed(track.key)
        found = by_key.get(key) or by_name.get(key.rpartition("/")[2])
        try:
            if found is None:
                raise UsageError(f"{source} has no folder {track.key} with separated stems")
            remember(manifest, output, track)
            is_new = _take(track, found, output, stems, overwrite, hook)
            counts["done" if is_new else "skipped"] += 1
        except MssgenError as error:
            counts["failed"] += 1
            hook(Failed(track.key, str(error)))
    done = Done(counts["done"], counts["skipped"], counts["failed"], time.monotonic() - started)
    hook(done)
    return done


def _take(
    track: TrackStems,
    separated: TrackStems,
    output: Path,
    stems: Sequence[str],
    overwrite: bool,
    hook: Hook,
) -> bool:
    """Write the stems of one track; False if they are there already."""
    if missing := [stem for stem in stems if stem not in separated.files]:
        given = ", ".join(separated.files)
        raise UsageError(f"there is no separated {missing[0]} of {track.key}, only {given}")
    targets = {stem: target_of(output, track.key, stem) for stem in stems or separated.files}
    if not overwrite and all(map(is_there, targets.values())):
        hook(Skipped(track.key))
        return False
    difference_s = separated.duration_s - track.duration_s
    if abs(difference_s) > _MAX_DIFFERENCE_S:
        raise UsageError(
            f"the separated stems of {track.key} are {abs(difference_s):.2f} s "
            f"{'longer' if difference_s > 0 else 'shorter'} than the track: give the right ones"
        )
    rate = track.sample_rate
    for stem, target in targets.items():
        path = write_whole(target, separated.files[stem], rate, track.n_samples(rate))
        hook(Written(track.key, stem, path))
    return True
