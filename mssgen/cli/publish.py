"""`mssgen models export` and `push`: from a training run to a checkpoint, to the hub.

Only `push` uses the network.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mssgen.cli import options as given
from mssgen.cli.console import warn
from mssgen.cli.words import as_options


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --output of `mssgen train`.")],
    output: given.Folder,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="WHICH", help="Which checkpoint: best (by validation), last or step-N."
        ),
    ] = "best",
    storage: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="Number format of the weights; int8 takes a quarter of the space."),
    ] = "fp32",
    overwrite: given.Overwrite = False,
    offline: given.Offline = False,
    as_json: given.Json = False,
) -> None:
    """Turn a training run into a checkpoint.

    Writes DIR/config.json and model.safetensors (and codec/ where the codec has no name), for
    --encoder, --codec or --refiner, and DIR/training.json, which records how they were made.
    """
    from mssgen.training.export import STORAGES, export_run

    chosen = export_run(
        run,
        output,
        checkpoint=checkpoint,
        storage=STORAGES[storage],
        overwrite=overwrite,
        offline=offline,
    )
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(chosen), "path": str(output)}))
    else:
        typer.echo(f"{chosen.name}: {output}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint folder.")],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face Hub.")
    ],
    licence: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Licence of the weights: mit, cc-by-nc-4.0, ... or other."),
    ] = None,
    data_note: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The training data and their licences, for the model card."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the card and the names of the files, and send nothing."
        ),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="With --dry-run: never download anything.")
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, with a model card.

    The card is DIR/README.md, or else is written from what is known: data, licence, metrics and
    codec. The printed address can then be given as --encoder, --codec, --refiner or --model.
    """
    from mssgen.errors import UsageError
    from mssgen.publishing.release import prepare_release
    from mssgen.publishing.release import push as send

    if offline and not dry_run:
        raise UsageError("--offline rules out an upload; use it with --dry-run")
    release = prepare_release(folder, repo, licence=licence, data_note=data_note, offline=offline)
    for warning in release.warnings:
        warn(warning)
    commit = None if dry_run else send(release, private=private)
    if as_json:
        facts = {
            "address": release.address,
            "commit": commit,
            "files": list(release.files),
            "card": release.card,
            "warnings": [as_options(warning) for warning in release.warnings],
        }
        typer.echo(json.dumps(facts))
        return
    if dry_run:
        typer.echo(release.card)
        for name in release.files:
            typer.echo(name)
    typer.echo(release.address)
