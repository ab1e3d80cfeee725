"""Optional packages, which only some features need: the extras of pyproject.toml."""

import importlib
import re
from importlib import metadata
from typing import Any

from mssgen.errors import UsageError

# Names to install, by the name to import, where the two differ.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "dac": "descript-audio-codec",
    "lightning_fabric": "lightning-fabric",
}


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`; UsageError with instructions if its package is not installed.

    `extra` is the extra of pyproject.toml, `purpose` the feature that needs the package.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module, extra, purpose) from None


def missing(package: str, extra: str, purpose: str) -> UsageError:
    """Error for a package that is not installed; `package` may be one of its modules.

    `purpose` is the feature that needs it: "training", "this metric".
    """
    name = _distribution(package)
    return UsageError(
        f"the package {name} is not installed, and {purpose} needs it: {install(name, extra)}"
    )


def install(package: str, extra: str) -> str:
    """Instructions to install a package, alone or as an extra of a checkout of mssgen."""
    return (
        f"run `pip install '{_requirement(_distribution(package))}'`, or `pip install "
        f"'.[{extra}]'` in a checkout of mssgen"
    )


def _distribution(package: str) -> str:
    top = package.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top)


def _requirement(distribution: str) -> str:
    """The distribution with mssgen's version limits, if mssgen's metadata is installed."""
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
