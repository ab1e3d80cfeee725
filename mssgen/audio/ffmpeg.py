"""What libsndfile cannot read goes through the ffmpeg program, where it is installed."""

import errno
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mssgen.audio.containers.file_layout import cut_short
from mssgen.audio.spooling import is_ready
from mssgen.errors import AudioError

_log = logging.getLogger(__name__)
_PROBE_TIMEOUT_S = 20.0

# First bytes of what only ffmpeg reads: (offset, bytes, what it is).
_FFMPEG_KINDS = (
    (4, b"ftyp", "MP4 (m4a, mp4, mov)"),
    (0, bytes.fromhex("3026b2758e66cf11"), "Windows Media (wma, asf)"),
    (0, b"\x1aE\xdf\xa3", "Matroska (mka, mkv, webm)"),
    (0, b"\xff\xf1", "raw AAC"),
    (0, b"\xff\xf9", "raw AAC"),
    (8, b"AVI ", "AVI"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"TTA1", "TTA"),
    (0, b"MPCK", "Musepack"),
    (0, b"FLV", "Flash video"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x0bw", "AC-3"),
)


# Plain containers of sound. What is left out opens other files or devices (playlists, lists of
# files, scripts), or takes anything for sound (raw samples).
_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dsf"),
    *("dts", "dtshd", "eac3", "flac", "flv", "gxf", "iff", "ircam", "loas", "matroska", "webm"),
    *("mlp", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpc", "mpc8", "mpeg", "mpegts"),
    *("mxf", "nut", "ogg", "oma", "qcp", "rm", "shn", "swf", "tak", "truehd", "tta", "voc"),
    *("w64", "wav", "wsd", "wtv", "wv", "xwma"),
)
_ALLOWED = ("-protocol_whitelist", "file", "-format_whitelist", ",".join(_FORMATS))
# Containers whose time stamps tell where sound begins and where it pauses.
_TIMED_FORMATS = {"matroska", "mov", "avi", "mpegts", "mpeg", "flv", "nut", "mxf"}
# Encoders' delays and the rounding of time stamps stay below this.
_MIN_DELAY_S = 0.05
_LOSSLESS = {
    *("alac", "ape", "flac", "mlp", "mp4als", "ralf", "shorten", "tak", "truehd", "tta"),
    *("wavpack", "wmalossless"),
}
_SAMPLE_BITS = {"u8": 8, "s16": 16, "s32": 32, "s64": 64}
_MAX_RATE = 192_000
# A player's rate for DSD: above it there is hardly more than its shaped noise.
_DSD_RATE = 88_200
# ffmpeg that neither gives samples nor ends for so long is waiting for something.
_PATIENCE_S = 60.0
_DAMAGE = re.compile(
    r"Error while decoding|Error submitting|Invalid data found|decode_frame\(\) failed|partial file"
    r"|[Cc]orrupt|Truncat|ended prematurely"
)

# "Stream #0:0[0x1](und): Audio: alac (alac / 0x63616C61), 44100 Hz, stereo, s32p (24 bit), ...".
_TRACK = re.compile(
    r"Stream #0:\d+.*?: Audio: (\w+)[^\n]*?, (\d+) Hz, "
    r"[^\n]*?, ([a-z]+\d*p?)\b(?: \((\d+) bit\))?"
)


@dataclass(frozen=True)
class Decoded:
    """What ffmpeg made of a file."""

    path: Path
    """A float32 wav."""
    subtype: str
    """libsndfile's name of the sample format, as "PCM_24"; "" of lossy ones."""
    losses: tuple[str, ...] = ()
    """What is missing: the end of a sentence that begins with the file's name."""
    notes: tuple[str, ...] = ()
    """What else the user should know, likewise."""


@dataclass(frozen=True)
class _Stream:
    """The first audio track, as ffmpeg describes it."""

    formats: frozenset[str]
    codec: str
    sample_rate: int
    sample_format: str
    n_bits: int | None
    start_s: float
    duration_s: float | None
    has_video: bool

    @property
    def subtype(self) -> str:
        kind = self.sample_format.removesuffix("p")
        is_pcm = self.codec.startswith("pcm_") and "law" not in self.codec
        if self.codec.startswith("dsd"):
            return "DSD"
        if not is_pcm and self.codec not in _LOSSLESS:
            return ""
        if kind in _SAMPLE_BITS:
            return f"PCM_{self.n_bits or _SAMPLE_BITS[kind]}"
        return {"flt": "FLOAT", "dbl": "DOUBLE"}.get(kind, "")

    @property
    def out_rate(self) -> int:
        """The rate to decode at: one of those that are read."""
        if self.codec.startswith("dsd"):
            return min(_DSD_RATE, self.sample_rate)
        rate = self.sample_rate
        while rate > _MAX_RATE:
            rate //= 2
        return rate

    @property
    def filters(self) -> list[str]:
        chain = []
        # Windows Media counts a decoder's delay as a late start: heeded beside pictures only.
        if self.formats & _TIMED_FORMATS or ("asf" in self.formats and self.has_video):
            # Silence where the time stamps leave a hole; nothing is stretched.
            begin = ":first_pts=0" if self.start_s >= _MIN_DELAY_S else ""
            chain.append(f"aresample=async=1{begin}")
        if self.out_rate != self.sample_rate:
            chain.append(f"aresample={self.out_rate}")
        return ["-af", ",".join(chain)] if chain else []


def decode(
    file: Path, folder: Path, name: str, head: bytes, cancel: threading.Event | None = None
) -> Decoded:
    """Decode the first audio track to a float32 wav in `folder`.

    The samples keep the time line of the file: silence stands for a late start and for holes.
    `head` is the start of the file; ffmpeg is ended when `cancel` is set.

    Raises AudioError when ffmpeg is missing, cannot decode the file, waits without end or was
    cancelled; OSError when `folder` is full.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(f"{name} is {_needs_ffmpeg(head)}")
    # "file:" and what is allowed: neither an odd name nor a playlist may open anything else.
    source = [*_ALLOWED, "-i", f"file:{file.absolute()}", "-map", "0:a:0"]
    call = [program, "-hide_banner", "-nostdin"]
    watch = _Watch(folder, name, cancel)
    look = [*call, "-v", "info", *source, "-af", "ashowinfo", "-frames:a", "1"]
    said = watch.run([*look, "-f", "null", "-"], None)
    stream = _described(said, name)
    decoded = folder / "decoded.wav"
    target = [*stream.filters, "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    with open(decoded, "wb") as output:
        said = watch.run([*call, "-v", "error", *source, *target], output)
    n_errors = sum(bool(_DAMAGE.search(line)) for line in said.splitlines())
    notes: tuple[str, ...] = ()
    if stream.out_rate != stream.sample_rate:
        what = "DSD" if stream.codec.startswith("dsd") else f"sampled at {stream.sample_rate} Hz"
        notes = (f"is {what}: it is read at {stream.out_rate} Hz",)
    losses = [f"is damaged: ffmpeg could not decode all of it ({n_errors} errors)"] * (n_errors > 0)
    declared_s, held_s = stream.duration_s or 0.0, _held_s(decoded, stream.out_rate)
    # Pictures may last longer than the sound.
    if not stream.has_video and held_s < declared_s - max(0.2, 0.002 * declared_s):
        losses.append(cut_short(held_s, declared_s))
    return Decoded(decoded, stream.subtype, tuple(losses), notes)


def _held_s(wav: Path, sample_rate: int) -> float:
    """The length of what ffmpeg wrote, from its size: its header does not know it."""
    with open(wav, "rb") as file:
        head = file.read(256)
    at = head.find(b"fmt ")
    bytes_per_sample = int.from_bytes(head[at + 20 : at + 22], "little")
    return wav.stat().st_size / max(1, bytes_per_sample) / sample_rate


def _needs_ffmpeg(head: bytes) -> str:
    for offset, signature, kind in _FFMPEG_KINDS:
        if head[offset:].startswith(signature):
            return f"{kind}, which needs ffmpeg: install it, or convert to wav"
    return "damaged or not a sound file; get a new copy, or convert it to wav or flac"


def _described(said: str, name: str) -> _Stream:
    """The first audio track, from what ffmpeg prints about its input and the first samples."""
    if re.search(r"Stream map .*matches no streams", said):
        raise AudioError(f"{name} holds no sound; choose another file")
    track = _TRACK.search(said)
    if track is None or "pts_time:" not in said:
        raise _not_sound(name)
    formats = re.search(r"Input #0, ([\w,]+), from", said)
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
    start = re.search(r"pts_time:(-?[\d.]+)", said)
    codec, rate, sample_format, n_bits = track.groups()
    videos = re.findall(r"Stream #0:\d+.*?: Video: [^\n]*", said)
    return _Stream(
        formats=frozenset(formats[1].split(",") if formats else ()),
        codec=codec,
        sample_rate=int(rate),
        sample_format=sample_format,
        n_bits=int(n_bits) if n_bits else None,
        start_s=float(start[1]) if start else 0.0,
        duration_s=None
        if length is None
        else 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3]),
        has_video=any("attached pic" not in video for video in videos),
    )


def is_silent_film(file: Path) -> bool:
    """Whether ffmpeg finds no sound track in a file that it can read; False where it is unsure."""
    if (program := shutil.which("ffmpeg")) is None:
        return False
    source = [*_ALLOWED, "-i", f"file:{file.absolute()}"]
    target = ["-map", "0:a:0", "-c", "copy", "-t", "0", "-f", "null", "-"]
    try:
        result = subprocess.run(
            [program, "-nostdin", "-v", "error", *source, *target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PROBE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode != 0 and b"matches no streams" in result.stderr


def _not_sound(name: str) -> AudioError:
    return AudioError(f"{name} is damaged or not a sound file, says ffmpeg; get a new copy of it")


@dataclass(frozen=True)
class _Watch:
    """Runs ffmpeg so that it cannot outlive us, wait for ever, or ask the terminal."""

    folder: Path
    name: str
    cancel: threading.Event | None

    def run(self, command: Sequence[str], output: BinaryIO | None) -> str:
        """Copy what it writes to `output`; returns what it says. AudioError where it fails."""
        log = self.folder / "ffmpeg.log"
        with open(log, "wb") as errors, _process(command, errors) as process:
            pipe = cast(BinaryIO, process.stdout)
            last = time.monotonic()
            while True:
                if not is_ready(pipe, timeout_s=0.2):
                    self._check(last)
                    continue
                data = pipe.read1(2**18)  # type: ignore[attr-defined]
                if not data:
                    break
                last = time.monotonic()
                self._check(last)
                if output is not None:
                    output.write(data)
            while process.poll() is None:
                self._check(last)
                time.sleep(0.01)
        with open(log, "rb") as file:
            said = file.read(2**20).decode(errors="replace")
        if process.returncode and not re.search(r"Stream map .*matches no streams", said):
            # Its lines read badly: for debug logs only.
            _log.debug("ffmpeg on %s: %s", self.name, said.strip())
            if "No space left on device" in said:
                raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
            raise _not_sound(self.name)
        return said

    def _check(self, last: float) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise AudioError(f"{self.name} was not read: it was interrupted")
        if time.monotonic() - last > _PATIENCE_S:
            raise AudioError(
                f"{self.name} keeps ffmpeg waiting without giving sound; get a new copy of it"
            )


@contextmanager
def _process(command: Sequence[str], errors: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block. If we are killed, its pipe breaks, and it ends too."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
