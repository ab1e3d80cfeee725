"""Songs to files: names, order, reading ahead, and a count of what failed."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mssgen.audio.channels import mixed_layout, n_mixed
from mssgen.audio.containers.wav_chunks import StudioChunks, read_studio_chunks
from mssgen.audio.encodings import AudioInfo, Encoding, choose_encoding
from mssgen.audio.reading import MAX_RATE, MIN_RATE, AudioSource, Source, open_source
from mssgen.audio.resampling import out_samples
from mssgen.audio.speakers import what_is_lost
from mssgen.audio.tags import Tags, read_tags
from mssgen.audio.writing import CLIP_MODES, CUT_OFF, StemWriter
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Skipped, Start, Warned, Written, ignore
from mssgen.inputs.tracks import STDIN, Track
from mssgen.jobs.decisions import EXISTING, Decision, Places, decide
from mssgen.jobs.manifest import Entry, Manifest
from mssgen.jobs.provenance import made_by
from mssgen.jobs.song_record import SongRecord
from mssgen.memory import told
from mssgen.outputs import OutputPlan
from mssgen.pipeline import Measured, measure, stream_outputs
from mssgen.separators.base import Separator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteOptions:
    """How outputs are written; None keeps what the input has."""

    template: str = "{track}/{stem}.{ext}"
    container: str | None = None
    """"wav" (also for None), "flac", "mp3", ...; see `mssgen.audio.encodings.CONTAINERS`."""
    bit_depth: str | None = None
    """"16", "24" or "32f"."""
    sample_rate: int | None = None
    clip: str = "rescale"
    """What to do with samples over full scale where the format cannot hold them: "rescale" lowers
    all outputs of the song alike, "clamp" limits them, "none" leaves them to the format."""
    downmix: bool = False
    """Mix more than two channels to stereo; otherwise each pair of channels is separated."""
    existing: str = "refuse"
    """What to do with outputs that are there; see `mssgen.jobs.decisions.EXISTING`."""
    has_manifest: bool = True
    """Keep OUTPUT/manifest.jsonl, see `mssgen.jobs.manifest`; "resume" needs it."""

    def __post_init__(self) -> None:
        """Raise UsageError for what no input could be written as."""
        if self.clip not in CLIP_MODES:
            raise UsageError(f"--clip {self.clip} is unknown; use one of {', '.join(CLIP_MODES)}")
        if self.existing not in EXISTING:
            raise UsageError(f"existing={self.existing!r} is none of {', '.join(EXISTING)}")
        if self.sample_rate is not None and not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise UsageError(
                f"--sample-rate {self.sample_rate} is out of range; use {MIN_RATE} to {MAX_RATE}"
            )
        # Every container holds this rate, and one channel.
        rate = self.sample_rate or 48_000
        anything = AudioInfo(rate, 1, "", "")
        choose_encoding(anything, self.container, self.bit_depth).check(rate, 1)

    @property
    def extension(self) -> str:
        return self.container or "wav"

    @property
    def of_sound(self) -> dict[str, Any]:
        """What decides how all outputs sound."""
        names = ("bit_depth", "sample_rate", "clip", "downmix")
        return {"format": self.extension, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Group:
    """Songs that go through one separator, and what is written of them."""

    tracks: Sequence[Track]
    load: Callable[[], Separator]
    """Gives the separator; called once, and only if there is a song to separate."""
    plan: OutputPlan
    made_by: Mapping[str, Any] | None = None
    """What makes each stem, for the manifest (see `mssgen.jobs.made_by`); None if unknown."""
    mixture: Source | None = None
    """The mixture that the only track, a stem, was separated from: for a `StemEnhancer`."""

    @property
    def made(self) -> dict[str, dict[str, Any] | None]:
        """By output: what decides how it sounds, as far as that is not `WriteOptions.of_sound`."""
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

    While one song is separated, the next one is read and measured. Every output appears under its
    name only when it is complete, and OUTPUT/manifest.jsonl says what it was made from and how.
    `made_by` is what makes each stem (see `mssgen.jobs.made_by`); without it no song is ever taken
    for complete. Damaged songs are separated as far as they can be read, with a warning; `strict`
    refuses them.

    Raises:
        UsageError: an option is wrong (found before any work). What goes wrong with single songs is
            told to `hook` and counted.
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
    """As `separate_files`, with a separator for each group of songs; all are counted together."""
    started = time.monotonic()
    options = options or WriteOptions()
    manifest = Manifest(output_dir) if options.has_manifest else None
    chosen = _chosen(groups, Path(output_dir), options, manifest)
    n_failed = n_skipped = 0
    for _, track, decision in chosen:
        if decision.refusal:
            n_failed += 1
            hook(Failed(track.label, decision.refusal))
        elif not decision.targets:
            n_skipped += 1
            hook(Skipped(track.label))
    todo = _jobs([each for each in chosen if each[2].targets], options, manifest)
    n_refused = n_failed
    reading = _Reading(strict)
    ahead: list[Future[_Opened]] = []  # the next song, at most
    taken: list[Future[_Opened]] = []  # the one that is waited for
    with ThreadPoolExecutor(1, "reader") as reader:

        def read_ahead(index: int) -> None:
            # Not standard input: signals do not reach a thread that waits for it.
            if index < len(todo) and todo[index].track.path != STDIN:
                ahead.append(reader.submit(_open, todo[index], options, reading))

        try:
            for index, job in enumerate(todo):
                try:
                    try:
                        taken[:] = ahead
                        ahead.clear()
                        opened = taken[0].result() if taken else _open(job, options, reading)
                    finally:
                        read_ahead(index + 1)
                    with opened.stack:
                        _separate_job(job, opened, options, hook)
                except BrokenPipeError:  # nobody listens any more
                    raise
                except Exception as error:
                    n_failed += 1
                    _log.debug("%s failed", job.track.label, exc_info=True)
                    error = told(error, "separating")
                    is_ours = isinstance(error, MssgenError)
                    message = f"{'' if is_ours else f'unexpected {type(error).__name__}: '}{error}"
                    job.record.failed(message)
                    hook(Failed(job.track.label, message))
        finally:
            reading.cancel.set()  # what is read ahead is not needed any more
            for future in (*taken, *ahead):
                if not future.cancel() and future.exception() is None:
                    future.result().stack.close()
    n_done = len(todo) - (n_failed - n_refused)
    done = Done(n_done, n_skipped, n_failed, time.monotonic() - started)
    hook(done)
    return done


_Choice = tuple[Group, Track, Decision]


def _chosen(
    groups: Sequence[Group], output_dir: Path, options: WriteOptions, manifest: Manifest | None
) -> list[_Choice]:
    """What is to become of every song."""
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
class _Reading:
    """How songs are read."""

    strict: bool
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set when the reading ahead is to end."""


@dataclass(frozen=True)
class _Job:
    """A song and the files to write, by output; what is kept is not among them."""

    track: Track
    group: Group
    separator: Separator
    targets: dict[str, Path]
    kept: tuple[Entry, ...]
    record: SongRecord


def _jobs(
    chosen: Sequence[_Choice], options: WriteOptions, manifest: Manifest | None
) -> list[_Job]:
    """The songs to separate, their separators loaded."""
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
    """A song that is open and measured, and how its outputs are written."""

    source: AudioSource
    measured: Measured
    encoding: Encoding
    sample_rate: int
    n_channels: int
    tags: Tags
    studio: StudioChunks
    """At `sample_rate`."""
    stack: ExitStack


def _open(job: _Job, options: WriteOptions, reading: _Reading) -> _Opened:
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                job.track.path,
                strict=reading.strict,
                warn=_log.debug,  # told when the song starts
                cancel=reading.cancel,
            )
        )
        encoding = choose_encoding(source.info, options.container, options.bit_depth)
        n_channels = n_mixed(source.info.n_channels, downmix=options.downmix)
        sample_rate = options.sample_rate or source.info.sample_rate
        encoding.check(sample_rate, n_channels)
        job.record.opened()
        measured = measure(source, job.separator, downmix=options.downmix)
        song = Path(job.track.path)
        song = song if song.is_file() else source.path  # what was piped is spooled
        tags = Tags() if job.track.path == STDIN else read_tags(source.original)
        tags = replace(tags, made_by=made_by(job.separator, song))
        studio = read_studio_chunks(source.path, source.info.sample_rate).at(sample_rate)
        return _Opened(
            source, measured, encoding, sample_rate, n_channels, tags, studio, stack.pop_all()
        )


def _separate_job(job: _Job, opened: _Opened, options: WriteOptions, hook: Hook) -> None:
    separator, plan = job.separator, job.group.plan
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
    for warning in opened.source.warnings:
        hook(Warned(label, f"{opened.source.name} {warning}"))
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
            mixture=job.group.mixture,
            hook=hook,
        )
        peak = 0.0  # of all outputs, also of those that are kept: they share one gain
        for blocks in outputs:
            for name, block in zip(plan.names, blocks, strict=True):
                peak = max(peak, float(np.abs(block).max()))
                if name in writers:
                    writers[name].write(block)
        job.record.check_input()
        gain = _gain(job, peak, encoding, options, hook)
        about = {"model": separator.name, "template": options.template}
        about |= {"device": separator.device, "precision": separator.precision}
        job.record.finishing(gain, about)
        made = job.group.made
        for name, writer in writers.items():
            announce = job.record.announcing(job.targets[name], made[name])
            path = writer.finish(
                gain, tags=opened.tags, stem=name, studio=opened.studio, announce=announce
            )
            hook(Written(label, name, path))
        job.record.done()


def _gain(job: _Job, peak: float, encoding: Encoding, options: WriteOptions, hook: Hook) -> float:
    """By which all outputs are multiplied; AudioError where those that are kept have another."""
    # One gain for all: the stems still sum to the mixture, only softer.
    gain = encoding.gain_for(peak)
    is_rescaled = options.clip == "rescale"
    if gain < 1:
        done = "all outputs of the song were lowered by that" if is_rescaled else CUT_OFF
        hook(
            Warned(
                job.track.label,
                f"the loudest output peaks {-20 * np.log10(gain):.1f} dB over full scale; "
                f"{done} (--bit-depth 32f keeps it)",
            )
        )
    gain = gain if is_rescaled else 1.0
    if not all(math.isclose(entry.gain, gain, rel_tol=1e-3) for entry in job.kept):
        raise AudioError(
            f"{job.track.label}: the outputs that exist were lowered by another amount than these "
            "must be; use --overwrite to make all of them alike"
        )
    return gain
