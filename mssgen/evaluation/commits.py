"""The commit of mssgen's own code, read without running git.

git obeys the configuration of the repository, which may name programs to run.
"""

import re
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"refs/[A-Za-z0-9][A-Za-z0-9._/-]*")
_MAX_BYTES = 2**24  # packed-refs of a large repository has some hundred thousand lines


def own_commit() -> str | None:
    """Commit of the checkout that contains this package; None if it was installed."""
    # Not the folders above: an environment may lie inside another repository.
    return commit_of(Path(__file__).resolve().parents[2])


def commit_of(checkout: Path) -> str | None:
    """The commit checked out in a folder with a .git; None if unknown.

    Uncommitted changes are not detected.
    """
    git = checkout / ".git"
    if git.is_file():  # a worktree or a submodule
        place = _text(git).removeprefix("gitdir:").strip()
        git = checkout / place
        if not place:
            return None
    head = _text(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return _hash(head)
    name = head.removeprefix("ref:").strip()
    if not _REF.fullmatch(name) or ".." in name:
        return None
    # A worktree has its own HEAD and shares the branches of its repository.
    shared = _text(git / "commondir").strip()
    common = git / shared if shared else git
    return _hash(_text(common / name).strip()) or _packed(_text(common / "packed-refs"), name)


def _packed(text: str, name: str) -> str | None:
    for line in text.splitlines():
        commit, _, named = line.partition(" ")
        if named == name:
            return _hash(commit)
    return None


def _hash(text: str) -> str | None:
    return text if _HASH.fullmatch(text) else None


def _text(path: Path) -> str:
    """Content of a text file; empty if it is missing, too large, or not a plain file."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
