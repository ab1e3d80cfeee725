"""Counts the songs of a run, reports them to the hook, and tries failed ones again."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_hex

from mssgen.errors import MssgenError
from mssgen.events import Done, Event, Failed, Hook, Progress, Skipped, Start, Warned
from mssgen.inputs.tracks import Track
from mssgen.jobs.decisions import Decision, Settled
from mssgen.jobs.options import RunOptions
from mssgen.jobs.passing import is_passing
from mssgen.jobs.song_record import SongRecord
from mssgen.memory import told

_log = logging.getLogger(__name__)
_MAX_PAUSE_S = 60.0


class Tally:
    """Counts of done, skipped and failed songs, and how long the others will take.

    Args:
        doing: the activity in out-of-memory messages: "separating", "coding", ...
        hook: called with Skipped, Failed and Done.
        songs: all songs with their sizes in bytes, which stand for their lengths.
        run: whether to stop at a failure, and how often to try again.
    """

    def __init__(
        self,
        doing: str,
        hook: Hook,
        songs: Sequence[tuple[Track, int]],
        run: RunOptions = RunOptions(),
    ) -> None:
        self._doing, self._hook, self._run = doing, hook, run
        self._sizes = dict(songs)  # of the songs that are neither skipped nor finished
        self._left_bytes = sum(self._sizes.values())
        self._n_songs, self._n_done, self._n_skipped, self._n_failed = len(songs), 0, 0, 0
        self._n_bytes = self._audio_s = 0.0  # of what was worked on
        self._tries = Counter[Track]()
        self._devices: dict[str, None] = {}
        self._precisions: dict[str, None] = {}
        self._id = token_hex(4)  # of the run
        self._began = time.monotonic()
        self._first: float | None = None  # when the first song started

    @property
    def is_over(self) -> bool:
        """Whether the run ends here, because a song failed."""
        return self._run.fail_fast and self._n_failed > 0

    def settled(self, track: Track, decision: Decision) -> bool:
        """Count and report a song that is refused or complete; false if there is work to do."""
        if decision.refusal:
            self._fail(track, decision.refusal)
        elif not decision.targets:
            self._n_skipped += 1
            self._drop(track)
            self._hook(Skipped(track.label, decision.left))
        return bool(decision.refusal or not decision.targets)

    @contextmanager
    def attempt(
        self, track: Track, record: SongRecord, again: Callable[[float], None]
    ) -> Iterator[Hook]:
        """Count the song in the block as done, or as failed if it raises an exception.

        Yields the hook for its events. A song that failed for a passing cause is handed to `again`,
        with the number of seconds to wait before, until it has failed too often. BrokenPipeError
        passes: nobody reads the output any more.
        """
        duration_s = 0.0

        def hook(event: Event) -> None:
            nonlocal duration_s
            event = self._placed(track, event)
            if isinstance(event, Start):
                duration_s = event.duration_s
                self._devices[event.device] = self._precisions[event.precision] = None
                place = {"run": self._id, "index": event.index, "total": event.total}
                left_s = self._left_s(0)
                record.started({**place, "duration_s": duration_s, "left_s": left_s})
            self._hook(event)

        try:
            yield hook
            record.done()
            self._n_done += 1
            self._n_bytes += self._drop(track)
            self._audio_s += duration_s
        except BrokenPipeError:
            raise
        except Settled as nothing:
            self.settled(track, nothing.decision)
        except Exception as error:
            _log.debug("%s failed", track.label, exc_info=True)
            message = _message(error, self._doing)
            record.failed(message)
            self._tries[track] += 1
            if self._tries[track] <= self._run.n_retries and is_passing(error):
                which = f"{self._tries[track]} of {self._run.n_retries}"
                self._hook(Warned(track.label, f"{message} (tried again later, {which})"))
                again(min(_MAX_PAUSE_S, 2.0 ** (self._tries[track] - 1)))
            else:
                self._fail(track, message)

    def finish(self) -> Done:
        """Report and return the counts."""
        done = Done(
            self._n_done,
            self._n_skipped,
            self._n_failed,
            time.monotonic() - self._began,
            n_left=self._n_songs - self._n_done - self._n_skipped - self._n_failed,
            audio_s=self._audio_s,
            device=", ".join(self._devices),
            precision=", ".join(self._precisions),
        )
        self._hook(done)
        return done

    def _fail(self, track: Track, message: str) -> None:
        self._n_failed += 1
        self._drop(track)
        self._hook(Failed(track.label, message))

    def _drop(self, track: Track) -> int:
        """Take a song off the list; returns its size."""
        size = self._sizes.pop(track, 0)
        self._left_bytes -= size
        return size

    def _placed(self, track: Track, event: Event) -> Event:
        """The event with the place of its song in the run, and the time left of all."""
        index = self._n_done + self._n_skipped + self._n_failed + 1
        if isinstance(event, Start):
            self._first = self._first or time.monotonic()
            return replace(event, index=index, total=self._n_songs)
        if not isinstance(event, Progress):
            return event
        share = min(1.0, event.done_s / event.duration_s) if event.duration_s else 1.0
        left_s = self._left_s(share * self._sizes.get(track, 0))
        return replace(event, index=index, total=self._n_songs, left_s=left_s)

    def _left_s(self, n_bytes: float) -> float | None:
        """Seconds until all songs are done, if `n_bytes` of the current one are done."""
        n_done = self._n_bytes + n_bytes
        if not n_done or self._first is None:
            return None
        return (time.monotonic() - self._first) * (self._left_bytes - n_bytes) / n_done


def _message(error: Exception, doing: str) -> str:
    error = told(error, doing)
    is_ours = isinstance(error, MssgenError)
    return f"{'' if is_ours else f'unexpected {type(error).__name__}: '}{error}"
