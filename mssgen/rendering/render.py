"""Renders the training data of a recipe; each track appears complete or not at all."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from mssgen import __version__
from mssgen.audio.encodings import Encoding
from mssgen.audio.levels import level_db
from mssgen.audio.writing import write_audio
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Done, Event, Failed, Hook, Warned, Written, ignore
from mssgen.files import is_there, reported, whole_folder
from mssgen.jobs.workers import end_with_parent
from mssgen.rendering import manifest
from mssgen.rendering.planning import Plan, Song, Sounds, plan_songs
from mssgen.rendering.recipe import RenderRecipe
from mssgen.rendering.songs import Rendered, Unsuitable, render_song
from mssgen.rendering.sounds import SAMPLE_RATE

_ENCODING = Encoding("flac", "16")
_MAX_JOBS = 256
_UPDATE_S = 60.0
"""Seconds between updates of the manifest while tracks are rendered."""


def render_library(
    recipe: RenderRecipe,
    output: Path,
    *,
    packages: Path,
    n_jobs: int = 1,
    hook: Hook = ignore,
) -> Done:
    """Render the tracks of a recipe that are missing in `output`: OUTPUT/SPLIT/TRACK/STEM.flac.

    An interrupted run resumes where it stopped. A track depends only on the recipe, its seed and
    the versions of packages and tools, not on `n_jobs` or on the order.

    Args:
        recipe: see `load_recipe`.
        output: an empty folder, or one with tracks of the same recipe.
        packages: the cache of packages, see `fetch`.
        n_jobs: number of processes.
        hook: receives tracks that are `Written`, left out (`Warned`), or `Failed`.

    Raises UsageError if a tool is missing, `output` is of another recipe or cannot be written.
    """
    if not 1 <= n_jobs <= _MAX_JOBS:
        raise UsageError(f"`n_jobs={n_jobs}` is out of range; use 1 to {_MAX_JOBS}")
    started = time.monotonic()
    n_unfetched = 0

    def told(event: Event) -> None:
        nonlocal n_unfetched
        n_unfetched += isinstance(event, Failed)
        hook(event)

    plan = plan_songs(recipe, packages, told)
    manifest.begin(output, recipe, plan)
    missing = [song for song in plan.songs if not _is_done(song, output)]
    n_written = n_failed = 0
    updated = time.monotonic()
    try:
        for outcome in _outcomes(missing, plan, recipe, output, n_jobs):
            if outcome.rejected:
                hook(Warned(outcome.key, f"left out: {outcome.message}"))
            elif outcome.message:
                hook(Failed(outcome.key, outcome.message))
            else:
                hook(Written(outcome.key, "", output / outcome.key))
            n_failed += bool(outcome.message and not outcome.rejected)
            n_written += not outcome.message
            if time.monotonic() - updated > _UPDATE_S:
                manifest.update(output, recipe)
                updated = time.monotonic()
    finally:
        manifest.update(output, recipe)
    n_skipped = len(plan.songs) - len(missing)
    done = Done(n_written, n_skipped, n_failed + n_unfetched, time.monotonic() - started)
    hook(done)
    return done


@dataclass(frozen=True)
class _Outcome:
    """The result of rendering one song."""

    key: str
    message: str = ""
    """The reason why there is no track; empty if there is one."""
    rejected: bool = False
    """Whether the song can never be used, so that it is not tried again."""


def _is_done(song: Song, output: Path) -> bool:
    rejected = output / manifest.REJECTED / f"{song.key}.json"
    return is_there(output / song.key / manifest.TRACK_RECORD) or is_there(rejected)


def _outcomes(
    songs: Sequence[Song], plan: Plan, recipe: RenderRecipe, output: Path, n_jobs: int
) -> Iterator[_Outcome]:
    """Render songs: one by one in order, or by several processes as they finish."""
    if n_jobs == 1:
        for song in songs:
            yield _make(song, recipe, plan.sounds.get(song.split), output)
        return
    # Not forked: a fork copies locks that threads of this process may hold.
    pool = ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn"), initializer=end_with_parent)
    futures: dict[Future[_Outcome], Song] = {
        pool.submit(_make, song, recipe, plan.sounds.get(song.split), output): song
        for song in songs
    }
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise MssgenError(
            "a rendering process was killed, perhaps for lack of memory; run again with a lower "
            "`n_jobs` to continue"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make(song: Song, recipe: RenderRecipe, sounds: Sounds | None, output: Path) -> _Outcome:
    """Render one song to its folder, or record why it cannot be used."""
    try:
        rendered = render_song(song, recipe, sounds)
    except Unsuitable as error:
        record = {"reason": str(error), "sources": [manifest.source_of(song.kind, song.file)]}
        manifest.write_json(output / manifest.REJECTED / f"{song.key}.json", record)
        return _Outcome(song.key, str(error), rejected=True)
    except UsageError:
        raise  # a tool is missing: every other song would fail too
    except MssgenError as error:
        return _Outcome(song.key, str(error))
    _write(song, rendered, output)
    return _Outcome(song.key)


def _write(song: Song, rendered: Rendered, output: Path) -> None:
    """The stems and the record of a track in a hidden folder, which is renamed when complete."""
    with reported(output, UsageError), whole_folder(output / song.key) as part:
        for name, stem in rendered.stems.items():
            write_audio(part / f"{name}.{_ENCODING.extension}", stem, SAMPLE_RATE, _ENCODING)
        record = {
            "split": song.split,
            "kind": song.kind,
            "seed": song.seed,
            "mssgen_version": __version__,
            "duration_s": round(rendered.stems["drums"].shape[1] / SAMPLE_RATE, 3),
            "level_db": {
                name: round(max(-200.0, level_db(stem)), 1) for name, stem in rendered.stems.items()
            },
            **rendered.facts,
        }
        manifest.write_json(part / manifest.TRACK_RECORD, record)
