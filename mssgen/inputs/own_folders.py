"""Recognises folders and files that mssgen wrote, which are results and not songs."""

import json
import os
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


def outputs_in(folder: Path) -> set[str]:
    """Real paths of the files that a folder's manifest records as outputs; empty without one."""
    found = set()
    try:
        lines = (folder / OUTPUTS).read_bytes().split(b"\n")
    except OSError:
        return set()
    for line in lines:
        try:
            found |= {
                os.path.realpath(folder / each["path"]) for each in json.loads(line)["outputs"]
            }
        except (ValueError, KeyError, TypeError, RecursionError):  # another program
            continue
    return found


def _says(path: Path, words: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_MAX_BYTES)
    except OSError:
        return False
    return any(word in head for word in words)
