"""Listening tests from an evaluation: MUSHRA (ITU-R BS.1534-3) and A/B.

Both are written in two forms: for webMUSHRA, and as a stand-alone page. Both use the same excerpts:
the part of a track in which the reference has the most energy, matched in loudness.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.signal import firwin, kaiserord, oaconvolve

from mssgen.errors import AudioError, MssgenError, UsageError
from mssgen.evaluation.listening import webmushra
from mssgen.evaluation.listening.page import page_of, write_trial
from mssgen.evaluation.listening.trials import (
    ANCHORS_HZ,
    MIN_LISTEN_S,
    REFERENCE,
    Audio,
    Condition,
    ListeningOptions,
    Trial,
)
from mssgen.evaluation.report.audio_files import amplified, match, read_excerpt
from mssgen.evaluation.report.results import Results, StemFiles, read_results
from mssgen.events import Hook, Warned, Written, ignore
from mssgen.files import write_text
from mssgen.inspection.cells import slug

PAGE = "index.html"


def export_mushra(
    evaluation_dir: Path,
    output: Path,
    options: ListeningOptions | None = None,
    *,
    overwrite: bool = False,
    hook: Hook = ignore,
) -> Path:
    """Write a MUSHRA test of all systems of an evaluation and return its page, output/index.html.

    Every trial has all systems, the hidden reference and the anchors.

    Raises:
        UsageError: no evaluation, unknown stems or systems, or a missing package.
        MssgenError: the test exists, cannot be written, or has no audible reference.
    """
    return _export("mushra", evaluation_dir, output, options, overwrite, hook)


def export_ab(
    evaluation_dir: Path,
    output: Path,
    options: ListeningOptions | None = None,
    *,
    overwrite: bool = False,
    hook: Hook = ignore,
) -> Path:
    """Write an A/B preference test of every pair of systems; otherwise like `export_mushra`.

    webMUSHRA has no preference test: its form of this test is a paired comparison that asks for
    each system which of A and B is the reference.
    """
    return _export("ab", evaluation_dir, output, options, overwrite, hook)


def low_passed(audio: Audio, sample_rate: int, cutoff_hz: float) -> Audio:
    """The low-pass anchor of BS.1534-3 [C, T] without delay: flat to the cut-off, 60 dB down a
    seventh above it (3.5 and 4 kHz), steeper than required."""
    width_hz = cutoff_hz / 7
    if cutoff_hz + width_hz >= sample_rate / 2:
        return audio.copy()
    n_taps, beta = kaiserord(60.0, width_hz / (sample_rate / 2))
    # With an odd number of taps, the delay is a whole number of samples.
    taps = firwin(n_taps | 1, cutoff_hz + width_hz / 2, window=("kaiser", beta), fs=sample_rate)
    return np.asarray(oaconvolve(audio, taps[None], mode="same", axes=-1), np.float32)


def _export(
    kind: str,
    evaluation_dir: Path,
    output: Path,
    options: ListeningOptions | None,
    overwrite: bool,
    hook: Hook,
) -> Path:
    options = options or ListeningOptions()
    results = read_results(evaluation_dir)
    page = output / PAGE
    if page.exists() and not overwrite:
        raise MssgenError(f"{page} exists; use `overwrite=True` to replace it, or another `output`")
    test_id = f"{_slug(options.title).lower()}-{kind}"
    folder = Path("configs", "resources", test_id)  # below the root of webMUSHRA
    pages, key = [], []
    for trial in _trials(kind, results, options, hook):
        pages.append(write_trial(trial, output))
        key.append(webmushra.write_trial(kind, trial, output / "webmushra", folder, options))
    if not pages:
        raise AudioError("there is nothing to hear: no reference with sound could be read")
    config = webmushra.config_of(kind, test_id, key, options)
    write_text(output / "webmushra" / "configs" / f"{test_id}.yaml", config)
    test = {
        "test_id": test_id,
        "kind": kind,
        "title": options.title,
        "min_listen_s": min(MIN_LISTEN_S, options.seconds),
        "trials": pages,
    }
    # Written last, so that an existing page is complete.
    hook(Written("", "", write_text(page, page_of(test))))
    return page


def _trials(kind: str, results: Results, options: ListeningOptions, hook: Hook) -> Iterator[Trial]:
    """Up to `n_trials` trials, alternating between stems."""
    systems = _known(options.systems, results.systems, "system")
    stems = _known(options.stems, results.stems, "stem")
    if kind == "ab" and len(systems) < 2:
        raise UsageError("an A/B test needs two systems; evaluate another system, or use mushra")
    groups = list(itertools.combinations(systems, 2)) if kind == "ab" else [systems]
    candidates: list[list[tuple[str, str, StemFiles, tuple[str, ...]]]] = []
    for stem in stems:
        found = [
            (track.name, stem, track.stems[stem], group)
            for track in results.tracks
            if stem in track.stems
            for group in groups
            if set(group) <= set(track.stems[stem].estimates)
        ]
        order = np.random.default_rng([options.seed, len(candidates)]).permutation(len(found))
        candidates.append([found[index] for index in order])
    # Alternating, so that a short test covers all stems.
    in_turn = [one for several in itertools.zip_longest(*candidates) for one in several if one]
    if not in_turn:
        raise UsageError(
            f"no track has estimates of {', '.join(systems)} for {', '.join(stems)}; choose others"
        )
    n_trials = 0
    for track, stem, files, group in in_turn:
        name = f"t{n_trials + 1:02}.{_slug(stem)}.{_slug(track)}"
        try:
            trial = _trial(kind, name, track, stem, files, group, options)
        except AudioError as error:
            hook(Warned(track, f"{error}; another excerpt is used instead"))
            continue
        yield trial
        n_trials += 1
        if n_trials == options.n_trials:
            return


def _trial(
    kind: str,
    name: str,
    track: str,
    stem: str,
    files: StemFiles,
    systems: tuple[str, ...],
    options: ListeningOptions,
) -> Trial:
    """Read one excerpt and match its loudness; AudioError also if the reference is silent."""
    # Users choose the names of systems, which may be "reference" too.
    paths = {f"system {system}": files.estimates[system] for system in systems}
    excerpt = read_excerpt({REFERENCE: files.reference, **paths}, REFERENCE, options.seconds)
    n_channels = max(len(audio) for audio in excerpt.sources.values())
    # Before loudness is measured: doubling mono raises it by 3 dB.
    excerpt = replace(
        excerpt,
        sources={
            source: np.broadcast_to(audio, (n_channels, audio.shape[1]))
            for source, audio in excerpt.sources.items()
        },
    )
    matched = match(excerpt, REFERENCE)
    if matched.is_silent[REFERENCE]:
        raise AudioError(f"{files.reference} is silent")
    heard = {
        source: amplified(audio, matched.gains_db[source])
        for source, audio in excerpt.sources.items()
    }
    conditions = [Condition(system, "system", heard[f"system {system}"]) for system in systems]
    if kind == "mushra":
        conditions.append(Condition(REFERENCE, "reference", heard[REFERENCE]))
        for hz in options.anchors_hz:
            audio = low_passed(heard[REFERENCE], excerpt.sample_rate, hz)
            conditions.append(Condition(ANCHORS_HZ[hz], "anchor", audio))
    return Trial(
        name,
        track,
        stem,
        excerpt.sample_rate,
        excerpt.start_s,
        heard[REFERENCE],
        tuple(conditions),
    )


def _known(wanted: tuple[str, ...], there: tuple[str, ...], what: str) -> tuple[str, ...]:
    for name in wanted:
        if name not in there:
            raise UsageError(f"{what} {name} is not in the evaluation; use {', '.join(there)}")
    return wanted or there


def _slug(name: str) -> str:
    """A name that every file system and webMUSHRA's service leave unchanged."""
    return slug(name, "_", 60)
