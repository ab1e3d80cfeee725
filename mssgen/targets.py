"""Where output goes: to a path that stays inside its folder, as a file that is whole or absent."""

import os
import re
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mssgen.errors import UsageError

_TEMPLATE_NAMES = ("track", "trackext", "stem", "ext", "parent", "path")
_SEPARATORS = re.escape(os.sep + (os.altsep or ""))
_MAX_NAME_BYTES = 255


def safe_target(
    output_dir: Path,
    template: str,
    *,
    track: str,
    stem: str,
    ext: str,
    trackext: str = "",
    parent: str = "",
    path: str = "",
) -> Path:
    """Expand a template such as "{track}/{stem}.{ext}" to a path that lies inside `output_dir`.

    A "/" in `track` or `path` keeps its folders. Raises UsageError for names that the template may
    not use and for every path that would leave `output_dir`: absolute, through "..", through a
    link.
    """
    values = {"track": track, "trackext": trackext, "stem": stem, "ext": ext}
    values |= {"parent": parent, "path": path}
    expanded = ""
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            expanded += literal
            if name is not None:
                if spec or conversion:
                    raise KeyError(name)
                expanded += values[name]
    except (ValueError, KeyError) as error:
        names = ", ".join(f"{{{name}}}" for name in _TEMPLATE_NAMES)
        raise UsageError(
            f"--template {template!r} is not understood; it can hold {names}"
        ) from error

    parts = re.split(f"[{_SEPARATORS}]", expanded)
    if "\0" in expanded or any(part in ("", ".", "..") for part in parts) or Path(expanded).anchor:
        raise UsageError(
            f"--template {template!r} gives {expanded!r} for {track!r}, which is no path inside "
            "the output folder; use names without '..', empty parts and a leading '/'"
        )
    try:
        too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts)
        target = output_dir.joinpath(*parts)
        is_inside = not too_long and target.resolve().is_relative_to(output_dir.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--template {template!r} gives a name that no disk can hold") from error
    if too_long:
        raise UsageError(
            f"--template {template!r} gives a name of more than {_MAX_NAME_BYTES} bytes for "
            f"{track!r}; use a shorter one"
        )
    if not is_inside:
        raise UsageError(
            f"{target} is not inside {output_dir}, since a link leads out of it: remove the link, "
            "or choose another --output or --template"
        )
    return target


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a draft beside `path` to write; it becomes `path` if nothing is raised, else it goes.

    Makes the folder. The system's errors pass: only the caller knows what to call the file.
    """
    draft = path.parent / f".mssgen-{secrets.token_hex(6)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()
