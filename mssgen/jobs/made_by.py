"""Records for the manifest of what determines a stem: hashes of its models' files, and options.

They are computed before any model is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mssgen.checkpoints.families import yaml_beside
from mssgen.checkpoints.folders import CARD, TRAINING, checkpoint_files
from mssgen.checkpoints.formats import CONFIG, EMBEDDED_CODEC, read_json
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import ResolvedModel, resolve
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of

if TYPE_CHECKING:
    from mssgen.enhancers.blend import Blend
    from mssgen.enhancers.loading import Refining
    from mssgen.separators.demucs import SeparationOptions


def of_separator(
    resolved: ResolvedModel,
    stems: Sequence[str],
    options: "SeparationOptions",
    precision: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Record of a separator, by stem: hashes of the files that output the stem, and the options.

    `precision` is recorded as given: a run with "auto" can be resumed on a machine where "auto"
    is another precision. Raises CheckpointError if a file cannot be read.
    """
    how: dict[str, Any] = {"overlap": options.overlap, "shifts": options.shifts}
    how |= options.of_masks
    if options.shifts:
        how["seed"] = options.seed
    if resolved.segment_s is not None:
        how["segment_s"] = resolved.segment_s
    hashes = [hashes_of(path) for path in resolved.paths]
    return {
        stem: {
            "model": [
                each
                for files, stems_of in zip(hashes, resolved.stems_of, strict=True)
                if stems_of is None or stem in stems_of
                for each in files
            ],
            "precision": precision,
            **how,
        }
        for stem in stems
    }


def of_enhancer(
    checkpoint: str,
    stem: str,
    *,
    stage: str = "enhance",
    blend: "Blend | None" = None,
    refining: "Refining | None" = None,
    mixture: str | None = None,
    offline: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Record of an enhancer: hashes of its files and of the mixture, and its options.

    Args:
        checkpoint: name or path of an encoder, or of a codec if `stage` is "codec".
        stem: the stem, which names the default refiners.
        stage: "enhance" or "codec".
        blend: how the codec's output is blended with the stem; None if it is not.
        refining: refiners of the codes and their options; None if there are none.
        mixture: path of the mixture that is given to the encoder.
        offline: never contact the hub.
        progress: draw a bar on standard error while downloading.

    Raises:
        UsageError: a wrong name.
        CheckpointError: a file is missing or cannot be read.
    """
    find = partial(resolve, offline=offline, progress=progress)
    path = find(checkpoint, stage=stage).paths[0]
    made: dict[str, Any] = {"encoder": hashes_of(path)}
    if stage == "enhance":
        codec = read_json(path / CONFIG).get("codec") if path.is_dir() else None
        if isinstance(codec, str) and codec != EMBEDDED_CODEC:
            made["codec"] = hashes_of(find(codec, stage="codec").paths[0])
    if blend is not None:
        made |= {"blend": blend.mode, "mix": blend.mix}
    if refining is not None:
        made["refine"] = {**asdict(refining.options), "networks": {}}
        networks = {"c2f": refining.c2f}
        if refining.options.mode == "coarse+c2f":
            networks["coarse"] = refining.coarse
        for network, named in networks.items():
            name = named or f"{network}_{stem}"
            if named or name in REGISTRY:  # loading reports missing refiners
                made["refine"]["networks"][network] = hashes_of(find(name, stage="refine").paths[0])
    if mixture is not None:
        made["mixture"] = _hash(Path(mixture))
    return made


def stem_of_encoder(
    checkpoint: str, *, offline: bool = False, progress: bool = False
) -> str | None:
    """The stem of an encoder, from its config.json; None if the checkpoint is not an encoder.

    Raises UsageError for a wrong name, CheckpointError for missing and damaged files.
    """
    path = resolve(checkpoint, offline=offline, progress=progress, stage="enhance").paths[0]
    stem = read_json(path / CONFIG).get("stem") if (path / CONFIG).is_file() else None
    return stem if isinstance(stem, str) else None


def stems_of_separator(resolved: ResolvedModel) -> tuple[str, ...] | None:
    """Stems of a checkpoint folder, from its config.json; None if the model must be loaded."""
    path = resolved.paths[0]
    if len(resolved.paths) > 1 or not path.is_dir():
        return None
    options = read_json(path / CONFIG).get("options")
    sources = options.get("sources") if isinstance(options, Mapping) else None
    is_list = isinstance(sources, list) and all(isinstance(each, str) for each in sources)
    return tuple(sources or ()) or None if is_list else None


def hashes_of(path: Path) -> list[str]:
    """SHA-256 hashes of the files of a checkpoint (folder or file) that determine its output."""
    if path.is_dir():
        names = [name for name in checkpoint_files(path) if name not in (TRAINING, CARD)]
        return [_hash(path / name) for name in names]
    config, described = path.with_name(CONFIG), yaml_beside(path)  # options of files without any
    beside = [config] if config.is_file() else [described] if described else []
    return [_hash(each) for each in (path, *beside)]


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
