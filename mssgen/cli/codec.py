"""`mssgen codec`: sound to tokens and back."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.cli.analyze import analyze
from mssgen.errors import UsageError

if TYPE_CHECKING:
    from mssgen.codecs.base import Codec

app = typer.Typer(help="Neural codecs: encode, decode, analyze.", no_args_is_help=True)

app.command()(analyze)

DEFAULT_CODEC = "stem_codec"


@app.command()
def encode(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    codec: Annotated[
        str,
        typer.Option(
            "--codec", "-c", help="A name from `mssgen models list`, a path, or hf://OWNER/NAME."
        ),
    ] = DEFAULT_CODEC,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="A .codes file, a folder, or - for standard output."),
    ] = "codes",
    bandwidth: Annotated[
        float | None,
        typer.Option(help="Bit rate of each coded channel.  [default: all]", metavar="KBPS"),
    ] = None,
    n_codebooks: Annotated[
        int | None, typer.Option(help="Levels to keep, instead of --bandwidth.", metavar="N")
    ] = None,
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    strict: given.Strict = False,
    offline: given.Offline = False,
    device: given.Device = "auto",
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Code sound of any rate and number of channels as the tokens of a neural codec.

    Writes codes/TRACK.codes, a safetensors file. Exit codes: 0 done, 1 a file failed, 2 wrong
    call, 130 interrupted.
    """
    is_piped = output == "-"
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose, to_stdout=is_piped) as hook:
        from mssgen.inputs.tracks import find_tracks

        if bandwidth is not None and n_codebooks is not None:
            raise UsageError("--bandwidth and --n-codebooks say the same; use one")
        given.use_threads(threads)
        tracks = find_tracks(inputs or [], list_file=list_file, skip_outputs=False)

        from mssgen.codecs.container import SUFFIX
        from mssgen.jobs.codec_files import CodecOutput, encode_files

        existing = given.existing(inputs, tracks, overwrite, skip_existing)
        to = CodecOutput(output, existing)
        to.check(tracks, SUFFIX)  # a wrong name is found before a download
        loaded = _load(codec, device=device, offline=offline, quiet=quiet)
        if bandwidth is not None:
            n_codebooks = loaded.n_codebooks_for(bandwidth)
        done = encode_files(
            tracks,
            loaded,
            to,
            n_codebooks=n_codebooks,
            files_of_codec=_files_of(codec, offline=offline),
            strict=strict,
            hook=hook,
        )
        return 1 if done.n_failed else 0


@app.command()
def decode(
    inputs: Annotated[
        list[str] | None, typer.Argument(help=".codes files, folders, or - for standard input.")
    ] = None,
    list_file: given.ListFile = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec", "-c", help="A name or a path.  [default: the codec that the file names]"
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="A sound file, a folder, or - for standard output."),
    ] = "decoded",
    n_codebooks: Annotated[
        int | None, typer.Option(help="Use the first N levels only.  [default: all]", metavar="N")
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(
            "--format", "-f", help="wav, flac, ogg, ...  [default: by the output's suffix, or wav]"
        ),
    ] = None,
    bit_depth: Annotated[str | None, typer.Option(help="16, 24 or 32f.  [default: 16]")] = None,
    sample_rate: Annotated[
        int | None, typer.Option(help="Hz.  [default: that of the coded sound]", metavar="HZ")
    ] = None,
    clip: Annotated[
        str, typer.Option(help="Peaks over full scale: rescale, clamp or none.")
    ] = "rescale",
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    offline: given.Offline = False,
    device: given.Device = "auto",
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    as_json: given.AsJson = False,
) -> int:
    """Turn codes into sound again, with the rate, channels and length of the original.

    Exit codes: 0 done, 1 a file failed, 2 wrong call, 130 interrupted.
    """
    is_piped = output == "-"
    with given.session(as_json=as_json, quiet=quiet, verbose=verbose, to_stdout=is_piped) as hook:
        from mssgen.codecs.container import SUFFIX
        from mssgen.inputs.tracks import find_tracks
        from mssgen.jobs.codec_files import CodecOutput, container_of, decode_files

        given.use_threads(threads)
        tracks = find_tracks(inputs or [], list_file=list_file, extensions=(SUFFIX,))
        existing = given.existing(inputs, tracks, overwrite, skip_existing)
        done = decode_files(
            tracks,
            partial(_load, device=device, offline=offline, quiet=quiet),
            CodecOutput(output, existing),
            codec=codec,
            n_codebooks=n_codebooks,
            container=container_of(output, container),
            bit_depth=bit_depth,
            sample_rate=sample_rate,
            clip=clip,
            files_of_codec=_files_of(codec, offline=offline) if codec else None,
            hook=hook,
        )
        return 1 if done.n_failed else 0


def _files_of(name: str, *, offline: bool) -> list[str]:
    """The hashes of a codec's files; raises CheckpointError."""
    from mssgen.checkpoints.resolving import resolve
    from mssgen.jobs.made_by import hashes_of

    return hashes_of(resolve(name, offline=offline, stage="codec").paths[0])


def _load(name: str, *, device: str, offline: bool, quiet: bool) -> "Codec":
    from mssgen.codecs.loading import load_codec
    from mssgen.devices import share_heaps

    share_heaps()
    progress = not quiet and sys.stderr.isatty()
    return load_codec(name, device=device, offline=offline, progress=progress)
