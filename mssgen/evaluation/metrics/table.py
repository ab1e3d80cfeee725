"""All metrics, and how to choose some by name or group."""

import hashlib
import importlib.util
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType

import numpy as np

from mssgen.codecs.base import Codec
from mssgen.codecs.loading import load_codec
from mssgen.errors import UsageError
from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.metrics.bleed import BLEED_METRICS
from mssgen.evaluation.metrics.bsseval import BSSEVAL_METRICS
from mssgen.evaluation.metrics.embeddings import EMBEDDINGS, codec_embedding, embedding_metrics
from mssgen.evaluation.metrics.features import FEATURE_METRICS
from mssgen.evaluation.metrics.proxies import PROXY_METRICS
from mssgen.evaluation.metrics.spectral import SPECTRAL_METRICS
from mssgen.evaluation.metrics.tokens import token_metrics
from mssgen.evaluation.metrics.waveform import WAVEFORM_METRICS
from mssgen.extras import missing

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            *WAVEFORM_METRICS,
            *BSSEVAL_METRICS,
            *SPECTRAL_METRICS,
            *BLEED_METRICS,
            *FEATURE_METRICS,
            *PROXY_METRICS,
            *(metric for each in EMBEDDINGS.values() for metric in embedding_metrics(each)),
        )
    }
)
"""Metrics by name, without those of a codec: see `tokens.token_metrics`, and `embedding_metrics`
of an `embeddings.codec_embedding`."""

_FAST = ("waveform", "spectral", "features", "bleed")
_OFFLINE = ("fad_log_mel", "mse_log_mel")
DEFAULT = ("fast",)
_PACKAGES = {
    "bsseval": ("museval",),
    "spectral": ("librosa", "auraloss"),
    "features": ("librosa",),
    "bleed": ("librosa",),
    "proxies": ("librosa",),
    "embedding": ("librosa",),
}
_PROGRAMS = {"bsseval": ("ffmpeg", "ffprobe")}
"""museval imports stempeg, which cannot be imported without these."""


def groups() -> dict[str, tuple[str, ...]]:
    """Names of metrics by group; "fast" is the default, "all" has those without weights."""
    found: dict[str, tuple[str, ...]] = {}
    for metric in METRICS.values():
        found[metric.group] = (*found.get(metric.group, ()), metric.name)
    found["fast"] = tuple(name for group in _FAST for name in found[group])
    found["all"] = tuple(
        name for name, each in METRICS.items() if each.group != "embedding" or name in _OFFLINE
    )
    return found


def choose_metrics(words: Iterable[str] = DEFAULT) -> list[Metric]:
    """Metrics by names and groups, each once, in the order of METRICS.

    Raises UsageError for an unknown word, or if a package that a metric needs is not installed.
    """
    known = groups()
    chosen: set[str] = set()
    for word in words:
        if word not in METRICS and word not in known:
            raise UsageError(
                f"the metric {word} is unknown; use a group ({', '.join(known)}) or one of "
                f"{', '.join(METRICS)}"
            )
        chosen |= {word} if word in METRICS else set(known[word])
    for name in METRICS:
        if name in chosen:
            _check_packages(METRICS[name])
    return [metric for name, metric in METRICS.items() if name in chosen]


def _check_packages(metric: Metric) -> None:
    for package in _PACKAGES.get(metric.group, ()):
        if importlib.util.find_spec(package) is None:
            raise missing(package, "evaluate", "this metric")
    for program in _PROGRAMS.get(metric.group, ()):
        if shutil.which(program) is None:
            raise UsageError(
                f"the metric {metric.name} needs the program {program}, which is not installed: "
                "install ffmpeg, or leave this metric out"
            )
    if metric.group == "embedding":
        EMBEDDINGS[metric.name.split("_", 1)[1]].check()


CODEC_GROUPS = ("tokens", "latents")


@dataclass(frozen=True)
class CodecSource:
    """How every process loads the same codec."""

    name_or_path: str
    device: str = "auto"
    offline: bool = False
    progress: bool = field(default=False, compare=False)
    """Show a progress bar on standard error during downloads."""


@cache
def shared_codec(source: CodecSource) -> Codec:
    """The codec, loaded once per process; raises like `mssgen.codecs.loading.load_codec`."""
    return load_codec(
        source.name_or_path,
        device=source.device,
        offline=source.offline,
        progress=source.progress,
    )


def metric_called(name: str, source: CodecSource | None = None) -> Metric | None:
    """The metric of that name; a codec is loaded only if `METRICS` does not have it."""
    if name in METRICS or source is None:
        return METRICS.get(name)
    return next((metric for metric in _codec_metrics(source) if metric.name == name), None)


def chosen_metrics(words: Sequence[str], source: CodecSource | None = None) -> list[Metric]:
    """Metrics by names and groups, those of the codec last.

    "tokens" and "latents" are the groups of the codec. Raises UsageError for unknown words, for
    codec metrics without a codec, and if a package is not installed.
    """
    own: set[str] = set()
    others = []
    with_codec = [word for word in words if word in CODEC_GROUPS or _is_of_codec(word)]
    if with_codec and source is None:
        raise UsageError(f"the metric {with_codec[0]} needs a codec; name one as `codec`")
    for word in words:
        if word not in with_codec:
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
    # The codec's id does not cover the encoder, which these metrics depend on.
    weights = codec_hash(codec)[:12]
    return tuple(
        replace(m, definition=f"{m.definition.rstrip('.')} (weights {weights}).") for m in metrics
    )


def codec_hash(codec: Codec) -> str:
    """Hash of all weights and options, including the encoder, which `Codec.codec_id` omits."""
    digest = hashlib.sha256(f"{codec.architecture} {sorted(codec.options.items())}".encode())
    for key, tensor in sorted(codec.state_dict().items()):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()
