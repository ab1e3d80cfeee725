"""`mssgen data render` and `mssgen data check`: make open training data, and check any."""

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
        typer.Option(
            help="A TOML file, or the name of a built-in recipe: base, full, recorded, ...",
            metavar="RECIPE",
        ),
    ],
    output: given.Folder,
    packages: Annotated[
        Path | None,
        typer.Option(
            help="Folder of downloaded packages.", metavar="DIR", show_default="the user's cache"
        ),
    ] = None,
    instruments: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the recipe's recorded instruments (SFZ).",
            metavar="DIR",
            show_default="the recipe's recorded.folder",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Number of processes.", metavar="N")
    ] = 1,
    messages: given.Messages = given.Messages(),
) -> int:
    """Render tracks with exact stems from free packages and recorded instruments.

    Needs apt-get and dpkg-deb, libopenmpt for tracker modules, fluidsynth for MIDI and pysinsy for
    singing; packages are unpacked, not installed. Writes DIR/SPLIT/TRACK/STEM.flac,
    DIR/manifest.json with source and licence of every track, and DIR/licences; run it again to
    resume. Exit codes: 0 done, 1 a track or package failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session() as hook:
        from mssgen.extras import require

        render_library = require("mssgen.rendering.render", "data", "rendering data").render_library
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
        Path,
        typer.Argument(
            metavar="DIR", help="Folder of tracks, in any layout that can be trained on."
        ),
    ],
    max_sum_error_db: Annotated[
        float,
        typer.Option(
            help="Largest allowed difference between the sum of the stems and the mixture file, "
            "in dB relative to the mixture.",
            metavar="DB",
        ),
    ] = -30.0,
    as_json: given.AsJson = False,
) -> int:
    """Check a folder of tracks: hours of audio per stem and split, and problems.

    Problems are damaged files, missing or silent stems, clipping, differing lengths, stems that do
    not sum to the mixture file, and mixtures under another name. Exit codes: 0 no problems, 1
    problems, 2 wrong usage.
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
        typer.echo(f"{split or 'all'}: {hours['mixture']:.2f} h; sounding: {heard}")
        more = {stem: n for stem, n in report.n_with[split].items() if stem not in STEMS}
        if more:
            tracks = ", ".join(f"{stem} in {n}" for stem, n in more.items())
            typer.echo(printable(f"{split or 'all'}: further stems, part of other: {tracks}"))
        silent = {stem: n for stem, n in report.n_silent[split].items() if n}
        if silent:
            tracks = ", ".join(f"{stem} in {n}" for stem, n in silent.items())
            typer.echo(f"{split or 'all'}: silent: {tracks} track(s)")
    for finding in report.findings:
        typer.echo(printable(f"{finding.track}: {finding.message}"))
    wrong = len({finding.track for finding in report.findings})
    typer.echo(f"{report.n_tracks} tracks, {wrong} with problems")
