"""Reads YAML files of other programs: Demucs' bags, configurations of released separators."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from mssgen.errors import CheckpointError

_MAX_BYTES = 2**17  # the published configuration with the most stems, 53, has about 2**13


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """yaml's safe loader, which also reads `!!python/tuple`, as a list."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node, True)
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file, of plain values only.

    Raises CheckpointError for a file that cannot be read, is too large, is not a table, has aliases
    (a few bytes of which can stand for more than memory holds), or asks for any Python object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path} is too large to describe a model")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise CheckpointError(
                f"{path} has aliases (*name), which are not supported: remove them"
            )
        table = yaml.load(text, _Loader)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError):
        raise CheckpointError(f"{path} is not valid YAML: get the file again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} is not a table of keys and values: get the file again")
    return table
