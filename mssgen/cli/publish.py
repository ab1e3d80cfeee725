"""`mssgen models export` and `push`: from a training run to a checkpoint, and from there to others.

`push` goes to the network.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from mssgen.cli.console import warn
from mssgen.cli.options import Offline
from mssgen.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --output of `mssgen train`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.")
    ],
    checkpoint: Annotated[
        str, typer.Option(metavar="WHICH", help="best (by validation), last, or step-N.")
    ] = "best",
    storage: Annotated[
        str,
        typer.Option(metavar="TYPE", help="Of the weights: fp32, fp16 or int8 (a quarter)."),
    ] = "fp32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an older checkpoint in DIR.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Make a usable checkpoint of a training run.

    Writes DIR/config.json and model.safetensors (and codec/ where the codec has no name), which
    --encoder and --codec take, and DIR/training.json, which tells how they were made.
    """
    from mssgen.training.export import STORAGES, export_run

    if storage not in STORAGES:
        raise UsageError(f"--storage {storage} is unknown; use {', '.join(STORAGES)}")

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
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    licence: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Of the weights: mit, cc-by-nc-4.0, ... or other."),
    ] = None,
    data_note: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The training data and their licences, for the card."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="For your eyes only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files; send nothing.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="With --dry-run: never ask the hub.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a checkpoint to the Hugging Face Hub, with a model card.

    The card is DIR/README.md, or one that is written from what is known: data, licence, metrics,
    codec. Others then use the printed address as --encoder, --codec or --model.
    """
    from mssgen.errors import UsageError
    from mssgen.publishing.release import prepare_release
    from mssgen.publishing.release import push as send

    if offline and not dry_run:
        raise UsageError("--offline forbids a push; use it with --dry-run")
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
            "warnings": release.warnings,
        }
        typer.echo(json.dumps(facts))
        return
    if dry_run:
        typer.echo(release.card)
        for name in release.files:
            typer.echo(name)
    typer.echo(release.address)
