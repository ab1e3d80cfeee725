"""Files to `.codes` files and back: names, what exists, and a count of what failed."""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mssgen.audio.encodings import CONTAINERS, AudioInfo, Encoding, choose_encoding
from mssgen.audio.reading import open_source
from mssgen.audio.resampling import out_samples
from mssgen.audio.speakers import what_is_lost
from mssgen.audio.writing import CUT_OFF, StemWriter, copy_to_stdout
from mssgen.checkpoints.registry import REGISTRY
from mssgen.codecs.base import Codec
from mssgen.codecs.coding import decode_coded, encode_source
from mssgen.codecs.container import SUFFIX, CodedAudio, pack, read_codes, write_codes
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Progress, Skipped, Start, Warned, Written, ignore
from mssgen.files import is_there
from mssgen.inputs.tracks import EXTENSIONS, STDIN, Track
from mssgen.jobs.decisions import Decision, Places, decide
from mssgen.jobs.manifest import Manifest
from mssgen.jobs.song_record import SongRecord
from mssgen.leftovers import scratch_folder

_OUTPUT = "output"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodecOutput:
    """Where results go."""

    path: str = "codes"
    """A file (with the suffix of what is written), a folder, or "-" for standard output."""
    existing: str = "refuse"
    """What to do with what is there; see `mssgen.jobs.decisions.EXISTING`."""

    @property
    def is_stdout(self) -> bool:
        return self.path == "-"

    def check(self, tracks: Sequence[Track], suffix: str) -> None:
        """Raise UsageError for a path that does not take what is written."""
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
        return Path(self.path).suffix.lower() == suffix

    def manifest(self, suffix: str) -> Manifest | None:
        """Of a folder."""
        is_folder = not self.is_stdout and not self.is_file(suffix)
        return Manifest(self.path) if is_folder else None

    def decisions(
        self,
        tracks: Sequence[Track],
        suffix: str,
        made: Mapping[str, Any] | None,
        manifest: Manifest | None,
    ) -> list[Decision]:
        """What becomes of each track; no targets for standard output. UsageError: see `decide`."""
        self.check(tracks, suffix)
        if self.is_stdout:
            return [Decision()]
        if self.is_file(suffix):
            return [self._file_decision(tracks[0])]
        places = Places(Path(self.path), "{track}.{ext}", suffix[1:])
        return decide(
            [(track, {_OUTPUT: made}) for track in tracks],
            places,
            existing=self.existing,
            options={},
            manifest=manifest,
            cure="name the folder that holds both, or name them in two calls",
        )

    def _file_decision(self, track: Track) -> Decision:
        """For a file that was named outright, of which no manifest tells."""
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
    codec: Codec,
    output: CodecOutput,
    *,
    n_codebooks: int | None = None,
    strict: bool = False,
    files_of_codec: Sequence[str] | None = None,
    hook: Hook = ignore,
) -> Done:
    """Code sound files; one that fails does not stop the others.

    Damaged files are coded as far as they can be read, with a warning; `strict` refuses them.
    `files_of_codec` are their hashes, see `mssgen.jobs.made_by.hashes_of`; without them what exists
    is never taken for the same. Raises UsageError for wrong options, before any work.
    """
    codec.check_n_codebooks(n_codebooks)
    made = {"codec": files_of_codec, "n_codebooks": n_codebooks} if files_of_codec else None

    def work(track: Track, target: Path | None, record: SongRecord) -> None:
        def warn(message: str) -> None:
            hook(Warned(track.label, message))

        with open_source(track.path, strict=strict, warn=warn) as source:
            device = next(codec.encoder.parameters()).device.type
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

    return _run(tracks, output, SUFFIX, made, work, hook)


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
    hook: Hook = ignore,
) -> Done:
    """Decode `.codes` files; one that fails does not stop the others.

    Args:
        tracks: the files.
        load: gives a codec by its name, or path.
        output: where to.
        codec: its name or path; None takes the one that each file names, if the registry knows it.
        n_codebooks: decode from the first levels only; None: from all.
        container, bit_depth, sample_rate, clip: see `mssgen.jobs.batch.WriteOptions`.
        files_of_codec: the hashes of `codec`, see `mssgen.jobs.made_by.hashes_of`; without them
            what a named codec made is never taken for the same.
        hook: told what happens.

    Raises:
        UsageError: a wrong option, before any work.
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

    def work(track: Track, target: Path | None, record: SongRecord) -> None:
        with ExitStack() as stack:
            coded = read_codes(_local(stack, track.path), name=track.label)
            name = codec or coded.codec
            if codec is None and name not in REGISTRY:
                raise UsageError(
                    f"{track.label} was made by a codec called '{name:.80}', which is in no list "
                    "here: give its path as `codec`"
                )
            loaded = codecs.get(name) or codecs.setdefault(name, load(name))
            coded = _first_levels(coded, loaded, n_codebooks, track.label)
            rate = sample_rate or coded.sample_rate
            info = AudioInfo(rate, coded.n_channels, "", "PCM_16")
            encoding = choose_encoding(info, container, bit_depth)
            device = next(loaded.decoder.parameters()).device.type
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

    return _run(tracks, output, f".{container}", made, work, hook)


def _first_levels(
    coded: CodedAudio, codec: Codec, n_codebooks: int | None, label: str
) -> CodedAudio:
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
            done = "it was lowered by that" if clip == "rescale" else CUT_OFF
            over_db = -20 * np.log10(gain)
            hook(Warned(label, f"the sound peaks {over_db:.1f} dB over full scale; {done}"))
        writer.finish(gain if clip == "rescale" else 1.0, announce=announce)


def _run(
    tracks: Sequence[Track],
    output: CodecOutput,
    suffix: str,
    made: Mapping[str, Any] | None,
    work: Callable[[Track, Path | None, SongRecord], None],
    hook: Hook,
) -> Done:
    """Do `work` on each track, count and tell; `made` is what decides how the outputs sound."""
    started = time.monotonic()
    n_done = n_skipped = n_failed = 0
    manifest = output.manifest(suffix)
    decisions = output.decisions(tracks, suffix, made, manifest)
    for track, decision in zip(tracks, decisions, strict=True):
        target = decision.targets.get(_OUTPUT)
        if target is None and not decision.refusal and not output.is_stdout:
            n_skipped += 1
            hook(Skipped(track.label))
            continue
        record = SongRecord(manifest, track, {})
        try:
            if decision.refusal:
                raise AudioError(decision.refusal)
            record.opened()
            work(track, target, record)
            record.done()
            n_done += 1
            if target is not None:
                hook(Written(track.label, suffix[1:], target))
        except BrokenPipeError:
            raise
        except Exception as error:
            n_failed += 1
            _log.debug("%s failed", track.label, exc_info=True)
            name = "" if isinstance(error, MssgenError) else f"unexpected {type(error).__name__}: "
            record.failed(f"{name}{error}")
            hook(Failed(track.label, f"{name}{error}"))
    done = Done(n_done, n_skipped, n_failed, time.monotonic() - started)
    hook(done)
    return done


def _local(stack: ExitStack, path: str) -> Path:
    """The file itself; standard input and pipes become a temporary file."""
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
    """The format to write: the one asked for, else that of the file's suffix, else wav."""
    suffix = Path(output).suffix.lower().lstrip(".")
    chosen = container or (suffix if suffix in CONTAINERS else "wav")
    if chosen not in CONTAINERS:
        raise UsageError(f"`container={chosen!r}` is unknown; use one of {', '.join(CONTAINERS)}")
    return chosen
