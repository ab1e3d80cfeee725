"""`mssgen data`: render, check and separate tracks for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mssgen.cli import options as given
from mssgen.cli.groups import App
from mssgen.cli.render import check, render
from mssgen.errors import UsageError

app = App(help="Prepare data for training.")
app.command("render")(render)
app.command("check")(check)


@app.command()
def pairs(
    library: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of tracks, laid out as MUSDB18-HQ, MUSDB18 (.stem.mp4) or MoisesDB.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="PAIRS")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The separation model: a name from `mssgen models list`, a path, or "
            "hf://OWNER/NAME.",
            metavar="MODEL",
        ),
    ] = "htdemucs",
    stem: Annotated[
        list[str] | None,
        typer.Option(
            "--stem",
            "-s",
            help="Separate this stem; repeatable.",
            metavar="STEM",
            show_default="all",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None,
        typer.Option(
            help="Separate only the tracks in the folder of this name.", show_default="all but test"
        ),
    ] = None,
    excerpt_s: Annotated[
        int | None,
        typer.Option(
            help="Separate a random excerpt of N seconds of each track only.",
            metavar="N",
            min=1,
            show_default="the whole track",
        ),
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Do not separate: take the stems that any separator wrote to DIR/TRACK/STEM.wav.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    overwrite: given.Overwrite = False,
    machine: given.SeparatorMachine = given.SeparatorMachine(),
    offline: given.Offline = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Separate every track once, as training input; or import separated stems.

    Writes PAIRS/TRACK/STEM.wav; run it again to resume. Exit codes: 0 done, 1 a track failed, 2
    wrong usage, 130 interrupted.
    """
    with messages.session() as hook:
        from mssgen.devices import share_heaps
        from mssgen.library.stems import open_library
        from mssgen.training.data.imported_pairs import import_pairs
        from mssgen.training.data.pairs import make_pairs

        share_heaps()
        machine.use_threads()
        found = open_library(library, split=split)
        found = found if split else found.without_test()
        if imported is not None:
            if excerpt_s is not None:
                raise UsageError("--import takes whole tracks: leave `excerpt_s` out")
            done = import_pairs(
                found, output, imported, stems=stem or (), overwrite=overwrite, hook=hook
            )
            return 1 if done.n_failed else 0
        done = make_pairs(
            found,
            output,
            model=model,
            stems=stem or (),
            device=machine.device,
            precision=machine.precision,
            offline=offline,
            excerpt_s=excerpt_s,
            overwrite=overwrite,
            progress=messages.has_progress,
            hook=hook,
        )
    return 1 if done.n_failed else 0
