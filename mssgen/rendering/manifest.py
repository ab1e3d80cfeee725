"""The manifest of rendered data: of every track its sources with package, version, path, digest and
licence, its split and seed, and how far its labels can be trusted.

OUTPUT/SPLIT/TRACK/source.json is written with the track; OUTPUT/manifest.json holds them all, and
OUTPUT/licences the copyright file of every package, which must travel with the sounds.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from mssgen import __version__
from mssgen.errors import UsageError
from mssgen.files import is_there, reported, whole_file, write_text
from mssgen.leftovers import holds_nothing
from mssgen.library.stems import SPLITS
from mssgen.rendering.planning import Plan, SourceFile
from mssgen.rendering.recipe import RenderRecipe

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TRACK_RECORD = "source.json"
REJECTED = ".rejected"
"""A folder of records of songs that cannot be used: they are not tried again."""


def source_of(role: str, file: SourceFile) -> dict[str, Any]:
    """What the manifest says of a file."""
    package = file.package
    return {
        "role": role,
        "package": package.name,
        "version": package.version,
        "path": package.inside(file.path),
        "sha256": file.sha256,
        "licences": list(package.licences) or [f"see licences/{package.name}.txt"],
    }


def begin(output: Path, recipe: RenderRecipe, plan: Plan) -> None:
    """Claim a folder for a recipe; UsageError where other things are in it."""
    identity = json.loads(json.dumps(recipe.identity()))
    found = read(output)
    if found is None and output.exists() and (not output.is_dir() or not holds_nothing(output)):
        raise UsageError(f"{output} holds other files than rendered data; choose another --output")
    known = {} if found is None else found.get("identity", {})
    # A newer mssgen may know more sections than the one that began: those it adds changed nothing.
    if known != {key: identity.get(key) for key in known}:
        raise UsageError(
            f"{output} was rendered by another recipe; choose another "
            "--output, or give that recipe (only numbers of songs and versions may grow)"
        )
    update(output, recipe)  # first: it is what says whose folder this is
    with reported(output, UsageError):
        folder = output / "licences"
        folder.mkdir(parents=True, exist_ok=True)
        for package in plan.packages:
            target = folder / f"{package.name}.txt"
            if package.copyright is not None and not is_there(target):
                with whole_file(target) as draft:
                    shutil.copyfile(package.copyright, draft)
        for sounds in plan.sounds.values():
            for instrument in sounds.band.instruments if sounds.band else ():
                write_text(folder / f"{instrument.name}.txt", instrument.terms())


def read(output: Path) -> dict[str, Any] | None:
    """The manifest; None where there is none. UsageError where it is damaged or a newer one."""
    path = output / MANIFEST
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}); render into another folder") from error
    if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{path} is of another version of mssgen; render into another folder")
    return found


def update(output: Path, recipe: RenderRecipe) -> dict[str, Any]:
    """Write the manifest anew from the records of the tracks that are there."""
    record = {
        "format_version": FORMAT_VERSION,
        "mssgen_version": __version__,
        "recipe": recipe.name,
        "why": recipe.why,
        "identity": recipe.identity(),
        "tracks": {
            f"{split}/{path.parent.name}": json.loads(path.read_bytes())
            for split in SPLITS
            for path in sorted((output / split).glob(f"[!.]*/{TRACK_RECORD}"))
        },
        "rejected": {
            path.relative_to(output / REJECTED).with_suffix("").as_posix(): json.loads(
                path.read_bytes()
            )
            for path in sorted((output / REJECTED).glob("*/*.json"))
        },
    }
    write_json(output / MANIFEST, record)
    return record


def write_json(path: Path, record: Any) -> None:
    """A file, complete or absent."""
    with reported(path.parent, UsageError), whole_file(path) as draft:
        draft.write_text(json.dumps(record, indent=1), encoding="utf-8")
