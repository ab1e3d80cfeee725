"""`mssgen train`: from words on the command line to one call of `mssgen.training.loop.train`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mssgen.cli import options as given
from mssgen.cli.groups import App
from mssgen.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from mssgen.training.recipes import Kind

app = App(help="Train stem encoders, codecs and refiners.")

CodecName = Annotated[
    str | None,
    typer.Option(
        "--codec",
        help="Name or folder of the codec.",
        metavar="CODEC",
        show_default="the recipe's",
        rich_help_panel="Model",
    ),
]
TargetCache = Annotated[
    Path | None,
    typer.Option(
        help="Folder to cache training targets in; runs may share it.",
        metavar="DIR",
        rich_help_panel="Speed",
    ),
]


@dataclass(frozen=True)
class Run:
    """What every training run takes."""

    PANEL: ClassVar = "Training"
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="A TOML file, or a name from `mssgen train recipes`.", metavar="RECIPE"
        ),
    ]
    data: Annotated[
        Path, typer.Option("--data", help="Folder of tracks with stem files.", metavar="DIR")
    ]
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the run: a new one, or one to resume.", metavar="DIR"
        ),
    ]
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            help="Separated stems of the tracks, as written by `mssgen data pairs`.",
            metavar="DIR",
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint of --output.")
    ] = False
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override an option of the recipe; repeatable.", metavar="SECTION.KEY=V"
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Random seed; same as --set train.seed=N.", metavar="N")
    ] = None
    device: Annotated[
        str,
        typer.Option(
            help="Device to train on: auto, cpu, cuda, cuda:N or mps.",
            metavar="DEVICE",
            rich_help_panel="Speed",
        ),
    ] = "auto"
    devices: Annotated[
        int,
        typer.Option(
            help="Number of devices, with one process each; torchrun starts its own.",
            metavar="N",
            min=1,
            rich_help_panel="Speed",
        ),
    ] = 1
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="32-true or bf16-mixed.",
            metavar="NAME",
            show_default="the recipe's",
            rich_help_panel="Speed",
        ),
    ] = None

    def train(
        self,
        kind: "Kind",
        messages: given.Messages,
        *,
        target_cache: Path | None = None,
        offline: bool = False,
        **networks: str | None,
    ) -> int:
        """Train, and return the exit code; `networks` override those of the recipe, by key."""
        with messages.session(is_quiet=_is_secondary()) as hook:
            from mssgen.training.recipes import load_recipe
            from mssgen.training.tasks import train_recipe

            own: dict[str, str | int | None] = {
                f"model.{key}": name for key, name in networks.items()
            }
            own |= {"train.seed": self.seed, "train.precision": self.precision}
            settings = [f"{key}={json.dumps(v)}" for key, v in own.items() if v is not None]
            train_recipe(
                load_recipe(self.recipe, [*(self.settings or ()), *settings], kind=kind),
                self.data,
                self.output,
                pairs=self.pairs,
                target_cache=target_cache,
                resume=self.resume,
                device=self.device,
                n_devices=self.devices,
                offline=offline,
                hook=hook,
            )
        return 0


@app.command()
def encoder(
    run: Run,
    codec_name: CodecName = None,
    target_cache: TargetCache = None,
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Train a stem encoder against a frozen codec.

    The folder of the run holds checkpoints, metrics.jsonl, a TensorBoard log and audio examples.
    Ctrl-C finishes the current step, saves and stops. For several GPUs use --devices N, or
    torchrun -m mssgen.
    """
    return run.train(
        "encoder", messages, codec=codec_name, target_cache=target_cache, offline=offline
    )


@app.command()
def codec(run: Run, messages: given.Messages = given.Messages()) -> int:
    """Train your own codec: one that reproduces its input, or one that outputs the clean stem.

    For the latter set data.input to "separated" (which needs --pairs), "mixture" or "noisy".
    Folder, Ctrl-C and several GPUs as for `mssgen train encoder`.
    """
    return run.train("codec", messages)


@app.command()
def refiner(
    run: Run,
    codec_name: CodecName = None,
    encoder_name: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Stem encoder whose codes are refined.",
            metavar="CHECKPOINT",
            show_default="the recipe's, else the codec's own encoder",
            rich_help_panel="Model",
        ),
    ] = None,
    refiner_name: Annotated[
        str | None,
        typer.Option(
            "--refiner",
            help="Start from this refiner: a folder, an hf:// address or VampNet's .pth file.",
            metavar="CHECKPOINT",
            rich_help_panel="Model",
        ),
    ] = None,
    target_cache: TargetCache = None,
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Train a refiner of a codec's codes.

    Folder, Ctrl-C and several GPUs as for `mssgen train encoder`.
    """
    return run.train(
        "refiner",
        messages,
        codec=codec_name,
        encoder=encoder_name,
        refiner=refiner_name,
        target_cache=target_cache,
        offline=offline,
    )


@app.command()
def recipes(as_json: given.AsJson = False) -> None:
    """List the built-in recipes and the reason for each."""
    from mssgen.training.recipes import KINDS, load_recipe, recipe_names

    found = [load_recipe(name, kind=kind) for kind in KINDS for name in recipe_names(kind)]
    if as_json:
        rows = [{"kind": each.kind, "name": each.name, "why": each.why} for each in found]
        return print_json(rows)
    print_table(("kind", "name", "why"), [(each.kind, each.name, each.why) for each in found])


def _is_secondary() -> bool:
    """Whether this is not the process of a distributed run that reports its progress."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"
