"""A bounded huggingface_hub client: checks its responses, hides its bars, sorts its errors.

A server need not be the hub: HF_ENDPOINT names mirrors. The headers, size and pace of each answer
are checked (see `transfers`) before the library gets it.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from logging import ERROR
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import _http, logging
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from mssgen.checkpoints.transfers import Transfer

# The hub library has changed its HTTP library before, so it is found through the errors' base.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_http_library = importlib.import_module(HTTPError.__module__.partition(".")[0])
# HTTP statuses after which another attempt may succeed.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# Telemetry would describe this machine to the hub, and request a list of unlimited size.
constants.HF_HUB_DISABLE_TELEMETRY = True


class _Watched(_http_library.SyncByteStream):  # type: ignore[misc, name-defined]
    """A response body that raises CheckpointError as soon as it breaks the limits of `transfer`."""

    def __init__(self, response: Any, transfer: Transfer) -> None:
        self._stream, self._status = response.stream, response.status_code
        self._transfer = transfer

    def __iter__(self) -> Iterator[bytes]:
        n_total = 0
        for chunk in self._stream:
            n_total += len(chunk)
            self._transfer.count(len(chunk), n_total, self._status)
            yield chunk

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def watched(transfer: Transfer, *, waits: bool) -> Iterator[None]:
    """Inside, check every response; `waits` leaves long Retry-After headers to the caller."""
    make_client = _http._GLOBAL_CLIENT_FACTORY  # may be the user's, with a company's certificates

    def ask(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"

    def check(response: Any) -> None:
        transfer.check_headers(response.headers, response.status_code, waits=waits)
        response.stream = _Watched(response, transfer)

    def make_checked() -> Any:
        client = make_client()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], ask],
            "response": [*hooks["response"], check],
        }
        return client

    has_no_xet, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True  # not HTTP
    huggingface_hub.set_client_factory(make_checked)
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(make_client)
        constants.HF_HUB_DISABLE_XET = has_no_xet


def masked(text: str) -> str:
    """`text` without user names and passwords in its addresses."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", text)


@contextlib.contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """Inside, hide the library's log lines and, without `progress`, its progress bars."""
    verbosity = logging.get_verbosity()
    hide = not progress and not are_progress_bars_disabled()
    logging.set_verbosity(ERROR)
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()


def root_cause(error: BaseException) -> BaseException:
    """The original error behind the library's 'cannot find it in the cache either'."""
    wrappers = (LocalEntryNotFoundError, ValueError)
    while isinstance(error, wrappers) and error.__cause__ is not None:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """HTTP status of the response that caused `error`; None if there was no response."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
