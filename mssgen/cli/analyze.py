"""`mssgen codec analyze`: how a codec encodes stems, as a web page with plots and tables."""

from typing import Annotated, Literal

import typer

from mssgen.cli import options as given
from mssgen.cli.files import new_folder
from mssgen.errors import MssgenError
from mssgen.events import Written


def analyze(
    codec: given.Codec,
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder to write to.", metavar="DIR")
    ] = "analysis",
    stem_from: Annotated[
        Literal["name", "folder", "all"],
        typer.Option(
            help="Where the stem of a file is read from: its name ({track}/bass.wav), its folder "
            "(bass/{track}.wav), or nowhere (all files are one stem)."
        ),
    ] = "name",
    max_seconds: Annotated[
        float | None,
        typer.Option(
            help="Analyze the first N seconds of each file only.", metavar="N", show_default="all"
        ),
    ] = None,
    n_codebooks: Annotated[
        list[int] | None,
        typer.Option(
            help="Measure the SDR with the first N codebooks; repeatable.",
            metavar="N",
            show_default="1, 2, 4, ...",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Random seed for choosing the frames in the projections.", metavar="N"),
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing analysis.")
    ] = False,
    offline: given.Offline = False,
    machine: given.Machine = given.Machine(),
    messages: given.Messages = given.Messages(),
) -> int:
    """Analyze a codec: which codes it uses for which stem, and how well it reconstructs them.

    Writes analysis/index.html with plots (PNG), tables (CSV) and audio examples. Exit codes: 0
    done, 1 a file failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session() as hook:
        from mssgen.inputs.tracks import find_tracks

        folder = new_folder(output)
        tracks = find_tracks(
            inputs or [], list_file=list_file, output_dir=folder, skip_outputs=False
        )
        machine.use_threads()

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
            device=machine.device,
            offline=offline,
            progress=messages.has_progress,
        )
        analysis = analyze_codec(tracks, loaded, options, hook=hook)
        hook(Written("", "", write_report(analysis, folder)))
        hook(analysis.done)
    return 1 if analysis.done.n_failed else 0
