"""`mssgen enhance`: stems in, better stems out."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError
from mssgen.events import Warned

if TYPE_CHECKING:
    from mssgen.audio.reading import AudioSource
    from mssgen.enhancers.blend import Blend
    from mssgen.enhancers.chain import StemEnhancer
    from mssgen.enhancers.codec import CodecEnhancer
    from mssgen.events import Hook
    from mssgen.inputs.tracks import Track

_MAX_NAMES = 8


def enhance(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    stem: Annotated[
        str | None,
        typer.Option(
            "--stem", "-s", help="What the inputs are.  [default: the encoder's, or as named]"
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A stem encoder: a name from `mssgen models list`, a path, or hf://OWNER/NAME.  "
            "[default: what ships for the stem]",
            metavar="CHECKPOINT",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="The encoder of a codec as it is, instead: for --refine.", metavar="CHECKPOINT"
        ),
    ] = None,
    refine: given.Refine = None,
    refiner: given.Refiner = None,
    coarse_refiner: given.CoarseRefiner = None,
    steps: given.Steps = None,
    temperature: given.Temperature = None,
    seed: given.RefineSeed = None,
    keep_codebooks: given.KeepCodebooks = None,
    strength: given.Strength = None,
    blend: given.BlendMode = None,
    mix: given.Mix = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            help="The song that the inputs were separated from: encoders hear it, and nothing is "
            "added that is not in it.",
            metavar="FILE",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Draw what was done, as TRACK.explain.png beside the output."
        ),
    ] = False,
    offline: given.Offline = False,
    output: given.Output = "enhanced",
    template: given.Template = "{path}.{ext}",
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    container: given.Format = None,
    raw: given.Raw = False,
    bit_depth: given.BitDepth = None,
    sample_rate: given.SampleRate = None,
    clip: given.Clip = "rescale",
    downmix: given.Downmix = False,
    strict: given.Strict = False,
    device: given.Device = "auto",
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Make separated stems sound better: a trained encoder gives the codes of the clean stem.

    Outputs have the rate, channels, bit depth and length of their input and go to
    enhanced/SONG/STEM.wav: SONG is the name of the folder that holds the stem, left out for files
    of the current folder (stem.wav goes to enhanced/stem.wav). Of a folder of stems (bass.wav,
    drums.wav, ...) each goes through the encoder of its name that ships; with --stem or --encoder
    those of this stem are taken. Exit codes: 0 done, 1 a file failed, 2 wrong call, 130
    interrupted.
    """
    files = given.Files(
        inputs,
        list_file,
        output,
        template,
        overwrite,
        skip_existing,
        container,
        raw,
        bit_depth,
        sample_rate,
        clip,
        downmix,
    )
    with (
        given.session(
            as_json=as_json, quiet=quiet, verbose=verbose, to_stdout=files.to_stdout
        ) as hook,
        ExitStack() as stack,
    ):
        tracks = files.tracks(skip_outputs=False)  # what was separated is what is enhanced
        choices = _choices(tracks, stem, encoder, codec, hook)

        from mssgen.audio.reading import open_source
        from mssgen.devices import choose_device, share_heaps
        from mssgen.enhancers.loading import load_codec_enhancer, load_enhancer
        from mssgen.jobs import made_by
        from mssgen.jobs.batch import Group
        from mssgen.outputs import plan_outputs

        share_heaps()
        given.use_threads(threads)
        write = files.write_options(tracks)
        blended = given.blend_of(blend, mix)
        refining = given.refining_of(
            refine,
            refiner,
            coarse_refiner,
            steps=steps,
            temperature=temperature,
            seed=seed,
            keep_codebooks=keep_codebooks,
            strength=strength,
        )
        choose_device(device)  # a wrong word is found first
        hub: dict[str, Any] = {"offline": offline, "progress": not quiet and sys.stderr.isatty()}
        load: Callable[..., CodecEnhancer] = partial(
            partial(load_enhancer, hears="separated") if codec is None else load_codec_enhancer,
            refining=refining,
            device=device,
            **hub,
        )
        song = None
        if mixture is not None:
            if "-" in (mixture, *(track.path for track in tracks)):
                raise UsageError(
                    "--mixture needs files: it is read beside the inputs, from its start"
                )
            song = stack.enter_context(open_source(mixture, strict=strict))
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
                mixture=mixture,
                **hub,
            )
            of_stem = _of_stem(choice.tracks, of, inputs or [])
            if song is not None:
                _check_single(of_stem, of)
            groups.append(
                Group(
                    of_stem,
                    partial(_loaded, enhance_with, blended, of_stem[0], song, downmix=downmix),
                    plan_outputs((of,)),
                    {of: made},
                    song,
                )
            )
        tracks = [track for group in groups for track in group.tracks]
        files.check_stdout(tracks, groups[0].plan)
        if explain:
            if files.to_stdout or write.container == "raw":
                raise UsageError(
                    "--explain needs an output to look at: name a folder, and no --raw"
                )
            from mssgen.inspection.explain import explaining

            hook = explaining(hook, tracks)
        return files.run(groups, write, hook, strict=strict)


def _check_single(tracks: list["Track"], stem: str) -> None:
    """Raise UsageError for several inputs that would hear one song."""
    if len(tracks) > 1:
        named = ", ".join(track.label for track in tracks[:_MAX_NAMES])
        raise UsageError(
            f"--mixture is of one song, and {len(tracks)} inputs are its {stem} ({named}): name "
            "the stems of one song, one file each"
        )


def _loaded(
    load: Callable[[], "CodecEnhancer"],
    blend: "Blend",
    track: "Track",
    mixture: "AudioSource | None",
    *,
    downmix: bool,
) -> "StemEnhancer":
    """An enhancer for the inputs; UsageError where the mixture cannot be that of this one."""
    from mssgen.audio.reading import open_source
    from mssgen.enhancers.chain import StemEnhancer, check_mixture

    enhancer = StemEnhancer(load(), blend)
    if mixture is not None:
        # Its warnings are told when it is enhanced.
        with open_source(track.path, warn=lambda _: None) as source:
            check_mixture(source, mixture, enhancer.sample_rate, downmix=downmix)
    return enhancer


@dataclass(frozen=True)
class _Choice:
    """Inputs, and what they go through."""

    checkpoint: str
    """An encoder, or a codec."""
    stem: str | None
    """What the inputs are; None: what the encoder is for."""
    tracks: list["Track"]


def _choices(
    tracks: list["Track"], stem: str | None, encoder: str | None, codec: str | None, hook: "Hook"
) -> list[_Choice]:
    """What the words say; without words, each input goes through the encoder of its name."""
    from mssgen.checkpoints.registry import STEMS, shipped_encoders

    if encoder is not None and codec is not None:
        raise UsageError("--encoder has a codec of its own: use it without --codec, or --codec")
    if encoder is not None:
        return [_Choice(encoder, stem, tracks)]
    names, called = shipped_encoders(), {_called(track) for track in tracks}
    if codec is not None:
        if stem is None and len(called) == 1:
            stem = next(iter(called & {*STEMS}), None)
        if stem is None:
            raise UsageError("--codec knows no stem: say what the inputs are with --stem")
        return [_Choice(codec, stem, tracks)]
    if stem is not None and stem not in names:
        raise UsageError(
            f"no encoder ships for the stem {stem}, only for {', '.join(names)}: give one of yours "
            "with --encoder"
        )
    if stem is not None:
        return [_Choice(names[stem], stem, tracks)]
    if not called & names.keys():
        raise UsageError("say what the inputs are with --stem, or which --encoder they shall have")
    # Folders that could not be read fail in the turn of the first stem.
    folders = [track for track in tracks if track.is_folder]
    if left_out := sorted(called - names.keys() - {_called(track) for track in folders}):
        n_left_out = sum(_called(track) in left_out for track in tracks)
        shown = [*left_out[:_MAX_NAMES], *(["..."] if len(left_out) > _MAX_NAMES else [])]
        message = f"{n_left_out} of {len(tracks)} inputs are left out, as no encoder ships for them"
        hook(Warned("", f"{message}: {', '.join(shown)}"))
    chosen = [name for name in names if name in called]
    of_stem = {name: [track for track in tracks if _called(track) == name] for name in chosen}
    of_stem[chosen[0]] += folders
    return [_Choice(names[name], name, of_stem[name]) for name in chosen]


def _called(track: "Track") -> str:
    """The name of its file."""
    return PurePath(track.name).name.lower()


def _of_stem(tracks: list["Track"], stem: str, named: list[str]) -> list["Track"]:
    """What was named outright, and of folders what is not called by the name of another stem."""
    from mssgen.checkpoints.registry import STEMS

    others = {*STEMS, "mixture", "residual"} - {stem}
    kept = [track for track in tracks if track.path in named or _called(track) not in others]
    if not kept:
        raise UsageError(f"no input is a {stem}: name a file, or a folder that holds {stem} files")
    return kept
