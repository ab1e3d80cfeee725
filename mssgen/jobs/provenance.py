"""Provenance of a stem, one line for its tags: program, model, options, hash of the input."""

from pathlib import Path
from typing import Any

from mssgen import __version__
from mssgen.files import sha256_of


def made_by(separator: Any, song: Path) -> str:
    """Tag line for stems of `separator`; `song` is the input file, whose bytes are hashed."""
    parts = [
        f"mssgen {__version__}",
        f"model {separator.name}",
        f"precision {separator.precision}",
        *([settings] if (settings := getattr(separator, "settings", "")) else []),
    ]
    return ", ".join([*parts, f"song sha256 {sha256_of(song)}"])
