"""`mssgen models convert`: separators of other programs in mssgen's form."""

from pathlib import Path
from typing import Annotated

import typer

from mssgen.cli import options as given
from mssgen.cli.tables import print_json, print_table


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with a TensorFlow checkpoint of Spleeter (or NAME.index in it), or with "
            "one file per stem (vocals.onnx, drums-9619578f.pth).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")
    ],
    accept_unlicensed: given.AcceptUnlicensed = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DIR.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Convert a Spleeter or Open-Unmix checkpoint of another program.

    Needs neither TensorFlow nor onnx. Writes a folder with config.json and model.safetensors, whose
    path `--model` takes.
    """
    from mssgen.separators.converting import convert as convert_files

    checkpoint = convert_files(
        source, output, overwrite=overwrite, accept_unlicensed=accept_unlicensed
    )
    summary = {
        "target": str(output),
        "architecture": checkpoint.architecture,
        "stems": list(checkpoint.stems),
        "n_values": sum(value.numel() for value in checkpoint.state.values()),
    }
    if as_json:
        return print_json(summary)
    print_table(
        (),
        [
            (key.replace("_", " "), " ".join(value) if isinstance(value, list) else str(value))
            for key, value in summary.items()
        ],
    )
