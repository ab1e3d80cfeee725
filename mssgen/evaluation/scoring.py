"""Scores every system on every track in parallel processes, resumable after every track."""

import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.metrics.base import Metric, Score
from mssgen.evaluation.metrics.table import CodecSource, metric_called
from mssgen.evaluation.pairing import Note, Pairing, ReferenceTrack, System
from mssgen.evaluation.recordings import Recording, load_track
from mssgen.evaluation.records import Record
from mssgen.evaluation.score_cache import ScoreCache, identity, key_of
from mssgen.events import Done, Failed, Hook, Progress, Start, ignore
from mssgen.jobs.workers import end_with_parent

MAX_JOBS = 64
_DEFAULT_JOBS = 8
"""A process holds several copies of a track: with many cores, memory would run out."""
NO_ESTIMATE = "no estimate"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """All scores, in the order of systems, tracks, stems and metrics."""

    records: list[Record]
    notes: list[Note]
    """Unpaired files, and changes made to align recordings."""
    done: Done


@dataclass(frozen=True)
class _Job:
    """One track of one system, and the metrics to compute for it."""

    system: str
    track: str
    references: dict[str, Recording]
    estimates: dict[str, Recording]
    mixture: Recording | None
    metrics: tuple[Metric | str, ...]
    """Names for metrics of the table, whose functions need not be sent to processes."""
    codec: CodecSource | None

    @property
    def label(self) -> str:
        return f"{self.track} ({self.system})"

    @property
    def duration_s(self) -> float:
        return max(recording.duration_s for recording in self.references.values())


@dataclass
class _Result:
    """Outcome of a job."""

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    """By metric and stem."""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reason: str = ""
    """Why there are no scores, if a file could not be read."""


def score(
    pairing: Pairing,
    metrics: Sequence[Metric],
    *,
    cache: Path,
    n_jobs: int | None = None,
    overwrite: bool = False,
    codec: CodecSource | None = None,
    hook: Hook = ignore,
) -> Scored:
    """Compute all scores that `cache` does not hold yet.

    A track that fails does not stop the others, and is retried next time. Every track is saved as
    soon as it is done.

    Args:
        pairing: what to compare with what.
        metrics: with distinct names.
        cache: folder of scores, created if missing.
        n_jobs: number of processes; None: one per core, at most 8, fewer for short excerpts; 1:
            this process.
        overwrite: recompute scores that the cache holds.
        codec: codec of the token and latent metrics among `metrics`.
        hook: receives progress in seconds of audio, and failures.

    Raises:
        UsageError: `n_jobs` is out of range, or a package that a metric needs is missing.
        MssgenError: the cache cannot be written, or a process died.
    """
    started = time.monotonic()
    if n_jobs is not None and not 1 <= n_jobs <= MAX_JOBS:
        raise UsageError(f"`n_jobs` {n_jobs} is out of range; use 1 to {MAX_JOBS}")
    results: dict[tuple[str, int], _Result] = {}
    todo: dict[tuple[str, int], tuple[str, _Job]] = {}
    store = ScoreCache(cache)
    for system, index, track in _pairs(pairing):
        place = (system.name, index)
        estimates = _estimates(system, track)
        try:
            key = key_of(track.references, estimates, track.mixture)
        except MssgenError as error:
            results[place] = _Result(failures=[str(error)], reason=str(error))
            continue
        kept, notes = ({}, []) if overwrite else store.read(key)
        known = {
            metric.name: kept[identity(metric)]
            for metric in metrics
            if identity(metric) in kept and kept[identity(metric)].keys() == estimates.keys()
        }
        results[place] = _Result(known, notes)
        missing = tuple(_portable(m, codec) for m in metrics if m.name not in known)
        if missing:
            job = _Job(
                system.name,
                track.key,
                track.references,
                estimates,
                track.mixture,
                missing,
                codec,
            )
            todo[place] = (key, job)
    identities = {metric.name: identity(metric) for metric in metrics}
    jobs = {place: job for place, (_, job) in todo.items()}
    for place, result in _run(jobs, n_jobs, hook):
        old, key = results[place], todo[place][0]
        old.scores.update(result.scores)
        old.notes, old.failures, old.reason = result.notes, result.failures, result.reason
        if result.scores:
            kept, _ = store.read(key)
            fresh = {identities[name]: stems for name, stems in result.scores.items()}
            store.write(key, {**kept, **fresh}, result.notes)
        for failure in result.failures:
            hook(Failed(jobs[place].label, failure))
    failed = {place for place, result in results.items() if result.failures}
    for system_name, index in failed - todo.keys():
        failure = results[system_name, index].failures[0]
        hook(Failed(f"{pairing.tracks[index].key} ({system_name})", failure))
    n_failed, n_skipped = len(failed), len(results.keys() - todo.keys() - failed)
    n_done = len(results) - n_skipped - n_failed
    return Scored(
        list(_records(pairing, metrics, results)),
        _notes(pairing, results),
        Done(n_done, n_skipped, n_failed, time.monotonic() - started),
    )


def _pairs(pairing: Pairing) -> Iterator[tuple[System, int, ReferenceTrack]]:
    """Every track of every system that has an estimate for it."""
    for system in pairing.systems:
        for index, track in enumerate(pairing.tracks):
            if _estimates(system, track):
                yield system, index, track


def _estimates(system: System, track: ReferenceTrack) -> dict[str, Recording]:
    given = system.estimates.get(track.key, {})
    return {stem: given[stem] for stem in track.references if stem in given}


def _records(
    pairing: Pairing, metrics: Sequence[Metric], results: Mapping[tuple[str, int], _Result]
) -> Iterator[Record]:
    """One record per expected score, also for missing ones."""
    for system in pairing.systems:
        for index, track in enumerate(pairing.tracks):
            result = results.get((system.name, index), _Result())
            given = _estimates(system, track)
            for stem in track.references:
                if stem not in system.stems:
                    continue  # it has no such stem at all, as a note says
                for metric in metrics:
                    if stem not in given:
                        found = Score(None, 0, NO_ESTIMATE)
                    else:
                        missing = Score(None, 0, result.reason or "failed")
                        found = result.scores.get(metric.name, {}).get(stem, missing)
                    yield Record(
                        system.name,
                        track.key,
                        stem,
                        metric.name,
                        found.value,
                        found.n,
                        found.reason,
                    )


def _notes(pairing: Pairing, results: Mapping[tuple[str, int], _Result]) -> list[Note]:
    notes = list(pairing.notes)
    for (system, index), result in results.items():
        key = pairing.tracks[index].key
        notes += [Note(system, key, note) for note in result.notes]
        notes += [Note(system, key, f"failed: {failure}") for failure in result.failures]
    return notes


def _n_processes(n_jobs: int | None, n_tasks: int, duration_s: float) -> int:
    if n_jobs is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        # Starting a process takes longer than scoring a short excerpt.
        n_jobs = min(n_cores, _DEFAULT_JOBS, math.ceil(duration_s / 60))
    return max(1, min(n_jobs, n_tasks))


def _portable(metric: Metric, codec: CodecSource | None) -> Metric | str:
    """The metric in a form that can be sent to another process."""
    return metric.name if metric_called(metric.name, codec) is metric else metric


def _run(
    jobs: Mapping[tuple[str, int], _Job], n_jobs: int | None, hook: Hook
) -> Iterator[tuple[tuple[str, int], _Result]]:
    """Results of the jobs, in order of completion."""
    if not jobs:
        return
    durations = {place: job.duration_s for place, job in jobs.items()}
    done_s, whole_s = 0.0, sum(durations.values())
    n_processes = _n_processes(n_jobs, len(jobs), whole_s)
    where = "one process" if n_processes == 1 else f"{n_processes} processes"
    hook(Start("metrics", whole_s, 0, 0, where, "fp64"))
    finished = (
        ((place, _measured(job)) for place, job in jobs.items())
        if n_processes == 1
        else _in_processes(jobs, n_processes)
    )
    for place, result in finished:
        yield place, result
        done_s += durations[place]
        hook(Progress("metrics", done_s, whole_s))


def _in_processes(
    jobs: Mapping[tuple[str, int], _Job], n_processes: int
) -> Iterator[tuple[tuple[str, int], _Result]]:
    context = multiprocessing.get_context("spawn")  # forks of threads that hold locks hang
    others = set(multiprocessing.active_children())
    with _environment(dict.fromkeys(_THREADS, "1")):
        pool = ProcessPoolExecutor(n_processes, context, initializer=_start_process)
        try:
            # Longest first, for even load at the end.
            order = sorted(jobs, key=lambda place: -jobs[place].duration_s)
            futures: dict[Future[_Result], tuple[str, int]] = {
                pool.submit(_measured, jobs[place]): place for place in order
            }
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise MssgenError(
                "a scoring process was killed, probably because memory ran out; use fewer `n_jobs` "
                "and run again: finished tracks are kept"
            ) from None
        except BaseException:
            # Do not wait minutes for results that are no longer needed.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    end_with_parent()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as with `nohup`
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for child processes: libraries read them when they load."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _measured(job: _Job) -> _Result:
    """Read and score a track; UsageError is passed on, since it would hit every track."""
    found = [metric_called(m, job.codec) if isinstance(m, str) else m for m in job.metrics]
    metrics = [metric for metric in found if metric is not None]
    result = _Result()
    try:
        audio = load_track(job.track, job.references, job.estimates, job.mixture)
    except UsageError:
        raise
    except Exception as error:
        result.reason = _sentence(error)
        result.failures.append(result.reason)
        return result
    result.notes = list(audio.notes)
    for metric in metrics:
        try:
            result.scores[metric.name] = {
                stem: _checked(metric.measure(audio, stem)) for stem in audio.estimates
            }
        except UsageError:
            raise
        except Exception as error:
            _log.debug("%s failed on %s", metric.name, job.label, exc_info=True)
            result.failures.append(f"{metric.name} could not be measured: {_sentence(error)}")
    return result


def _checked(found: Score) -> Score:
    """The score with NaN and infinity replaced by a missing value."""
    if found.value is None:
        return found
    if math.isfinite(found.value):
        return Score(float(found.value), found.n, found.reason)
    return Score(None, found.n, found.reason or "not finite")


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, MssgenError) else f"{type(error).__name__}: {error}"
