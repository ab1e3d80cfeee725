"""Files to `.codes` files and back: names, what exists, and a count of what failed."""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mssgen.audio import (
    AudioInfo,
    Encoding,
    StemWriter,
    choose_encoding,
    copy_to_stdout,
    open_source,
    safe_target,
)
from mssgen.batch import CUT_OFF
from mssgen.codecs.base import Codec
from mssgen.codecs.container import SUFFIX, CodedAudio, pack, read_codes, write_codes
from mssgen.coding import decode_coded, encode_source
from mssgen.encoding import CONTAINERS
from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.events import Done, Failed, Hook, Progress, Skipped, Start, Warned, Written, ignore
from mssgen.pipeline import out_samples
from mssgen.registry import REGISTRY
from mssgen.speakers import what_is_lost
from mssgen.tracks import STDIN, Track

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodecOutput:
    """Where results go."""

    path: str = "codes"
    """A file (with the suffix of what is written), a folder, or "-" for standard output."""
    existing: str = "refuse"
    """"refuse", "skip" or "overwrite" what is there."""

    @property
    def is_stdout(self) -> bool:
        return self.path == "-"

    def targets(self, tracks: Sequence[Track], suffix: str) -> list[Path | None]:
        """The file of each track, None for standard output; UsageError where two would be one."""
        is_file = Path(self.path).suffix.lower() == suffix
        if (self.is_stdout or is_file) and len(tracks) != 1:
            raise UsageError(f"-o {self.path} takes one input, not {len(tracks)}: name a folder")
        if self.is_stdout:
            if sys.stdout.isatty():
                raise UsageError("-o - would fill the terminal; pipe it, or name a file")
            return [None]
        if is_file:
            targets = [Path(self.path)]
        else:
            targets = [
                safe_target(Path(self.path), "{track}.{ext}", track=t.name, stem="", ext=suffix[1:])
                for t in tracks
            ]
        if len(set(targets)) < len(targets):
            double = next(target for target in targets if targets.count(target) > 1)
            raise UsageError(f"{double} would be written twice: name the folder that holds both")
        inputs = {track.real_path: track.label for track in tracks}
        for target in targets:
            if (source := inputs.get(os.path.realpath(target))) is not None:
                raise UsageError(f"{target} would replace the input {source}: choose another -o")
        return list(targets)


def encode_files(
    tracks: Sequence[Track],
    codec: Codec,
    output: CodecOutput,
    *,
    n_codebooks: int | None = None,
    hook: Hook = ignore,
) -> Done:
    """Code sound files; one that fails does not stop the others.

    Raises UsageError for wrong options, before any work.
    """
    codec.check_n_codebooks(n_codebooks)

    def work(track: Track, target: Path | None) -> None:
        with open_source(track.path) as source:
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
            write_codes(target, coded)

    return _run(tracks, output, SUFFIX, work, hook)


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
    hook: Hook = ignore,
) -> Done:
    """Decode `.codes` files; one that fails does not stop the others.

    Args:
        tracks: the files.
        load: gives a codec by its name, or path.
        output: where to.
        codec: its name or path; None takes the one that each file names, if the registry knows it.
        n_codebooks: decode from the first levels only; None: from all.
        container, bit_depth, sample_rate, clip: see `mssgen.batch.WriteOptions`.
        hook: told what happens.

    Raises:
        UsageError: a wrong option, before any work.
    """
    choose_encoding(AudioInfo(48_000, 1, "", "PCM_16"), container, bit_depth)
    codecs: dict[str, Codec] = {}

    def work(track: Track, target: Path | None) -> None:
        with ExitStack() as stack:
            coded = read_codes(_local(stack, track.path), name=track.label)
            name = codec or coded.codec
            if codec is None and name not in REGISTRY:
                raise UsageError(
                    f"{track.label} was made by a codec called '{name:.80}', which is in no list "
                    "here: give its path as --codec"
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
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mssgen-"))
                path = Path(folder) / "sound"
            _write_sound(coded, loaded, path, encoding, rate, clip, track.label, hook)
            if target is None:
                copy_to_stdout(path, sys.stdout.buffer)

    return _run(tracks, output, f".{container}", work, hook)


def _first_levels(
    coded: CodedAudio, codec: Codec, n_codebooks: int | None, label: str
) -> CodedAudio:
    if n_codebooks is None:
        return coded
    if not 1 <= n_codebooks <= coded.codes.n_codebooks:
        raise UsageError(
            f"{label} holds {coded.codes.n_codebooks} codebooks: --n-codebooks {n_codebooks} is "
            "not among them"
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
        writer.finish(gain if clip == "rescale" else 1.0)


def _run(
    tracks: Sequence[Track],
    output: CodecOutput,
    suffix: str,
    work: Callable[[Track, Path | None], None],
    hook: Hook,
) -> Done:
    """Do `work` on each track, count and tell."""
    started = time.monotonic()
    n_done = n_skipped = n_failed = 0
    for track, target in zip(tracks, output.targets(tracks, suffix), strict=True):
        if target is not None and target.exists() and output.existing == "skip":
            n_skipped += 1
            hook(Skipped(track.label))
            continue
        try:
            if target is not None and target.exists() and output.existing == "refuse":
                raise AudioError(
                    f"{target} exists; use --overwrite to replace it or --skip-existing to keep it"
                )
            work(track, target)
            n_done += 1
            if target is not None:
                hook(Written(track.label, suffix[1:], target))
        except BrokenPipeError:
            raise
        except Exception as error:
            n_failed += 1
            _log.debug("%s failed", track.label, exc_info=True)
            name = "" if isinstance(error, MssgenError) else f"unexpected {type(error).__name__}: "
            hook(Failed(track.label, f"{name}{error}"))
    done = Done(n_done, n_skipped, n_failed, time.monotonic() - started)
    hook(done)
    return done


def _local(stack: ExitStack, path: str) -> Path:
    """The file itself; standard input and pipes become a temporary file."""
    if path != STDIN and not Path(path).is_fifo():
        return Path(path)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mssgen-")))
    if path == STDIN:
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
        raise UsageError(f"--format {chosen} is unknown; use one of {', '.join(CONTAINERS)}")
    return chosen
