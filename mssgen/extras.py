"""Packages that only some of the features need: the extras of pyproject.toml."""

import importlib
import re
from importlib import metadata
from typing import Any

from mssgen.errors import UsageError

# Packages that are installed under another name than they are imported by.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "dac": "descript-audio-codec",
    "lightning_fabric": "lightning-fabric",
}


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`; UsageError with the cure where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module, extra, purpose) from None


def missing(package: str, extra: str, purpose: str) -> UsageError:
    """The error for a package that is not installed, by its own name or that of a module of it.

    `purpose` is what needs it: "training", "this metric".
    """
    name = _distribution(package)
    return UsageError(
        f"the package {name} is not installed, and {purpose} needs it: {install(name, extra)}"
    )


def install(package: str, extra: str) -> str:
    """The commands that install a package: mssgen itself is in no package index."""
    return (
        f"run `pip install '{_requirement(_distribution(package))}'`, or `pip install "
        f"'.[{extra}]'` in a checkout of mssgen"
    )


def _distribution(package: str) -> str:
    top = package.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top)


def _requirement(distribution: str) -> str:
    """The distribution with the versions that mssgen works with, as far as it says so."""
    try:
        known = metadata.requires("mssgen") or []
    except metadata.PackageNotFoundError:
        known = []
    plain = distribution.lower().replace("_", "-")
    for line in known:
        wanted = line.partition(";")[0].strip()
        found = re.match(r"[\w.-]+", wanted)
        if found is not None and found[0].lower().replace("_", "-") == plain:
            return wanted
    return distribution
