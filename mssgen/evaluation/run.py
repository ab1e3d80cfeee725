"""The job of `mssgen evaluate`: files in, tables out."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mssgen.checkpoints.formats import WEIGHTS
from mssgen.checkpoints.resolving import resolve
from mssgen.codecs.base import Codec
from mssgen.errors import MssgenError, UsageError
from mssgen.evaluation.codec_rows import (
    MIXTURE_SYSTEM,
    REFERENCE,
    through,
    with_codec_rows,
    with_mixture_row,
    with_sums,
)
from mssgen.evaluation.metrics.base import Metric
from mssgen.evaluation.metrics.table import CodecSource, chosen_metrics, shared_codec
from mssgen.evaluation.pairing import Pairing, pair
from mssgen.evaluation.records import (
    EVALUATION,
    evaluation_of,
    write_evaluation,
    write_scores,
)
from mssgen.evaluation.scoring import Scored, score
from mssgen.evaluation.set_distances import SetDistance, set_distances, set_distances_csv
from mssgen.evaluation.summary import Row, Summary
from mssgen.evaluation.tables import comparisons_csv, summary_csv, summary_md
from mssgen.evaluation.thesis_tables import FORMS, TABLES, thesis_table
from mssgen.events import Done, Event, Failed, Hook, Warned, Written, ignore
from mssgen.files import sha256_of, write_text

CACHE = "cache"
_MAX_SHOWN = 3


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation."""

    estimates: tuple[str, ...]
    """Folders or files, one per system, as given by the user."""
    references: str
    output: str
    mixture: str | None = None
    metrics: tuple[str, ...] = ()
    """Names and groups of metrics; empty: "fast", or those that `table` needs."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of systems, by entry of `estimates`."""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """The model (name, path or URL) that made the estimates, by entry of `estimates`."""
    codec: str | None = None
    table: str | None = None
    n_jobs: int | None = None
    seed: int = 0
    overwrite: bool = False
    device: str = "auto"
    offline: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for contradictory options."""
        if self.table is not None and self.table not in TABLES:
            raise UsageError(f"`table` {self.table} is unknown; use {', '.join(TABLES)}")
        if self.table is not None and self.codec is None:
            raise UsageError(f"`table` {self.table} needs a codec: name it as `codec`")
        if not self.estimates and (self.codec is None or self.table in TABLES[1:]):
            raise UsageError("no estimates: name a folder of stems to compare with the references")
        for option, given in (("names", self.names), ("checkpoints", self.checkpoints)):
            for folder in given:
                if folder not in self.estimates:
                    raise UsageError(
                        f"`{option}` {folder}={given[folder]} is not among the estimates; write "
                        "the folder as it was given"
                    )
        if self.output in ("", "-"):
            raise UsageError("`output` must be a folder; name one")
        output = Path(self.output).resolve()
        for place in (*self.estimates, self.references, self.mixture or ""):
            if place and Path(place).resolve() == output:
                raise UsageError(f"`output` {self.output} is also an input; choose another folder")


def evaluate_systems(
    options: EvaluationOptions,
    *,
    metrics: Sequence[Metric] | None = None,
    progress: bool = False,
    hook: Hook = ignore,
) -> tuple[Done, str]:
    """Score, average, compare and write files; returns (counts, the table to show).

    Args:
        options: see `EvaluationOptions`.
        metrics: replaces those named by the options.
        progress: show a progress bar on standard error during downloads.
        hook: receives progress, failures and written files.

    Raises:
        UsageError: wrong options, or no estimate matches a reference.
        MssgenError: the output cannot be written, or a process died.
    """
    failures: list[Event] = []

    def noting(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)
        hook(event)

    folder = Path(options.output)
    pairing = pair(
        dict(zip(_labels(options), options.estimates, strict=True)),
        options.references,
        mixture=options.mixture,
        exclude=folder,
    )
    if pairing.notes:
        hook(Warned("", _unpaired(pairing)))
    for unreadable, reason in pairing.unreadable.items():
        noting(Failed(unreadable, reason))
    codec = None
    if options.codec is not None:
        codec = CodecSource(options.codec, options.device, options.offline, progress)
    chosen = list(metrics) if metrics is not None else _chosen(options, codec)
    pairing = _with_hashes(pairing, options, progress)
    form = None
    if codec is not None:
        audio = folder / CACHE / "audio"
        pairing, form = _with_rows(pairing, options, shared_codec(codec), audio, noting)
    scored = score(
        pairing,
        chosen,
        cache=folder / CACHE / "scores",
        n_jobs=options.n_jobs,
        overwrite=options.overwrite,
        codec=codec,
        hook=noting,
    )
    distances = set_distances(
        pairing,
        chosen,
        cache=folder / CACHE / "frames",
        codec=codec,
        seed=options.seed,
        hook=noting,
    )
    text = _write(pairing, chosen, scored, distances, options, form, hook)
    # Files that could not be coded or embedded count as failures too.
    done = replace(scored.done, n_failed=max(scored.done.n_failed, 1 if failures else 0))
    hook(done)
    return done, text


def _unpaired(pairing: Pairing) -> str:
    """One line about files without a partner."""
    shown = [
        ": ".join(part for part in (note.system, note.track, note.note) if part)
        for note in pairing.notes[:_MAX_SHOWN]
    ]
    rest = len(pairing.notes) - len(shown)
    more = f"; and {rest} more in {EVALUATION}" if rest else ""
    return f"not everything has a partner: {'; '.join(shown)}{more}"


def _labels(options: EvaluationOptions) -> list[str]:
    """A name for each system: as given, else the folder's name, else its path if ambiguous."""
    short = [
        options.names.get(given) or Path(given).resolve().name or given
        for given in options.estimates
    ]
    counts = Counter(short)
    labels = [
        label if counts[label] == 1 or given in options.names else given
        for label, given in zip(short, options.estimates, strict=True)
    ]
    for label, count in Counter(labels).items():
        if count > 1:
            raise UsageError(f"two systems are called {label}; rename them with `names` A=LABEL")
        if label in ("reference", "mixture"):
            raise UsageError(
                f"a system cannot be called {label}, a row of its own; use `names` A=LABEL"
            )
    return labels


def _chosen(options: EvaluationOptions, codec: CodecSource | None) -> list[Metric]:
    needed = FORMS[options.table].metrics if options.table else ()
    words = [*options.metrics, *needed] or ["fast"]
    return chosen_metrics(words, codec)


def _with_hashes(pairing: Pairing, options: EvaluationOptions, progress: bool) -> Pairing:
    """Add the hashes of the models that made the systems."""
    if not options.checkpoints:
        return pairing
    systems = []
    for system in pairing.systems:
        if model := options.checkpoints.get(system.folder):
            paths = resolve(model, offline=options.offline, progress=progress).paths
            try:
                hashes = [sha256_of(path / WEIGHTS if path.is_dir() else path) for path in paths]
            except OSError as error:
                raise MssgenError(f"{model} cannot be read ({error.strerror})") from error
            # A bag of several files has the hash of their hashes.
            whole = hashlib.sha256("".join(hashes).encode()).hexdigest()
            system = replace(system, checkpoint_hash=hashes[0] if len(hashes) == 1 else whole)
        systems.append(system)
    return replace(pairing, systems=tuple(systems))


@dataclass(frozen=True)
class _Form:
    """Names of the special rows of a thesis table."""

    ceiling: str
    codec_only: str
    first: str


def _with_rows(
    pairing: Pairing, options: EvaluationOptions, codec: Codec, cache: Path, hook: Hook
) -> tuple[Pairing, _Form]:
    first = pairing.systems[0].name if pairing.systems else ""
    source = MIXTURE_SYSTEM if options.table == "thesis-4" else first
    if options.table == "thesis-1":
        pairing = with_sums(pairing)
    if options.table == "thesis-4":
        pairing = with_mixture_row(pairing)
    # The output of codec-based refiners is not passed through the codec again.
    systems = [source] if options.table in ("thesis-3", "thesis-4") else None
    pairing = with_codec_rows(pairing, codec, cache=cache, systems=systems, hook=hook)
    return pairing, _Form(through(REFERENCE, codec), through(source, codec), first)


def _write(
    pairing: Pairing,
    metrics: Sequence[Metric],
    scored: Scored,
    distances: Sequence[SetDistance],
    options: EvaluationOptions,
    form: _Form | None,
    hook: Hook,
) -> str:
    """Write all files; returns the table to show."""
    folder = Path(options.output)
    rows = [Row(system.name, system.is_ceiling) for system in pairing.systems]
    summary = Summary(scored.records, metrics, rows, seed=options.seed)
    left_out = ("estimates", "references", "mixture", "output", "n_jobs", "overwrite")
    given = {key: value for key, value in asdict(options).items() if key not in left_out}
    given["metrics"] = [metric.name for metric in metrics]
    evaluation = evaluation_of(pairing, metrics, options=given, notes=scored.notes)
    evaluation["set_distances"] = [asdict(distance) for distance in distances]
    text = summary_md(summary, evaluation)
    for path in (write_scores(scored.records, folder), write_evaluation(evaluation, folder)):
        hook(Written("", "", path))
    written = {"summary.csv": summary_csv(summary), "comparisons.csv": comparisons_csv(summary)}
    written["summary.md"] = text
    if distances:
        written["set_distances.csv"] = set_distances_csv(distances)
    if options.table is not None and form is not None:
        text = thesis_table(
            options.table,
            summary,
            ceiling=form.ceiling,
            codec_only=form.codec_only,
            first=form.first,
        )
        written[f"{options.table}.md"] = text
    for name, content in written.items():
        hook(Written("", "", write_text(folder / name, content)))
    return text
