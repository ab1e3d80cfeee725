"""File names in Unicode normal form: "é" is one character, however the file system stores it."""

import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """Normalise a name to Unicode NFC; macOS and copies made by it may use NFD."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(path: Path) -> Path:
    """Path as the disk spells it, if only its Unicode normal form differs; else `path` itself."""
    if path.exists() or path == path.parent:
        return path
    parent = as_on_disk(path.parent)
    try:
        twins = [entry for entry in parent.iterdir() if composed(entry.name) == composed(path.name)]
    except OSError:
        return path
    return twins[0] if twins else parent / path.name
