"""`mssgen status`: what the runs of an output folder have done, and how long they will take."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mssgen.cli import options as given
from mssgen.cli.bars import clock
from mssgen.cli.console import printable

if TYPE_CHECKING:
    from mssgen.jobs.status import State, Status


def status(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output folder of separate, enhance or codec.")
    ],
    as_json: given.AsJson = False,
) -> None:
    """Show what is done, failed and running in an output folder, also while runs go on."""
    from mssgen.jobs.status import STATES, read_status

    found = read_status(folder)
    counts = {state: found.count(state) for state in STATES}
    for line in [_json(found, counts)] if as_json else _lines(found, counts):
        typer.echo(line)


def _json(found: "Status", counts: Mapping["State", int]) -> str:
    numbers = {f"n_{state}": n for state, n in counts.items()}
    return json.dumps({**numbers, **asdict(found)})


def _lines(found: "Status", counts: Mapping["State", int]) -> list[str]:
    numbers = [f"{n} {state}" for state, n in counts.items()]
    lines = [", ".join([*numbers, f"{found.n_queued} queued"])]
    if counts["running"]:
        speed = f"{found.speed:.1f} × real time" if found.speed else "speed not known yet"
        left = "" if found.left_s is None else f", {clock(found.left_s)} left"
        lines.append(f"{speed}{left}")
    for song in found.songs:
        if song.state == "running":
            length = f"{song.duration_s:.1f} s of audio, for {clock(song.running_s)}"
            lines.append(f"running: {song.song} ({length}, on {song.host})")
        elif song.state != "done":
            is_named = song.song in song.error or not song.error
            why = song.error if is_named else f"{song.song}: {song.error}"
            lines.append(f"{song.state}: {why or song.song}")
    return [printable(line) for line in lines]
