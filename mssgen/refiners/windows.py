"""Long signals through a network with a fixed window, without seams.

The frames are divided into cells. First every second cell is filled, each in a window with a margin
of given codes on either side; then the cells between them, whose windows contain the filled codes
of both neighbours. Windows of one signal can thus share a batch, every cell has context on either
side, and its codes do not depend on which windows are batched together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mssgen.streams import SlidingReader

_MARGIN = 8  # a margin is an eighth of a window


@dataclass(frozen=True)
class Cell:
    """Frames `first` to `last`, which are filled in a window of frames `start` to `stop`.

    All are indices into the whole signal; ends are exclusive.
    """

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """Input of the network for one window of one item."""

    rows: Tensor
    """[K, N] codes, with the mask token where they are to be filled."""
    latents: Tensor | None
    """[D, N] latents of the input, for guidance; None without."""
    start: int
    """Index of the first frame in the whole signal."""
    key: int
    """Key of the item's noise, see `FrameNoise`."""


Fill = Callable[[Sequence[Window]], Sequence[Tensor]]
"""Fills windows: returns their codes [K, N] without mask tokens, in order."""


@dataclass
class Piece:
    """A range of frames of one item, with the cells to fill in it."""

    rows: Tensor
    """[K, N] codes, with the mask token where they are to be filled."""
    latents: Tensor | None
    """[D, N] latents of the input, for guidance; None without."""
    cells: tuple[Sequence[Cell], Sequence[Cell]]
    """Cells to fill first, and cells between them to fill second."""
    key: int = 0
    """Key of the item's noise, see `FrameNoise`."""
    offset: int = 0
    """Index of the first frame in the whole signal."""
    decided: Sequence[tuple[Cell, Tensor]] = ()
    """Cells of the first kind that were filled before, with their codes [K, n]."""


def cells(n_frames: int, window_frames: int) -> list[Cell]:
    """Cells that cover `n_frames` frames, of equal length except the last.

    All windows have `window_frames` frames, or `n_frames` if the signal is shorter.
    """
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
    """Rows [K, N] of the pieces with their cells filled; all pieces share the calls of `fill`."""
    given = [piece.rows for piece in pieces]
    filled = [rows.clone() for rows in given]
    for piece, rows in zip(pieces, filled, strict=True):
        for cell, codes in piece.decided:
            _write(rows, piece.offset, cell, codes)
    # Windows of the first kind contain no filled cells, those of the second only cells of the first
    # kind: otherwise the result would depend on which windows are filled together.
    for kind in (0, 1):
        inputs = [rows.clone() for rows in filled] if kind else given
        jobs = [(index, cell) for index, piece in enumerate(pieces) for cell in piece.cells[kind]]
        windows = [_window(pieces[index], inputs[index], cell) for index, cell in jobs]
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
    """Fill all cells of a stream; equals `fill_pieces` of whole items, in memory of a few windows.

    Args:
        rows: codes in blocks [B, K, N'], `n_frames` in total, masked where to be filled.
        n_frames: total number of frames N.
        fill: fills windows.
        window_frames: length of a window in frames.
        n_together: approximate number of windows per call of `fill`.
        keys: key of the noise of each of the B items.
        latents: latents in blocks [B, D, N'], `n_frames` in total, for guidance; None without.

    Yields:
        Filled codes in blocks [B, K, N'].
    """
    plan = cells(n_frames, window_frames)
    reader = SlidingReader(rows, n_frames)
    latents_reader = None if latents is None else SlidingReader(latents, n_frames)
    n_round = 2 * max(1, -(-n_together // len(keys)))  # cells per call
    decided: list[list[tuple[Cell, Tensor]]] = [[] for _ in keys]
    for first in range(0, len(plan), n_round):
        stop = len(plan) if first + n_round >= len(plan) else first + n_round - 1
        kinds = plan[first : first + n_round : 2], plan[max(first - 1, 1) : stop : 2]
        start = min(cell.start for cell in (*kinds[0], *kinds[1]))
        span = start, max(cell.stop for cell in (*kinds[0], *kinds[1]))
        given = _read(reader, span)
        guidance = None if latents_reader is None else _read(latents_reader, span)
        pieces = [
            Piece(
                rows=given[index],
                latents=None if guidance is None else guidance[index],
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
    """Block of frames `span`; forgets the frames before it."""
    block = reader.read(*span)
    reader.forget(span[0])
    return block


def _window(piece: Piece, rows: Tensor, cell: Cell) -> Window:
    """Window of a cell in `rows` [K, N] of a piece."""
    place = slice(cell.start - piece.offset, cell.stop - piece.offset)
    latents = None if piece.latents is None else piece.latents[:, place]
    return Window(rows[:, place], latents, cell.start, piece.key)


def _write(rows: Tensor, offset: int, cell: Cell, codes: Tensor) -> None:
    """Write a cell's codes [K, n] into rows [K, N] that begin at frame `offset`."""
    skip = max(0, offset - cell.first)
    place = max(0, cell.first - offset)
    rows[:, place : cell.last - offset] = codes[:, skip:][:, : rows.shape[1] - place]
