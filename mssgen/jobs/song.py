"""One song of a job: opened and measured, separated, and written into files.

song
    -> opened, hashed and measured                    (audio.reading, pipeline.measure)
    -> blocks of the outputs                          (pipeline.stream_outputs)
    -> files, complete or absent, one gain for all    (StemWriter)
    -> lines in OUTPUT/manifest.jsonl                 (SongRecord)
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mssgen.audio.channels import mixed_layout, n_mixed
from mssgen.audio.containers.wav_chunks import StudioChunks, read_studio_chunks
from mssgen.audio.encodings import Encoding, choose_encoding
from mssgen.audio.reading import AudioSource, open_source
from mssgen.audio.resampling import out_samples
from mssgen.audio.speakers import Layout, what_is_lost
from mssgen.audio.tags import Tags, read_tags
from mssgen.audio.writing import StemWriter, over_full_scale
from mssgen.enhancers.chain import check_mixture
from mssgen.errors import AudioError
from mssgen.events import Hook, Start, Warned, Written
from mssgen.files import sha256_of
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.decisions import Decision
from mssgen.jobs.manifest import InputFile
from mssgen.jobs.options import WriteOptions
from mssgen.jobs.provenance import made_by
from mssgen.jobs.song_record import SongRecord
from mssgen.outputs import OutputPlan
from mssgen.pipeline import Measured, measure, stream_outputs
from mssgen.separators.base import Separator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One song to separate, or one stem to enhance."""

    track: Track
    separator: Separator
    plan: OutputPlan
    made: Mapping[str, Mapping[str, Any] | None]
    """By output: all that determines its samples, see `manifest.Output.made`; None if unknown."""
    decision: Decision
    """Which outputs to write."""
    record: SongRecord
    mixture: InputFile | None = None
    """The mixture that the track, a stem, was separated from: for a `StemEnhancer`."""
    pause_s: float = 0.0
    """Seconds to wait before another attempt."""


@dataclass(frozen=True)
class Opened:
    """A song that is open and measured, and the format of its outputs."""

    decision: Decision
    """Which outputs to write, now that no other run writes them."""
    source: AudioSource
    mixture: AudioSource | None
    """See `Job.mixture`."""
    measured: Measured
    encoding: Encoding
    sample_rate: int
    n_channels: int
    layout: Layout
    tags: Tags
    studio: StudioChunks
    """Converted to `sample_rate`."""
    close: Callable[[], None]
    """Closes the source and the mixture, and ends the claim on the outputs."""


def open_song(job: Job, cancel: threading.Event, options: WriteOptions, *, strict: bool) -> Opened:
    """Open and measure a song; raises AudioError, UsageError and Settled."""
    cancel.wait(job.pause_s)
    job.record.begin()
    with ExitStack() as stack:
        # Warnings are reported when the song starts.
        opened = partial(open_source, strict=strict, warn=_log.debug, cancel=cancel)
        source = stack.enter_context(opened(job.track.path))
        mixture = None
        if job.mixture is not None:
            mixture = stack.enter_context(opened(job.mixture.path))
            check_mixture(source, mixture, job.separator.sample_rate, downmix=options.downmix)
        info = source.info
        encoding = choose_encoding(info, options.container, options.bit_depth)
        n_channels = n_mixed(info.n_channels, downmix=options.downmix)
        sample_rate = options.sample_rate or info.sample_rate
        encoding.check(sample_rate, n_channels)
        decision = stack.enter_context(job.record.claimed(job.decision))
        song_sha256 = job.record.opened() or sha256_of(source.original)  # pipes are spooled
        measured = measure(source, job.separator, downmix=options.downmix)
        tags = Tags() if job.track.path == STDIN else read_tags(source.original)
        return Opened(
            decision=decision,
            source=source,
            mixture=mixture,
            measured=measured,
            encoding=encoding,
            sample_rate=sample_rate,
            n_channels=n_channels,
            layout=mixed_layout(info, downmix=options.downmix),
            tags=replace(tags, made_by=made_by(job.separator, song_sha256)),
            studio=read_studio_chunks(source.path, source.file_rate).at(sample_rate),
            close=stack.pop_all().close,
        )


def separate_song(job: Job, opened: Opened, options: WriteOptions, hook: Hook) -> None:
    """Separate one song and write its outputs."""
    separator = job.separator
    _report_start(job, opened, hook)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_writer(target, opened, options))
            for name, target in opened.decision.targets.items()
        }
        peak = _write_blocks(job, opened, writers, options, hook)
        job.record.check_input()
        gain = _gain(job, opened, peak, options, hook)
        about = {"model": separator.name, "template": options.template}
        about |= {"device": separator.device, "precision": separator.precision}
        job.record.finishing(gain, about)
        for name, writer in writers.items():
            announce = job.record.announcing(opened.decision.targets[name], job.made[name])
            path = writer.finish(
                gain, tags=opened.tags, stem=name, studio=opened.studio, announce=announce
            )
            hook(Written(job.track.label, name, path))


def _report_start(job: Job, opened: Opened, hook: Hook) -> None:
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
    sources = (opened.source, *([opened.mixture] if opened.mixture is not None else []))
    warnings = [f"{source.name} {warning}" for source in sources for warning in source.warnings]
    if measured.level.is_silent:
        warnings.append("the mixture is silent, and so are its stems")
    if (lost := what_is_lost(opened.layout, opened.encoding.container)) is not None:
        warnings.append(lost)
    for warning in warnings:
        hook(Warned(job.track.label, warning))


def _writer(target: Path, opened: Opened, options: WriteOptions) -> StemWriter:
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
    job: Job,
    opened: Opened,
    writers: Mapping[str, StemWriter],
    options: WriteOptions,
    hook: Hook,
) -> float:
    """Separate the song into the writers.

    Returns the peak of all outputs, also of those that are kept, because they share one gain.
    """
    plan, peak = job.plan, 0.0
    outputs = stream_outputs(
        opened.source,
        opened.measured,
        job.separator,
        plan,
        sample_rate=opened.sample_rate,
        downmix=options.downmix,
        mixture=opened.mixture,
        hook=hook,
    )
    for blocks in outputs:
        for name, block in zip(plan.names, blocks, strict=True):
            peak = max(peak, float(np.abs(block).max()))
            if name in writers:
                writers[name].write(block)
    return peak


def _gain(job: Job, opened: Opened, peak: float, options: WriteOptions, hook: Hook) -> float:
    """Gain for all outputs, so that they still sum to the mixture.

    Raises AudioError if the outputs that are kept were written with another gain.
    """
    gain = opened.encoding.gain_for(peak)
    if gain < 1:
        lowered = "all outputs of the song were lowered"
        hook(Warned(job.track.label, over_full_scale(gain, options.clip, lowered=lowered)))
    gain = gain if options.clip == "rescale" else 1.0
    if not all(math.isclose(entry.gain, gain, rel_tol=1e-3) for entry in opened.decision.kept):
        raise AudioError(
            f"{job.track.label}: the existing outputs were lowered by another amount than these "
            "need; use `existing='overwrite'` to write all of them again"
        )
    return gain
