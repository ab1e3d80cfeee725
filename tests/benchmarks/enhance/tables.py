"""From rows to tables: means over songs, changes against the separated input, and goals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from rows import CDPAM, CLEAN, FIRST_TOKEN, LOUDNESS, MEAN_TOKEN, SEPARATED, Measured

from mssgen.evaluation.metrics.frechet import frechet_audio_distance
from mssgen.evaluation.tables import markdown_table, number
from mssgen.inspection.cells import md_text

NOT_WORSE = 0.01
"""Changes below 1 % are none."""
NOT_WORSE_DB = 0.05
MAX_LOSS_DB = 0.5
"""Of SI-SDR that `auto` may lose on any file; also what loudness may change by."""


@dataclass(frozen=True)
class Column:
    """A metric in the tables."""

    name: str
    title: str
    change: Literal["relative", "difference", ""]
    """How a row is compared with the separated input."""
    better: Literal["higher", "lower"]
    is_magnitude: bool = False
    """Of signed values that are best at zero."""


COLUMNS = (
    Column("usdr", "uSDR (dB) ↑", "difference", "higher"),
    Column("si_sdr", "SI-SDR (dB) ↑", "difference", "higher"),
    Column("mr_stft", "MR-STFT ↓", "relative", "lower"),
    Column("log_mel", "log-mel (dB) ↓", "relative", "lower"),
    Column("rolloff98_octaves", "roll-off (octaves) ↓", "relative", "lower", is_magnitude=True),
    Column("onset_f1", "onset F1 ↑", "relative", "higher"),
    Column("fad_cdpam", "Fréchet, CDPAM ↓", "relative", "lower"),
    Column("fad_log_mel", "Fréchet, log-mel ↓", "relative", "lower"),
    Column(FIRST_TOKEN, "tokens, first (%) ↑", "difference", "higher"),
    Column(MEAN_TOKEN, "tokens, all (%) ↑", "difference", "higher"),
    Column("excess", "beyond the mixture (dB) ↓", "", "lower"),
    Column(LOUDNESS, "loudness change (dB)", "", "lower", is_magnitude=True),
    Column("speed", "× real time ↑", "", "higher"),
)
_BY_NAME = {column.name: column for column in COLUMNS}


@dataclass(frozen=True)
class Cell:
    """A mean over the songs that have a value in every row where any song has one."""

    value: float | None
    n_songs: int
    per_song: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether one row meets one goal."""

    row: str
    goal: str
    is_met: bool | None
    """None where there is no number."""
    found: str


class Table:
    """One stem of one set of songs."""

    def __init__(self, song_set: str, stem: str, found: Sequence[Measured]) -> None:
        self.song_set, self.stem = song_set, stem
        self._found: dict[str, dict[str, Measured]] = {}
        for each in found:
            self._found.setdefault(each.row, {})[each.track] = each
        self.rows = list(self._found)
        self.tracks = list(self._found[SEPARATED])
        self._cells = {
            (row, column.name): self._cell(row, column) for row in self.rows for column in COLUMNS
        }

    @property
    def duration_s(self) -> float:
        return sum(each.duration_s for each in self._found[SEPARATED].values())

    @property
    def _cdpam_seconds(self) -> int:
        """A frame each; of few the distance says little."""
        return sum(len(each.frames.get(CDPAM, ())) for each in self._found[SEPARATED].values())

    def cell(self, row: str, column: str) -> Cell:
        return self._cells[row, column]

    def change(self, row: str, column: Column) -> float | None:
        """Against the separated input: a ratio less 1, or a difference."""
        ours, base = self.cell(row, column.name).value, self.cell(SEPARATED, column.name).value
        if ours is None or base is None or not column.change:
            return None
        if column.change == "difference":
            return ours - base
        return ours / base - 1 if base else None

    def verdicts(self) -> list[Verdict]:
        """Section by section of the goals, for every enhanced row."""
        modes = {row: next(iter(songs.values())).mode for row, songs in self._found.items()}
        return [
            verdict
            for row, mode in modes.items()
            if mode
            for verdict in (
                *(self._with_goals(row, mode) if self.stem in ("bass", "drums") else ()),
                *(self._no_worse(row) if self.stem not in ("bass", "drums") else ()),
                *self._in_every_song(row, mode),
            )
        ]

    def markdown(self) -> str:
        """The table and the verdicts."""
        head = ["row", *(column.title for column in COLUMNS)]
        lines = [[md_text(row), *(self._shown(row, c) for c in COLUMNS)] for row in self.rows]
        n = len(self.tracks)
        parts = [
            f"### {md_text(self.song_set)}: {self.stem}",
            f"{n} {'song' if n == 1 else 'songs'}, {self.duration_s:.0f} s, of which CDPAM heard "
            f"{self._cdpam_seconds}. In brackets: the change against the separated input.",
            markdown_table(iter([head, *lines])),
        ]
        if verdicts := self.verdicts():
            goals = list(dict.fromkeys(verdict.goal for verdict in verdicts))
            by_place = {(v.row, v.goal): v for v in verdicts}
            body = []
            for row in dict.fromkeys(verdict.row for verdict in verdicts):
                cells = [_told(by_place.get((row, goal))) for goal in goals]
                body.append([md_text(row), *cells])
            lines = [["row", *goals], *body]
            parts += ["Goals:", markdown_table(iter(lines), left=range(len(lines[0])))]
        return "\n\n".join(parts)

    def facts(self) -> dict[str, Any]:
        """For results.json."""
        rows = {}
        for row in self.rows:
            cells = {c.name: (c, self.cell(row, c.name)) for c in COLUMNS}
            rows[row] = {
                name: {
                    "value": cell.value,
                    "change": self.change(row, column),
                    "n_songs": cell.n_songs,
                    "per_song": cell.per_song,
                }
                for name, (column, cell) in cells.items()
            }
        seconds = {
            row: {
                what: sum(getattr(each, what) or 0.0 for each in songs.values())
                for what in ("wall_s", "cpu_s")
            }
            for row, songs in self._found.items()
        }
        missing = {
            f"{row}/{track}": each.reasons
            for row, songs in self._found.items()
            for track, each in songs.items()
            if each.reasons
        }
        return {
            "song_set": self.song_set,
            "stem": self.stem,
            "songs": self.tracks,
            "duration_s": self.duration_s,
            "rows": rows,
            "seconds": seconds,
            "goals": [vars(verdict) for verdict in self.verdicts()],
            "missing": missing,
        }

    def _cell(self, row: str, column: Column) -> Cell:
        if column.name == "speed":
            return self._speed(row)
        if column.name.startswith("fad_"):
            return self._frechet(row, column.name.removeprefix("fad_"))
        values = {
            name: {
                track: each.values[column.name]
                for track, each in songs.items()
                if each.values.get(column.name) is not None
            }
            for name, songs in self._found.items()
        }
        rows = [songs for name, songs in values.items() if songs and name != CLEAN]
        common = [track for track in self.tracks if all(track in songs for songs in rows)]
        own = {track: float(values[row][track] or 0.0) for track in common if track in values[row]}
        if not own:
            return Cell(None, 0)
        numbers = np.array(list(own.values()))
        mean = float(np.mean(np.abs(numbers) if column.is_magnitude else numbers))
        return Cell(mean, len(own), own)

    def _frechet(self, row: str, embedding: str) -> Cell:
        """All songs' frames of a row against all songs' frames of the clean stems."""
        songs = self._found[row]
        if row == CLEAN or any(embedding not in each.frames for each in songs.values()):
            return Cell(None, 0)
        ours, theirs = (
            [self._found[name][track].frames[embedding] for track in songs] for name in (CLEAN, row)
        )
        distance = frechet_audio_distance(ours, theirs)
        return Cell(None if distance is None else distance.value, len(songs))

    def _speed(self, row: str) -> Cell:
        songs = self._found[row].values()
        times = [each.wall_s for each in songs if each.wall_s is not None]
        if not times:
            return Cell(None, 0)
        return Cell(sum(each.duration_s for each in songs) / max(sum(times), 1e-9), len(times))

    def _shown(self, row: str, column: Column) -> str:
        value, change = self.cell(row, column.name).value, self.change(row, column)
        if value is None:
            return "–"
        if change is None or row in (SEPARATED, CLEAN):
            return number(value)
        return f"{number(value)} ({_change(change, column)})"

    def _with_goals(self, row: str, mode: str) -> list[Verdict]:
        """Bass and drums."""
        loss = 0.0 if mode == "auto" else 1.0
        words = "SI-SDR loss none" if mode == "auto" else "SI-SDR loss ≤ 1 dB"
        limits: list[tuple[str, str, Callable[[float], bool]]] = [
            ("fad_cdpam", "Fréchet (CDPAM) −25 %", lambda x: x <= -0.25),
            ("fad_log_mel", "Fréchet (log-mel) −25 %", lambda x: x <= -0.25),
            ("rolloff98_octaves", "roll-off −30 %", lambda x: x <= -0.30),
            ("onset_f1", "onset F1 up", lambda x: x > 0),
            ("mr_stft", "MR-STFT −10 %", lambda x: x <= -0.10),
            ("si_sdr", words, lambda x: x >= -loss - (NOT_WORSE_DB if mode == "auto" else 0.0)),
        ]
        return [self._judged(row, name, goal, test) for name, goal, test in limits]

    def _judged(self, row: str, name: str, goal: str, test: Callable[[float], bool]) -> Verdict:
        column = _BY_NAME[name]
        change = self.change(row, column)
        if change is None:
            return Verdict(row, goal, None, "")
        return Verdict(row, goal, test(change), _change(change, column))

    def _no_worse(self, row: str) -> list[Verdict]:
        """Vocals and other: nothing worse, two better."""
        names = ("fad_cdpam", "fad_log_mel", "rolloff98_octaves", "onset_f1", "mr_stft", "si_sdr")
        worse, better = [], []
        for column in (_BY_NAME[name] for name in names):
            change = self.change(row, column)
            if change is None:
                continue
            gain = change if column.better == "higher" else -change
            margin = NOT_WORSE_DB if column.change == "difference" else NOT_WORSE
            told = f"{column.title[:-2]} {_change(change, column)}"
            if gain < -margin:
                worse.append(told)
            elif gain > margin:
                better.append(told)
        return [
            Verdict(row, "no worse on any", not worse, ", ".join(worse) or "none worse"),
            Verdict(row, "better on two", len(better) >= 2, ", ".join(better) or "none better"),
        ]

    def _in_every_song(self, row: str, mode: str) -> list[Verdict]:
        verdicts = []
        ours, base = (self.cell(name, "si_sdr").per_song for name in (row, SEPARATED))
        if mode == "auto" and ours:
            worst = min(ours[track] - base[track] for track in ours)
            verdicts.append(
                Verdict(
                    row,
                    f"SI-SDR loss ≤ {MAX_LOSS_DB} dB in every song",
                    worst >= -MAX_LOSS_DB,
                    f"{_signed(worst)} dB",
                )
            )
        if changes := self.cell(row, LOUDNESS).per_song:
            most = max(changes.values(), key=abs)
            goal = f"loudness within {MAX_LOSS_DB} dB in every song"
            verdicts.append(Verdict(row, goal, abs(most) <= MAX_LOSS_DB, f"{_signed(most)} dB"))
        return verdicts


def _told(verdict: Verdict | None) -> str:
    if verdict is None or verdict.is_met is None:
        return "–"
    return f"{'met' if verdict.is_met else '**missed**'} ({verdict.found})"


def _change(change: float, column: Column) -> str:
    if column.change == "relative":
        return f"{_signed(100 * change, digits=0)} %"
    return _signed(change)


def _signed(value: float, digits: int = 2) -> str:
    shown = f"{value:+.{digits}f}".replace("-", "−")
    return shown if float(f"{value:.{digits}f}") else "±0"
