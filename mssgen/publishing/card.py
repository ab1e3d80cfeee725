"""The model card of a checkpoint: purpose, usage, origin, metrics and licence, as far as known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mssgen import __version__
from mssgen.checkpoints.bundles import Bundle
from mssgen.checkpoints.formats import EMBEDDED_CODEC
from mssgen.checkpoints.registry import STAGES, STEMS
from mssgen.checkpoints.resolving import SCHEME

_HEARD = {
    "mixture": "the mixture",
    "separated": "a separated stem",
    "separated+mixture": "a separated stem and its mixture",
    "noisy": "a noisy stem",
}
_TAGS = {
    "separate": "music-source-separation",
    "enhance": "music-source-separation",
    "codec": "neural-codec",
    "refine": "music-source-separation",
}


@dataclass(frozen=True)
class CardFacts:
    """Facts about a checkpoint."""

    repo: str
    """OWNER/NAME."""
    stage: str
    """A key of `registry.STAGES`."""
    config: Mapping[str, Any]
    """Content of config.json."""
    training: Mapping[str, Any]
    """Content of training.json; empty where there is none."""
    codec: Bundle | None
    """The codec of the registry that the weights were made from."""
    data_note: str | None
    """The training data and their licences, in the user's words."""


def model_card(facts: CardFacts, licence: str) -> str:
    """Markdown with YAML front matter: purpose, usage, training data, metrics and licence.

    `licence` is the hub's identifier for the licence of the weights.
    """
    config, training = facts.config, facts.training
    what, usage = _what_and_usage(facts)
    tags = ["mssgen", "audio", "music", _TAGS[facts.stage]]
    if config.get("stem") in STEMS:
        tags.append(str(config["stem"]))
    head = [
        "---",
        f"license: {licence}",
        "library_name: mssgen",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    parts = [
        "\n".join(head),
        f"# {facts.repo.partition('/')[2]}",
        what,
        "## Use",
        "\n".join(["```console", *usage, "```"]),
        "## What it is",
        _table(("", ""), _rows(facts)),
        "## Training data",
        _data_text(facts),
        "## Metrics",
        _metrics_text(training),
        "## Licence",
        _licence_text(facts, licence),
    ]
    return "\n\n".join(parts) + "\n"


def _what_and_usage(facts: CardFacts) -> tuple[str, list[str]]:
    """One sentence about the checkpoint, and commands that use it."""
    address, stem = f"{SCHEME}{facts.repo}", facts.config.get("stem")
    name = STAGES[facts.stage][0]
    kind = f"{name[0].upper()}{name[1:]} of mssgen {__version__}"
    install = "pip install '.[codecs]'  # in a checkout of mssgen"
    if facts.stage == "codec":
        return f"{kind}: it encodes audio into tokens and decodes them.", [
            install,
            f"mssgen codec encode song.wav --codec {address} -o song.codes",
            f"mssgen codec decode song.codes --codec {address} -o song.wav",
        ]
    if facts.stage == "separate":
        stems = ", ".join(str(each) for each in facts.config["options"].get("sources", []))
        return f"{kind}: it separates a song into {stems}.", [
            "pip install .  # in a checkout of mssgen",
            f"mssgen separate song.wav --model {address}",
        ]
    if facts.stage == "refine":
        options = facts.config["options"]
        is_coarse = not options.get("n_conditioning")
        mode, option = ("coarse+c2f", "coarse-refiner") if is_coarse else ("c2f", "refiner")
        stem = facts.training.get("stem") or "STEM"
        return f"{kind}: it rewrites the codes of a stem into those of a clean stem.", [
            install,
            f"mssgen enhance stem.wav --stem {stem} --refine {mode} --{option} {address}",
        ]
    heard = _HEARD.get(str(facts.config.get("input")), "sound")
    sentence = (
        f"{kind}: its input is {heard}, its output the {stem} stem as codes of a neural codec, "
        "whose decoder turns them into audio."
    )
    if facts.config.get("input") == "mixture":
        return sentence, [
            install,
            f"mssgen separate song.wav --stem {stem} --encoder {address}",
        ]
    return sentence, [
        install,
        f"mssgen enhance stem.wav --encoder {address}",
        f"mssgen separate song.wav --stem {stem} --enhance --encoder {address}",
    ]


def _rows(facts: CardFacts) -> list[tuple[str, str]]:
    """Names and values from config.json and training.json."""
    config, training = facts.config, facts.training
    codec = config.get("codec")
    if codec == EMBEDDED_CODEC:
        codec = "its own, in codec/"
    rows = {
        "stem": config.get("stem"),
        "input": _HEARD.get(str(config.get("input"))),
        "architecture": config["architecture"],
        "codec": codec,
        "codec id": config.get("codec_id"),
        "licence of the codec": f"{facts.codec.licence}. {facts.codec.licence_note}"
        if facts.codec
        else None,
        "sample rate": f"{config['sample_rate']} Hz" if "sample_rate" in config else None,
        "codebooks": config.get("n_codebooks"),
        "recipe": training.get("recipe"),
        "why": training.get("why"),
        "steps": training.get("step"),
        "trained with": f"mssgen {training['mssgen_version']}"
        if "mssgen_version" in training
        else None,
    }
    return [(key, str(value)) for key, value in rows.items() if value not in (None, "")]


def _data_text(facts: CardFacts) -> str:
    data = facts.training.get("data")
    found = []
    if isinstance(data, dict):
        counts = [
            f"{data[key]} tracks to {verb} on"
            for key, verb in (("n_train_tracks", "train"), ("n_valid_tracks", "validate"))
            if key in data
        ]
        found.append(f"{data.get('name') or 'a library'} ({', '.join(counts) or 'size not known'})")
        if "separated_by" in data:
            found.append(f"separated by {data['separated_by']}")
    text = _plain("; ".join(found))
    sentences = [each for each in (text and f"{text}.", _plain(facts.data_note or "")) if each]
    return "\n\n".join(sentences) or "Not recorded."


def _metrics_text(training: Mapping[str, Any]) -> str:
    metrics = training.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return "None were measured for these weights."
    rows = [(key, f"{value:.6g}") for key, value in metrics.items() if isinstance(value, float)]
    title = f"Means over the validation tracks after {training.get('step')} steps."
    return f"{title}\n\n{_table(('metric', 'value'), rows)}"


def _licence_text(facts: CardFacts, licence: str) -> str:
    stated = f"The weights: {licence}."
    if licence == "other":
        stated = "No licence is stated for the weights as a whole; those of codec and data apply."
    lines = [f"- {stated}"]
    if facts.codec is not None:
        lines.append(f"- The codec {facts.codec.name}: {facts.codec.licence}.")
    if note := facts.config.get("licence_note"):
        lines.append(f"- {_plain(str(note))}")
    if facts.data_note:
        lines.append(f"- The data: {_plain(facts.data_note)}")
    return "\n".join(lines)


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {_plain(left)} | {_plain(right)} |" for left, right in lines)


def _plain(text: str) -> str:
    """The text on one line, with nothing that ends a table cell or begins HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
