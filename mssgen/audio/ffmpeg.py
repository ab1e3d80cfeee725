"""Decodes files that libsndfile cannot read with the ffmpeg program, if it is installed."""

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

from mssgen.audio.containers.file_layout import cut_short, damaged, first_losses
from mssgen.audio.spooling import is_ready
from mssgen.errors import AudioError

_log = logging.getLogger(__name__)
_PROBE_TIMEOUT_S = 20.0

# Formats that only ffmpeg reads: (offset, first bytes, name).
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


# Plain audio containers. Formats that open other files or devices (playlists, lists of files,
# scripts) or accept any data (raw samples) are excluded.
_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dsf"),
    *("dts", "dtshd", "eac3", "flac", "flv", "gxf", "iff", "ircam", "loas", "matroska", "webm"),
    *("mlp", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpc", "mpc8", "mpeg", "mpegts"),
    *("mxf", "nut", "ogg", "oma", "qcp", "rm", "shn", "swf", "tak", "truehd", "tta", "voc"),
    *("w64", "wav", "wsd", "wtv", "wv", "xwma"),
)
_ALLOWED = ("-protocol_whitelist", "file", "-format_whitelist", ",".join(_FORMATS))
# Containers whose time stamps mark a late start and gaps.
_TIMED_FORMATS = {"matroska", "mov", "avi", "mpegts", "mpeg", "flv", "nut", "mxf"}
# Encoder delays and rounding of time stamps are below this.
_MIN_DELAY_S = 0.05
# A lost packet is longer; time stamps in milliseconds are off by less.
_MIN_GAP_S = 0.01
_LOSSLESS = {
    *("alac", "ape", "flac", "mlp", "mp4als", "ralf", "shorten", "tak", "truehd", "tta"),
    *("wavpack", "wmalossless"),
}
_SAMPLE_BITS = {"u8": 8, "s16": 16, "s32": 32, "s64": 64}
# Usual PCM rate for DSD: above its band there is mostly shaped noise.
_DSD_RATE = 88_200
# If ffmpeg outputs nothing for so long, it is blocked.
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
# A frame as `ashowinfo` logs it: "n:0 pts:-512 ... rate:44100 nb_samples:1024 ...".
_FRAME = re.compile(rb" pts:(-?\d+) .* rate:(\d+) nb_samples:(\d+)")


@dataclass(frozen=True)
class Decoded:
    """A file decoded by ffmpeg."""

    path: Path
    """The decoded float32 wav."""
    subtype: str
    """Original sample format as libsndfile names it ("PCM_24", ...); "" for lossy codecs."""
    losses: tuple[str, ...] = ()
    """Missing audio; each item continues a sentence that starts with the file's name."""
    notes: tuple[str, ...] = ()
    """Other remarks, in the same form."""


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

    def is_longer_than(self, held_s: float) -> bool:
        """Whether the file declares more audio than the `held_s` seconds that were decoded."""
        declared_s = self.duration_s or 0.0
        # The video may be longer than the audio.
        return not self.has_video and held_s < declared_s - max(0.2, 0.002 * declared_s)

    @property
    def subtype(self) -> str:
        """Sample format as libsndfile names it; "" for lossy codecs."""
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
        """Rate to decode at, in Hz: the stream's, or a lower one for DSD."""
        is_dsd = self.codec.startswith("dsd")
        return min(_DSD_RATE, self.sample_rate) if is_dsd else self.sample_rate

    def filters(self, *, is_damaged: bool) -> list[str]:
        """ffmpeg options that fill gaps with silence and set the rate.

        `is_damaged` fills the gaps that lost packets leave, in any format, and logs each frame.
        """
        chain = ["ashowinfo"] if is_damaged else []
        # Windows Media counts the decoder's delay as a late start: use it beside video only.
        is_timed = self.formats & _TIMED_FORMATS or ("asf" in self.formats and self.has_video)
        if is_timed or is_damaged:
            # Inserts silence into gaps of the time stamps, without stretching.
            begin = ":first_pts=0" if is_timed and self.start_s >= _MIN_DELAY_S else ""
            least = f":min_hard_comp={_MIN_GAP_S}" if is_damaged else ""
            chain.append(f"aresample=async=1{begin}{least}")
        if self.out_rate != self.sample_rate:
            chain.append(f"aresample={self.out_rate}")
        return ["-af", ",".join(chain)] if chain else []


def decode(
    file: Path, folder: Path, name: str, head: bytes, cancel: threading.Event | None = None
) -> Decoded:
    """Decode the first audio track to a float32 wav in `folder`.

    Samples keep their time in the file: a late start and gaps become silence.

    Args:
        file: the file to decode.
        folder: temporary folder for the wav and ffmpeg's log.
        name: the file in messages.
        head: first bytes of the file, to name formats that need ffmpeg.
        cancel: ffmpeg is stopped once this is set.

    Raises:
        AudioError: ffmpeg is missing, cannot decode the file, is blocked or was cancelled.
        OSError: `folder` is full.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(f"{name} is {_needs_ffmpeg(head)}")
    # "file:" and the whitelists: neither a strange name nor a playlist can open anything else.
    source = [*_ALLOWED, "-i", f"file:{file.absolute()}", "-map", "0:a:0"]
    call = [program, "-hide_banner", "-nostats", "-nostdin"]
    watch = _Watch(folder, name, cancel)
    look = [*call, "-v", "info", *source, "-af", "ashowinfo", "-frames:a", "1"]
    said = watch.run([*look, "-f", "null", "-"], None)
    stream = _described(said, name)
    decoded = folder / "decoded.wav"
    target = ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]

    def decode_all(*, is_damaged: bool) -> str:
        level = "info" if is_damaged else "error"
        filters = stream.filters(is_damaged=is_damaged)
        with open(decoded, "wb") as output:
            return watch.run([*call, "-v", level, *source, *filters, *target], output)

    said = decode_all(is_damaged=False)
    n_errors = sum(bool(_DAMAGE.search(line)) for line in said.splitlines())
    losses: list[str] = []
    if n_errors or stream.is_longer_than(_held_s(decoded, stream.out_rate)):
        decode_all(is_damaged=True)
        losses += [damaged(at_s, lost_s) for at_s, lost_s in watch.gaps()]
        if n_errors and not losses:
            losses.append(f"is damaged: ffmpeg could not decode all of it ({n_errors} errors)")
    notes: tuple[str, ...] = ()
    if stream.out_rate != stream.sample_rate:
        notes = (f"is DSD and read at {stream.out_rate} Hz",)
    held_s = _held_s(decoded, stream.out_rate)
    if stream.is_longer_than(held_s):
        losses.append(cut_short(held_s, stream.duration_s or 0.0))
    return Decoded(decoded, stream.subtype, first_losses(losses), notes)


def _held_s(wav: Path, sample_rate: int) -> float:
    """Duration of ffmpeg's wav in seconds, from its size: the header of a pipe lacks it."""
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
    """Parse the first audio track from ffmpeg's description of its input and first samples."""
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
    """Whether ffmpeg can read a file and finds no audio track in it; False if unsure."""
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
    return AudioError(
        f"{name} is damaged or not a sound file, according to ffmpeg; get a new copy of it"
    )


@dataclass(frozen=True)
class _Watch:
    """Runs ffmpeg: it cannot outlive this process, block forever, or read the terminal."""

    folder: Path
    name: str
    cancel: threading.Event | None

    def run(self, command: Sequence[str], output: BinaryIO | None) -> str:
        """Copy ffmpeg's standard output to `output` and return its log; AudioError if it fails."""
        with open(self._log_file, "wb") as errors, _process(command, errors) as process:
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
        with open(self._log_file, "rb") as file:
            said = file.read(2**20).decode(errors="replace")
        if process.returncode and not re.search(r"Stream map .*matches no streams", said):
            # Its lines are hard to read: for debug logs only.
            _log.debug("ffmpeg on %s: %s", self.name, said.strip())
            if "No space left on device" in said:
                raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
            raise _not_sound(self.name)
        return said

    def gaps(self) -> Iterator[tuple[float, float]]:
        """Gaps in the frames that the last run logged: (start, length) in seconds."""
        end = None
        with open(self._log_file, "rb") as file:
            for frame in filter(None, map(_FRAME.search, file)):
                start, rate, n_samples = map(int, frame.groups())
                if end is not None and start - end > _MIN_GAP_S * rate:
                    yield end / rate, (start - end) / rate
                end = start + n_samples

    @property
    def _log_file(self) -> Path:
        return self.folder / "ffmpeg.log"

    def _check(self, last: float) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise AudioError(f"{self.name} was not read: it was interrupted")
        if time.monotonic() - last > _PATIENCE_S:
            raise AudioError(
                f"{self.name} keeps ffmpeg waiting without any output; get a new copy of it"
            )


@contextmanager
def _process(command: Sequence[str], errors: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, or through its broken pipe if we are killed."""
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
