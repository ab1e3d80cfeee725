"""Processes that work for another one and must not outlive it."""

import multiprocessing
import os
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """To be called first in a worker: it ends when the process that began it is gone.

    A process that is killed, or that the system ends for want of memory, tells its workers nothing,
    and they would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
