"""The metrics that can be chosen: those of `metrics.METRICS`, and a codec's own where one is given.

Processes look metrics up here by name: a codec would be too large to be sent along with every job.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.errors import UsageError
from mssgen.evaluation.base import Metric
from mssgen.evaluation.codec_rows import codec_hash
from mssgen.evaluation.embeddings import codec_embedding, embedding_metrics
from mssgen.evaluation.metrics import METRICS, choose_metrics
from mssgen.evaluation.tokens import token_metrics

CODEC_GROUPS = ("tokens", "latents")


@dataclass(frozen=True)
class CodecSource:
    """Where every process finds the same codec."""

    name_or_path: str
    device: str = "auto"
    offline: bool = False
    progress: bool = field(default=False, compare=False)
    """Draw a bar on standard error while it is downloaded."""


@cache
def shared_codec(source: CodecSource) -> Codec:
    """The codec, loaded once a process; raises as `mssgen.codecs.loading.load_codec`."""
    return load_codec(
        source.name_or_path,
        device=source.device,
        offline=source.offline,
        progress=source.progress,
    )


def metric_called(name: str, source: CodecSource | None = None) -> Metric | None:
    """The metric of that name; a codec is loaded only if the name is not of another's."""
    if name in METRICS or source is None:
        return METRICS.get(name)
    return next((metric for metric in _codec_metrics(source) if metric.name == name), None)


def chosen_metrics(words: Sequence[str], source: CodecSource | None = None) -> list[Metric]:
    """What names and groups stand for, each once, in the order of the table.

    "tokens" and "latents" are the groups of the codec. Raises UsageError for unknown words, for
    those groups without a codec, and where a package is not installed.
    """
    own: set[str] = set()
    others = []
    wants_codec = [word for word in words if word in CODEC_GROUPS or _is_of_codec(word)]
    if wants_codec and source is None:
        raise UsageError(f"the metric {wants_codec[0]} is of a codec; name one with --codec")
    for word in words:
        if word not in wants_codec:
            others.append(word)
            continue
        assert source is not None
        found = [m.name for m in _codec_metrics(source) if word in (m.name, _group(m))]
        if not found:
            names = ", ".join(metric.name for metric in _codec_metrics(source))
            raise UsageError(f"the metric {word} is unknown; this codec has {names}")
        own |= set(found)
    chosen = choose_metrics(others) if others else []
    of_codec = _codec_metrics(source) if source is not None and own else ()
    return [*chosen, *(metric for metric in of_codec if metric.name in own)]


def _is_of_codec(word: str) -> bool:
    return word.startswith(("token_", "fad_latents_", "mse_latents_"))


def _group(metric: Metric) -> str:
    return "tokens" if metric.group == "tokens" else "latents"


@cache
def _codec_metrics(source: CodecSource) -> tuple[Metric, ...]:
    codec = shared_codec(source)
    metrics = [*token_metrics(codec), *embedding_metrics(codec_embedding(codec))]
    # The encoder is not in the codec's id, and decides these numbers all the same.
    weights = codec_hash(codec)[:12]
    return tuple(
        replace(m, definition=f"{m.definition.rstrip('.')} (weights {weights}).") for m in metrics
    )
