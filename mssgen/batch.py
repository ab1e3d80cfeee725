"""Songs to files: names, order, reading ahead, and a count of what failed."""

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mssgen.audio import (
    MAX_RATE,
    MIN_RATE,
    AudioInfo,
    Encoding,
    StemWriter,
    choose_encoding,
    open_source,
    safe_target,
)
from mssgen.channels import n_mixed
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Skipped, Start, Warned, Written, ignore
from mssgen.outputs import OutputPlan
from mssgen.pipeline import (
    Measured,
    Source,
    measure,
    mixed_layout,
    out_samples,
    stream_outputs,
)
from mssgen.provenance import made_by
from mssgen.separators.base import Separator
from mssgen.speakers import what_is_lost
from mssgen.stem_writer import CLIP_MODES
from mssgen.tags import Tags, read_tags
from mssgen.tracks import STDIN, Track
from mssgen.wav_chunks import StudioChunks, read_studio_chunks

CUT_OFF = "what is above was cut off"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteOptions:
    """How outputs are written; None keeps what the input has."""

    template: str = "{track}/{stem}.{ext}"
    container: str | None = None
    """"wav" (also for None), "flac", "mp3", ...; see `mssgen.encoding.CONTAINERS`."""
    bit_depth: str | None = None
    """"16", "24" or "32f"."""
    sample_rate: int | None = None
    clip: str = "rescale"
    """What to do with samples over full scale where the format cannot hold them: "rescale" lowers
    all outputs of the song alike, "clamp" limits them, "none" leaves them to the format."""
    downmix: bool = False
    """Mix more than two channels to stereo; otherwise each pair of channels is separated."""
    existing: str = "refuse"
    """"refuse", "skip" or "overwrite" outputs that are there."""

    def __post_init__(self) -> None:
        """Raise UsageError for what no input could be written as."""
        if self.clip not in CLIP_MODES:
            raise UsageError(f"--clip {self.clip} is unknown; use one of {', '.join(CLIP_MODES)}")
        if self.existing not in ("refuse", "skip", "overwrite"):
            raise UsageError(f"existing={self.existing!r} is none of refuse, skip and overwrite")
        if self.sample_rate is not None and not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise UsageError(
                f"--sample-rate {self.sample_rate} is out of range; use {MIN_RATE} to {MAX_RATE}"
            )
        # Every container holds this rate, and one channel.
        rate = self.sample_rate or 48_000
        anything = AudioInfo(rate, 1, "", "")
        choose_encoding(anything, self.container, self.bit_depth).check(rate, 1)


@dataclass(frozen=True)
class Group:
    """Songs that go through one separator, and what is written of them."""

    tracks: Sequence[Track]
    separator: Separator
    plan: OutputPlan


def separate_files(
    tracks: Sequence[Track],
    separator: Separator,
    plan: OutputPlan,
    *,
    output_dir: Path | str = "separated",
    options: WriteOptions | None = None,
    hook: Hook = ignore,
) -> Done:
    """Separate songs into files; a song that fails does not stop the others.

    While one song is separated, the next one is read and measured. Every output appears under its
    name only when it is complete.

    Raises:
        UsageError: two songs would write the same file, or an option is wrong (found before any
            work). What goes wrong with single songs is told to `hook` and counted.
    """
    group = Group(tracks, separator, plan)
    return separate_groups([group], output_dir=output_dir, options=options, hook=hook)


def separate_groups(
    groups: Sequence[Group],
    *,
    output_dir: Path | str = "separated",
    options: WriteOptions | None = None,
    hook: Hook = ignore,
) -> Done:
    """As `separate_files`, with a separator for each group of songs; all are counted together."""
    started = time.monotonic()
    options = options or WriteOptions()
    jobs = _plan_jobs(groups, Path(output_dir), options)
    todo = [job for job in jobs if job.targets]
    for job in jobs:
        if not job.targets:
            hook(Skipped(job.track.label))
    n_failed = 0
    ahead: list[Future[_Opened]] = []  # the next song, at most
    with ThreadPoolExecutor(1, "reader") as reader:

        def read_ahead(index: int) -> None:
            # Not standard input: signals do not reach a thread that waits for it.
            if index < len(todo) and todo[index].track.path != STDIN:
                ahead.append(reader.submit(_open, todo[index], options))

        try:
            for index, job in enumerate(todo):
                try:
                    try:
                        opened = ahead.pop().result() if ahead else _open(job, options)
                    finally:
                        read_ahead(index + 1)
                    with opened.stack:
                        _separate_job(job, opened, options, hook)
                except Exception as error:
                    n_failed += 1
                    _log.debug("%s failed", job.track.label, exc_info=True)
                    is_ours = isinstance(error, MssgenError)
                    name = f"unexpected {type(error).__name__}: "
                    hook(Failed(job.track.label, f"{'' if is_ours else name}{error}"))
        finally:
            for future in ahead:
                if not future.cancel() and future.exception() is None:
                    future.result().stack.close()
    n_skipped = len(jobs) - len(todo)
    done = Done(len(todo) - n_failed, n_skipped, n_failed, time.monotonic() - started)
    hook(done)
    return done


@dataclass(frozen=True)
class _Job:
    """A song and the files to write, by output; what is kept is not among them."""

    track: Track
    separator: Separator
    plan: OutputPlan
    targets: dict[str, Path]


def _plan_jobs(groups: Sequence[Group], output_dir: Path, options: WriteOptions) -> list[_Job]:
    extension = options.container or "wav"
    songs = [(track, group) for group in groups for track in group.tracks]
    inputs = {track.real_path: track.label for track, _ in songs if track.path != STDIN}
    writers: dict[Path, str] = {}
    jobs = []
    for track, group in songs:
        targets = {
            name: safe_target(
                output_dir,
                options.template,
                track=track.name,
                stem=name,
                ext=extension,
                trackext=track.suffix,
            )
            for name in group.plan.names
        }
        for target in targets.values():
            if target in writers:
                raise UsageError(
                    f"{target} would be written twice, for {writers[target]} and {track.label}: "
                    "use a --template with {track}, {trackext} and {stem}, or name the folder "
                    "that holds both"
                )
            if (song := inputs.get(os.path.realpath(target))) is not None:
                raise UsageError(
                    f"{target} would replace the input {song}: choose another --output or "
                    "--template"
                )
            writers[target] = track.label
        if options.existing == "skip":
            targets = {name: path for name, path in targets.items() if not path.exists()}
        jobs.append(_Job(track, group.separator, group.plan, targets))
    return jobs


@dataclass(frozen=True)
class _Opened:
    """A song that is open and measured, and how its outputs are written."""

    source: Source
    measured: Measured
    encoding: Encoding
    sample_rate: int
    n_channels: int
    tags: Tags
    studio: StudioChunks
    """At `sample_rate`."""
    stack: ExitStack


def _open(job: _Job, options: WriteOptions) -> _Opened:
    if options.existing == "refuse":
        for target in job.targets.values():
            if target.exists():
                raise AudioError(
                    f"{target} exists; use --overwrite to replace it or --skip-existing to keep it"
                )
    with ExitStack() as stack:
        source = stack.enter_context(open_source(job.track.path))
        encoding = choose_encoding(source.info, options.container, options.bit_depth)
        n_channels = n_mixed(source.info.n_channels, downmix=options.downmix)
        sample_rate = options.sample_rate or source.info.sample_rate
        encoding.check(sample_rate, n_channels)
        measured = measure(source, job.separator, downmix=options.downmix)
        song = Path(job.track.path)
        song = song if song.is_file() else source.path  # what was piped is spooled
        tags = Tags() if job.track.path == STDIN else read_tags(source.path)
        tags = replace(tags, made_by=made_by(job.separator, song))
        studio = read_studio_chunks(source.path, source.info.sample_rate).at(sample_rate)
        return _Opened(
            source, measured, encoding, sample_rate, n_channels, tags, studio, stack.pop_all()
        )


def _separate_job(
    job: _Job,
    opened: _Opened,
    options: WriteOptions,
    hook: Hook,
) -> None:
    separator, plan = job.separator, job.plan
    info, measured, encoding = opened.source.info, opened.measured, opened.encoding
    label = job.track.label
    hook(
        Start(
            label,
            measured.n_samples / info.sample_rate,
            info.sample_rate,
            info.n_channels,
            separator.device,
            separator.precision,
        )
    )
    if measured.level.is_silent:
        hook(Warned(label, "the mixture is silent, and so are its stems"))
    layout = mixed_layout(info, downmix=options.downmix)
    if (lost := what_is_lost(layout, encoding.container)) is not None:
        hook(Warned(label, lost))
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                StemWriter(
                    target,
                    sample_rate=opened.sample_rate,
                    n_channels=opened.n_channels,
                    n_samples=out_samples(measured.n_samples, info.sample_rate, opened.sample_rate),
                    encoding=encoding,
                    clip=options.clip,
                    layout=layout,
                )
            )
            for name, target in job.targets.items()
        }
        outputs = stream_outputs(
            opened.source,
            measured,
            separator,
            plan,
            sample_rate=opened.sample_rate,
            downmix=options.downmix,
            hook=hook,
        )
        peak = 0.0  # of all outputs, also of those that are kept: they share one gain
        for blocks in outputs:
            for name, block in zip(plan.names, blocks, strict=True):
                peak = max(peak, float(np.abs(block).max()))
                if name in writers:
                    writers[name].write(block)
        # One gain for all: the stems still sum to the mixture, only softer.
        gain = encoding.gain_for(peak)
        if gain < 1:
            is_rescaled = options.clip == "rescale"
            done = "all outputs of the song were lowered by that" if is_rescaled else CUT_OFF
            hook(
                Warned(
                    label,
                    f"the loudest output peaks {-20 * np.log10(gain):.1f} dB over full scale; "
                    f"{done} (--bit-depth 32f keeps it)",
                )
            )
            gain = gain if is_rescaled else 1.0
        for name, writer in writers.items():
            path = writer.finish(gain, tags=opened.tags, stem=name, studio=opened.studio)
            hook(Written(label, name, path))
