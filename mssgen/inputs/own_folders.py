"""Recognises folders that mssgen wrote, whose files are results and not songs."""

import json
from collections.abc import Mapping
from pathlib import Path

OUTPUTS = "manifest.jsonl"
"""File in the output folders of `separate` and `enhance`."""
# The file that each command writes into its folder, and bytes that identify it as ours.
_DERIVED: Mapping[str, tuple[bytes, ...]] = {
    "pairs.json": (b'"mssgen_version"',),
    "manifest.json": (b'"mssgen_version"',),  # rendered songs
    "evaluation.json": (b'"mssgen"',),
    "run.json": (b'"mssgen"',),  # training
    "index.html": (b'name="generator" content="mssgen',),  # reports, listening tests, analyses
}
_MAX_BYTES = 2**20


def is_own_folder(folder: Path, names: set[str], *, with_outputs: bool) -> bool:
    """Whether mssgen wrote `folder`, which holds files of these names.

    `with_outputs` includes the stems of `separate` and `enhance`, which other commands read.
    """
    if with_outputs and OUTPUTS in names:
        return True
    return any(_says(folder / name, words) for name, words in _DERIVED.items() if name in names)


def recorded_outputs(folder: Path) -> set[str]:
    """Paths in the manifest of an output folder, relative to it; empty if there is none."""
    found = set()
    try:
        lines = (folder / OUTPUTS).read_bytes().splitlines()
    except OSError:
        return set()
    for line in lines:
        try:
            found |= {output["path"] for output in json.loads(line)["outputs"]}
        except (ValueError, TypeError, KeyError, RecursionError):  # damaged, or another program's
            continue
    return found


def _says(path: Path, words: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_MAX_BYTES)
    except OSError:
        return False
    return any(word in head for word in words)
