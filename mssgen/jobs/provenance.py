"""How a stem came about, in one line for its tags: program, model, options, the song's hash."""

import hashlib
from pathlib import Path
from typing import Any

from mssgen import __version__


def made_by(separator: Any, song: Path) -> str:
    """The line for stems that `separator` makes of a song; the hash is that of the file's bytes."""
    parts = [
        f"mssgen {__version__}",
        f"model {separator.name}",
        f"precision {separator.precision}",
        *([settings] if (settings := getattr(separator, "settings", "")) else []),
    ]
    with open(song, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ", ".join([*parts, f"song sha256 {digest}"])
