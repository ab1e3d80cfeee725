"""`mssgen train`: from words on the command line to one call of `mssgen.training.loop.train`."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli.options import AsJson, Device, Offline, Quiet, Verbose
from mssgen.cli.tables import print_json, print_table
from mssgen.cli.training_reporter import training_reporter

if TYPE_CHECKING:
    from mssgen.training.recipes import Kind, Recipe

app = typer.Typer(help="Train stem encoders, codecs and refiners.", no_args_is_help=True)

RecipeFile = Annotated[
    str, typer.Option("--recipe", help="A TOML file, or a name from `mssgen train recipes`.")
]
Data = Annotated[
    Path, typer.Option("--data", help="Folder of tracks with stem files.", metavar="DIR")
]
Pairs = Annotated[
    Path | None,
    typer.Option("--pairs", help="What `mssgen data pairs` separated of them.", metavar="DIR"),
]
CodecName = Annotated[
    str | None,
    typer.Option("--codec", help="Name or folder of the codec.  [default: the recipe's]"),
]
RunOutput = Annotated[
    Path, typer.Option("--output", "-o", help="The run's folder; new, or one to resume.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of --output.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set an option of the recipe; repeatable.", metavar="SECTION.KEY=V"),
]
Seed = Annotated[int | None, typer.Option(help="As --set train.seed=N.", metavar="N")]
Devices = Annotated[
    int, typer.Option(help="Processes on this machine; torchrun brings its own.", metavar="N")
]
TrainPrecision = Annotated[
    str | None, typer.Option("--precision", help="32-true or bf16-mixed.  [default: the recipe's]")
]


@app.command()
def encoder(
    recipe: RecipeFile,
    data: Data,
    output: RunOutput,
    pairs: Pairs = None,
    codec_name: CodecName = None,
    target_cache: Annotated[
        Path | None,
        typer.Option(help="Keep frozen targets of segments here, for all runs.", metavar="DIR"),
    ] = None,
    resume: Resume = False,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: TrainPrecision = None,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Train a stem encoder against a frozen codec.

    The run's folder holds checkpoints, metrics.jsonl, a TensorBoard log and sounds. Ctrl-C ends the
    run after the step under way, which is saved. Several GPUs: --devices N, or torchrun -m mssgen.
    """
    chosen = [] if codec_name is None else [f"model.codec={json.dumps(codec_name)}"]
    with training_reporter(as_json=as_json, quiet=quiet or _draws_not(), verbose=verbose) as hook:
        from mssgen.training.tasks import train_recipe

        train_recipe(
            _load(recipe, "encoder", [*(settings or ()), *chosen], seed, precision),
            data,
            output,
            pairs=pairs,
            target_cache=target_cache,
            resume=resume,
            device=device,
            n_devices=devices,
            offline=offline,
            hook=hook,
        )
    return 0


@app.command()
def codec(
    recipe: RecipeFile,
    data: Data,
    output: RunOutput,
    pairs: Pairs = None,
    resume: Resume = False,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: TrainPrecision = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Train a codec of one's own, or one that gives the clean stem for what it hears.

    The latter with data.input "separated" (which needs --pairs), "mixture" or "noisy". Folder,
    interruption and several GPUs as for `mssgen train encoder`.
    """
    with training_reporter(as_json=as_json, quiet=quiet or _draws_not(), verbose=verbose) as hook:
        from mssgen.training.tasks import train_recipe

        train_recipe(
            _load(recipe, "codec", settings or (), seed, precision),
            data,
            output,
            pairs=pairs,
            resume=resume,
            device=device,
            n_devices=devices,
            hook=hook,
        )
    return 0


@app.command()
def refiner(
    recipe: RecipeFile,
    data: Data,
    output: RunOutput,
    pairs: Pairs = None,
    codec_name: CodecName = None,
    encoder_name: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Stem encoder, whose codes are refined.  [default: the recipe's, else the codec's "
            "own]",
        ),
    ] = None,
    refiner_name: Annotated[
        str | None,
        typer.Option("--refiner", help="Go on from it: a folder, hf:// or VampNet's .pth."),
    ] = None,
    target_cache: Annotated[
        Path | None,
        typer.Option(help="Keep codes of segments here, for all runs.", metavar="DIR"),
    ] = None,
    resume: Resume = False,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: TrainPrecision = None,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Train a refiner of a codec's codes.

    Folder, interruption and several GPUs as for `mssgen train encoder`.
    """
    named = {"codec": codec_name, "encoder": encoder_name, "refiner": refiner_name}
    chosen = [f"model.{key}={json.dumps(name)}" for key, name in named.items() if name is not None]
    with training_reporter(as_json=as_json, quiet=quiet or _draws_not(), verbose=verbose) as hook:
        from mssgen.training.tasks import train_recipe

        train_recipe(
            _load(recipe, "refiner", [*(settings or ()), *chosen], seed, precision),
            data,
            output,
            pairs=pairs,
            target_cache=target_cache,
            resume=resume,
            device=device,
            n_devices=devices,
            offline=offline,
            hook=hook,
        )
    return 0


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship, each with its reason."""
    from mssgen.training.recipes import KINDS, load_recipe, recipe_names

    found = [load_recipe(name, kind=kind) for kind in KINDS for name in recipe_names(kind)]
    if as_json:
        rows = [{"kind": each.kind, "name": each.name, "why": each.why} for each in found]
        return print_json(rows)
    print_table(("kind", "name", "why"), [(each.kind, each.name, each.why) for each in found])


def _load(
    recipe: str, kind: "Kind", settings: Iterable[str], seed: int | None, precision: str | None
) -> "Recipe":
    """The recipe with what the command line sets; options of their own come last."""
    from mssgen.training.recipes import load_recipe

    own = [] if seed is None else [f"train.seed={seed}"]
    own += [] if precision is None else [f"train.precision={json.dumps(precision)}"]
    return load_recipe(recipe, [*settings, *own], kind=kind)


def _draws_not() -> bool:
    """Whether another process of this run speaks for it."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"
