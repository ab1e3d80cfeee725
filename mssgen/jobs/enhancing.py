"""Enhancement of separated stems from files into files."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mssgen.audio.reading import AudioSource, open_source
from mssgen.enhancers.chain import StemEnhancer, check_mixture
from mssgen.errors import UsageError
from mssgen.events import Done, Hook, ignore
from mssgen.inputs.tracks import Track
from mssgen.jobs.batch import Group, WriteOptions, separate_groups
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
    hook: Hook = ignore,
) -> Done:
    """Enhance stems of one kind into files; a file that fails does not stop the others.

    Args:
        tracks: the separated stems, see `mssgen.inputs.tracks.find_tracks`.
        enhancer: from `mssgen.load_enhancer`.
        mixture: file that the only track was separated from.
        output_dir, options, strict, hook: as in `mssgen.separate_files`; without options, a file
            has the name and folder of its input.
        made_by: model and options behind the stem (see `mssgen.jobs.made_by`); None means that no
            existing output counts as complete.

    Returns:
        The numbers of files done, skipped and failed.

    Raises:
        UsageError: an option is wrong, or the mixture cannot belong to the tracks; raised before
            any work. AudioError: the mixture cannot be read.
    """
    options = options or WriteOptions(template="{path}.{ext}")
    made = None if made_by is None else {enhancer.stem: made_by}
    with ExitStack() as stack:
        song = None
        if mixture is not None:
            check_single(tracks, enhancer.stem)
            song = stack.enter_context(open_source(mixture, strict=strict))
            check_song(tracks[0], song, enhancer, downmix=options.downmix)
        group = Group(tracks, lambda: enhancer, plan_outputs(enhancer.sources), made, song)
        return separate_groups(
            [group], output_dir=output_dir, options=options, strict=strict, hook=hook
        )


def check_single(tracks: Sequence[Track], stem: str) -> None:
    """Raise UsageError for several inputs of one stem: a mixture belongs to one song."""
    if len(tracks) > 1:
        named = ", ".join(track.label for track in tracks[:_MAX_NAMES])
        raise UsageError(
            f"`mixture` belongs to one song, but {len(tracks)} inputs are {stem} stems ({named}): "
            "give the stems of one song, one file per stem"
        )


def check_song(
    track: Track, mixture: AudioSource, enhancer: StemEnhancer, *, downmix: bool
) -> None:
    """Raise UsageError if the mixture cannot belong to the track."""
    # Its warnings are reported when it is enhanced.
    with open_source(track.path, warn=lambda _: None) as source:
        check_mixture(source, mixture, enhancer.sample_rate, downmix=downmix)
