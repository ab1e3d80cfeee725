"""Counts of a run as a file of Prometheus text, for the textfile collector of its node exporter."""

import time
from pathlib import Path

from mssgen.events import Done, Event, Failed, Hook, Progress, Skipped, Start
from mssgen.files import write_text

_EVERY_S = 5.0
# Name, type and help of each metric.
_METRICS = (
    ("mssgen_songs_done_total", "counter", "Songs whose outputs are complete."),
    ("mssgen_songs_skipped_total", "counter", "Songs that were complete before, or left alone."),
    ("mssgen_songs_failed_total", "counter", "Songs that failed."),
    ("mssgen_audio_seconds_total", "counter", "Seconds of audio in the songs that are done."),
    ("mssgen_elapsed_seconds", "gauge", "Seconds since the run began."),
    ("mssgen_songs_queued", "gauge", "Songs that are not finished, with the current one."),
)


class Metered:
    """A hook that passes events on and keeps a file of metrics, which is whole at any moment.

    It is written when a song starts, every few seconds while one is worked on, and at the end.

    Args:
        hook: gets every event.
        path: the file, replaced each time. Raises MssgenError if it cannot be written.
    """

    def __init__(self, hook: Hook, path: Path) -> None:
        self._hook, self._path = hook, path
        self._began = self._written = time.monotonic()
        self._n_done = self._n_skipped = self._n_failed = self._n_queued = 0
        self._audio_s, self._current_s = 0.0, 0.0
        self._write()

    def __call__(self, event: Event) -> None:
        self._hook(event)
        match event:
            case Start():
                self._audio_s += self._current_s
                self._current_s = event.duration_s
                self._n_done = event.index - 1 - self._n_skipped - self._n_failed
                self._n_queued = event.total - event.index + 1
            case Skipped():
                self._n_skipped += 1
            case Failed():
                self._n_failed += 1
                self._current_s = 0.0
            case Done():
                self._n_done, self._audio_s, self._n_queued = event.n_done, event.audio_s, 0
                self._current_s = 0.0  # a worker goes on
            case Progress() if time.monotonic() - self._written > _EVERY_S:
                pass
            case _:
                return
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        elapsed_s = self._written - self._began
        counts = (self._n_done, self._n_skipped, self._n_failed)
        values = (*counts, self._audio_s, elapsed_s, self._n_queued)
        lines = [
            f"# HELP {name} {about}\n# TYPE {name} {kind}\n{name} {value:.10g}\n"
            for (name, kind, about), value in zip(_METRICS, values, strict=True)
        ]
        write_text(self._path, "".join(lines))
