"""`mssgen codec analyze`: what a codec does with stems, as a page, plots and tables."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mssgen.cli import options as given
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Written


def analyze(
    codec: Annotated[
        str,
        typer.Option(
            "--codec", "-c", help="A name from `mssgen models list`, a path, or hf://OWNER/NAME."
        ),
    ],
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write to.")] = "analysis",
    stem_from: Annotated[
        str,
        typer.Option(
            help="The stem of a file is its name ({track}/bass.wav), its folder "
            "(bass/{track}.wav), or all are one.",
            metavar="name|folder|all",
        ),
    ] = "name",
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Look at the first N seconds of each file.  [default: all]", metavar="N"),
    ] = None,
    n_codebooks: Annotated[
        list[int] | None,
        typer.Option(
            help="Measure the SDR with this many codebooks; repeatable.  [default: 1, 2, 4, ...]",
            metavar="N",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random frames in the projections.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an analysis that is there.")
    ] = False,
    offline: given.Offline = False,
    device: given.Device = "auto",
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Look into a codec: which codes it uses for which stem, and how well it rebuilds them.

    Writes analysis/index.html with its plots (PNG), tables (CSV) and sounds. Exit codes: 0 done,
    1 a file failed, 2 wrong call, 130 interrupted.
    """
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose) as hook:
        from mssgen.inputs.tracks import find_tracks

        if output in ("", "-"):
            raise UsageError("--output takes a folder here; name one")
        folder = Path(output)
        tracks = find_tracks(
            inputs or [], list_file=list_file, output_dir=folder, skip_outputs=False
        )
        given.use_threads(threads)

        from mssgen.analysis.codec import AnalysisOptions, analyze_codec, check_packages
        from mssgen.analysis.report import PAGE, write_report
        from mssgen.codecs.loading import load_codec

        options = AnalysisOptions(stem_from, tuple(n_codebooks or ()), max_seconds, seed=seed)
        check_packages()
        if (folder / PAGE).exists() and not overwrite:
            raise MssgenError(
                f"{folder / PAGE} exists; use --overwrite to replace it, or another --output"
            )
        loaded = load_codec(
            codec,
            device=device,
            offline=offline,
            progress=not quiet and sys.stderr.isatty(),
        )
        analysis = analyze_codec(tracks, loaded, options, hook=hook)
        hook(Written("", "", write_report(analysis, folder)))
        hook(analysis.done)
    return 1 if analysis.done.n_failed else 0
