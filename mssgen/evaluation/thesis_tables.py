"""The thesis' tables 1, 3 and 4 in their own form, for any codec and any refiner.

The thesis does not state its variants of SDR; here each metric's definition and average are given
below the table. Each form has one column more than in the thesis: the reference through the codec,
the ceiling of all systems.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mssgen.evaluation.codec_rows import (
    DRUMS_AND_BASS,
    MIXTURE_STEM,
    MIXTURE_SYSTEM,
)
from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.summary import Summary
from mssgen.evaluation.tables import markdown_table, shown
from mssgen.inspection.cells import md_text

TABLES = ("thesis-1", "thesis-3", "thesis-4")
_STEMS_1 = ("bass", "drums", "vocals", DRUMS_AND_BASS, MIXTURE_STEM)


@dataclass(frozen=True)
class TableForm:
    """Requirements and texts of one table."""

    title: str
    metrics: tuple[str, ...]
    """Metrics that are always measured."""
    needs_estimates: bool
    caption: str


FORMS = {
    "thesis-1": TableForm(
        "Codec reconstruction of references, without any separation",
        ("usdr",),
        False,
        "As table 1 of the thesis (mean SDR of EnCodec's reconstruction).",
    ),
    "thesis-3": TableForm(
        "Refiners behind a separator",
        ("sdr", "sar", "isr"),
        True,
        "As table 3 of the thesis: the first system is the input, codec only is that input through "
        "the unmodified codec, and each further system is a refiner of it.",
    ),
    "thesis-4": TableForm(
        "Refiners behind an encoder that separates",
        ("sdr", "sar", "isr"),
        True,
        "As table 4 of the thesis: the input is the mixture, the first system is what its table "
        "calls codec only (the fine-tuned encoder with the codec's own decoder), and each further "
        "system is a refiner of it.",
    ),
}


def thesis_table(
    name: str, summary: Summary, *, ceiling: str, codec_only: str = "", first: str = ""
) -> str:
    """One of `TABLES` as Markdown.

    Args:
        name: one of `TABLES`.
        summary: with all systems that appear.
        ceiling: name of the row of references through the codec.
        codec_only: name of the row of the input through the codec (tables 3 and 4).
        first: name of the input row of table 3.
    """
    form = FORMS[name]
    by_name = {metric.name: metric for metric in summary.metrics}
    metrics = [by_name[needed] for needed in form.metrics if needed in by_name]
    parts = [f"# {form.title}", form.caption]
    if name == "thesis-1":
        parts.append(markdown_table(_table_1(summary, metrics, ceiling)))
    else:
        names = [row.name for row in summary.systems]
        source = first if name == "thesis-3" else MIXTURE_SYSTEM
        refiners = [n for n in names if n not in (source, codec_only, ceiling)]
        heads = {source: f"Input ({source})", codec_only: "Input through the codec"}
        if name == "thesis-3":
            heads[codec_only] = "Codec only"
        heads[ceiling] = "Reference through the codec"
        order = [source, codec_only, *refiners, ceiling]
        for stem in summary.stems:
            if any(summary.has(system, stem) for system in names if system != ceiling):
                parts.append(f"## {md_text(stem)}")
                parts.append(markdown_table(_columns(summary, stem, metrics, order, heads)))
    parts.append("\n".join(f"- {md_text(m.title)}: {m.aggregate} over tracks." for m in metrics))
    return "\n\n".join(parts) + "\n"


def _table_1(summary: Summary, metrics: Sequence[Metric], ceiling: str) -> Iterator[list[str]]:
    stems = [stem for stem in _STEMS_1 if stem in summary.stems]
    stems += [stem for stem in summary.stems if stem not in stems]
    yield ["", *map(md_text, stems)]
    names = [ceiling, *(row.name for row in summary.systems if row.name != ceiling)]
    for system in names:
        for metric in metrics:
            cells = [shown(summary.cell(system, stem, metric)) for stem in stems]
            yield [f"{md_text(metric.title)}, {md_text(system)}", *cells]


def _columns(
    summary: Summary,
    stem: str,
    metrics: Sequence[Metric],
    systems: Sequence[str],
    heads: dict[str, str],
) -> Iterator[list[str]]:
    yield ["", *(md_text(heads.get(system, system)) for system in systems)]
    for metric in metrics:
        yield [
            md_text(metric.title),
            *(shown(summary.cell(system, stem, metric)) for system in systems),
        ]
