"""`mssgen separate`: from words on the command line to one call of `separate_groups`."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli import options as given
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.separators.base import Separator


def separate(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    stem: Annotated[
        list[str] | None,
        typer.Option("--stem", "-s", help="Write this stem; repeatable.  [default: all]"),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(
            help="Write STEM and no_STEM, the rest (the mixture minus STEM).", metavar="STEM"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the mixture without STEM, to play along; repeatable.", metavar="STEM"
        ),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Write what the stems do not explain, too.")
    ] = False,
    mix_consistent: Annotated[
        bool,
        typer.Option("--mix-consistent", help="Share the residual out: stems sum to the mixture."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A name from `mssgen models list`, a path, or hf://OWNER/NAME.  "
            "[default: htdemucs]",
        ),
    ] = None,
    enhance: Annotated[
        bool,
        typer.Option(
            "--enhance", help="Send the stems through encoders after: --encoder, or what ships."
        ),
    ] = False,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="A trained stem encoder: separates by itself if trained on mixtures; with "
            "--enhance, enhances its stem; repeatable then.",
            metavar="CHECKPOINT",
        ),
    ] = None,
    blend: given.BlendMode = None,
    mix: given.Mix = None,
    refine: given.Refine = None,
    refiner: given.Refiner = None,
    coarse_refiner: given.CoarseRefiner = None,
    steps: given.Steps = None,
    temperature: given.Temperature = None,
    keep_codebooks: given.KeepCodebooks = None,
    strength: given.Strength = None,
    offline: given.Offline = False,
    output: given.Output = "separated",
    template: given.Template = "{track}/{stem}.{ext}",
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
    precision: given.Precision = "auto",
    threads: given.Threads = None,
    batch_size: Annotated[
        str, typer.Option(help="Segments at once, or auto; halved when memory runs out.")
    ] = "auto",
    overlap: Annotated[
        float, typer.Option(help="Share of a segment that the next one repeats (0 to 0.99).")
    ] = 0.25,
    shifts: Annotated[
        int, typer.Option(help="Average over N random time shifts: better, N times slower.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the shifts, and of what refiners draw.")] = 0,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Separate songs into stems: drums, bass, other and vocals.

    Outputs have the rate, channels, bit depth and length of their input and go to
    separated/TRACK/STEM.wav. Exit codes: 0 done, 1 a file failed, 2 wrong call, 130 interrupted.
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
    to_stdout = files.to_stdout
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose, to_stdout=to_stdout) as hook:
        tracks = files.tracks()
        n_segments = _batch_size(batch_size)

        from mssgen.checkpoints.registry import REGISTRY, lookup
        from mssgen.checkpoints.resolving import resolve
        from mssgen.devices import choose_device, choose_precision, share_heaps
        from mssgen.enhancers.chain import EnhancedSeparator
        from mssgen.enhancers.loading import load_enhancer
        from mssgen.jobs import made_by
        from mssgen.jobs.batch import Group
        from mssgen.outputs import plan_outputs
        from mssgen.pipeline import load_separator
        from mssgen.separators.demucs import SeparationOptions

        share_heaps()
        write = files.write_options(tracks)
        cut = SeparationOptions(overlap, shifts, seed, n_segments)
        given.use_threads(threads)

        plan_for = partial(
            plan_outputs,
            stems=stem or (),
            two_stems=two_stems,
            without=without or (),
            residual=residual,
            mix_consistent=mix_consistent,
        )
        if not enhance and (blend is not None or mix is not None):
            raise UsageError("--blend and --mix need --enhance: they blend a stem with itself")
        blended = given.blend_of(blend, mix)
        if refine is not None and not enhance and not encoder:
            raise UsageError("--refine needs --encoder or --enhance: it makes their codes anew")
        refining = given.refining_of(
            refine,
            refiner,
            coarse_refiner,
            steps=steps,
            temperature=temperature,
            seed=None if refine is None else seed,
            keep_codebooks=keep_codebooks,
            strength=strength,
        )
        name = model or "htdemucs"
        hub: dict[str, Any] = {"offline": offline, "progress": not quiet and sys.stderr.isatty()}
        choose_precision(precision, choose_device(device))  # a wrong word is found first
        made: dict[str, Any] | None = None
        load: Callable[..., Separator]
        # What is written is known, and what exists is looked at, before a model is loaded, as far
        # as its files say which stems it has.
        if encoder and not enhance:
            if model is not None:
                raise UsageError(
                    "--model and --encoder both name what separates; use one, or --enhance to "
                    "send the model's stems through the encoder"
                )
            if len(encoder) > 1:
                raise UsageError("several --encoder need --enhance: one separates one stem")
            load = partial(load_enhancer, encoder[0], hears="mixture", refining=refining)
            of = made_by.stem_of_encoder(encoder[0], **hub)
            plan = plan_for([of]) if of else None
            if of:
                made = {of: made_by.of_enhancer(encoder[0], of, refining=refining, **hub)}
        else:
            # A bag is thinned out to what the stems need.
            plan = plan_for(lookup(name, "separate").stems) if name in REGISTRY else None
            if plan and enhance and not encoder:
                encoder = _shipped(plan.stems)  # a stem without an encoder costs no download
            found = resolve(
                name, wanted_stems=plan.stems if plan else None, stage="separate", **hub
            )
            if plan is None and (known := made_by.stems_of_separator(found)):
                plan = plan_for(known)
            if enhance and not encoder:
                if plan is None:  # only the loaded model knows its stems
                    plain = load_separator(name, device=device, precision=precision, **hub)
                    plan = plan_for(plain.sources)
                encoder = _shipped(plan.stems)
            if plan is not None:
                made = made_by.of_separator(found, plan.stems, cut, precision)
                for each in encoder or ():
                    of = made_by.stem_of_encoder(each, **hub)
                    if of in made:
                        made[of] |= made_by.of_enhancer(
                            each, of, blend=blended, refining=refining, **hub
                        )
            load = partial(
                load_separator,
                name,
                encoders=encoder or (),
                refining=refining,
                blend=blended,
                stems=plan.stems if plan else None,
                precision=precision,
                options=cut,
            )
        load = partial(load, device=device, **hub)
        if plan is None:
            separator = load()
            plan = plan_for(separator.sources)
            load = partial(_same, separator)
        files.check_stdout(tracks, plan)

        def checked() -> "Separator":
            separator = load()
            if isinstance(separator, EnhancedSeparator):
                separator.check(plan.stems)
            return separator

        return files.run([Group(tracks, checked, plan, made)], write, hook, strict=strict)


def _same(separator: "Separator") -> "Separator":
    return separator


def _shipped(stems: Sequence[str]) -> list[str]:
    """The names of the encoders for those of the stems that have one."""
    from mssgen.checkpoints.registry import shipped_encoders

    names = shipped_encoders()
    found = [names[stem] for stem in stems if stem in names]
    if not found:
        raise UsageError(
            f"--enhance: encoders ship for the stems {', '.join(names)} only; ask for one of them, "
            "or give one of yours with --encoder"
        )
    return found


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not understood; use auto, or 1 or more")
    return int(text)
