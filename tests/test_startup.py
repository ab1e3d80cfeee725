"""Help, version and completion answer at once, because they load nothing heavy."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "soundfile", "soxr", "huggingface_hub", "demucs", "safetensors")
# Runs the program to its end and then tells which of the heavy modules it loaded.
PROBE = f"""
import sys
sys.argv = ["mssgen", *sys.argv[2:]]
heavy = {HEAVY!r}
try:
    from mssgen.cli import main
    main()
finally:
    loaded = [name for name in heavy if name in sys.modules]
    sys.stderr.write("\\nLOADED " + repr(loaded))
"""


def probe(*words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and the list of heavy modules."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "--", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr.rpartition("LOADED ")[2]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], "separate"),
        (["-h"], "models"),
        (["--version"], "mssgen "),
        (["separate", "--help"], "--two-stems"),
        (["models", "--help"], "verify"),
        (["models", "list", "--help"], "--json"),
    ],
    ids=" ".join,
)
def test_help_and_version_load_nothing_heavy(words: list[str], shown: str) -> None:
    code, out, loaded = probe(*words)
    assert code == 0
    assert shown in out
    assert loaded == "[]"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("mssgen sep", "separate"),
        ("mssgen separate --two", "--two-stems"),
        ("mssgen models l", "list"),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_loads_nothing_heavy(shell: str, typed: str, expected: str) -> None:
    """What the shells call at every press of Tab."""
    code, out, loaded = probe(
        _MSSGEN_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS=typed,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        COMP_WORDS=typed,
        COMP_CWORD=str(typed.count(" ")),
    )
    assert code == 0
    assert expected in out
    assert loaded == "[]"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        f"import json, sys, mssgen; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_probe_sees_what_is_loaded() -> None:
    code, _, loaded = probe("separate", "absent.wav", "--device", "tpu")
    assert code == 2
    assert "torch" in loaded
