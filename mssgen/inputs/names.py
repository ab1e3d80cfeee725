"""Names of files as people read them: "é" is one letter, however a system composes it."""

import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """The name in Unicode's form NFC; macOS and copies made by it may have NFD."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(path: Path) -> Path:
    """The path under which a file stands, where its letters may be composed differently."""
    if path.exists() or path == path.parent:
        return path
    parent = as_on_disk(path.parent)
    try:
        twins = [entry for entry in parent.iterdir() if composed(entry.name) == composed(path.name)]
    except OSError:
        return path
    return twins[0] if twins else parent / path.name
