"""Coding of many sound files to `.codes` files, and decoding of these."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from mssgen.audio.encodings import CONTAINERS, AudioInfo, Encoding, choose_encoding
from mssgen.audio.reading import open_source
from mssgen.audio.resampling import out_samples
from mssgen.audio.speakers import what_is_lost
from mssgen.audio.writing import StemWriter, copy_to_stdout, over_full_scale
from mssgen.checkpoints.registry import REGISTRY
from mssgen.codecs.base import Codec
from mssgen.codecs.coding import decode_coded, encode_source
from mssgen.codecs.container import SUFFIX, CodedAudio, pack, read_codes, write_codes
from mssgen.errors import UsageError
from mssgen.events import Done, Hook, Progress, Start, Warned, Written, ignore
from mssgen.files import is_there
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import EXTENSIONS, Track
from mssgen.jobs.decisions import Decision, Places, Rule, decide
from mssgen.jobs.manifest import Manifest
from mssgen.jobs.options import RunOptions
from mssgen.jobs.song_record import DECODE, ENCODE, SongRecord
from mssgen.jobs.tally import Tally
from mssgen.leftovers import scratch_folder

_OUTPUT = "output"


@dataclass(frozen=True)
class CodecOutput:
    """Destination of coded or decoded files."""

    path: str = "codes"
    """A file with the suffix of the output format, a folder, or "-" for standard output."""
    existing: str = "refuse"
    """Handling of files that exist already; see `mssgen.jobs.decisions.EXISTING`."""

    @property
    def is_stdout(self) -> bool:
        """Whether `path` is standard output."""
        return self.path == "-"

    def check(self, tracks: Sequence[Track], suffix: str) -> None:
        """Raise UsageError if `path` does not fit the tracks or files with this suffix."""
        if (self.is_stdout or self.is_file(suffix)) and len(tracks) != 1:
            raise UsageError(
                f"`output` {self.path} takes one input, not {len(tracks)}: name a folder"
            )
        if self.is_stdout and sys.stdout.isatty():
            raise UsageError("`output='-'` would fill the terminal; pipe it, or name a file")
        given = Path(self.path).suffix.lower()
        is_folder = self.path.endswith("/") or Path(self.path).is_dir()
        if given in (*EXTENSIONS, SUFFIX, ".raw") and given != suffix and not is_folder:
            raise UsageError(
                f"`output` {self.path} ends with {given}, but {suffix} is written: name a {suffix} "
                "file or a folder"
            )

    def is_file(self, suffix: str) -> bool:
        """Whether `path` is a file with this suffix."""
        return Path(self.path).suffix.lower() == suffix

    def manifest(self, suffix: str) -> Manifest | None:
        """Manifest of the output folder; None if the output is a file or standard output."""
        is_folder = not self.is_stdout and not self.is_file(suffix)
        return Manifest(self.path) if is_folder else None

    def decisions(
        self,
        tracks: Sequence[Track],
        suffix: str,
        made: Mapping[str, Any] | None,
        manifest: Manifest | None,
        mine: Sequence[int],
    ) -> list[Decision]:
        """One decision per track that is `mine`; standard output is the target "-".

        Raises UsageError, see `decide`.
        """
        self.check(tracks, suffix)
        if self.is_stdout:
            return [Decision({_OUTPUT: Path("-")})]
        if self.is_file(suffix):
            return [self._file_decision(tracks[0])]
        places = Places(Path(self.path), "{track}.{ext}", suffix[1:])
        return decide(
            [(track, {_OUTPUT: made}) for track in tracks],
            places,
            Rule(self.existing, {}, manifest),
            mine=mine,
            cure="name the folder that holds both, or name them in two calls",
        )

    def _file_decision(self, track: Track) -> Decision:
        """Decide about a single output file, for which there is no manifest."""
        target = Path(self.path)
        if track.real_path == os.path.realpath(target):
            raise UsageError(
                f"{target} would replace the input {track.label}: choose another `output`"
            )
        if not is_there(target) or self.existing == "overwrite":
            return Decision({_OUTPUT: target})
        if self.existing == "skip":
            return Decision()
        return Decision(
            refusal=f"{target} exists: use `existing='overwrite'` to replace it or "
            "`existing='skip'` to keep it"
        )


def encode_files(
    tracks: Sequence[Track],
    load: Callable[[], Codec],
    output: CodecOutput,
    *,
    n_codebooks: int | None = None,
    strict: bool = False,
    files_of_codec: Sequence[str] | None = None,
    run: RunOptions | None = None,
    hook: Hook = ignore,
) -> Done:
    """Code sound files; one that fails does not stop the others.

    Args:
        tracks: the sound files.
        load: loads the codec; called once, and only if there is a file to code.
        output: destination of the `.codes` files.
        n_codebooks: number of codebooks to keep, the first ones; None keeps all.
        strict: refuse damaged files; otherwise they are coded as far as they can be read, with a
            warning.
        files_of_codec: hashes of the codec's files, see `mssgen.jobs.made_by.hashes_of`; None means
            that no existing output counts as complete.
        run: which part of the files, and what follows a failure.
        hook: called with events; failures of single files are reported here.

    Raises:
        UsageError: a wrong option; raised before any work.
    """

    @cache
    def loaded() -> Codec:
        codec = load()
        codec.check_n_codebooks(n_codebooks)
        return codec

    made = {"codec": files_of_codec, "n_codebooks": n_codebooks} if files_of_codec else None

    def work(track: Track, target: Path | None, record: SongRecord, hook: Hook) -> None:
        def warn(message: str) -> None:
            hook(Warned(track.label, message))

        codec = loaded()
        with open_source(track.path, strict=strict, warn=warn) as source:
            device = codec.device.type
            info = source.info
            duration_s = source.n_samples / info.sample_rate
            hook(Start(track.label, duration_s, info.sample_rate, info.n_channels, device, "fp32"))
            coded = encode_source(
                source, codec, n_codebooks=n_codebooks, duration_s=duration_s, hook=hook
            )
        if target is None:
            sys.stdout.buffer.write(pack(coded))
            sys.stdout.buffer.flush()
        else:
            record.check_input()
            write_codes(target, coded, announce=record.announcing(target, made))

    return _run(ENCODE, tracks, output, SUFFIX, made, loaded, work, run or RunOptions(), hook)


def decode_files(
    tracks: Sequence[Track],
    load: Callable[[str], Codec],
    output: CodecOutput,
    *,
    codec: str | None = None,
    n_codebooks: int | None = None,
    container: str = "wav",
    bit_depth: str | None = None,
    sample_rate: int | None = None,
    clip: str = "rescale",
    files_of_codec: Sequence[str] | None = None,
    run: RunOptions | None = None,
    hook: Hook = ignore,
) -> Done:
    """Decode `.codes` files; one that fails does not stop the others.

    Args:
        tracks: the `.codes` files.
        load: loads a codec by name or path; called once per codec.
        output: destination of the sound files.
        codec: name or path; None uses the codec named in each file, if the registry has it.
        n_codebooks: number of codebooks to decode, the first ones; None decodes all.
        container, bit_depth, sample_rate, clip: see `mssgen.jobs.options.WriteOptions`.
        files_of_codec: hashes of the files of `codec`, see `mssgen.jobs.made_by.hashes_of`; if
            `codec` is given without them, no existing output counts as complete.
        run: which part of the files, and what follows a failure.
        hook: called with events; failures of single files are reported here.

    Raises:
        UsageError: a wrong option; raised before any work.
    """
    choose_encoding(AudioInfo(48_000, 1, "", "PCM_16"), container, bit_depth)
    codecs: dict[str, Codec] = {}
    made: dict[str, Any] | None = {
        "codec": files_of_codec or "as named",
        "n_codebooks": n_codebooks,
        "format": container,
        "bit_depth": bit_depth,
        "sample_rate": sample_rate,
        "clip": clip,
    }
    if codec is not None and files_of_codec is None:
        made = None

    def work(track: Track, target: Path | None, record: SongRecord, hook: Hook) -> None:
        with ExitStack() as stack:
            coded = read_codes(_local(stack, track.path), name=track.label)
            name = codec or coded.codec
            if codec is None and name not in REGISTRY:
                raise UsageError(
                    f"{track.label} was made by the codec '{name:.80}', which is not a known name; "
                    "give its path as `codec`"
                )
            loaded = codecs.get(name) or codecs.setdefault(name, load(name))
            coded = _truncated(coded, loaded, n_codebooks, track.label)
            rate = sample_rate or coded.sample_rate
            info = AudioInfo(rate, coded.n_channels, "", "PCM_16")
            encoding = choose_encoding(info, container, bit_depth)
            device = loaded.device.type
            duration_s = coded.n_samples / coded.sample_rate
            hook(Start(track.label, duration_s, rate, coded.n_channels, device, "fp32"))
            path = target
            if path is None:  # a temporary file, because header and gain come last
                path = stack.enter_context(scratch_folder()) / "sound"
            record.check_input()
            announce = record.announcing(target, made) if target is not None else None
            _write_sound(coded, loaded, path, encoding, rate, clip, track.label, hook, announce)
            if target is None:
                copy_to_stdout(path, sys.stdout.buffer)

    return _run(
        DECODE, tracks, output, f".{container}", made, lambda: None, work, run or RunOptions(), hook
    )


def _truncated(coded: CodedAudio, codec: Codec, n_codebooks: int | None, label: str) -> CodedAudio:
    """Keep the first `n_codebooks` codebooks; UsageError if the file, `label`, has fewer."""
    if n_codebooks is None:
        return coded
    if not 1 <= n_codebooks <= coded.codes.n_codebooks:
        raise UsageError(
            f"{label} holds {coded.codes.n_codebooks} codebooks, so `n_codebooks={n_codebooks}` "
            "is out of range"
        )
    return replace(coded, codes=codec.truncate(coded.codes, n_codebooks))


def _write_sound(
    coded: CodedAudio,
    codec: Codec,
    path: Path,
    encoding: Encoding,
    sample_rate: int,
    clip: str,
    label: str,
    hook: Hook,
    announce: Callable[[Path], None] | None = None,
) -> None:
    n_samples = out_samples(coded.n_samples, coded.sample_rate, sample_rate)
    if (lost := what_is_lost(coded.layout, encoding.container)) is not None:
        hook(Warned(label, lost))
    with StemWriter(
        path,
        sample_rate=sample_rate,
        n_channels=coded.n_channels,
        n_samples=n_samples,
        encoding=encoding,
        clip=clip,
        layout=coded.layout,
    ) as writer:
        n_done = 0
        for block in decode_coded(coded, codec, sample_rate=sample_rate):
            writer.write(block)
            n_done += block.shape[-1]
            hook(Progress(label, n_done / sample_rate, n_samples / sample_rate))
        gain = encoding.gain_for(writer.peak)
        if gain < 1:
            hook(Warned(label, over_full_scale(gain, clip)))
        writer.finish(gain if clip == "rescale" else 1.0, announce=announce)


def _run(
    job: str,
    tracks: Sequence[Track],
    output: CodecOutput,
    suffix: str,
    made: Mapping[str, Any] | None,
    prepare: Callable[[], object],
    work: Callable[[Track, Path | None, SongRecord, Hook], None],
    run: RunOptions,
    hook: Hook,
) -> Done:
    """Do `work` on each track whose output is not complete.

    `prepare` is called if there is such a track. `work` gets the target, None for standard output,
    and the hook for its events. `made` is all that determines the content of the outputs; None if
    unknown.
    """
    manifest = output.manifest(suffix)
    if run.shard is not None and manifest is None:
        raise UsageError(f"`shard` needs a folder to write to, not {output.path}: name one")
    mine = run.mine(tracks, Path(output.path))
    decisions = output.decisions(tracks, suffix, made, manifest, list(mine))
    tally = Tally(
        f"{job[:-1]}ing", hook, [(tracks[i], n_bytes) for i, n_bytes in mine.items()], run
    )
    jobs = [
        (tracks[index], decision, SongRecord(manifest, job, tracks[index], {}), 0.0)
        for index, decision in zip(mine, decisions, strict=True)
        if not tally.settled(tracks[index], decision)
    ]
    if jobs and not tally.is_over:
        prepare()
    for track, decision, record, pause_s in jobs:  # grows by the files to try again
        if tally.is_over:
            break
        time.sleep(pause_s)
        again = partial(_again, jobs, track, decision, record)
        with tally.attempt(track, record, again) as told, record.claimed(decision) as claimed:
            target = None if output.is_stdout else claimed.targets[_OUTPUT]
            record.begin()
            record.opened()
            work(track, target, record, told)
            if target is not None:
                hook(Written(track.label, suffix[1:], target))
    return tally.finish()


_Job = tuple[Track, Decision, SongRecord, float]
"""A file, what to write for it, and seconds to wait before."""


def _again(
    jobs: list[_Job], track: Track, decision: Decision, record: SongRecord, pause_s: float
) -> None:
    jobs.append((track, decision, record.renewed(), pause_s))


def _local(stack: ExitStack, path: str) -> Path:
    """Path to read a `.codes` file from: a temporary copy of standard input or of a pipe."""
    if path != STDIN and not Path(path).is_fifo():
        return Path(path)
    folder = stack.enter_context(scratch_folder())
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError("standard input is closed; pipe a .codes file into mssgen")
        if sys.stdin.isatty():
            raise UsageError("standard input is a terminal; pipe a .codes file into mssgen")
        data = sys.stdin.buffer.read()
    else:
        data = Path(path).read_bytes()
    (folder / "piped").write_bytes(data)
    return folder / "piped"


def container_of(output: str, container: str | None) -> str:
    """Container to write: the given one, else that of the suffix of `output`, else wav."""
    suffix = Path(output).suffix.lower().lstrip(".")
    chosen = container or (suffix if suffix in CONTAINERS else "wav")
    if chosen not in CONTAINERS:
        raise UsageError(f"`container={chosen!r}` is unknown; use one of {', '.join(CONTAINERS)}")
    return chosen
