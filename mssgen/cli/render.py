"""`mssgen data render` and `mssgen data check`: open training data, made and looked over."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given

if TYPE_CHECKING:
    from mssgen.library.check import Report


def render(
    recipe: Annotated[
        str,
        typer.Option(help="A TOML file, or the name of one that ships: base, full, recorded, ..."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")
    ],
    packages: Annotated[
        Path | None,
        typer.Option(
            help="Where packages are kept and looked for.  [default: the user's cache]",
            metavar="DIR",
        ),
    ] = None,
    instruments: Annotated[
        Path | None,
        typer.Option(
            help="The recipe's recorded instruments (SFZ).  [default: recorded.folder]",
            metavar="DIR",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes.", metavar="N")] = 1,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Render tracks with exact stems from free packages and recorded instruments.

    Needs apt-get and dpkg-deb, libopenmpt for tracker modules, fluidsynth for MIDI and pysinsy for
    singing; what is fetched is unpacked, not installed. Writes DIR/SPLIT/TRACK/STEM.flac,
    DIR/manifest.json with source and licence of every track, and DIR/licences; run again, it goes
    on where it stopped. Exit codes: 0 done, 1 a track or package failed, 2 wrong call, 130
    interrupted.
    """
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose) as hook:
        from mssgen.extras import missing

        try:
            from mssgen.rendering.render import render_library
        except ModuleNotFoundError as error:
            raise missing(str(error.name), "data", "rendering data") from None
        from mssgen.rendering.fetch import default_cache
        from mssgen.rendering.recipe import load_recipe

        done = render_library(
            load_recipe(recipe, instruments=instruments),
            output,
            packages=packages or default_cache(),
            n_jobs=jobs,
            hook=hook,
        )
    return 1 if done.n_failed else 0


def check(
    library: Annotated[
        Path, typer.Argument(metavar="DIR", help="The tracks, in any layout that trains.")
    ],
    max_sum_error_db: Annotated[
        float,
        typer.Option(help="Stems may miss a mixture file by this much (dB of the mixture)."),
    ] = -30.0,
    as_json: given.AsJson = False,
) -> int:
    """Look over a folder of tracks: hours of sound per stem and split, and what is wrong.

    Wrong is: damaged files, lacking or all silent stems, clipping, lengths that differ, stems that
    do not sum to the mixture file, a mixture under another name. Exit codes: 0 all well, 1
    something is wrong, 2 wrong call.
    """
    from mssgen.library.check import check_library
    from mssgen.library.stems import open_library

    report = check_library(open_library(library), max_sum_error_db=max_sum_error_db)
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
    else:
        _show(report)
    return 1 if report.findings else 0


def _show(report: "Report") -> None:
    from mssgen.checkpoints.registry import STEMS
    from mssgen.cli.console import printable

    for split, hours in report.hours.items():
        heard = ", ".join(f"{stem} {hours[stem]:.2f}" for stem in hours if stem != "mixture")
        typer.echo(f"{split or 'all'}: {hours['mixture']:.2f} h; heard: {heard}")
        more = {stem: n for stem, n in report.n_with[split].items() if stem not in STEMS}
        if more:
            tracks = ", ".join(f"{stem} in {n}" for stem, n in more.items())
            typer.echo(printable(f"{split or 'all'}: further stems, part of other: {tracks}"))
        silent = {stem: n for stem, n in report.n_silent[split].items() if n}
        if silent:
            tracks = ", ".join(f"{stem} in {n}" for stem, n in silent.items())
            typer.echo(f"{split or 'all'}: never heard: {tracks} tracks")
    for finding in report.findings:
        typer.echo(printable(f"{finding.track}: {finding.message}"))
    wrong = len({finding.track for finding in report.findings})
    typer.echo(f"{report.n_tracks} tracks, {wrong} with something wrong")
