"""Provenance of a stem, one line for its tags: program, model, options, hash of the input."""

from typing import Any

from mssgen import __version__


def made_by(separator: Any, song_sha256: str) -> str:
    """Tag line for stems of `separator`; `song_sha256` is the hash of the input file."""
    parts = [
        f"mssgen {__version__}",
        f"model {separator.name}",
        f"precision {separator.precision}",
        *([settings] if (settings := getattr(separator, "settings", "")) else []),
    ]
    return ", ".join([*parts, f"song sha256 {song_sha256}"])
