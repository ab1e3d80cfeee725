"""`mssgen separate`: from words on the command line to one call of `separate_groups`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from mssgen.cli import options as given
from mssgen.cli.files import Files
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.jobs.batch import Group
    from mssgen.outputs import OutputPlan
    from mssgen.separators.base import Separator


@dataclass(frozen=True)
class Stems:
    """Which outputs are written; see `mssgen.outputs.plan_outputs`."""

    PANEL: ClassVar = "Stems"
    stem: Annotated[
        list[str] | None,
        typer.Option(
            "--stem",
            "-s",
            help="Write this stem; repeatable.",
            metavar="STEM",
            show_default="all stems of the model",
        ),
    ] = None
    two_stems: Annotated[
        str | None,
        typer.Option(
            help="Write STEM and no_STEM, which is the mixture minus STEM.", metavar="STEM"
        ),
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the mixture without STEM, to play along with; repeatable.", metavar="STEM"
        ),
    ] = None
    residual: Annotated[
        bool,
        typer.Option(
            "--residual", help="Also write the residual: the mixture minus the sum of all stems."
        ),
    ] = False
    mix_consistent: Annotated[
        bool,
        typer.Option(
            "--mix-consistent",
            help="Distribute the residual so that the stems sum to the mixture.",
        ),
    ] = False

    def plan(self, sources: Sequence[str]) -> "OutputPlan":
        """The outputs that a model with these stems gives."""
        from mssgen.outputs import plan_outputs

        return plan_outputs(
            sources,
            stems=self.stem or (),
            two_stems=self.two_stems,
            without=self.without or (),
            residual=self.residual,
            mix_consistent=self.mix_consistent,
        )


@dataclass(frozen=True)
class Speed(given.SeparatorMachine):
    """Where and how the model runs; see `mssgen.separators.demucs.SeparationOptions`."""

    PANEL: ClassVar = "Speed and quality"
    batch_size: Annotated[
        str,
        typer.Option(
            help="Segments per batch, or auto; halved when memory runs out.", metavar="N|auto"
        ),
    ] = "auto"
    overlap: Annotated[
        float,
        typer.Option(
            help="Overlap of adjacent segments, as a share of a segment.",
            metavar="SHARE",
            min=0,
            max=0.99,
        ),
    ] = 0.25
    shifts: Annotated[
        int,
        typer.Option(
            help="Average over N random time shifts: better, but N times slower.",
            metavar="N",
            min=0,
        ),
    ] = 0
    seed: Annotated[
        int,
        typer.Option(help="Random seed for --shifts and --refine.", metavar="N", min=0),
    ] = 0
    high_frequencies: Annotated[
        Literal["zeros", "average", "mixture"] | None,
        typer.Option(
            help="Sound above 11 kHz, which Spleeter does not separate: zeros (none), average (the "
            "stem's share below), or mixture (all of it in the last stem).",
            show_default="zeros",
        ),
    ] = None
    wiener_iterations: Annotated[
        int | None,
        typer.Option(
            help="Rounds of the multichannel Wiener filter, for Spleeter and Open-Unmix.",
            metavar="N",
            min=0,
            max=64,
            show_default="0 for Spleeter, 1 for Open-Unmix",
        ),
    ] = None

    def n_segments(self) -> int | None:
        """The number in --batch-size; None for auto."""
        if self.batch_size == "auto":
            return None
        if not self.batch_size.isdecimal() or int(self.batch_size) < 1:
            raise UsageError(
                f"--batch-size {self.batch_size} is not understood; use auto, or 1 or more"
            )
        return int(self.batch_size)


@dataclass(frozen=True)
class Networks:
    """Which networks separate and enhance."""

    PANEL: ClassVar = "Enhancement"
    model: given.Model = None
    accept_unlicensed: given.AcceptUnlicensed = False
    enhance: Annotated[
        bool,
        typer.Option(
            "--enhance",
            help="Enhance the stems afterwards, with --encoder or the built-in encoders.",
        ),
    ] = False
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="With --enhance: a trained encoder for one stem; repeatable. Without: an encoder "
            "trained on mixtures, which separates its stem instead of --model.",
            metavar="CHECKPOINT",
        ),
    ] = None


def separate(
    files: Files = Files(output="separated"),
    stems: Stems = Stems(),
    networks: Networks = Networks(),
    blending: given.Blending = given.Blending(),
    refinement: given.Refinement = given.Refinement(),
    speed: Speed = Speed(),
    running: given.Run = given.Run(),
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Separate songs into stems: drums, bass, other and vocals.

    Stems have the sample rate, channels, bit depth and length of their input, and are written to
    separated/TRACK/STEM.wav. Exit codes: 0 done, 1 a file failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session(to_stdout=files.to_stdout) as hook:
        tracks = files.tracks()
        with messages.starting():
            write, run = files.write_options(tracks), running.chosen()
        group = chosen(stems, networks, blending, refinement, speed, offline, messages)
        files.check_stdout(tracks, group.plan)
        return files.run([replace(group, tracks=tracks)], write, run, running.metered(hook))


def chosen(
    stems: Stems,
    networks: Networks,
    blending: given.Blending,
    refinement: given.Refinement,
    speed: Speed,
    offline: bool,
    messages: given.Messages,
) -> "Group":
    """The separator and the outputs of these options, for songs that are still to be added.

    Raises UsageError where they contradict each other, and what finding a model raises.
    """
    model, enhance, encoder = networks.model, networks.enhance, networks.encoder
    n_segments = speed.n_segments()

    with messages.starting():
        from mssgen.checkpoints.registry import REGISTRY, lookup
        from mssgen.checkpoints.resolving import resolve
        from mssgen.devices import choose_device, choose_precision, share_heaps
        from mssgen.enhancers.chain import EnhancedSeparator
        from mssgen.enhancers.loading import load_enhancer
        from mssgen.jobs import made_by
        from mssgen.jobs.batch import Group
        from mssgen.pipeline import load_separator
        from mssgen.separators.demucs import SeparationOptions

    share_heaps()
    cut = SeparationOptions(
        speed.overlap,
        speed.shifts,
        speed.seed,
        n_segments,
        speed.high_frequencies,
        speed.wiener_iterations,
    )
    speed.use_threads()

    if not enhance and (blending.blend is not None or blending.mix is not None):
        raise UsageError("--blend and --mix need --enhance: they blend a stem with itself")
    if refinement.refine is not None and not enhance and not encoder:
        raise UsageError("--refine needs --encoder or --enhance: it regenerates their codes")
    refining = refinement.chosen(None if refinement.refine is None else speed.seed)
    blended = blending.chosen(refining, encoder or ())
    name = model or "htdemucs"
    hub: dict[str, Any] = {"offline": offline, "progress": messages.has_progress}
    # Wrong words are found before a model is loaded.
    choose_precision(speed.precision, choose_device(speed.device))
    made: dict[str, Any] | None = None
    load: Callable[..., Separator]
    # The outputs are planned, and existing files looked at, before a model is loaded, as far
    # as its files say which stems it has.
    if encoder and not enhance:
        if model is not None:
            raise UsageError(
                "--model and --encoder each name a separator; use one, or add --enhance to "
                "enhance the model's stems with the encoder"
            )
        if len(encoder) > 1:
            raise UsageError("several --encoder need --enhance: one separates one stem")
        load = partial(load_enhancer, encoder[0], hears="mixture", refining=refining)
        of = made_by.stem_of_encoder(encoder[0], **hub)
        plan = stems.plan([of]) if of else None
        if of:
            made = {of: made_by.of_enhancer(encoder[0], of, refining=refining, **hub)}
    else:
        # Of a bag of models only those are loaded that the stems need.
        plan = stems.plan(lookup(name, "separate").stems) if name in REGISTRY else None
        if enhance and not encoder and plan is not None:  # refused before a download
            encoder = _shipped(plan.stems)
        found = resolve(name, wanted_stems=plan.stems if plan else None, stage="separate", **hub)
        if plan is None and (known := made_by.stems_of_separator(found)):
            plan = stems.plan(known)
        if enhance and not encoder:
            if plan is None:  # only the loaded model knows its stems
                plain = load_separator(
                    name,
                    device=speed.device,
                    precision=speed.precision,
                    accept_unlicensed=networks.accept_unlicensed,
                    **hub,
                )
                plan = stems.plan(plain.sources)
            encoder = _shipped(plan.stems)
        if plan is not None:
            made = made_by.of_separator(found, plan.stems, cut, speed.precision)
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
            precision=speed.precision,
            options=cut,
            accept_unlicensed=networks.accept_unlicensed,
        )
    load = partial(load, device=speed.device, **hub)
    if plan is None:
        separator = load()
        plan = stems.plan(separator.sources)
        load = partial(_same, separator)

    def checked() -> "Separator":
        separator = load()
        if isinstance(separator, EnhancedSeparator):
            separator.check(plan.stems)
        return separator

    shown = name if enhance or not encoder else encoder[0]
    return Group((), checked, plan, made, shown)


def _same(separator: "Separator") -> "Separator":
    return separator


def _shipped(stems: Sequence[str]) -> list[str]:
    """The names of the built-in encoders for those of the stems that have one."""
    from mssgen.checkpoints.registry import shipped_encoders

    names = shipped_encoders()
    found = [names[stem] for stem in stems if stem in names]
    if not found:
        raise UsageError(
            f"--enhance: built-in encoders exist for the stems {', '.join(names)} only; ask for "
            "one of them, or give your own encoder with --encoder"
        )
    return found
