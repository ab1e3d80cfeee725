"""Watches a folder: the songs in it that are complete and were not separated yet."""

import math
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mssgen.errors import AudioError, UsageError
from mssgen.events import Hook, Warned, ignore
from mssgen.files import reported
from mssgen.inputs.tracks import Track, tracks_in
from mssgen.jobs.claims import is_claimed
from mssgen.jobs.manifest import InputFile
from mssgen.jobs.options import WriteOptions
from mssgen.jobs.song_record import SEPARATE, SongRecord
from mssgen.jobs.worker import Worker

MAX_KILLS = 3
"""A song during which so many workers were killed, one after another, is not tried again."""
_OF_OTHERS_S = 30.0


def watch_folder(
    worker: Worker,
    folder: Path,
    output_dir: Path,
    options: WriteOptions,
    *,
    interval_s: float = 5.0,
    hook: Hook = ignore,
) -> None:
    """Separate the songs in a folder, and those that come into it, until the worker is stopped.

    A song is taken when it is found in the same state twice, `interval_s` apart. What is done and
    has failed is in the manifest; a song that failed is tried again when it has changed.

    Args:
        worker: separates the songs; several workers may watch one folder.
        folder: searched recursively, without hidden files and output folders of mssgen.
        output_dir: folder for the outputs and their manifest.jsonl; may lie in `folder`.
        options: names and formats of the outputs.
        interval_s: seconds between two looks.
        hook: called with Warned while the folder cannot be read.

    Raises:
        UsageError: `folder` is none, or lies in `output_dir`.
        AudioError: `output_dir` cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"`watch` {folder} is not a folder: create it, or name another one")
    if folder.resolve().is_relative_to(output_dir.resolve()):
        raise UsageError(
            f"`watch` {folder} lies in the output folder {output_dir}, so that stems would be "
            "separated again: choose another `output_dir`"
        )
    with reported(output_dir, AudioError):
        output_dir.mkdir(parents=True, exist_ok=True)
    arrivals, trouble = Arrivals(interval_s), ""
    while not worker.is_over:
        try:
            found, trouble = tracks_in(folder, output_dir), ""
        except AudioError as error:  # a disk may come back
            if str(error) != trouble:
                hook(Warned("", str(error)))
            found, trouble = [], str(error)
        if due := arrivals.due(found):
            worker.manifest(output_dir).refresh()
        todo = [track for track in due if not _is_given_up(worker, track, output_dir, options)]
        of_others = worker.round(todo, output_dir, options) if todo else set()
        arrivals.settle(track for track in due if track.label not in of_others)
        if not todo:
            worker.wait(interval_s)


@dataclass
class _Seen:
    """A file as it was at the last look."""

    size: int
    mtime_ns: int
    due: float
    """When it is to be handed out, in seconds of the clock."""


class Arrivals:
    """Hands out files once they rest: nobody writes to them any more.

    Args:
        settle_s: for how long size and modification time must stay the same.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[str, _Seen] = {}

    def due(self, tracks: Iterable[Track]) -> list[Track]:
        """Those of the files that rest, unless they are settled or were handed out just before."""
        now, seen, due = time.monotonic(), dict[str, _Seen](), list[Track]()
        for track in tracks:
            with suppress(OSError):
                about = os.stat(track.path)
                known = self._seen.get(track.path)
                if known is None or (known.size, known.mtime_ns) != (
                    about.st_size,
                    about.st_mtime_ns,
                ):
                    known = _Seen(about.st_size, about.st_mtime_ns, now + self._settle_s)
                elif now >= known.due:
                    known.due = now + max(self._settle_s, _OF_OTHERS_S)
                    due.append(track)
                seen[track.path] = known
        self._seen = seen
        return due

    def settle(self, tracks: Iterable[Track]) -> None:
        """Hand out these files again only when they have changed."""
        for track in tracks:
            self._seen[track.path].due = math.inf


def _is_given_up(worker: Worker, track: Track, output_dir: Path, options: WriteOptions) -> bool:
    """Whether a song failed before; reports that, and records it where its workers could not."""
    manifest = worker.manifest(output_dir)
    known = manifest.attempts(SEPARATE, InputFile(track.path))
    if known is None or worker.is_over:
        return False
    if known.last.state == "failed":
        worker.leave(track, f"it failed before and has not changed ({known.last.error})")
        return True
    claim = str(known.last.about.get("claim"))
    if known.n_unfinished < MAX_KILLS or is_claimed(output_dir, claim):
        return False
    message = (
        f"{track.label} is not tried again: {known.n_unfinished} times its worker was killed, "
        "perhaps for lack of memory; try it with `mssgen separate`"
    )
    SongRecord(manifest, SEPARATE, track, options.of_sound).failed(message)
    worker.refuse(track, message)
    return True
