"""Statistics and faults of a library of multitracks, to be known before training."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mssgen.checkpoints.registry import STEMS
from mssgen.errors import AudioError, MssgenError
from mssgen.library.stems import MIXTURE, Library, StemFile, TrackStems, to_channels

Fault = Literal["damaged", "lacks", "silent", "clipped", "length", "sum"]
_BLOCK_S = 1.0
_ACTIVE_DB = -60.0
_FULL_SCALE = 1 - 2.0**-15
_CLIPPED_RUN = 3
"""Consecutive samples at full scale that count as clipping: one or two are normalised peaks."""
_MAX_LENGTH_S = 0.1
_SAME_POWER = 1e-3
"""-30 dB: difference below which a stem is the mixture, which may have been coded lossily."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a track."""

    track: str
    fault: Fault
    message: str


@dataclass(frozen=True)
class Report:
    """Result of `check_library`."""

    n_tracks: int
    hours: dict[str, dict[str, float]]
    """Hours in which a stem is not silent, by split ("" if there are none) and stem; for "mixture",
    the total length of the tracks."""
    n_silent: dict[str, dict[str, int]]
    """Number of tracks in which a stem is silent throughout (not a fault), by split and stem."""
    n_with: dict[str, dict[str, int]]
    """Number of tracks that have recordings of a stem, by split and stem."""
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


@dataclass
class _Seen:
    """Measurements of one stem so far."""

    n_active: int = 0
    """Number of seconds that are not silent."""
    run: int = 0
    """Number of samples at full scale (in any channel) at the end of the part read so far."""
    longest_run: int = 0
    """Largest number of consecutive samples at full scale."""


@dataclass
class _Measured:
    """Measurements of one track; energies are sums of squared samples."""

    stems: dict[str, _Seen] = field(default_factory=lambda: defaultdict(_Seen))
    signal: float = 0.0
    """Energy of the mixture file."""
    residual: float = 0.0
    """Energy of the mixture file minus the sum of the stems."""
    energy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    from_rest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Energy of each stem minus the sum of all others."""


def check_library(library: Library, *, max_sum_error_db: float = -30.0) -> Report:
    """Read every track once and report statistics and faults.

    Faults: damaged files; a missing stem of the usual four ("other" exists if any stem is neither
    drums, bass nor vocals); all stems silent; clipping (three consecutive samples at full scale);
    lengths that differ by more than 0.1 s; a stem that is the sum of all others, such as a mixture
    under another name; a mixture file whose difference from the sum of the stems exceeds
    `max_sum_error_db` relative to the mixture.
    """
    hours: dict[str, dict[str, float]] = {}
    n_silent: dict[str, dict[str, int]] = {}
    n_with: dict[str, dict[str, int]] = {}
    findings = [Finding(folder, "damaged", reason) for folder, reason in library.unreadable.items()]
    for track in library.tracks:
        counts = n_with.setdefault(track.split, {})
        counts.update({stem: counts.get(stem, 0) + 1 for stem in track.files})
        try:
            findings += _check(track, hours, n_silent, max_sum_error_db)
        except MssgenError as error:
            findings.append(Finding(track.key, "damaged", str(error)))
    rounded = {split: {k: round(v, 4) for k, v in each.items()} for split, each in hours.items()}
    return Report(len(library.tracks), rounded, n_silent, n_with, tuple(findings))


def _check(
    track: TrackStems,
    hours: dict[str, dict[str, float]],
    n_silent: dict[str, dict[str, int]],
    max_sum_error_db: float,
) -> Iterator[Finding]:
    missing = [stem for stem in STEMS if not track.has(stem)]
    if missing:
        yield Finding(track.key, "lacks", f"has no {', '.join(missing)}")
    lengths_s = {
        file.path.name: file.n_samples / file.sample_rate
        for files in (*track.files.values(), track.recordings(MIXTURE))
        for file in files
    }
    spread_s = max(lengths_s.values()) - min(lengths_s.values())
    if spread_s > _MAX_LENGTH_S:
        shortest = min(lengths_s, key=lambda name: lengths_s[name])
        yield Finding(track.key, "length", f"{shortest} is {spread_s:.2f} s shorter than another")
    measured = _measure(track)
    total = hours.setdefault(track.split, dict.fromkeys((*STEMS, MIXTURE), 0.0))
    silent = n_silent.setdefault(track.split, dict.fromkeys(STEMS, 0))
    total[MIXTURE] += track.duration_s / 3600
    for stem, seen in measured.stems.items():
        if stem != MIXTURE:
            total[stem] = total.get(stem, 0.0) + seen.n_active / 3600
            silent[stem] = silent.get(stem, 0) + (seen.n_active == 0)
        if seen.longest_run >= _CLIPPED_RUN:
            message = f"{stem} is clipped ({seen.longest_run} samples in a row at full scale)"
            yield Finding(track.key, "clipped", message)
    if not any(seen.n_active for seen in measured.stems.values()):
        yield Finding(track.key, "silent", "all of its stems are silent")
    for stem, error in measured.from_rest.items():
        signal = measured.energy[stem]
        if len(track.files) > 2 and signal and error < _SAME_POWER * signal:
            message = f"{stem} is the sum of its other stems; rename it to mixture, or remove it"
            yield Finding(track.key, "sum", message)
    if track.mixture is not None and measured.signal:
        error_db = 10 * float(np.log10(max(measured.residual / measured.signal, 1e-20)))
        if error_db > max_sum_error_db:
            message = f"the sum of its stems differs from the mixture by {error_db:.0f} dB"
            yield Finding(track.key, "sum", message)


def _measure(track: TrackStems) -> _Measured:
    """Read a track once, second by second."""
    found = _Measured()
    rate = track.sample_rate
    if any(f.sample_rate != rate for files in track.files.values() for f in files):
        raise AudioError(f"the files of {track.key} differ in sample rate; convert them to one")
    n_block = round(_BLOCK_S * rate)
    sources = {**track.files, **({MIXTURE: (track.mixture,)} if track.mixture else {})}
    readers = {stem: [_blocks(file, n_block) for file in files] for stem, files in sources.items()}
    for _ in range(-(-track.n_samples(rate) // n_block)):
        blocks = {
            stem: np.sum([to_channels(next(each), 2) for each in opened], axis=0)
            for stem, opened in readers.items()
            if opened
        }
        for stem, block in blocks.items():
            _note(found.stems[stem], block)
        mixture = blocks.pop(MIXTURE, None)
        total = np.sum(list(blocks.values()), axis=0, dtype=np.float64)
        if mixture is not None:
            found.signal += float(np.sum(np.square(mixture, dtype=np.float64)))
            found.residual += float(np.sum((mixture - total) ** 2))
        for stem, block in blocks.items():
            found.energy[stem] += float(np.sum(np.square(block, dtype=np.float64)))
            found.from_rest[stem] += float(np.sum((2 * block - total) ** 2))
    return found


def _blocks(file: StemFile, n_block: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks [C, n_block] from the start in large reads; endless zeros after the end."""
    n_read, start = 30 * n_block, 0
    while True:
        part = file.read(start, n_read) if start < file.n_samples else None
        if part is None:
            yield np.zeros((2, n_block), np.float32)
            continue
        yield from np.split(part, n_read // n_block, axis=1)
        start += n_read


def _note(seen: _Seen, block: NDArray[np.float32]) -> None:
    """Update the measurements of a stem with its next second [C, T]."""
    power = float(np.mean(np.square(block, dtype=np.float64)))
    seen.n_active += power > 10 ** (_ACTIVE_DB / 10)
    if np.abs(block).max() < _FULL_SCALE:
        seen.run = 0
        return
    is_full: NDArray[np.bool_] = np.abs(block).max(axis=0) >= _FULL_SCALE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_full, [False]]).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    # The first run may have begun in the previous block.
    first = int(runs[0]) + (seen.run if is_full[0] else 0)
    seen.longest_run = max(seen.longest_run, first, int(runs.max()))
    is_whole = bool(is_full.all())
    seen.run = (seen.run + len(is_full)) if is_whole else int(runs[-1]) if is_full[-1] else 0
