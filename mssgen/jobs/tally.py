"""The loop over jobs: does each, counts the results and reports them to the hook."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mssgen.errors import MssgenError
from mssgen.events import Done, Failed, Hook, Skipped
from mssgen.inputs.tracks import Track
from mssgen.jobs.decisions import Decision
from mssgen.jobs.song_record import SongRecord
from mssgen.memory import told

_log = logging.getLogger(__name__)


class Tally:
    """Counts of done, skipped and failed jobs.

    Args:
        doing: the activity in out-of-memory messages: "separating", "coding", ...
        hook: called with Skipped, Failed and Done.
    """

    def __init__(self, doing: str, hook: Hook) -> None:
        self._doing, self._hook = doing, hook
        self._n_done = self._n_skipped = self._n_failed = 0
        self._started = time.monotonic()

    def settled(self, track: Track, decision: Decision) -> bool:
        """Count and report a job that is refused or complete; false if there is work to do."""
        if decision.refusal:
            self._n_failed += 1
            self._hook(Failed(track.label, decision.refusal))
        elif not decision.targets:
            self._n_skipped += 1
            self._hook(Skipped(track.label))
        return bool(decision.refusal or not decision.targets)

    @contextmanager
    def attempt(self, track: Track, record: SongRecord) -> Iterator[None]:
        """Count the job in the block as done, or as failed if it raises an exception.

        BrokenPipeError passes: nobody reads the output any more.
        """
        try:
            yield
            record.done()
            self._n_done += 1
        except BrokenPipeError:
            raise
        except Exception as error:
            self._n_failed += 1
            _log.debug("%s failed", track.label, exc_info=True)
            error = told(error, self._doing)
            is_ours = isinstance(error, MssgenError)
            message = f"{'' if is_ours else f'unexpected {type(error).__name__}: '}{error}"
            record.failed(message)
            self._hook(Failed(track.label, message))

    def finish(self) -> Done:
        """Report and return the counts."""
        elapsed_s = time.monotonic() - self._started
        done = Done(self._n_done, self._n_skipped, self._n_failed, elapsed_s)
        self._hook(done)
        return done
