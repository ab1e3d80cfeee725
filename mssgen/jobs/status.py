"""The state of an output folder, read from its manifest, also while runs go on."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mssgen.errors import MssgenError
from mssgen.jobs.claims import is_claimed
from mssgen.jobs.manifest import MANIFEST, Entry, read_entries

State = Literal["done", "failed", "running", "interrupted"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class SongState:
    """A song, as the last line about it says."""

    song: str
    """Its path, as the run was told."""
    state: State
    """"interrupted" if its run ended without a word: it was killed."""
    error: str = ""
    """Why it failed."""
    host: str = ""
    """Machine of the run."""
    duration_s: float = 0.0
    """Length of the song."""
    running_s: float = 0.0
    """Seconds since it started, if it is running."""


@dataclass(frozen=True)
class Status:
    """The songs of an output folder."""

    songs: Sequence[SongState]
    n_queued: int
    """Songs that the runs which go on have not begun yet."""
    speed: float
    """Seconds of audio per second, of all runs that go on; 0 if unknown."""
    left_s: float | None
    """Estimated seconds until the last of them ends; None if unknown."""

    def count(self, state: State) -> int:
        """Number of songs in a state."""
        return sum(song.state == state for song in self.songs)


def read_status(folder: Path) -> Status:
    """Read the state of an output folder; raises MssgenError if it has no readable manifest."""
    entries = read_entries(folder / MANIFEST)
    if not entries:
        raise MssgenError(f"{folder} holds no {MANIFEST} of mssgen; name an output folder")
    last: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.state != "writing":
            song = entry.source.path if entry.source else str(entry.about.get("input"))
            last[str(entry.about.get("job")), song] = entry
    now = time.time()
    songs = [_state(entry, folder, now) for entry in last.values()]
    current = {
        str(entry.about.get("run")): entry.about
        for entry, song in zip(last.values(), songs, strict=True)
        if song.state == "running"
    }
    lefts = [
        max(0.0, _number(about, "left_s") - (now - _number(about, "started")))
        for about in current.values()
        if about.get("left_s") is not None
    ]
    return Status(
        songs,
        n_queued=sum(int(_number(a, "total") - _number(a, "index")) for a in current.values()),
        speed=_speed(entries, set(current), now),
        left_s=max(lefts) if lefts else None,
    )


def _state(entry: Entry, folder: Path, now: float) -> SongState:
    about = entry.about
    state: State = "done" if entry.state == "done" else "failed"
    if entry.state == "running":
        is_alive = is_claimed(folder, str(about.get("claim")))
        state = "running" if is_alive else "interrupted"
    return SongState(
        str(about.get("input")),
        state,
        error=entry.error,
        host=str(about.get("host", "")),
        duration_s=_number(about, "duration_s"),
        running_s=max(0.0, now - _number(about, "started")) if state == "running" else 0.0,
    )


def _speed(entries: Sequence[Entry], runs: set[str], now: float) -> float:
    """Finished seconds of audio over the seconds since the first song, summed over runs."""
    began: dict[str, float] = {}
    audio_s = defaultdict[str, float](float)
    for entry in entries:
        run = str(entry.about.get("run"))
        if run in runs:
            began.setdefault(run, _number(entry.about, "started"))
            audio_s[run] += _number(entry.about, "duration_s") * (entry.state == "done")
    return sum(audio_s[run] / max(1e-3, now - start) for run, start in began.items())


def _number(about: dict[str, Any], key: str) -> float:
    value = about.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
