"""How a long song goes through a network that sees a window at a time, without a join anywhere.

The song is cut into cells. First every second cell is decided, each in a window with a margin of
what is given on either side; then the cells between, whose windows show them the decided codes of
both neighbours. So windows of one song go through together, nothing is decided without what is
around it, and what a cell becomes does not depend on which others are done at the same time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mssgen.streams import SlidingReader

_MARGIN = 8  # a margin is that part of a window


@dataclass(frozen=True)
class Cell:
    """Frames `first` to `last` are decided where frames `start` to `stop` are seen."""

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """What a network is shown of one item."""

    rows: Tensor
    """[K, N], the mask token where hidden."""
    latents: Tensor | None
    """[D, N] of the input, to keep close to."""
    start: int
    """Place of the first frame in the song."""
    key: int
    """Of the item's noise."""


Fill = Callable[[Sequence[Window]], Sequence[Tensor]]
"""Windows to their codes [K, N] without hidden ones, in order."""


@dataclass
class Piece:
    """Some frames of one item, and the cells of it to decide."""

    rows: Tensor
    """[K, N], the mask token where hidden."""
    latents: Tensor | None
    """[D, N]."""
    cells: tuple[Sequence[Cell], Sequence[Cell]]
    """To decide first, and then between them."""
    key: int = 0
    offset: int = 0
    """Place of the first frame in the song."""
    decided: Sequence[tuple[Cell, Tensor]] = ()
    """Cells decided before, of the first kind: their codes [K, n]."""


def cells(n_frames: int, window_frames: int) -> list[Cell]:
    """Cells of equal length, the last may be shorter; all windows are full, if the song is."""
    if n_frames <= window_frames:
        return [Cell(0, n_frames, 0, n_frames)]
    margin = window_frames // _MARGIN
    length = window_frames - 2 * margin
    starts = (
        min(max(0, first - margin), n_frames - window_frames)
        for first in range(0, n_frames, length)
    )
    return [
        Cell(index * length, min((index + 1) * length, n_frames), start, start + window_frames)
        for index, start in enumerate(starts)
    ]


def fill_pieces(pieces: Sequence[Piece], fill: Fill) -> list[Tensor]:
    """The pieces' rows [K, N] with their cells decided; of all pieces at once."""
    given = [piece.rows for piece in pieces]
    filled = [rows.clone() for rows in given]
    for piece, rows in zip(pieces, filled, strict=True):
        for cell, codes in piece.decided:
            _write(rows, piece.offset, cell, codes)
    # A window of the first kind never sees what others decided, one of the second only what the
    # first kind did: else it would matter which are done together.
    for kind in (0, 1):
        seen = [rows.clone() for rows in filled] if kind else given
        jobs = [(index, cell) for index, piece in enumerate(pieces) for cell in piece.cells[kind]]
        windows = [_window(pieces[index], seen[index], cell) for index, cell in jobs]
        for (index, cell), codes in zip(jobs, fill(windows), strict=True):
            own = codes[:, cell.first - cell.start : cell.last - cell.start]
            _write(filled[index], pieces[index].offset, cell, own)
    return filled


def fill_stream(
    rows: Iterable[Tensor],
    n_frames: int,
    fill: Fill,
    *,
    window_frames: int,
    n_together: int,
    keys: Sequence[int],
    latents: Iterable[Tensor] | None = None,
) -> Iterator[Tensor]:
    """As `fill_pieces` with whole items, for streams, with memory of a few windows.

    Args:
        rows: blocks [B, K, N'] of `n_frames` in all.
        n_frames: N.
        fill: see there.
        window_frames: of a window.
        n_together: about so many windows are filled at once.
        keys: one for each item.
        latents: blocks [B, D, N'] of as many frames.

    Yields blocks [B, K, N'].
    """
    plan = cells(n_frames, window_frames)
    reader = SlidingReader(rows, n_frames)
    latents_reader = None if latents is None else SlidingReader(latents, n_frames)
    n_round = 2 * max(1, -(-n_together // len(keys)))  # cells
    decided: list[list[tuple[Cell, Tensor]]] = [[] for _ in keys]
    for first in range(0, len(plan), n_round):
        stop = len(plan) if first + n_round >= len(plan) else first + n_round - 1
        kinds = plan[first : first + n_round : 2], plan[max(first - 1, 1) : stop : 2]
        start = min(cell.start for cell in (*kinds[0], *kinds[1]))
        span = start, max(cell.stop for cell in (*kinds[0], *kinds[1]))
        given = _read(reader, span)
        sound = None if latents_reader is None else _read(latents_reader, span)
        pieces = [
            Piece(
                rows=given[index],
                latents=None if sound is None else sound[index],
                cells=kinds,
                key=key,
                offset=start,
                decided=decided[index],
            )
            for index, key in enumerate(keys)
        ]
        filled = torch.stack(fill_pieces(pieces, fill))
        cell = kinds[0][-1]
        codes = filled[..., cell.first - start : cell.last - start]
        decided = [[(cell, item)] for item in codes]
        yield filled[..., plan[max(first - 1, 0)].first - start : plan[stop - 1].last - start]


def _read(reader: SlidingReader, span: tuple[int, int]) -> Tensor:
    block = reader.read(*span)
    reader.forget(span[0])
    return block


def _window(piece: Piece, rows: Tensor, cell: Cell) -> Window:
    place = slice(cell.start - piece.offset, cell.stop - piece.offset)
    latents = None if piece.latents is None else piece.latents[:, place]
    return Window(rows[:, place], latents, cell.start, piece.key)


def _write(rows: Tensor, offset: int, cell: Cell, codes: Tensor) -> None:
    """Put a cell's codes into rows that begin at `offset`, as far as they reach."""
    skip = max(0, offset - cell.first)
    place = max(0, cell.first - offset)
    rows[:, place : cell.last - offset] = codes[:, skip:][:, : rows.shape[1] - place]
