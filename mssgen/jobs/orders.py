"""Songs to separate as lines of JSON, and an answer for each.

An order is `{"path": "song.flac"}`, with more keys as in `Order`; an answer is the `Answer` to it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal

from mssgen.errors import CheckpointError, MssgenError, UsageError
from mssgen.events import Event, Failed, Skipped, Warned, Written
from mssgen.inputs.lists import STDIN
from mssgen.inputs.tracks import Track
from mssgen.jobs.options import WriteOptions
from mssgen.jobs.worker import Worker
from mssgen.recipes.schema import checked_options

_MAX_LINE_BYTES = 2**20
_NAP_S = 0.1


@dataclass(frozen=True)
class Order:
    """One song to separate; what is None is as in the worker's own options."""

    path: str
    """The song."""
    output: str | None = None
    """Output folder."""
    id: str | int | None = None
    """Repeated in the answer."""
    template: str | None = None
    format: str | None = None
    bit_depth: str | None = None
    sample_rate: int | None = None
    clip: str | None = None
    downmix: bool | None = None
    existing: str | None = None
    """See `mssgen.jobs.decisions.EXISTING`."""

    @classmethod
    def parse(cls, line: bytes) -> "Order":
        """Raises UsageError for what is not an order."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError("it is not JSON") from None
        if not isinstance(found, dict):
            raise UsageError('it is not an object such as {"path": "song.flac"}')
        try:
            order = cls(**checked_options(cls, found, "it", cure="correct it"))
        except CheckpointError as error:
            raise UsageError(str(error)) from None
        if order.path in ("", STDIN) or "\0" in order.path or order.output in ("", STDIN):
            raise UsageError("`path` and `output` must name a file and a folder")
        return order

    def options(self, default: WriteOptions) -> WriteOptions:
        """How to write the outputs; raises UsageError."""
        names = ("template", "bit_depth", "sample_rate", "clip", "downmix", "existing")
        given = {"container": self.format, **{name: getattr(self, name) for name in names}}
        return replace(
            default, **{name: value for name, value in given.items() if value is not None}
        )


@dataclass
class Answer:
    """What became of an order."""

    id: str | int | None = None
    path: str = ""
    state: Literal["done", "skipped", "failed"] = "done"
    """"skipped" if the outputs are complete already, or `reason` says why."""
    written: list[str] = field(default_factory=list)
    """Paths of the outputs."""
    warnings: list[str] = field(default_factory=list)
    reason: str = ""
    error: str = ""
    """Why it failed."""
    seconds: float = 0.0

    def note(self, event: Event) -> None:
        """The hook of the order."""
        match event:
            case Written():
                self.written.append(str(event.path))
            case Warned():
                self.warnings.append(event.message)
            case Skipped():
                self.state, self.reason = "skipped", event.reason
            case Failed():
                self.state, self.error = "failed", event.message


def work_off(
    worker: Worker,
    descriptor: int,
    output_dir: Path,
    options: WriteOptions,
    answer: Callable[[dict[str, Any]], None],
) -> None:
    """Carry out orders in turn, until their end or until the worker is stopped.

    Orders that get no answer were not begun, or were interrupted.

    Args:
        worker: separates the songs.
        descriptor: file descriptor of the lines.
        output_dir: folder for orders without one.
        options: how to write the outputs, where orders do not say.
        answer: called with the fields of the `Answer` to each line.
    """
    for number, line in enumerate(_lines(descriptor, worker), 1):
        if not line.strip():
            continue
        began, given = time.monotonic(), Answer()
        try:
            order = Order.parse(line)
            given.id, given.path = order.id, order.path
            track = Track(order.path, Path(order.path).stem or order.path)
            how = order.options(options)
        except MssgenError as error:
            worker.refuse(Track(f"line {number}", ""), f"line {number}: {error}", given.note)
        else:
            folder = output_dir if order.output is None else Path(order.output)
            worker.round([track], folder, how, given.note)
            if worker.done.n_left:
                return
        given.seconds = round(time.monotonic() - began, 3)
        answer(asdict(given))


def _lines(descriptor: int, worker: Worker) -> Iterator[bytes]:
    """The lines of a file, one ahead; ends early when the worker is over.

    They are read in a thread, because nobody interrupts a read; and without a file object, whose
    lock the thread would hold when Python ends.
    """
    queue = Queue[bytes | None](1)
    # The thread may outlive the descriptor, whose number may then be another file's.
    Thread(target=_read, args=(os.dup(descriptor), queue), daemon=True).start()
    while not worker.is_over:
        try:
            line = queue.get(timeout=_NAP_S)
        except Empty:
            continue
        if line is None:
            return
        yield line


def _read(descriptor: int, queue: Queue[bytes | None]) -> None:
    rest = b""
    try:
        while data := os.read(descriptor, 2**16):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                queue.put(line)
            if len(rest) > _MAX_LINE_BYTES:  # answered as what it is: no JSON
                queue.put(rest)
                rest = b""
        queue.put(rest)
    except OSError:  # as from a terminal that is gone
        pass
    os.close(descriptor)
    queue.put(None)
