"""Messages of the library in the terms of the command line.

The library names a parameter in backticks, with a value where it matters:
`` `existing="overwrite"` ``. Python users know that name; here it becomes the option.
"""

import re

# Parameters whose option has another name; all others just replace underscores with dashes.
_RENAMED = {
    "audio": "the input",
    "bandwidth_kbps": "--bandwidth",
    "checkpoints": "--checkpoint",
    "container": "--format",
    "encoders": "--encoder",
    "existing='overwrite'": "--overwrite",
    "existing='skip'": "--skip-existing",
    "format": "--format",
    "list_file": "--list",
    "max_delay_s": "--max-delay",
    "max_s": "--max-seconds",
    "model_name": "--name",
    "n_devices": "--devices",
    "n_jobs": "--jobs",
    "n_retries": "--retries",
    "n_workers": "--jobs",
    "names": "--name",
    "output_dir": "--output",
    "overrides": "--set",
    "overwrite=True": "--overwrite",
    "resume=True": "--resume",
    "resume=False": "--overwrite",
    "stems": "--stem",
    "stem_from": "--stem-from",
}
# fmt: off
_PLAIN = frozenset((
    "accept_unlicensed",
    "batch_size", "bit_depth", "blend", "checkpoint", "clip", "coarse_refiner", "codec",
    "data", "data_note", "device", "downmix", "encoder", "enhance", "excerpt_s", "explain",
    "instruments", "jobs", "keep_codebooks", "licence", "max_delay", "max_seconds", "max_tracks",
    "metrics", "mix", "mix_consistent", "mixture", "model", "name", "offline", "output", "overlap",
    "overwrite", "packages", "pairs", "precision", "private", "ratings", "recipe",
    "references", "refine", "refiner", "residual", "resume", "sample_rate", "seconds", "seed",
    "set", "shard", "shifts", "steps", "stem", "strength", "strict", "table", "temperature",
    "template", "high_frequencies", "n_codebooks", "two_stems", "watch", "wiener_iterations",
    "without",
))
# fmt: on
_PARAMETER = re.compile(r"`(\w+)(?:=(\"[^\"`]*\"|'[^'`]*'|[^`\s]*))?`")


def as_options(message: str) -> str:
    """The message with every parameter in backticks written as the option of the command line.

    `` `clip="clamp"` `` becomes ``--clip clamp``, `` `downmix=True` `` becomes ``--downmix``; other
    words stay as they are.
    """
    return _PARAMETER.sub(_option, message)


def _option(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    plain = None if value is None else value.strip("\"'")
    quoted = f"{name}={plain!r}" if value and value[0] in "\"'" else f"{name}={value}"
    if value is not None and quoted in _RENAMED:
        return _RENAMED[quoted]
    option = _RENAMED.get(name) or (f"--{name.replace('_', '-')}" if name in _PLAIN else None)
    if option is None:
        return match[0]
    return option if plain in (None, "True") else f"{option} {plain}"
