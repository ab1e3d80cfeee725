"""Checkpoints to publish: completeness, licence, model card and the files to upload.

Only known facts are stated: a licence that does not follow from those of the codec and the data
must be given, and the card says where the codec's own licence is contested.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mssgen.checkpoints.bundles import Bundle
from mssgen.checkpoints.folders import CARD, TRAINING, checkpoint_files, other_files
from mssgen.checkpoints.formats import CONFIG, EMBEDDED_CODEC, STAGE_OF, read_config, read_json
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import SCHEME, ResolvedModel, parse_address
from mssgen.errors import CheckpointError, UsageError
from mssgen.publishing.card import CardFacts, model_card

# Licences of the registry by their identifiers on the hub. A share-alike licence decides for the
# whole; a permissive one says nothing about the rest.
_SHARE_ALIKE = {"CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0"}
_PERMISSIVE = {"MIT"}


@dataclass(frozen=True)
class Release:
    """A checkpoint that is ready to be uploaded."""

    repo: str
    """OWNER/NAME."""
    files: Mapping[str, Path | bytes]
    """By name on the hub: a local file, or the content."""
    card: str
    """Markdown with YAML front matter; also among the files."""
    warnings: tuple[str, ...]
    """Sentences for the publisher."""

    @property
    def address(self) -> str:
        """Its hf:// address, which is accepted wherever a checkpoint is."""
        return f"{SCHEME}{self.repo}"


def prepare_release(
    folder: Path,
    repo: str,
    *,
    licence: str | None = None,
    data_note: str | None = None,
    offline: bool = False,
) -> Release:
    """Check that `folder` is a complete checkpoint that loads, and write its card; no upload.

    Args:
        folder: config.json and model.safetensors, optionally codec/, training.json and
            README.md, which is then the card.
        repo: OWNER/NAME on the hub, with or without hf://.
        licence: the hub's identifier for the licence of the weights: mit, cc-by-nc-sa-4.0, other.
        data_note: the training data and their licences, in a sentence.
        offline: never download the codec of a stem encoder.

    Raises:
        UsageError: a malformed name, or a licence that is neither known nor given.
        CheckpointError: the checkpoint is incomplete or damaged.
    """
    repo, revision = parse_address(f"{SCHEME}{repo.removeprefix(SCHEME)}")
    if revision is not None:
        raise UsageError(
            f"{repo}@{revision} names a revision: leave it out, as an upload makes a new one"
        )
    if licence is not None and not re.fullmatch(
        r"[a-z0-9][a-z0-9.-]{1,60}", licence := licence.lower()
    ):
        raise UsageError(
            f"`licence` {licence:.80} is not an identifier of the hub: use one such as mit, "
            "apache-2.0, cc-by-4.0, cc-by-nc-sa-4.0 or other"
        )
    stage, config = _load(folder, offline=offline)
    training = read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    facts = CardFacts(
        repo, stage, config, training, REGISTRY.get(_codec_name(config, training)), data_note
    )
    warnings = []
    if nonfree := _noncommercial(folder, facts):
        warnings.append(
            f"the weights of {nonfree.name} are {nonfree.licence}, and so are weights made from "
            "them: not for commercial use"
        )
    files: dict[str, Path | bytes] = {name: folder / name for name in checkpoint_files(folder)}
    if CARD in files:
        card = _own_card(folder / CARD, licence)
        if data_note:
            warnings.append(f"{folder / CARD} is used as the card: `data_note` is not in it")
    else:
        card = model_card(facts, licence or _derived_licence(facts))
        files[CARD] = card.encode()
    if left_out := other_files(folder):
        warnings.append(
            f"{folder} holds more than a checkpoint; not uploaded: {', '.join(left_out)}"
        )
    return Release(repo, files, card, tuple(warnings))


def push(release: Release, *, private: bool = False) -> str:
    """Upload a release as one commit, and return its id. Raises CheckpointError."""
    from mssgen.checkpoints import pushing

    return pushing.push_files(release.files, release.repo, private=private)


def _load(folder: Path, *, offline: bool) -> tuple[str, dict[str, Any]]:
    """(stage, config.json) of a checkpoint, after loading it as its users will."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: give a folder of `mssgen models export`")
    stage = STAGE_OF.get(str(read_json(folder / CONFIG).get("architecture")), "separate")
    config = read_config(folder / CONFIG, stage)
    if stage == "enhance":
        from mssgen.encoders.files import load_stem_encoder

        load_stem_encoder(folder, offline=offline)
    elif stage == "refine":
        from mssgen.codecs.loading import load_codec
        from mssgen.refiners.files import load_refiner, refiner_codec

        place = refiner_codec(folder)
        codec = None if place is None else load_codec(place, offline=offline)
        load_refiner(folder, codec=codec)
    elif stage == "codec":
        from mssgen.codecs.loading import read_codec

        read_codec(folder)
    else:
        import torch

        from mssgen.separators.loading import build_separator

        model = ResolvedModel(folder.name, None, (folder,), (None,), "path")
        build_separator(model, torch.device("cpu"), "fp32")
    return stage, config


def _codec_name(config: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """Name of a stem encoder's codec, or of the codec that a codec's training started from."""
    section = training.get("model")
    started_from = section.get("codec") if isinstance(section, dict) else None
    return str(config.get("codec") or started_from)


def _noncommercial(folder: Path, facts: CardFacts) -> Bundle | None:
    """The registry's codec behind the weights, if it forbids commercial use."""
    config = folder / EMBEDDED_CODEC / CONFIG
    options = read_json(config).get("options") if config.is_file() else facts.config["options"]
    name = str(options.get("name")) if isinstance(options, dict) else ""
    for codec in (facts.codec, REGISTRY.get(name)):
        if codec is not None and codec.licence.startswith("CC BY-NC"):
            return codec
    return None


def _derived_licence(facts: CardFacts) -> str:
    """The licence that follows from codec and data; raises UsageError where none does."""
    cure = 'find out which applies and state it, for example as `licence="cc-by-nc-4.0"`'
    if facts.codec is None:
        stated = facts.config.get("licence")
        what = str(stated or "not known")
        raise UsageError(f"the licence of these weights is {what}: {cure}")
    if facts.codec.licence not in _PERMISSIVE | _SHARE_ALIKE.keys():
        raise UsageError(
            f"the licence of the codec {facts.codec.name} is {facts.codec.licence}: {cure}"
        )
    if facts.data_note is None:
        raise UsageError(
            "the licence of the training data is not known: name the data and their licences with "
            f"`data_note`, or {cure}"
        )
    return _SHARE_ALIKE.get(facts.codec.licence, "other")


def _own_card(path: Path, licence: str | None) -> str:
    """The text of an existing README.md; it must state a licence, and no other than `licence`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove or repair it") from None
    front = re.match(r"---\r?\n(.*?)^---\s*$", text, re.S | re.M)
    stated = re.search(r"^license:[ \t]*[\"']?([\w.-]+)", front[1], re.M) if front else None
    if stated is None:
        raise UsageError(
            f"{path} states no licence: begin it with the lines ---, license: ID, ---, or remove "
            "it to have a card written"
        )
    if licence not in (None, stated[1]):
        raise UsageError(
            f"{path} states the licence {stated[1]}, not {licence}: change it there, or remove it "
            "to have a card written"
        )
    return text
