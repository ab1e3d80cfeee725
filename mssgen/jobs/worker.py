"""A worker: separates songs round after round with one separator, until it is told to stop.

songs that are due, from a folder (watch) or from lines of JSON (orders)
    -> Worker.round: one run of `batch.separate_groups`
    -> counts of all rounds together, for the hook and for files of metrics
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from mssgen.errors import MssgenError
from mssgen.events import Done, Event, Failed, Hook, Loading, Progress, Skipped, Start, ignore
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import Group, separate_groups
from mssgen.jobs.manifest import Manifest
from mssgen.jobs.options import RunOptions, WriteOptions
from mssgen.separators.base import Separator

_MAX_MANIFESTS = 8
_NAP_S = 0.1


class Worker:
    """Separates songs in rounds; the separator is loaded for the first song.

    Args:
        group: the separator and the plan of outputs; its tracks are ignored.
        strict: refuse damaged songs.
        run: what follows a failure; without a shard.
        stop: whether to end before the next song.
        hook: called with the events of all rounds, numbered through, and with one Done after each
            round, which has the counts of all.
    """

    def __init__(
        self,
        group: Group,
        *,
        strict: bool = False,
        run: RunOptions = RunOptions(),
        stop: Callable[[], bool] = lambda: False,
        hook: Hook = ignore,
    ) -> None:
        self._group = replace(group, load=self._load, model="")
        self._load_group, self._model = group.load, group.model
        self._separator: Separator | None = None
        self._strict, self._run, self._stop, self._hook = strict, run, stop, hook
        self._left: set[str] = set()  # in this round
        self._has_begun = False  # this round
        self.manifest = lru_cache(_MAX_MANIFESTS)(Manifest)
        """The manifest of an output folder, kept from round to round."""
        self.done = Done(0, 0, 0, 0.0)
        """The counts of all rounds; its `elapsed_s` are the seconds spent in rounds."""

    @property
    def is_over(self) -> bool:
        """Whether no song is to be begun any more."""
        return self._stop() or (self._run.fail_fast and self.done.n_failed > 0)

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is told to stop."""
        end = time.monotonic() + seconds
        while not self.is_over and (left_s := end - time.monotonic()) > 0:
            time.sleep(min(_NAP_S, left_s))  # a handler of signals may not wake up an Event

    def round(
        self, tracks: Sequence[Track], folder: Path, options: WriteOptions, also: Hook = ignore
    ) -> set[str]:
        """Separate songs into a folder; returns the labels of those that another run works on.

        `also` is called with the events of this round. Raises what loading the separator raises.
        """
        self._left, self._has_begun = set(), False
        try:
            manifest = self.manifest(folder)
            manifest.refresh()
            separate_groups(
                [replace(self._group, tracks=tracks)],
                output_dir=folder,
                options=options,
                strict=self._strict,
                run=self._run,
                manifest=manifest,
                stop=self._stop,
                hook=lambda event: self._tell(event, also),
            )
        except MssgenError as error:
            if self._has_begun:
                raise
            # One song is wrong, such as one that would be its own output, or the folder is.
            if len(tracks) > 1:
                return set[str]().union(
                    *(self.round([track], folder, options, also) for track in tracks)
                )
            self.refuse(tracks[0], str(error), also)
        return self._left

    def refuse(self, track: Track, message: str, also: Hook = ignore) -> None:
        """Count and report a song as failed."""
        self._count(Done(0, 0, 1, 0.0))
        for hook in (self._hook, also):
            hook(Failed(track.label, message))

    def leave(self, track: Track, reason: str) -> None:
        """Count and report a song as skipped."""
        self._count(Done(0, 1, 0, 0.0))
        self._hook(Skipped(track.label, reason))

    def _load(self) -> Separator:
        self._has_begun = True
        if self._separator is None:
            self._hook(Loading(self._model))
            self._separator = self._load_group()
        return self._separator

    def _tell(self, event: Event, also: Hook) -> None:
        self._has_begun = True
        also(event)
        match event:
            case Skipped() if event.reason:  # looked at again later, so not counted
                self._left.add(event.track)
                return
            case Start() | Progress():
                n_before = self.done.n_done + self.done.n_skipped + self.done.n_failed
                index = n_before + event.index - len(self._left)
                event = replace(event, index=index, total=n_before + event.total)
            case Done():
                self._count(replace(event, n_skipped=event.n_skipped - len(self._left)))
                event = self.done
        self._hook(event)

    def _count(self, more: Done) -> None:
        done = self.done
        self.done = Done(
            done.n_done + more.n_done,
            done.n_skipped + more.n_skipped,
            done.n_failed + more.n_failed,
            done.elapsed_s + more.elapsed_s,
            n_left=more.n_left,
            audio_s=done.audio_s + more.audio_s,
            device=more.device or done.device,
            precision=more.precision or done.precision,
        )
