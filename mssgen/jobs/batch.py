"""Separation of many songs into files.

    tracks
        -> decisions: which outputs to write, which songs to skip or refuse    (decisions, manifest)
        -> separators, loaded only if there is a song to separate
        -> each song, while the next one is read and measured in a thread      (ReadAhead, song)
        -> counts of done, skipped and failed songs                            (Tally)

A song that fails is reported to the hook and does not stop the others.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mssgen.enhancers.chain import StemEnhancer
from mssgen.events import Done, Hook, Loading, ignore
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.decisions import Decision, Places, Rule, decide
from mssgen.jobs.manifest import InputFile, Manifest
from mssgen.jobs.options import RunOptions, WriteOptions
from mssgen.jobs.read_ahead import ReadAhead
from mssgen.jobs.song import Job, open_song, separate_song
from mssgen.jobs.song_record import ENHANCE, SEPARATE, SongRecord
from mssgen.jobs.tally import Tally
from mssgen.outputs import OutputPlan
from mssgen.separators.base import Separator


@dataclass(frozen=True)
class Group:
    """Songs that share a separator and a plan of outputs."""

    tracks: Sequence[Track]
    load: Callable[[], Separator]
    """Returns the separator; called once, and only if there is a song to separate."""
    plan: OutputPlan
    made_by: Mapping[str, Any] | None = None
    """Models and options behind each stem (see `mssgen.jobs.made_by`); None if unknown."""
    model: str = ""
    """Name of the model, reported when it is loaded; "" if `load` only hands it over."""
    mixtures: Mapping[Track, InputFile] = field(default_factory=dict)
    """For a `StemEnhancer`: the mixture that each track, a stem, was separated from, if known."""

    def made(self, track: Track) -> dict[str, dict[str, Any] | None]:
        """By output: everything that determines its samples besides `WriteOptions.of_sound`."""
        if self.made_by is None:
            return dict.fromkeys(self.plan.names)
        mixture = self.mixtures.get(track)
        beside = {"mixture": mixture.sha256} if mixture is not None else {}
        return {
            output.name: {
                "weights": [["mixture", output.mixture_weight], *output.stem_weights.items()],
                "made_by": {stem: self.made_by[stem] for stem in output.stem_weights},
                **beside,
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
    run: RunOptions | None = None,
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
        run: which part of the songs, and what follows a failure.
        hook: called with events; failures of single songs are reported here.

    Returns:
        The numbers of songs done, skipped and failed.

    Raises:
        UsageError: an option is wrong; raised before any work.
    """
    group = Group(tracks, lambda: separator, plan, made_by)
    return separate_groups(
        [group], output_dir=output_dir, options=options, strict=strict, run=run, hook=hook
    )


def separate_groups(
    groups: Sequence[Group],
    *,
    output_dir: Path | str = "separated",
    options: WriteOptions | None = None,
    strict: bool = False,
    run: RunOptions | None = None,
    manifest: Manifest | None = None,
    stop: Callable[[], bool] = lambda: False,
    hook: Hook = ignore,
) -> Done:
    """As `separate_files`, with one separator per group; the counts cover all groups.

    `manifest` is that of `output_dir`, from a caller who keeps it for several runs; None reads it.
    `stop` is asked before each song whether the run ends there.
    """
    options, run = options or WriteOptions(), run or RunOptions()
    if manifest is None and options.has_manifest:
        manifest = Manifest(output_dir)
    songs = [(group, track) for group in groups for track in group.tracks]
    mine = run.mine([track for _, track in songs], Path(output_dir))
    decisions = decide(
        [(track, group.made(track)) for group, track in songs],
        Places(Path(output_dir), options.template, options.extension),
        Rule(options.existing, options.of_sound, manifest),
        mine=list(mine),
    )
    songs = [songs[index] for index in mine]
    sizes = [(track, n_bytes) for (_, track), n_bytes in zip(songs, mine.values(), strict=True)]
    tally = Tally("separating", hook, sizes, run)
    todo = [
        (group, track, decision)
        for (group, track), decision in zip(songs, decisions, strict=True)
        if not tally.settled(track, decision)
    ]
    jobs = [] if tally.is_over else _jobs(todo, options, manifest, hook)
    opened_by = partial(open_song, options=options, strict=strict)
    # Not standard input: signals do not reach a thread that waits for it.
    with ReadAhead(jobs, opened_by, lambda job: job.track.path != STDIN) as ahead:
        for index, job in enumerate(jobs):  # grows by the songs to try again
            if stop():
                break
            again = partial(_again, jobs, job)
            with (
                tally.attempt(job.track, job.record, again) as told,
                closing(ahead.take(index)) as opened,
            ):
                separate_song(job, opened, options, told)
            if tally.is_over:
                break
    return tally.finish()


def _again(jobs: list[Job], job: Job, pause_s: float) -> None:
    jobs.append(replace(job, record=job.record.renewed(), pause_s=pause_s))


def _jobs(
    chosen: Sequence[tuple[Group, Track, Decision]],
    options: WriteOptions,
    manifest: Manifest | None,
    hook: Hook,
) -> list[Job]:
    """Load the separators and make one job per song."""
    separators: dict[int, Separator] = {}
    jobs = []
    for group, track, decision in chosen:
        if id(group) not in separators:
            if group.model:
                hook(Loading(group.model))
            separators[id(group)] = group.load()
        separator, mixture = separators[id(group)], group.mixtures.get(track)
        name = ENHANCE if isinstance(separator, StemEnhancer) else SEPARATE
        record = SongRecord(manifest, name, track, options.of_sound, mixture)
        made = group.made(track)
        jobs.append(Job(track, separator, group.plan, made, decision, record, mixture))
    return jobs
