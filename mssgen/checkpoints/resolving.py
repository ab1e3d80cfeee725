"""Finds the files of a model: in a path, the shipped weights, the hub's cache or the hub.

`resolve` finds the files, `formats.read_checkpoint` reads one. A name of the registry means that
model even if a folder of the same name exists (Demucs creates such output folders); `./name` means
the folder. `hf://OWNER/NAME` is a checkpoint folder in any repository on the hub.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mssgen.checkpoints.bundles import Bundle, RemoteFile
from mssgen.checkpoints.formats import (
    CONFIG,
    EMBEDDED_CODEC,
    STAGE_OF,
    WEIGHTS,
    read_checkpoint,
    read_json,
    wrong_stage,
)
from mssgen.checkpoints.registry import REGISTRY, lookup
from mssgen.checkpoints.yaml_files import read_yaml
from mssgen.errors import CheckpointError, UsageError, shown

_PATH_SUFFIXES = (".th", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors", ".yaml", ".json")
_MAX_MEMBERS = 64
_WEIGHTS_SUFFIXES = (".th", ".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SCHEME = "hf://"
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"hf://({_WORD}/{_WORD})(?:@([A-Za-z0-9][\w.-]*(?:/[\w-][\w.-]*)*))?", re.A)


@dataclass(frozen=True)
class ResolvedModel:
    """A model's files on this machine; a bag of models has several."""

    name: str
    bundle: Bundle | None
    """The registry's entry; None for a path or an address."""
    paths: tuple[Path, ...]
    stems_of: tuple[tuple[str, ...] | None, ...]
    """Stems to take from each path; None: all. A stem of several paths is their plain average."""
    where: str
    """Where the files were found: "path", "embedded", "cache" or "hub"."""
    segment_s: float | None = None
    """Segment length of a bag in seconds, which replaces the networks' own."""


def embedded_dir() -> Path:
    """Folder of the checkpoints that ship with mssgen (it may not exist)."""
    package = Path(__file__).parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def embedded_checkpoint(name: str) -> Path | None:
    """The shipped checkpoint folder called `name`, or None."""
    folder = embedded_dir() / name
    return folder if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None


def resolve(
    name_or_path: str,
    *,
    offline: bool = False,
    progress: bool = False,
    wanted_stems: Sequence[str] | None = None,
    stage: str | None = None,
) -> ResolvedModel:
    """Find the files of a model and download them if necessary.

    Args:
        name_or_path: name of the registry, path, or hf:// address.
        offline: never use the network.
        progress: draw the hub's progress bar on standard error.
        wanted_stems: take only those members of a bag that these stems need; None: all.
        stage: what the model must be for (a key of `registry.STAGES`); None: anything.

    Raises:
        UsageError: an unknown name or stem.
        CheckpointError: files are missing, damaged or out of reach.
    """
    if name_or_path.startswith(SCHEME):
        return _from_address(name_or_path, offline=offline, progress=progress, stage=stage)
    if _is_path(name_or_path):
        return _from_path(Path(name_or_path).expanduser(), wanted_stems)
    bundle = lookup(name_or_path, stage)
    if unknown := sorted(set(wanted_stems or ()) - set(bundle.stems)):
        raise UsageError(
            f"{bundle.name} has no stem '{unknown[0]}', only {', '.join(bundle.stems)}"
        )
    if (folder := embedded_checkpoint(bundle.name)) is not None:
        return ResolvedModel(bundle.name, bundle, (folder,), (None,), "embedded", bundle.segment_s)
    if bundle.page is not None:
        cure = "and give the path of the file instead of the name"
        if bundle.is_joint:
            cure = "unpack and convert it with `mssgen models convert`, and give the path of that"
        raise CheckpointError(f"{bundle.name} is not on the hub: download {bundle.page}, {cure}")
    if not bundle.repo:
        raise CheckpointError(
            f"{bundle.name} should be in {embedded_dir() / bundle.name}: install mssgen again"
        )

    from mssgen.checkpoints import hub

    members = bundle.members(frozenset(wanted_stems) if wanted_stems else None)
    files = [bundle.files[index] for index in members]
    is_cached = all(hub.cached(bundle, file) is not None for file in files)
    return ResolvedModel(
        bundle.name,
        bundle,
        tuple(hub.fetch(bundle, file, offline=offline, progress=progress) for file in files),
        tuple(bundle.member_stems[i] if bundle.member_stems else None for i in members),
        "cache" if is_cached else "hub",
        bundle.segment_s,
    )


def parse_address(text: str) -> tuple[str, str | None]:
    """(OWNER/NAME, REVISION or None) of an hf:// address; raises UsageError for anything else."""
    found = _ADDRESS.fullmatch(text)
    # The hub allows no such names, and the revision becomes part of a path in the cache.
    if found is None or ".." in text or "--" in found[1] or len(text) > 300:
        raise UsageError(
            f"{text:.100} is not the address of a model on the hub: write hf://OWNER/NAME, or "
            "hf://OWNER/NAME@REVISION for a commit, tag or branch"
        )
    return found[1], found[2]


def _from_address(
    address: str, *, offline: bool, progress: bool, stage: str | None
) -> ResolvedModel:
    """Find a checkpoint folder on the hub; all its files come from one commit."""
    from mssgen.checkpoints import hub

    repo, revision = parse_address(address)

    def bundle_at(revision: str | None) -> Bundle:
        return Bundle(
            name=address,
            stage=stage or "",
            architecture="",
            repo=repo,
            revision=revision,
            files=(),
            stems=(),
            sample_rate=0,
            licence="",
            licence_note="",
            note="",
            is_address=True,
        )

    fetch = partial(hub.fetch, offline=offline, progress=progress)
    config_path = fetch(bundle_at(revision), RemoteFile(CONFIG))
    folder = config_path.parent
    config = read_json(config_path)
    found = STAGE_OF.get(str(config.get("architecture"))) if "format_version" in config else None
    if found is not None and stage not in (None, found):
        raise CheckpointError(f"{address} {wrong_stage(found, stage or found)}")
    bundle = bundle_at(folder.name)  # the hub's cache names folders by commit
    files = [_described(WEIGHTS, config)]
    is_cached = hub.cached(bundle, files[0]) is not None
    if found in ("enhance", "refine") and config.get("codec") == EMBEDDED_CODEC:
        codec = fetch(bundle, RemoteFile(EMBEDDED_CODEC + CONFIG))
        files.append(_described(EMBEDDED_CODEC + WEIGHTS, read_json(codec)))
    for file in files:
        fetch(bundle, file)
    return ResolvedModel(address, None, (folder,), (None,), "cache" if is_cached else "hub")


def _described(name: str, config: dict[str, Any]) -> RemoteFile:
    """The weights file `name`, with the sha256 that its config.json states."""
    stated = config.get("sha256")
    is_hash = isinstance(stated, str) and re.fullmatch(r"[0-9a-f]{64}", stated)
    return RemoteFile(name, stated if is_hash else None)


def _is_path(text: str) -> bool:
    """Whether `text` is meant as a file or folder, which is never looked up on the hub."""
    looks_like_one = (
        "/" in text
        or "\\" in text
        or text.startswith((".", "~"))
        or text.lower().endswith(_PATH_SUFFIXES)
    )
    return looks_like_one or (text not in REGISTRY and Path(text).exists())


def _from_path(path: Path, wanted_stems: Sequence[str] | None) -> ResolvedModel:
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist: give the path of a checkpoint, or a name from "
            "`mssgen models list`"
        )
    if path.is_file():
        if path.suffix == ".yaml":
            return _from_bag(path, wanted_stems)
        return ResolvedModel(path.stem, None, (path,), (None,), "path")
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return ResolvedModel(path.name, None, (path,), (None,), "path")
    bags = sorted(path.glob("*.yaml"))
    members = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS_SUFFIXES)
    # Beside the weights of other separators, a YAML file describes their network.
    if len(bags) == 1 and (len(members) != 1 or "models" in read_yaml(bags[0])):
        return _from_bag(bags[0], wanted_stems)
    if len(bags) < 2 and len(members) == 1:
        return ResolvedModel(members[0].stem, None, (members[0],), (None,), "path")
    if choices := [file.name for file in bags or members]:
        raise CheckpointError(
            f"{path} holds several models: give the path of one of {', '.join(choices[:8])}"
        )
    raise CheckpointError(
        f"{path} holds no checkpoint: {CONFIG} + {WEIGHTS}, or one of "
        f"{', '.join(_WEIGHTS_SUFFIXES)} is needed"
    )


def _from_bag(path: Path, wanted_stems: Sequence[str] | None) -> ResolvedModel:
    """Find the members of a Demucs bag: YAML with `models`, optionally `weights` and `segment`."""
    bag = read_yaml(path)
    signatures, weights, segment = bag.get("models"), bag.get("weights"), bag.get("segment")
    if not isinstance(signatures, list) or not signatures:
        raise CheckpointError(f"{path} lists no models: it is not a Demucs bag")
    if len(signatures) > _MAX_MEMBERS:
        raise CheckpointError(f"{path} lists {len(signatures)} models: use {_MAX_MEMBERS} at most")
    is_number = isinstance(segment, int | float) and not isinstance(segment, bool)
    if segment is not None and not (is_number and 0.01 <= segment <= 600):
        raise CheckpointError(f"{path} has a segment that is not a number of seconds, 0.01 to 600")
    paths = [_member(path, signature) for signature in signatures]
    stems_of: list[tuple[str, ...] | None] = [None] * len(paths)
    if weights is not None:
        stems_of = _stems_by_weight(path, weights, paths)
    if wanted_stems:
        needed = [s is None or bool(set(s) & set(wanted_stems)) for s in stems_of]
        if not any(needed):
            raise UsageError(f"no model of {path} has the stem '{wanted_stems[0]}'")
        paths = [member for member, keep in zip(paths, needed, strict=True) if keep]
        stems_of = [stems for stems, keep in zip(stems_of, needed, strict=True) if keep]
    return ResolvedModel(path.stem, None, tuple(paths), tuple(stems_of), "path", segment)


def _stems_by_weight(path: Path, weights: Any, paths: list[Path]) -> list[tuple[str, ...] | None]:
    """Stems of each member, from the bag's matrix of zeros and ones (members x stems)."""
    stems = read_checkpoint(paths[0]).stems
    is_matrix = isinstance(weights, list) and [
        len(row) if isinstance(row, list) else -1 for row in weights
    ] == [len(stems)] * len(paths)
    if not is_matrix or not all(
        isinstance(cell, int | float) and cell in (0, 1) for row in weights for cell in row
    ):
        raise CheckpointError(
            f"{path} needs weights of 0 and 1 with one row per model: others are not supported"
        )
    return [tuple(stem for stem, cell in zip(stems, row, strict=True) if cell) for row in weights]


def _member(bag: Path, signature: Any) -> Path:
    """The file of `signature` beside the bag: sig.safetensors, sig.th or sig-<sha256[:8]>.th."""
    if not isinstance(signature, str) or not re.fullmatch(r"\w[\w-]{0,63}", signature):
        raise CheckpointError(
            f"{bag} names a model that is not a plain file name: {shown(signature)}"
        )
    pattern = re.compile(rf"{re.escape(signature)}(\.safetensors|(-[0-9a-f]{{8}})?\.th)")
    found = sorted(file for file in bag.parent.iterdir() if pattern.fullmatch(file.name))
    if not found:
        raise CheckpointError(f"{bag} needs {signature}.th or {signature}.safetensors beside it")
    return found[0]
