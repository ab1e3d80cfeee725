"""`mssgen compare`: two audio files side by side."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mssgen.cli import options as given
from mssgen.cli.info import db, duration, loudness
from mssgen.cli.tables import print_json, print_table
from mssgen.errors import MssgenError, UsageError
from mssgen.events import Written

if TYPE_CHECKING:
    from mssgen.inspection.compare import Comparison, Match
    from mssgen.inspection.spectrograms import SpectrogramPair


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: an audio file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The audio file to compare with it.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Draw the spectrograms and their difference into a PNG file, or write "
            "comparison.png and comparison.json to a folder.",
            metavar="DIR|PNG",
        ),
    ] = None,
    max_delay: Annotated[
        float,
        typer.Option(help="Look for delays of up to N seconds.", metavar="N", min=0, max=60),
    ] = 2.0,
    overwrite: given.Overwrite = False,
    messages: given.Messages = given.Messages(),
) -> int:
    """Compare two audio files: level, length, delay, gain, SDR, and where they differ.

    Exit codes: 0 done (whether they differ or not), 1 a file failed, 2 wrong usage, 130
    interrupted.
    """
    with messages.session() as hook:
        targets = _targets(output, overwrite)

        from mssgen.inspection.compare import compare_files
        from mssgen.inspection.pictures import check_packages, draw_comparison

        if targets:
            check_packages()
        comparison, spectrograms = compare_files(a, b, max_delay_s=max_delay)
        facts = _facts(comparison, spectrograms)
        if messages.as_json:
            print_json({"event": "comparison", **facts})
        elif not messages.quiet:
            _print(comparison, spectrograms)
        for target in targets:
            if target.suffix == ".json":
                from mssgen.files import write_text

                write_text(target, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
            else:
                draw_comparison(spectrograms, Path(a).name, Path(b).name, target)
            hook(Written("", "", target))
    return 0


def _targets(output: str | None, overwrite: bool) -> list[Path]:
    """The files to write; MssgenError where one exists."""
    if output is None:
        return []
    if output in ("", "-"):
        raise UsageError("--output takes a folder or a PNG file here; name one")
    path = Path(output)
    is_picture = path.suffix.lower() == ".png" and not os.path.isdir(path)
    targets = [path] if is_picture else [path / "comparison.png", path / "comparison.json"]
    for target in targets:
        if target.exists() and not overwrite:
            raise MssgenError(
                f"{target} exists; use --overwrite to replace it, or another --output"
            )
    return targets


def _facts(comparison: "Comparison", spectrograms: "SpectrogramPair") -> dict[str, Any]:
    bands, times, table = spectrograms.difference_table()
    rounded = [[None if cell is None else round(cell, 2) for cell in row] for row in table]
    return {
        **asdict(comparison),
        "spectrogram_difference": {
            "band_ends_hz": bands,
            "time_ends_s": [round(time, 4) for time in times],
            "b_over_a_db": rounded,
        },
    }


def _print(comparison: "Comparison", spectrograms: "SpectrogramPair") -> None:
    print_table(
        ("", "A", "B"),
        [
            (name, text(comparison.a), text(comparison.b))
            for name, text in (
                ("file", lambda side: side.path),
                ("sample rate", lambda side: f"{side.sample_rate} Hz"),
                ("channels", lambda side: str(side.n_channels)),
                ("duration", lambda side: duration(side.duration_s)),
                ("samples", lambda side: str(side.n_samples)),
                ("peak", lambda side: db(side.peak_db)),
                ("RMS", lambda side: db(side.rms_db)),
                ("loudness", lambda side: loudness(side.loudness_lufs)),
            )
        ],
    )
    typer.echo()
    if comparison.is_identical:
        typer.echo("A and B are the same, sample by sample.")
    for note in comparison.notes:
        typer.echo(f"note: {note}")
    print_table((), [("delay", _delay(comparison)), ("gain", _gain(comparison))])
    typer.echo()
    columns = [("as they are", comparison.before)]
    if comparison.after is not None:
        columns.append(("delay and gain corrected", comparison.after))
    print_table(
        ("B against A", *(name for name, _ in columns)),
        [
            (name, *(text(match) for _, match in columns))
            for name, text in (
                ("correlation", lambda match: _number(match.correlation, "", 4)),
                ("uSDR", lambda match: _number(match.usdr_db, " dB", 2)),
                ("SI-SDR", lambda match: _number(match.si_sdr_db, " dB", 2)),
                ("largest difference", _largest),
            )
        ],
        is_numeric=True,
    )
    bands, times, table = spectrograms.difference_table()
    typer.echo("\nLevel of B relative to A in dB, by band (up to kHz) and time (up to s)")
    typer.echo("(. where both are silent)")
    print_table(
        ("kHz", *(f"{time:.1f}" for time in times)),
        [
            (
                f"{band / 1000:g}",
                *("." if cell is None else f"{round(cell, 1) + 0:+.1f}" for cell in row),
            )
            for band, row in reversed(list(zip(bands, table, strict=True)))
        ],
        is_numeric=True,
    )


def _delay(comparison: "Comparison") -> str:
    samples, seconds = comparison.delay_samples, comparison.delay_s
    if samples is None or seconds is None:
        return "none found: B does not resemble A"
    if abs(samples) < 0.05:  # far below what can be heard or measured
        return "none"
    late = "later" if samples > 0 else "earlier"
    unit = "sample" if abs(samples) == 1 else "samples"
    return f"B is {abs(samples):g} {unit} ({1000 * abs(seconds):.3f} ms) {late}"


def _gain(comparison: "Comparison") -> str:
    if comparison.gain_db is None:
        return "unknown"
    turned = ", polarity inverted" if comparison.is_inverted else ""
    return f"{round(comparison.gain_db, 2) + 0:+.2f} dB{turned}"


def _number(value: float | None, unit: str, digits: int) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}{unit}"


def _largest(match: "Match") -> str:
    if match.largest_difference_s is None:
        return "none"
    return f"{db(match.largest_difference_db)} at {match.largest_difference_s:.3f} s"
