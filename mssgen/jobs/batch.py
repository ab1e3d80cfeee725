"""Separation of many songs into files.

    tracks
        -> decisions: which outputs to write, which songs to skip or refuse    (decisions, manifest)
        -> separators, loaded only if there is a song to separate
        -> each song, while the next one is read and measured in a thread      (ReadAhead)
            -> blocks of the outputs                                           (pipeline)
            -> files, complete or absent, with one gain for all                (StemWriter)
            -> a line in OUTPUT/manifest.jsonl                                 (SongRecord)
        -> counts of done, skipped and failed songs                            (Tally)

A song that fails is reported to the hook and does not stop the others.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mssgen.audio.channels import mixed_layout, n_mixed
from mssgen.audio.containers.wav_chunks import StudioChunks, read_studio_chunks
from mssgen.audio.encodings import AudioInfo, Encoding, choose_encoding
from mssgen.audio.reading import MAX_RATE, MIN_RATE, AudioSource, Source, open_source
from mssgen.audio.resampling import out_samples
from mssgen.audio.speakers import Layout, what_is_lost
from mssgen.audio.tags import Tags, read_tags
from mssgen.audio.writing import StemWriter, check_clip, over_full_scale
from mssgen.errors import AudioError, UsageError
from mssgen.events import Done, Hook, Start, Warned, Written, ignore
from mssgen.files import sha256_of
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.decisions import EXISTING, Decision, Places, decide
from mssgen.jobs.manifest import Entry, Manifest
from mssgen.jobs.provenance import made_by
from mssgen.jobs.read_ahead import ReadAhead
from mssgen.jobs.song_record import SongRecord
from mssgen.jobs.tally import Tally
from mssgen.outputs import OutputPlan
from mssgen.pipeline import Measured, measure, stream_outputs
from mssgen.separators.base import Separator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteOptions:
    """Where and how outputs are written; None keeps the format of the input."""

    template: str = "{track}/{stem}.{ext}"
    container: str | None = None
    """Container: a key of `mssgen.audio.encodings.CONTAINERS`; None is wav."""
    bit_depth: str | None = None
    """"16", "24" or "32f"."""
    sample_rate: int | None = None
    """In Hz."""
    clip: str = "rescale"
    """Peaks over full scale, if the format cannot hold them: "rescale" lowers all outputs of the
    song by the same gain, "clamp" limits samples, "none" leaves them to the format."""
    downmix: bool = False
    """Downmix more than two channels to stereo; otherwise each pair of channels is separated."""
    existing: str = "refuse"
    """Handling of outputs that exist already; see `mssgen.jobs.decisions.EXISTING`."""
    has_manifest: bool = True
    """Keep OUTPUT/manifest.jsonl, see `mssgen.jobs.manifest`; "resume" needs it."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that fit no input."""
        check_clip(self.clip)
        if self.existing not in EXISTING:
            raise UsageError(
                f"`existing={self.existing!r}` is unknown; use one of {', '.join(EXISTING)}"
            )
        if self.sample_rate is not None and not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise UsageError(
                f"`sample_rate={self.sample_rate}` is out of range; use {MIN_RATE} to {MAX_RATE}"
            )
        # Every container holds this rate, and one channel.
        rate = self.sample_rate or 48_000
        anything = AudioInfo(rate, 1, "", "")
        choose_encoding(anything, self.container, self.bit_depth).check(rate, 1)

    @property
    def extension(self) -> str:
        """Suffix of the output files, without the dot."""
        return self.container or "wav"

    @property
    def of_sound(self) -> dict[str, Any]:
        """Options that change the samples of all outputs, for the manifest."""
        names = ("bit_depth", "sample_rate", "clip", "downmix")
        return {"format": self.extension, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Group:
    """Songs that share a separator and a plan of outputs."""

    tracks: Sequence[Track]
    load: Callable[[], Separator]
    """Returns the separator; called once, and only if there is a song to separate."""
    plan: OutputPlan
    made_by: Mapping[str, Any] | None = None
    """Models and options behind each stem (see `mssgen.jobs.made_by`); None if unknown."""
    mixture: Source | None = None
    """The mixture that the only track, a stem, was separated from: for a `StemEnhancer`."""

    @property
    def made(self) -> dict[str, dict[str, Any] | None]:
        """By output: everything that determines its samples besides `WriteOptions.of_sound`."""
        if self.made_by is None:
            return dict.fromkeys(self.plan.names)
        return {
            output.name: {
                "weights": [["mixture", output.mixture_weight], *output.stem_weights.items()],
                "made_by": {stem: self.made_by[stem] for stem in output.stem_weights},
            }
            for output in self.plan.outputs
        }


def separate_files(
    tracks: Sequence[Track],
    separator: Separator,
    plan: OutputPlan,
    *,
    output_dir: Path | str = "separated",
    options: WriteOptions | None = None,
    made_by: Mapping[str, Any] | None = None,
    strict: bool = False,
    hook: Hook = ignore,
) -> Done:
    """Separate songs into files; a song that fails does not stop the others.

    Args:
        tracks: the songs, see `mssgen.inputs.tracks.find_tracks`.
        separator: from `mssgen.load_separator`.
        plan: outputs of each song, see `mssgen.outputs.plan_outputs`.
        output_dir: folder for the outputs and their manifest.jsonl.
        options: names and formats of the outputs.
        made_by: models and options behind each stem (see `mssgen.jobs.made_by`); None means that
            no existing output counts as complete.
        strict: refuse damaged songs; otherwise they are separated as far as they can be read, with
            a warning.
        hook: called with events; failures of single songs are reported here.

    Returns:
        The numbers of songs done, skipped and failed.

    Raises:
        UsageError: an option is wrong; raised before any work.
    """
    group = Group(tracks, lambda: separator, plan, made_by)
    return separate_groups(
        [group], output_dir=output_dir, options=options, strict=strict, hook=hook
    )


def separate_groups(
    groups: Sequence[Group],
    *,
    output_dir: Path | str = "separated",
    options: WriteOptions | None = None,
    strict: bool = False,
    hook: Hook = ignore,
) -> Done:
    """As `separate_files`, with one separator per group; the counts cover all groups."""
    options = options or WriteOptions()
    manifest = Manifest(output_dir) if options.has_manifest else None
    tally = Tally("separating", hook)
    chosen = _chosen(groups, Path(output_dir), options, manifest)
    todo = [each for each in chosen if not tally.settled(each[1], each[2])]
    jobs = _jobs(todo, options, manifest)
    open_job = partial(_open, options=options, strict=strict)
    # Not standard input: signals do not reach a thread that waits for it.
    with ReadAhead(jobs, open_job, lambda job: job.track.path != STDIN) as ahead:
        for index, job in enumerate(jobs):
            with tally.attempt(job.track, job.record), closing(ahead.take(index)) as opened:
                _separate(job, opened, options, hook)
    return tally.finish()


_Choice = tuple[Group, Track, Decision]


def _chosen(
    groups: Sequence[Group], output_dir: Path, options: WriteOptions, manifest: Manifest | None
) -> list[_Choice]:
    """Decide for every song of every group."""
    songs = [(group, track) for group in groups for track in group.tracks]
    made = {id(group): group.made for group in groups}
    decisions = decide(
        [(track, made[id(group)]) for group, track in songs],
        Places(output_dir, options.template, options.extension),
        existing=options.existing,
        options=options.of_sound,
        manifest=manifest,
    )
    return [
        (group, track, decision) for (group, track), decision in zip(songs, decisions, strict=True)
    ]


@dataclass(frozen=True)
class _Job:
    """One song to separate."""

    track: Track
    group: Group
    separator: Separator
    targets: dict[str, Path]
    """Files to write, by output."""
    kept: tuple[Entry, ...]
    """Manifest entries of its outputs that exist and are kept."""
    record: SongRecord


def _jobs(
    chosen: Sequence[_Choice], options: WriteOptions, manifest: Manifest | None
) -> list[_Job]:
    """Load the separators and make one job per song."""
    separators: dict[int, Separator] = {}
    for group, _, _ in chosen:
        if id(group) not in separators:
            separators[id(group)] = group.load()
    return [
        _Job(
            track,
            group,
            separators[id(group)],
            decision.targets,
            decision.kept,
            SongRecord(manifest, track, options.of_sound),
        )
        for group, track, decision in chosen
    ]


@dataclass(frozen=True)
class _Opened:
    """A song that is open and measured, and the format of its outputs."""

    source: AudioSource
    measured: Measured
    encoding: Encoding
    sample_rate: int
    n_channels: int
    layout: Layout
    tags: Tags
    studio: StudioChunks
    """Converted to `sample_rate`."""
    close: Callable[[], None]
    """Closes the source."""


def _open(job: _Job, cancel: threading.Event, options: WriteOptions, *, strict: bool) -> _Opened:
    """Open and measure a song; raises AudioError and UsageError."""
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                job.track.path,
                strict=strict,
                warn=_log.debug,  # reported when the song starts
                cancel=cancel,
            )
        )
        info = source.info
        encoding = choose_encoding(info, options.container, options.bit_depth)
        n_channels = n_mixed(info.n_channels, downmix=options.downmix)
        sample_rate = options.sample_rate or info.sample_rate
        encoding.check(sample_rate, n_channels)
        song_sha256 = job.record.opened() or sha256_of(source.original)  # pipes are spooled
        measured = measure(source, job.separator, downmix=options.downmix)
        tags = Tags() if job.track.path == STDIN else read_tags(source.original)
        return _Opened(
            source=source,
            measured=measured,
            encoding=encoding,
            sample_rate=sample_rate,
            n_channels=n_channels,
            layout=mixed_layout(info, downmix=options.downmix),
            tags=replace(tags, made_by=made_by(job.separator, song_sha256)),
            studio=read_studio_chunks(source.path, source.file_rate).at(sample_rate),
            close=stack.pop_all().close,
        )


def _separate(job: _Job, opened: _Opened, options: WriteOptions, hook: Hook) -> None:
    """Separate one song and write its outputs."""
    separator = job.separator
    _report_start(job, opened, hook)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_writer(target, opened, options))
            for name, target in job.targets.items()
        }
        peak = _write_blocks(job, opened, writers, options, hook)
        job.record.check_input()
        gain = _gain(job, peak, opened.encoding, options, hook)
        about = {"model": separator.name, "template": options.template}
        about |= {"device": separator.device, "precision": separator.precision}
        job.record.finishing(gain, about)
        made = job.group.made
        for name, writer in writers.items():
            announce = job.record.announcing(job.targets[name], made[name])
            path = writer.finish(
                gain, tags=opened.tags, stem=name, studio=opened.studio, announce=announce
            )
            hook(Written(job.track.label, name, path))


def _report_start(job: _Job, opened: _Opened, hook: Hook) -> None:
    """Report the start of a song and what is already known to be wrong with it."""
    info, measured, separator = opened.source.info, opened.measured, job.separator
    hook(
        Start(
            job.track.label,
            measured.n_samples / info.sample_rate,
            info.sample_rate,
            info.n_channels,
            separator.device,
            separator.precision,
        )
    )
    warnings = [f"{opened.source.name} {warning}" for warning in opened.source.warnings]
    if measured.level.is_silent:
        warnings.append("the mixture is silent, and so are its stems")
    if (lost := what_is_lost(opened.layout, opened.encoding.container)) is not None:
        warnings.append(lost)
    for warning in warnings:
        hook(Warned(job.track.label, warning))


def _writer(target: Path, opened: _Opened, options: WriteOptions) -> StemWriter:
    n_samples, rate = opened.measured.n_samples, opened.source.info.sample_rate
    return StemWriter(
        target,
        sample_rate=opened.sample_rate,
        n_channels=opened.n_channels,
        n_samples=out_samples(n_samples, rate, opened.sample_rate),
        encoding=opened.encoding,
        clip=options.clip,
        layout=opened.layout,
    )


def _write_blocks(
    job: _Job,
    opened: _Opened,
    writers: Mapping[str, StemWriter],
    options: WriteOptions,
    hook: Hook,
) -> float:
    """Separate the song into the writers.

    Returns the peak of all outputs, also of those that are kept, because they share one gain.
    """
    plan, peak = job.group.plan, 0.0
    outputs = stream_outputs(
        opened.source,
        opened.measured,
        job.separator,
        plan,
        sample_rate=opened.sample_rate,
        downmix=options.downmix,
        mixture=job.group.mixture,
        hook=hook,
    )
    for blocks in outputs:
        for name, block in zip(plan.names, blocks, strict=True):
            peak = max(peak, float(np.abs(block).max()))
            if name in writers:
                writers[name].write(block)
    return peak


def _gain(job: _Job, peak: float, encoding: Encoding, options: WriteOptions, hook: Hook) -> float:
    """Gain for all outputs, so that they still sum to the mixture.

    Raises AudioError if the outputs that are kept were written with another gain.
    """
    gain = encoding.gain_for(peak)
    if gain < 1:
        lowered = "all outputs of the song were lowered"
        hook(Warned(job.track.label, over_full_scale(gain, options.clip, lowered=lowered)))
    gain = gain if options.clip == "rescale" else 1.0
    if not all(math.isclose(entry.gain, gain, rel_tol=1e-3) for entry in job.kept):
        raise AudioError(
            f"{job.track.label}: the existing outputs were lowered by another amount than these "
            "need; use `existing='overwrite'` to write all of them again"
        )
    return gain
