"""Folders that cannot be read, also for root."""

from collections.abc import Iterator
from pathlib import Path

import pytest


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make listing a folder fail as it does without permission."""
    list_any = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.absolute() == folder.absolute():
            raise PermissionError(13, "Permission denied", str(path))
        return list_any(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
