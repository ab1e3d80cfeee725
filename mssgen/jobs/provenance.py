"""Provenance of a stem, one line for its tags: program, model, options, hash of the input."""

import hashlib
from pathlib import Path
from typing import Any

from mssgen import __version__


def made_by(separator: Any, song: Path) -> str:
    """Tag line for stems of `separator`; `song` is the input file, whose bytes are hashed."""
    parts = [
        f"mssgen {__version__}",
        f"model {separator.name}",
        f"precision {separator.precision}",
        *([settings] if (settings := getattr(separator, "settings", "")) else []),
    ]
    with open(song, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ", ".join([*parts, f"song sha256 {digest}"])
