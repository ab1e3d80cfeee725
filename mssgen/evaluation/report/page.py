"""Writes the report of an evaluation: index.html, with audio and pictures of each track."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from mssgen import __version__
from mssgen.audio.reading import open_source
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.evaluation.metrics.base import Score
from mssgen.evaluation.report import audio_files, pictures
from mssgen.evaluation.report.results import Results, TrackFiles
from mssgen.evaluation.statistics import Aggregate, aggregate
from mssgen.events import Done, Failed, Hook, Progress, Start, Written, ignore
from mssgen.files import recover, reported, safe_target, whole_folder
from mssgen.inspection.cells import slug
from mssgen.inspection.html import in_script, rendered
from mssgen.leftovers import holds_nothing, is_leftover

PAGE = "index.html"
FORMATS = ("ogg", "wav", "flac", "opus", "mp3")
_ENTRIES = {PAGE, "data", "audio", "pictures"}
_GENERATOR = "mssgen report"
_EXTRA = "evaluate"
MIXTURE, REFERENCE = "mixture", "reference"


@dataclass(frozen=True)
class ReportOptions:
    """Content of a report."""

    container: str = "ogg"
    """Audio format, one of `FORMATS`."""
    seconds: float = 30.0
    """Length of excerpts; 0: whole tracks."""
    max_tracks: int | None = None
    """Number of tracks with audio and pictures, None: all; scores are shown for all tracks."""
    n_workers: int = 2

    def __post_init__(self) -> None:
        if self.container not in FORMATS:
            raise UsageError(
                f"`container` {self.container} does not play in browsers; use one of "
                f"{', '.join(FORMATS)}"
            )
        if not (self.seconds == 0 or 1 <= self.seconds <= 3600):
            raise UsageError("`seconds` must be 1 to 3600, or 0 for whole songs")
        if self.max_tracks is not None and self.max_tracks < 1:
            raise UsageError("`max_tracks` must be 1 or more")
        if self.n_workers < 1:
            raise UsageError("`n_workers` must be 1 or more")


def write_report(
    results: Results,
    folder: Path,
    options: ReportOptions | None = None,
    *,
    overwrite: bool = False,
    hook: Hook = ignore,
) -> Done:
    """Write the report to `folder`, which appears complete or not at all.

    A track with unreadable files is reported to `hook` and shown without audio. Raises UsageError
    if packages of the extra are missing, MssgenError if `folder` holds anything but an older
    report, or an older report without `overwrite`, or cannot be written.
    """
    options = options or ReportOptions()
    started = monotonic()
    tracks = results.tracks[: options.max_tracks]
    with _new_report(folder, overwrite=overwrite) as draft:
        lengths_s = [_sound_s(track, options) for track in tracks]
        hook(Start(str(folder), sum(lengths_s), 0, 0, "cpu", "fp32"))
        n_failed, done_s = 0, 0.0
        with ThreadPoolExecutor(options.n_workers) as pool:
            jobs: dict[Future[dict[str, Any]], int] = {
                pool.submit(_write_track, track, index, results, draft, options): index
                for index, track in enumerate(tracks)
            }
            try:
                for job in as_completed(jobs):
                    index = jobs[job]
                    try:
                        payload = job.result()
                    except AudioError as error:
                        n_failed += 1
                        hook(Failed(tracks[index].name, str(error)))
                        payload = {"error": str(error), "stems": []}
                    _write_data(payload, index, draft)
                    done_s += lengths_s[index]
                    hook(Progress(str(folder), done_s, sum(lengths_s)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        page = _page(results, len(tracks), options)
        (draft / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
    hook(Written("", "", folder / PAGE))
    done = Done(len(tracks) - n_failed, 0, n_failed, monotonic() - started)
    hook(done)
    return done


def _sound_s(track: TrackFiles, options: ReportOptions) -> float:
    """Seconds of audio of a track on the page, over all stems and sources."""
    n_sources = sum(
        1 + len(stem.estimates) + (track.mixture is not None) for stem in track.stems.values()
    )
    try:
        with open_source(next(iter(track.stems.values())).reference) as source:
            song_s = source.n_samples / source.info.sample_rate
    except (AudioError, StopIteration):
        return 0.0
    return n_sources * (min(song_s, options.seconds) if options.seconds else song_s)


@contextmanager
def _new_report(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder that becomes `folder` unless an exception is raised."""
    place = folder.resolve()
    with reported(folder):
        recover(place)
        if folder.exists() and not (folder.is_dir() and holds_nothing(folder)):
            if not _is_report(folder):
                raise MssgenError(
                    f"{folder} is not an older report, and nothing else is ever replaced; choose "
                    "another `output`"
                )
            if not overwrite:
                raise MssgenError(
                    f"{folder} exists: choose another `output`, or replace it with `overwrite=True`"
                )
        with whole_folder(place) as draft:
            yield draft


def _is_report(folder: Path) -> bool:
    """Whether the folder holds a report by mssgen and nothing else."""
    if not folder.is_dir():
        return False
    if {entry.name for entry in folder.iterdir() if not is_leftover(entry.name)} - _ENTRIES:
        return False
    page = folder / PAGE
    return page.is_file() and _GENERATOR in page.read_text("utf-8", "replace")[:1000]


def _write_track(
    track: TrackFiles, index: int, results: Results, draft: Path, options: ReportOptions
) -> dict[str, Any]:
    """Write audio and pictures of a track; returns the data that the page needs."""
    stems = []
    for number, stem in enumerate((name for name in results.stems if name in track.stems), 1):
        stem_files = track.stems[stem]
        paths = {}
        if track.mixture is not None:
            paths[MIXTURE] = track.mixture
        paths[REFERENCE] = stem_files.reference
        # A system may be called "mixture": systems are identified by number.
        systems = [name for name in results.systems if name in stem_files.estimates]
        paths |= {_key(results, name): stem_files.estimates[name] for name in systems}
        excerpt = audio_files.read_excerpt(paths, REFERENCE, options.seconds)
        matched = audio_files.match(excerpt, REFERENCE)
        rate = excerpt.sample_rate
        spectrograms = {
            key: pictures.mel_spectrogram_db(audio, rate) for key, audio in excerpt.sources.items()
        }
        top = pictures.top_db(list(spectrograms.values()))
        sources = []
        for key, audio in excerpt.sources.items():
            address = f"{index + 1:04}-{_slug(track.name)}/{number}-{_slug(stem)}-{key}"
            sound = _place(draft, "audio", address, options.container)
            heard = audio_files.amplified(audio, matched.gains_db[key])
            audio_files.write_sound(heard, rate, sound, options.container)
            spectrogram = _place(draft, "pictures", address, "webp")
            pictures.draw_spectrogram(spectrograms[key], top, spectrogram)
            difference = None
            if key != REFERENCE:
                difference = _place(draft, "pictures", f"{address}-difference", "webp")
                pictures.draw_difference(
                    spectrograms[key], spectrograms[REFERENCE], top, difference
                )
            sources.append(
                {
                    "key": key,
                    "sound": _address(sound, draft),
                    "gain": round(matched.gains_db[key], 1),
                    "silent": matched.is_silent[key],
                    "peaks": pictures.peaks(heard),
                    "spectrogram": _address(spectrogram, draft),
                    "difference": _address(difference, draft) if difference else None,
                }
            )
        stems.append(
            {
                "name": stem,
                "start": round(excerpt.start_s, 2),
                "seconds": round(excerpt.duration_s, 3),
                "song": round(excerpt.song_s, 2),
                "lufs": round(matched.lufs, 1),
                "ticks": pictures.ticks(rate),
                "sources": sources,
            }
        )
    return {
        "stems": stems,
        "notes": [note for note in results.notes if note["track"] == track.name],
    }


def _key(results: Results, system: str) -> str:
    """Identifier of a system in file names: "system1", ..."""
    return f"system{results.systems.index(system) + 1}"


def _slug(name: str) -> str:
    """Part of an address that needs no quoting."""
    return slug(name, "-", 40).lower()


def _place(draft: Path, kind: str, address: str, extension: str) -> Path:
    path = safe_target(draft / kind, "{track}.{ext}", track=address, stem="", ext=extension)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _address(path: Path, draft: Path) -> str:
    return path.relative_to(draft).as_posix()


def _write_data(payload: Mapping[str, Any], index: int, draft: Path) -> None:
    """Write a script, not JSON: pages opened from disk may load scripts, but may not fetch."""
    path = draft / "data" / f"{index + 1:04}.js"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"mssgenReport.receive({index}, {in_script(payload, extra=_EXTRA)});\n", encoding="utf-8"
    )


def _page(results: Results, n_heard: int, options: ReportOptions) -> str:
    title = f"Listening report: {_listed(results.systems)}"
    return rendered(
        "mssgen.evaluation.report",
        "page.html",
        extra=_EXTRA,
        title=title,
        generator=f"{_GENERATOR} {__version__}",
        report=_report(results, title, n_heard, options),
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} systems"
    return " vs ".join(names)


def _report(results: Results, title: str, n_heard: int, options: ReportOptions) -> dict[str, Any]:
    """Data that the page needs before it shows a track."""
    names = [track.name for track in results.tracks]
    scores: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for (metric, stem, system, track), score in results.scores.items():
        if track not in names:
            continue
        row = scores.setdefault(metric, {}).setdefault(stem, {}).setdefault(system, {})
        row[track] = score.value
        if score.value is None and score.reason:
            reasons[f"{metric}\n{stem}\n{system}\n{names.index(track)}"] = score.reason
    tables = {
        metric: {
            stem: {
                system: [_rounded(values.get(name)) for name in names]
                for system, values in systems.items()
            }
            for stem, systems in stems.items()
        }
        for metric, stems in scores.items()
    }
    return {
        "title": title,
        "version": __version__,
        "systems": results.systems,
        "stems": results.stems,
        "metrics": results.metrics,
        "tracks": names,
        "heard": n_heard,
        "seconds": options.seconds,
        "container": options.container,
        "scores": tables,
        "reasons": reasons,
        "summary": summarise(results),
        "about": results.about,
        "gradients": pictures.gradients(),
        "rangeDb": pictures.RANGE_DB,
        "differenceDb": pictures.DIFFERENCE_DB,
    }


def summarise(results: Results) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """By metric, stem and system: average, interval (low, high), tracks with and without a value.

    Scores of the whole set (whose track is not in the list) are passed on unchanged.
    """
    names = {track.name for track in results.tracks}
    how = {metric["name"]: metric["aggregate"] for metric in results.metrics}
    gathered: dict[tuple[str, str, str], list[Score]] = {}
    whole: dict[tuple[str, str, str], Score] = {}
    for (metric, stem, system, track), score in results.scores.items():
        if metric in how and track in names:
            gathered.setdefault((metric, stem, system), []).append(score)
        elif metric in how:
            whole[metric, stem, system] = score
    summary: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for metric, stem, system in {**gathered, **whole}:
        scores = gathered.get((metric, stem, system), [])
        found = aggregate(scores, "median" if how[metric] == "median" else "mean")
        if (metric, stem, system) in whole:
            found = Aggregate(whole[metric, stem, system].value, n_tracks=found.n_tracks)
        summary.setdefault(metric, {}).setdefault(stem, {})[system] = {
            "value": _rounded(found.value),
            "low": _rounded(found.low),
            "high": _rounded(found.high),
            "known": found.n_tracks,
            "missing": found.n_missing,
        }
    return summary


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
