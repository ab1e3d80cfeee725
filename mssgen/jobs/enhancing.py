"""Enhancement of separated stems from files into files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mssgen.enhancers.chain import StemEnhancer
from mssgen.errors import UsageError
from mssgen.events import Done, Hook, Warned, ignore
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import Group, separate_groups
from mssgen.jobs.mixtures import MixtureFinder
from mssgen.jobs.options import RunOptions, WriteOptions
from mssgen.outputs import plan_outputs

_MAX_NAMES = 8


def enhance_files(
    tracks: Sequence[Track],
    enhancer: StemEnhancer,
    *,
    mixture: Path | str | None = None,
    output_dir: Path | str = "enhanced",
    options: WriteOptions | None = None,
    made_by: Mapping[str, Any] | None = None,
    strict: bool = False,
    run: RunOptions | None = None,
    hook: Hook = ignore,
) -> Done:
    """Enhance stems of one kind into files; a file that fails does not stop the others.

    Args:
        tracks: the separated stems, see `mssgen.inputs.tracks.find_tracks`.
        enhancer: from `mssgen.load_enhancer`.
        mixture: file that the only track was separated from; None looks for the mixture of each
            track in the manifest that `separate` left.
        output_dir, options, strict, run, hook: as in `mssgen.separate_files`; without options, a
            file has the name and folder of its input.
        made_by: model and options behind the stem (see `mssgen.jobs.made_by`); None means that no
            existing output counts as complete.

    Returns:
        The numbers of files done, skipped and failed.

    Raises:
        UsageError: an option is wrong, or a mixture is given for several tracks; raised before any
            work. AudioError: the mixture is not a file.
    """
    options = options or WriteOptions(template="{path}.{ext}")
    if mixture is not None:
        check_single(tracks, enhancer.stem)
    mixtures = MixtureFinder(None if mixture is None else os.fspath(mixture))
    found = {track: song for track in tracks if (song := mixtures.find(track)) is not None}
    for problem in mixtures.problems:
        hook(Warned("", problem))
    made = None if made_by is None else {enhancer.stem: made_by}
    group = Group(tracks, lambda: enhancer, plan_outputs(enhancer.sources), made, mixtures=found)
    return separate_groups(
        [group], output_dir=output_dir, options=options, strict=strict, run=run, hook=hook
    )


def check_single(tracks: Sequence[Track], stem: str) -> None:
    """Raise UsageError for several inputs of one stem: a mixture belongs to one song."""
    if len(tracks) > 1:
        named = ", ".join(track.label for track in tracks[:_MAX_NAMES])
        raise UsageError(
            f"`mixture` belongs to one song, but {len(tracks)} inputs are {stem} stems ({named}): "
            "give the stems of one song, one file per stem"
        )
