"""`mssgen enhance`: stems in, better stems out."""

import sys
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.tracks import Track


def enhance(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    stem: Annotated[
        str | None,
        typer.Option(
            "--stem", "-s", help="What the inputs are.  [default: the encoder's, or their names]"
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A stem encoder: a name from `mssgen models list`, a path, or hf://OWNER/NAME.  "
            "[default: the one of the stem that ships]",
            metavar="CHECKPOINT",
        ),
    ] = None,
    blend: given.BlendMode = None,
    mix: given.Mix = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            help="The song that the input was separated from: nothing is added that is not in it.",
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
    template: given.Template = "{track}.{ext}",
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    container: given.Format = None,
    raw: given.Raw = False,
    bit_depth: given.BitDepth = None,
    sample_rate: given.SampleRate = None,
    clip: given.Clip = "rescale",
    downmix: given.Downmix = False,
    device: given.Device = "auto",
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Make separated stems sound better: a trained encoder gives the codes of the clean stem.

    Outputs have the rate, channels, bit depth and length of their input and go to
    enhanced/TRACK.wav. Of a folder of stems (bass.wav, drums.wav, ...) those of the encoder's stem
    are taken. Exit codes: 0 done, 1 a file failed, 2 wrong call, 130 interrupted.
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
        tracks = files.tracks()
        encoder = encoder or _shipped(stem, tracks)

        from mssgen.audio import open_source
        from mssgen.devices import share_heaps
        from mssgen.enhancers.chain import StemEnhancer
        from mssgen.outputs import plan_outputs
        from mssgen.pipeline import load_enhancer, mixture_of

        share_heaps()
        given.use_threads(threads)
        write = files.write_options(tracks)
        blended = given.blend_of(blend, mix)
        encoded = load_enhancer(
            encoder,
            hears="separated",
            stem=stem,
            device=device,
            offline=offline,
            progress=not quiet and sys.stderr.isatty(),
        )
        enhancer = StemEnhancer(encoded, blended)
        plan = plan_outputs(enhancer.sources)
        tracks = _of_stem(tracks, enhancer.stem, inputs or [])
        files.check_stdout(tracks, plan)
        if mixture is not None:
            if len(tracks) != 1 or "-" in (tracks[0].path, mixture):
                raise UsageError("--mixture is of one input: name one file, and the song's")
            with open_source(tracks[0].path) as source:
                song = stack.enter_context(open_source(mixture))
                enhancer.mixture = mixture_of(source, song, enhancer.sample_rate, downmix=downmix)
        if explain:
            if files.to_stdout or write.container == "raw":
                raise UsageError(
                    "--explain needs an output to look at: name a folder, and no --raw"
                )
            from mssgen.evaluation.explain import explaining

            hook = explaining(hook, tracks)
        return files.run(tracks, enhancer, plan, write, hook)


def _shipped(stem: str | None, tracks: list["Track"]) -> str:
    """The name of the encoder for a stem, by default for the one that all inputs are called by."""
    from mssgen.registry import shipped_encoders

    names = shipped_encoders()
    found = {PurePath(track.name).name.lower() for track in tracks}
    if stem is None and len(found) == 1:
        stem = next(iter(found & names.keys()), None)
    if stem is None:
        raise UsageError("say what the inputs are with --stem, or which --encoder they shall have")
    if stem not in names:
        raise UsageError(
            f"no encoder ships for the stem {stem}, only for {', '.join(names)}: give one of yours "
            "with --encoder"
        )
    return names[stem]


def _of_stem(tracks: list["Track"], stem: str, named: list[str]) -> list["Track"]:
    """What was named outright, and of folders what is not called by the name of another stem."""
    from mssgen.registry import STEMS

    others = {*STEMS, "mixture", "residual"} - {stem}
    kept = [
        track
        for track in tracks
        if track.path in named or PurePath(track.name).name.lower() not in others
    ]
    if not kept:
        raise UsageError(f"no input is a {stem}: name a file, or a folder that holds {stem} files")
    return kept
