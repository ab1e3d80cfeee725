"""`mssgen enhance`: stems in, better stems out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli import options as given
from mssgen.cli.files import Files
from mssgen.errors import UsageError
from mssgen.events import Warned

if TYPE_CHECKING:
    from mssgen.enhancers.blend import Blend
    from mssgen.enhancers.chain import StemEnhancer
    from mssgen.enhancers.codec import CodecEnhancer
    from mssgen.events import Hook
    from mssgen.inputs.tracks import Track

_MAX_NAMES = 8


def enhance(
    files: Files = Files(output="enhanced", template="{path}.{ext}"),
    stem: Annotated[
        str | None,
        typer.Option(
            "--stem",
            "-s",
            help="Which stem the inputs are.",
            metavar="STEM",
            show_default="the encoder's, or the file's name",
            rich_help_panel="Stems",
        ),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            help="The mixture that the inputs were separated from. Some encoders use it, and "
            "nothing is added that it does not contain.",
            metavar="FILE",
            show_default="the one that `mssgen separate` noted beside the stems",
            rich_help_panel="Stems",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A stem encoder: a name from `mssgen models list`, a path, or hf://OWNER/NAME.",
            metavar="CHECKPOINT",
            show_default="the built-in one for the stem",
            rich_help_panel=given.Blending.PANEL,
        ),
    ] = None,
    blending: given.Blending = given.Blending(),
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Draw a picture of the changes, as TRACK.explain.png beside the output.",
            rich_help_panel=given.Blending.PANEL,
        ),
    ] = False,
    refinement: given.Refinement = given.Refinement(),
    codec: Annotated[
        str | None,
        typer.Option(
            help="Use a codec's own encoder instead of --encoder, for --refine.",
            metavar="CODEC",
            rich_help_panel=given.Refinement.PANEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Random seed for --refine.",
            metavar="N",
            show_default="0",
            rich_help_panel=given.Refinement.PANEL,
        ),
    ] = None,
    machine: given.Machine = given.Machine(),
    running: given.Run = given.Run(),
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Improve separated stems with a trained neural codec: remove bleed, restore what was lost.

    Outputs have the sample rate, channels, bit depth and length of their input, and are written to
    enhanced/FOLDER/STEM.wav, where FOLDER is the name of the folder that holds the input; files of
    the current folder have none. In a folder of stems (bass.wav, drums.wav, ...), each file is
    enhanced by the built-in encoder for the stem of its name; with --stem or --encoder, only the
    files of that stem are. The output folder of `mssgen separate` is enhanced song by song, each
    beside its mixture. Exit codes: 0 done, 1 a file failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session(to_stdout=files.to_stdout) as hook:
        tracks = files.tracks(skip_outputs=False)  # what was separated is what is enhanced
        choices = _choices(tracks, stem, encoder, codec, hook)

        with messages.starting():
            from mssgen.devices import choose_device, share_heaps
            from mssgen.enhancers.loading import load_codec_enhancer, load_enhancer
            from mssgen.jobs import made_by
            from mssgen.jobs.batch import Group
            from mssgen.jobs.enhancing import check_single
            from mssgen.jobs.mixtures import MixtureFinder
            from mssgen.outputs import plan_outputs

        share_heaps()
        machine.use_threads()
        write, run = files.write_options(tracks), running.chosen()
        refining = refinement.chosen(seed)
        blended = blending.chosen(refining, filter(None, (encoder, codec)))
        choose_device(machine.device)  # a wrong name is found before a model is loaded
        hub: dict[str, Any] = {"offline": offline, "progress": messages.has_progress}
        load: Callable[..., CodecEnhancer] = partial(
            partial(load_enhancer, hears="separated") if codec is None else load_codec_enhancer,
            refining=refining,
            device=machine.device,
            **hub,
        )
        if mixture is not None and "-" in (mixture, *(track.path for track in tracks)):
            raise UsageError(
                "--mixture needs files: it is read alongside the inputs, from the start"
            )
        mixtures = MixtureFinder(mixture)
        groups = []
        for choice in choices:
            of = choice.stem if codec else made_by.stem_of_encoder(choice.checkpoint, **hub)
            enhance_with = partial(load, choice.checkpoint, stem=choice.stem)
            if of is None:  # no encoder, as loading says
                enhance_with()
                continue
            made = made_by.of_enhancer(
                choice.checkpoint,
                of,
                stage="codec" if codec else "enhance",
                blend=blended,
                refining=refining,
                **hub,
            )
            of_stem = _of_stem(choice.tracks, of, files.inputs or [])
            if mixture is not None:
                check_single(of_stem, of)
            found = {track: mixtures.find(track) for track in of_stem}
            groups.append(
                Group(
                    of_stem,
                    partial(_loaded, enhance_with, blended),
                    plan_outputs((of,)),
                    {of: made},
                    choice.checkpoint,
                    {track: file for track, file in found.items() if file is not None},
                )
            )
        for problem in mixtures.problems:
            hook(Warned("", problem))
        tracks = [track for group in groups for track in group.tracks]
        files.check_stdout(tracks, groups[0].plan)
        told = running.metered(hook)
        if explain:
            if files.to_stdout or write.container == "raw":
                raise UsageError("--explain needs files to read: name a folder, without --raw")
            from mssgen.inspection.explain import explaining

            told = explaining(told, tracks)
        return files.run(groups, write, run, told)


def _loaded(load: Callable[[], "CodecEnhancer"], blend: "Blend") -> "StemEnhancer":
    from mssgen.enhancers.chain import StemEnhancer

    return StemEnhancer(load(), blend)


@dataclass(frozen=True)
class _Choice:
    """Inputs, and the network that enhances them."""

    checkpoint: str
    """A stem encoder, or a codec."""
    stem: str | None
    """Stem of the inputs; None: the stem of the encoder."""
    tracks: list["Track"]


def _choices(
    tracks: list["Track"], stem: str | None, encoder: str | None, codec: str | None, hook: "Hook"
) -> list[_Choice]:
    """The choices of the options; without any, each input gets the encoder for its file name."""
    from mssgen.checkpoints.registry import STEMS, shipped_encoders

    if encoder is not None and codec is not None:
        raise UsageError(
            "--encoder brings its own codec: use it without --codec, or use --codec alone"
        )
    if encoder is not None:
        return [_Choice(encoder, stem, tracks)]
    names, called = shipped_encoders(), {_called(track) for track in tracks}
    if codec is not None:
        if stem is None and len(called) == 1:
            stem = next(iter(called & {*STEMS}), None)
        if stem is None:
            raise UsageError("a codec has no stem: say which stem the inputs are with --stem")
        return [_Choice(codec, stem, tracks)]
    if stem is not None and stem not in names:
        raise UsageError(
            f"there is no built-in encoder for the stem {stem}, only for {', '.join(names)}: give "
            "your own with --encoder"
        )
    if stem is not None:
        return [_Choice(names[stem], stem, tracks)]
    if not called & names.keys():
        raise UsageError("say which stem the inputs are with --stem, or choose an --encoder")
    # Folders that could not be read fail with the first stem.
    folders = [track for track in tracks if track.is_folder]
    if left_out := sorted(called - names.keys() - {_called(track) for track in folders}):
        n_left_out = sum(_called(track) in left_out for track in tracks)
        shown = [*left_out[:_MAX_NAMES], *(["..."] if len(left_out) > _MAX_NAMES else [])]
        message = (
            f"{n_left_out} of {len(tracks)} inputs are left out, as no encoder is built in for them"
        )
        hook(Warned("", f"{message}: {', '.join(shown)}"))
    chosen = [name for name in names if name in called]
    of_stem = {name: [track for track in tracks if _called(track) == name] for name in chosen}
    of_stem[chosen[0]] += folders
    return [_Choice(names[name], name, of_stem[name]) for name in chosen]


def _called(track: "Track") -> str:
    """The name of its file, in lower case without the extension."""
    return PurePath(track.name).name.lower()


def _of_stem(tracks: list["Track"], stem: str, named: list[str]) -> list["Track"]:
    """Inputs given by name, and those found in folders unless named after another stem."""
    from mssgen.checkpoints.registry import STEMS

    others = {*STEMS, "mixture", "residual"} - {stem}
    kept = [track for track in tracks if track.path in named or _called(track) not in others]
    if not kept:
        raise UsageError(
            f"no input is a {stem} stem: name a file, or a folder that holds {stem} files"
        )
    return kept
