"""Opening the next item in a thread while the current one is processed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Anything that holds resources until `close` is called."""

    @property
    def close(self) -> Callable[[], None]: ...


Item = TypeVar("Item")
Opened = TypeVar("Opened", bound=Closable)


class ReadAhead(Generic[Item, Opened]):
    """Opens items in order, one ahead; a context manager that closes what was not used.

    Args:
        items: the items in order.
        open_item: opens one item. Its second argument is set when the result is no longer needed.
        in_thread: whether an item may be opened in the thread.
    """

    def __init__(
        self,
        items: Sequence[Item],
        open_item: Callable[[Item, Event], Opened],
        in_thread: Callable[[Item], bool],
    ) -> None:
        self._items, self._open, self._in_thread = items, open_item, in_thread
        self._cancel = Event()
        self._pool = ThreadPoolExecutor(1, "reader")
        self._taken: Future[Opened] | None = None
        self._next: Future[Opened] | None = None

    def __enter__(self) -> "ReadAhead[Item, Opened]":
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel.set()
        with self._pool:
            for future in (self._taken, self._next):
                if future and not future.cancel() and future.exception() is None:
                    future.result().close()

    def take(self, index: int) -> Opened:
        """Item `index`, opened, while the next one starts to open; raises as `open_item` does."""
        self._taken, self._next = self._next, None
        try:
            item = self._items[index]
            return self._taken.result() if self._taken else self._open(item, self._cancel)
        finally:
            if index + 1 < len(self._items) and self._in_thread(self._items[index + 1]):
                self._next = self._pool.submit(self._open, self._items[index + 1], self._cancel)
