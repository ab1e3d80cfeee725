"""`mssgen codec`: audio to tokens and back."""

from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.cli.analyze import analyze
from mssgen.cli.files import existing
from mssgen.cli.groups import App
from mssgen.errors import UsageError
from mssgen.events import Loading

if TYPE_CHECKING:
    from mssgen.codecs.base import Codec

app = App(help="Encode and decode audio with neural codecs, and analyze the codecs.")

app.command()(analyze)

DEFAULT_CODEC = "stem_codec"


@app.command()
def encode(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    codec: given.Codec = DEFAULT_CODEC,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="A .codes file, a folder, or - for standard output.",
            metavar="PATH",
        ),
    ] = "codes",
    bandwidth: Annotated[
        float | None,
        typer.Option(
            help="Bit rate of each coded channel, in kbit/s.",
            metavar="KBPS",
            show_default="that of all codebooks",
        ),
    ] = None,
    n_codebooks: Annotated[
        int | None,
        typer.Option(help="Number of codebooks to keep, instead of --bandwidth.", metavar="N"),
    ] = None,
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    strict: given.Strict = False,
    offline: given.Offline = False,
    machine: given.Machine = given.Machine(),
    running: given.Run = given.Run(),
    messages: given.Messages = given.Messages(),
) -> int:
    """Encode audio of any sample rate and channel count into the tokens of a neural codec.

    Writes codes/TRACK.codes, a safetensors file. Exit codes: 0 done, 1 a file failed, 2 wrong
    usage, 130 interrupted.
    """
    with messages.session(to_stdout=output == "-") as hook:
        from mssgen.inputs.tracks import find_tracks

        if bandwidth is not None and n_codebooks is not None:
            raise UsageError("--bandwidth and --n-codebooks set the same thing; use one")
        machine.use_threads()
        tracks = find_tracks(inputs or [], list_file=list_file, skip_outputs=False)

        with messages.starting():
            from mssgen.codecs.container import SUFFIX
            from mssgen.jobs.codec_files import CodecOutput, encode_files

        mode, run = existing(inputs, tracks, overwrite, skip_existing), running.chosen()
        to = CodecOutput(output, mode)
        to.check(tracks, SUFFIX)  # a wrong name is found before a download
        files_of = _files_of(codec, offline=offline, messages=messages)

        @cache
        def load() -> "Codec":
            hook(Loading(codec))
            return _load(codec, machine=machine, offline=offline, messages=messages)

        if bandwidth is not None:
            n_codebooks = load().n_codebooks_for(bandwidth)
        done = encode_files(
            tracks,
            load,
            to,
            n_codebooks=n_codebooks,
            files_of_codec=files_of,
            strict=strict,
            run=run,
            hook=running.metered(hook),
        )
        return 1 if done.n_failed else 0


@app.command()
def decode(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help=".codes files, folders, or - for standard input."),
    ] = None,
    list_file: given.ListFile = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            help="The codec: a name or a path.",
            metavar="CODEC",
            show_default="the codec that the file names",
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="An audio file, a folder, or - for standard output.",
            metavar="PATH",
        ),
    ] = "decoded",
    n_codebooks: Annotated[
        int | None,
        typer.Option(help="Use the first N codebooks only.", metavar="N", show_default="all"),
    ] = None,
    container: Annotated[
        given.FormatName | None,
        typer.Option(
            "--format",
            "-f",
            help="File format.",
            show_default="from the extension of --output, or wav",
        ),
    ] = None,
    bit_depth: Annotated[
        given.BitDepthName | None, typer.Option(help="Bits per sample.", show_default="16")
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            help="Sample rate of the outputs.", metavar="HZ", show_default="the original's"
        ),
    ] = None,
    clip: Annotated[
        given.ClipMode, typer.Option(help="What to do about peaks above full scale.")
    ] = "rescale",
    overwrite: given.Overwrite = False,
    skip_existing: given.SkipExisting = False,
    offline: given.Offline = False,
    machine: given.Machine = given.Machine(),
    running: given.Run = given.Run(),
    messages: given.Messages = given.Messages(),
) -> int:
    """Decode .codes files to audio with the sample rate, channels and length of the original.

    Exit codes: 0 done, 1 a file failed, 2 wrong usage, 130 interrupted.
    """
    with messages.session(to_stdout=output == "-") as hook:
        with messages.starting():
            from mssgen.codecs.container import SUFFIX
            from mssgen.inputs.tracks import find_tracks
            from mssgen.jobs.codec_files import CodecOutput, container_of, decode_files

        machine.use_threads()
        # The outputs of `encode` are what is decoded.
        tracks = find_tracks(
            inputs or [], list_file=list_file, extensions=(SUFFIX,), skip_outputs=False
        )
        mode, run = existing(inputs, tracks, overwrite, skip_existing), running.chosen()

        def load(name: str) -> "Codec":
            hook(Loading(name))
            return _load(name, machine=machine, offline=offline, messages=messages)

        done = decode_files(
            tracks,
            load,
            CodecOutput(output, mode),
            codec=codec,
            n_codebooks=n_codebooks,
            container=container_of(output, container),
            bit_depth=bit_depth,
            sample_rate=sample_rate,
            clip=clip,
            files_of_codec=_files_of(codec, offline=offline, messages=messages) if codec else None,
            run=run,
            hook=running.metered(hook),
        )
        return 1 if done.n_failed else 0


def _files_of(name: str, *, offline: bool, messages: given.Messages) -> list[str]:
    """SHA-256 of each file of a codec; raises CheckpointError."""
    from mssgen.checkpoints.resolving import resolve
    from mssgen.jobs.made_by import hashes_of

    found = resolve(name, offline=offline, progress=messages.has_progress, stage="codec")
    return hashes_of(found.paths[0])


def _load(name: str, *, machine: given.Machine, offline: bool, messages: given.Messages) -> "Codec":
    from mssgen.codecs.loading import load_codec
    from mssgen.devices import share_heaps

    share_heaps()
    return load_codec(name, device=machine.device, offline=offline, progress=messages.has_progress)
