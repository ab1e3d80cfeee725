"""The manifest of rendered data: sources (package, version, path, digest, licence), split, seed and
confidence of the labels of every track.

OUTPUT/SPLIT/TRACK/source.json is written with the track; OUTPUT/manifest.json collects them all,
and OUTPUT/licences holds the copyright file of every package, to be distributed with the audio.
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
"""Folder of records of songs that cannot be used, so that they are not tried again."""


def source_of(role: str, file: SourceFile) -> dict[str, Any]:
    """The manifest's entry for a file of a package; `role` is such as "drums" or "module"."""
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
    """Claim a folder for a recipe; raises UsageError if it holds anything else."""
    identity = json.loads(json.dumps(recipe.identity()))
    found = read(output)
    if found is None and output.exists() and (not output.is_dir() or not holds_nothing(output)):
        raise UsageError(f"{output} holds other files than rendered data; choose another `output`")
    known = {} if found is None else found.get("identity", {})
    # Sections that a newer mssgen added did not affect the tracks rendered before.
    if known != {key: identity.get(key) for key in known}:
        raise UsageError(
            f"{output} was rendered from another recipe; choose another `output`, or use that "
            "recipe (only its numbers of songs and versions may grow)"
        )
    update(output, recipe)  # first: the manifest marks the folder as ours
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
    """The manifest, or None if there is none; raises UsageError if it is damaged or newer."""
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
    """Rewrite the manifest from the records of all rendered tracks; returns it."""
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
    """Write a JSON file, which appears complete or not at all."""
    with reported(path.parent, UsageError), whole_file(path) as draft:
        draft.write_text(json.dumps(record, indent=1), encoding="utf-8")
