"""Worker processes that end with their parent."""

import multiprocessing
import os
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """End this worker process when its parent is gone; call it first in a worker.

    A parent that is killed, by a user or for lack of memory, cannot stop its workers, which would
    wait for work forever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
