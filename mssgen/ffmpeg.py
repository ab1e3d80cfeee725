"""What libsndfile cannot read goes through the ffmpeg program, where it is installed."""

import errno
import logging
import shutil
import subprocess
from pathlib import Path

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


def decode(file: Path, folder: Path, name: str, head: bytes) -> Path:
    """Decode the first audio track to a float32 wav in `folder` and return its path.

    `head` is the start of the file. Raises AudioError when ffmpeg is missing or cannot decode it,
    OSError when `folder` is full.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        for offset, signature, kind in _FFMPEG_KINDS:
            if head[offset:].startswith(signature):
                raise AudioError(
                    f"{name} is {kind}, which needs ffmpeg: install it, or convert to wav"
                )
        raise AudioError(
            f"{name} is damaged or not a sound file; get a new copy, or convert it to wav or flac"
        )
    decoded = folder / "decoded.wav"
    # "file:" and the whitelist: neither an odd name nor a playlist may open anything else.
    source = ["-protocol_whitelist", "file,pipe", "-i", f"file:{file.absolute()}"]
    target = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav", str(decoded)]
    result = subprocess.run(
        [ffmpeg, "-nostdin", "-v", "error", *source, *target], capture_output=True, check=False
    )
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip()
        _log.debug("ffmpeg on %s: %s", name, reason)  # its lines read badly: for --verbose only
        if "No space left on device" in reason:
            raise OSError(errno.ENOSPC, "No space left on device", str(decoded))
        raise AudioError(
            f"{name} is damaged or not a sound file, says ffmpeg; get a new copy of it"
        )
    return decoded


def is_silent_film(file: Path) -> bool:
    """Whether ffmpeg finds no sound track in a file that it can read; False where it is unsure."""
    if (program := shutil.which("ffmpeg")) is None:
        return False
    source = ["-protocol_whitelist", "file", "-i", f"file:{file.absolute()}"]
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
