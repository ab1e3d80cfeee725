"""The commit is read, and no program of a folder is run for it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mssgen.evaluation import commits
from mssgen.evaluation.commits import commit_of, own_commit

COMMIT, OTHER = "0123456789" * 4, "ab" * 20


def lay(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"HEAD": f"{COMMIT}\n"}, COMMIT),
        ({"HEAD": "ref: refs/heads/main\n", "refs__heads__main": f"{COMMIT}\n"}, COMMIT),
        ({"HEAD": "ref: refs/heads/a/b", "refs__heads__a__b": "ab" * 32}, "ab" * 32),
        (
            {
                "HEAD": "ref: refs/heads/main\n",
                "packed-refs": f"# pack-refs with: peeled\n{OTHER} refs/heads/x\n"
                f"{COMMIT} refs/heads/main\n^{OTHER}\n",
            },
            COMMIT,
        ),
        ({"HEAD": "ref: refs/heads/none\n"}, None),
        ({"HEAD": "ref: refs/heads/../../../secret\n", "secret": COMMIT}, None),
        ({"HEAD": "ref: /etc/passwd\n"}, None),
        ({"HEAD": "not a commit"}, None),
        ({"HEAD": "\0" * 100}, None),
        ({"config": ""}, None),
    ],
)
def test_what_git_left(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    lay(tmp_path / ".git", **files)
    assert commit_of(tmp_path) == expected


def test_a_worktree(tmp_path: Path) -> None:
    lay(tmp_path / "main/.git", refs__heads__side=COMMIT, HEAD="ref: refs/heads/main")
    lay(tmp_path / "main/.git/worktrees/side", HEAD="ref: refs/heads/side", commondir="../..\n")
    lay(tmp_path / "side", **{".git": "gitdir: ../main/.git/worktrees/side\n"})
    assert commit_of(tmp_path / "side") == COMMIT


def test_no_repository(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "absent") is None
    assert commit_of(tmp_path) is None
    lay(tmp_path, **{".git": "gitdir:"})
    assert commit_of(tmp_path) is None


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_MAX_BYTES", 10)
    lay(tmp_path / ".git", HEAD=COMMIT)
    assert commit_of(tmp_path) is None


def test_programs_of_a_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git to make a repository")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    proof = tmp_path / "PWNED"
    subprocess.run([*git, "config", "core.fsmonitor", f"touch '{proof}'; false #"], check=True)
    said = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    proof.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    assert own_commit() != said.stdout.strip()
    assert commit_of(tmp_path) == said.stdout.strip()
    assert not proof.exists()


def test_the_package_starts_no_git() -> None:
    sources = Path(commits.__file__).parent.rglob("*.py")
    assert [path for path in sources if '"git"' in path.read_text("utf-8")] == []
