"""`mssgen info`: facts about audio files and .codes files."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mssgen.cli import options as given
from mssgen.cli.tables import print_json, print_table
from mssgen.errors import MssgenError
from mssgen.events import Failed

if TYPE_CHECKING:
    from mssgen.inspection.file_info import CodesInfo, SoundInfo


def info(
    inputs: given.Inputs = None,
    list_file: given.ListFile = None,
    messages: given.Messages = given.Messages(),
) -> int:
    """Describe audio files: format, levels, loudness and bandwidth.

    Also describes .codes files. Exit codes: 0 done, 1 a file failed, 2 wrong usage, 130
    interrupted.
    """
    n_failed = 0
    with messages.session() as hook:
        from mssgen.inputs.tracks import EXTENSIONS, find_tracks
        from mssgen.inspection.file_info import CODES_SUFFIX, CodesInfo, describe

        extensions = (*EXTENSIONS, CODES_SUFFIX)
        tracks = find_tracks(
            inputs or [], list_file=list_file, extensions=extensions, skip_own=False
        )

        for index, track in enumerate(tracks):
            try:
                found = describe(track.path)
            except MssgenError as error:
                if error.exit_code != 1:  # other files would fail in the same way
                    raise
                n_failed += 1
                hook(Failed(track.label, str(error)))
                continue
            if messages.as_json:
                kind = "codes" if isinstance(found, CodesInfo) else "sound"
                print_json({"event": kind, **_rounded(asdict(found))})
            elif not messages.quiet:
                rows = _codes_rows(found) if isinstance(found, CodesInfo) else _sound_rows(found)
                print_table((), [*([("", "")] if index else []), *rows])
    return 1 if n_failed else 0


def db(value: float | None, unit: str = "dB", digits: int = 1) -> str:
    """A level with its unit; "silence" for None."""
    return "silence" if value is None else f"{value:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """3:05.120 (185.12 s)."""
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}:{rest:06.3f} ({seconds:.3f} s)"


def _sound_rows(found: "SoundInfo") -> list[tuple[str, str]]:
    bits = f"{found.bit_depth} bit" if found.bit_depth else "n/a (lossy)"
    if found.bit_depth and found.used_bits is not None and found.used_bits < found.bit_depth:
        bits += f", {found.used_bits} of them used"
    rows = [
        ("file", found.path),
        ("format", f"{found.container} {found.codec}".strip()),
        ("sample rate", f"{found.sample_rate} Hz"),
        ("channels", f"{found.n_channels}{_speakers(found)}"),
        ("duration", f"{duration(found.duration_s)}, {found.n_samples} samples"),
        ("size", f"{found.size_bytes / 1e6:.2f} MB, {found.bit_rate_kbps:.0f} kbit/s"),
        ("bit depth", bits),
        ("peak", f"{db(found.peak_db)}, true peak {db(found.true_peak_db)}"),
        ("RMS", db(found.rms_db)),
        ("loudness", loudness(found.loudness_lufs, found.loudness_range_lu)),
        ("DC", ", ".join(f"{mean:+.1e}" for mean in found.dc)),
        ("silence", f"{100 * found.silence_share:.1f} % of the time (below -60 dB)"),
        ("clipping", f"{found.n_clipped} samples" if found.n_clipped else "none"),
        ("bandwidth", _bandwidth(found)),
    ]
    if found.correlation is not None:
        width = "" if found.width_db is None else f", side {found.width_db:+.1f} dB relative to mid"
        rows.append(("stereo", f"correlation {found.correlation:+.3f}{width}"))
    return rows


def _speakers(found: "SoundInfo") -> str:
    if found.n_channels > 2:
        return f" ({' '.join(found.layout) or 'speakers unknown'})"
    return {None: "", True: " (both identical)", False: " (stereo)"}[found.is_mono]


def loudness(lufs: float | None, range_lu: float | None = None) -> str:
    """Integrated loudness, and the loudness range if there is one."""
    if lufs is None:
        return "n/a (silence, or shorter than 0.4 s)"
    return f"{lufs:.1f} LUFS" + ("" if range_lu is None else f", range {range_lu:.1f} LU")


def _bandwidth(found: "SoundInfo") -> str:
    ends = found.bandwidth
    if ends is None:
        return "silence"
    text = f"{ends.ends_hz / 1000:.1f} kHz (less than {ends.floor_db:.0f} dB per 100 Hz above it)"
    if ends.is_abrupt:
        text += f"; steep cut-off by {ends.drop_db:.0f} dB: was lossy or resampled"
    return text


def _codes_rows(found: "CodesInfo") -> list[tuple[str, str]]:
    size = "" if found.codebook_size is None else f" of {found.codebook_size} codes"
    rate = "unknown" if found.bit_rate_kbps is None else f"{found.bit_rate_kbps:.2f} kbit/s"
    silent = f", {found.n_silent_items} of them silent" if found.n_silent_items else ""
    file_rate = 8 * found.size_bytes / found.duration_s / 1000
    return [
        ("file", found.path),
        ("format", "mssgen codes"),
        ("codec", found.codec),
        ("codec id", found.codec_id),
        ("codebooks", f"{found.n_codebooks}{size}"),
        ("frames", f"{found.n_frames}, {found.n_items} items{silent}"),
        ("bit rate", f"codes {rate}, file {file_rate:.1f} kbit/s"),
        ("size", f"{found.size_bytes / 1e6:.3f} MB"),
        ("audio", f"{found.sample_rate} Hz, {found.n_channels} channels"),
        ("duration", duration(found.duration_s)),
    ]


def _rounded(value: Any) -> Any:
    """Floats rounded to nine decimals, finer than any of them is precise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value
