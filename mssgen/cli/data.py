"""`mssgen data`: what training needs besides the tracks themselves."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mssgen.cli import options as given
from mssgen.cli.render import check, render

app = typer.Typer(help="Prepare data for training.", no_args_is_help=True)
app.command("render")(render)
app.command("check")(check)


@app.command()
def pairs(
    library: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The tracks: MUSDB18-HQ's layout, MUSDB18's .stem.mp4 files, or MoisesDB.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="PAIRS")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A name from `mssgen models list`, a path, or hf://OWNER/NAME."
        ),
    ] = "htdemucs",
    stem: Annotated[
        list[str] | None,
        typer.Option("--stem", "-s", help="Separate this stem; repeatable.  [default: all]"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Only tracks below a folder train, valid or test.  [default: all but test]"
        ),
    ] = None,
    excerpt_s: Annotated[
        int | None,
        typer.Option(
            help="Separate so many seconds of each track, from anywhere in it.  [default: all]",
            min=1,
        ),
    ] = None,
    overwrite: given.Overwrite = False,
    device: given.Device = "auto",
    precision: given.Precision = "auto",
    threads: given.Threads = None,
    offline: given.Offline = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Separate every track once, as input for training.

    Writes PAIRS/TRACK/STEM.wav; run again, it goes on where it stopped. Exit codes: 0 done, 1 a
    track failed, 2 wrong call, 130 interrupted.
    """
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose) as hook:
        from mssgen.devices import share_heaps
        from mssgen.library.stems import open_library
        from mssgen.training.data.pairs import make_pairs

        share_heaps()
        given.use_threads(threads)
        found = open_library(library, split=split)
        done = make_pairs(
            found if split else found.without_test(),
            output,
            model=model,
            stems=stem or (),
            device=device,
            precision=precision,
            offline=offline,
            excerpt_s=excerpt_s,
            overwrite=overwrite,
            progress=not quiet and sys.stderr.isatty(),
            hook=hook,
        )
    return 1 if done.n_failed else 0
