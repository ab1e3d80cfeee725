"""The table of all metrics, and the choice of some by name or group."""

import importlib.util
import shutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mssgen.errors import UsageError
from mssgen.evaluation.base import Metric
from mssgen.evaluation.bleed import BLEED_METRICS
from mssgen.evaluation.bsseval import BSSEVAL_METRICS
from mssgen.evaluation.embeddings import EMBEDDINGS, embedding_metrics
from mssgen.evaluation.features import FEATURE_METRICS
from mssgen.evaluation.proxies import PROXY_METRICS
from mssgen.evaluation.signals import absent
from mssgen.evaluation.spectral import SPECTRAL_METRICS
from mssgen.evaluation.waveform import WAVEFORM_METRICS

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
"""By name. Those that need a codec are made by `tokens.token_metrics` and by `embedding_metrics`
of an `embeddings.codec_embedding`."""

_FAST = ("waveform", "spectral", "features", "bleed")
_OFFLINE = ("fad_log_mel", "mse_log_mel")
DEFAULT = ("fast",)
_PACKAGES = {
    "bsseval": ("museval",),
    "spectral": ("librosa", "auraloss", "scipy"),
    "features": ("librosa", "scipy"),
    "bleed": ("librosa",),
    "proxies": ("librosa",),
    "embedding": ("librosa",),
}
_PROGRAMS = {"bsseval": ("ffmpeg", "ffprobe")}
"""museval imports stempeg, which refuses to be imported where these are not."""


def groups() -> dict[str, tuple[str, ...]]:
    """The metrics' names by group; "fast" is the default, "all" is what needs no weights."""
    found: dict[str, tuple[str, ...]] = {}
    for metric in METRICS.values():
        found[metric.group] = (*found.get(metric.group, ()), metric.name)
    found["fast"] = tuple(name for group in _FAST for name in found[group])
    found["all"] = tuple(
        name for name, each in METRICS.items() if each.group != "embedding" or name in _OFFLINE
    )
    return found


def choose_metrics(words: Iterable[str] = DEFAULT) -> list[Metric]:
    """The metrics that names and groups stand for, each once, in the order of METRICS.

    Raises UsageError for an unknown word, and where a package that one needs is not installed.
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
            raise absent(package)
    for program in _PROGRAMS.get(metric.group, ()):
        if shutil.which(program) is None:
            raise UsageError(
                f"the metric {metric.name} needs the program {program}, which is not installed: "
                "install ffmpeg, or leave this metric out"
            )
    if metric.group == "embedding":
        EMBEDDINGS[metric.name.split("_", 1)[1]].check()
