"""What a server may send: the headers, the size and the pace of one download.

The hub's library makes file names of headers, waits as long as it is told to, and reads bodies to
their end, however late that is.
"""

import re
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

from mssgen.errors import CheckpointError

# git's hash of the content, or its sha256; some servers put it in quotes, or call it weak.
_ETAG = re.compile(r'(W/)?("?)[0-9a-f]{40,64}\2')
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_PAGE_BYTES = 2**20


@dataclass
class Transfer:
    """The rules for one file; raises CheckpointError where they are broken."""

    what: str
    """What is downloaded, for the message, such as "htdemucs could not be downloaded"."""
    max_bytes: int
    """Of one answer."""
    longest_wait_s: float
    """Longer ones asked for by the server are not waited for."""
    patience_s: float
    """The time in which `min_bytes` must come."""
    min_bytes: int
    clock: Callable[[], float] = time.monotonic
    _n_recent: int = field(default=0, init=False)
    _since: float | None = field(default=None, init=False)

    def limit(self, n_bytes: int | None) -> None:
        """The server has said how long the file is."""
        if n_bytes is not None:
            if n_bytes > self.max_bytes:
                self._refuse_size(f"{n_bytes} bytes")
            self.max_bytes = n_bytes

    def allowed(self, status: int) -> int:
        """Bytes of an answer: of the file, or of a page that says what is wrong."""
        return self.max_bytes if 200 <= status < 300 else _MAX_PAGE_BYTES

    def check_headers(self, headers: MutableMapping[str, str], status: int, *, waits: bool) -> None:
        """Remove what would lead out of the cache and, without `waits`, long waits."""
        # The library refuses an answer without these.
        if not _ETAG.fullmatch(headers.get("x-linked-etag") or headers.get("etag", "")):
            headers.pop("x-linked-etag", None)
            headers.pop("etag", None)
        if not _COMMIT.fullmatch(headers.get("x-repo-commit", "")):
            headers.pop("x-repo-commit", None)
        if not waits:
            headers.pop("ratelimit", None)
            asked = headers.get("retry-after", "").strip()
            if asked and not (asked.isdigit() and int(asked) <= self.longest_wait_s):
                del headers["retry-after"]
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise CheckpointError(
                f"{self.what}: the server sends it compressed, although it was asked not to: check "
                "HF_ENDPOINT and the proxy"
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.allowed(status):
            self._refuse_size(f"{int(length)} bytes")

    def count(self, n_bytes: int, n_total: int, status: int) -> None:
        """Note `n_bytes` more, `n_total` of this answer."""
        if n_total > self.allowed(status):
            self._refuse_size("more")
        now = self.clock()
        if self._since is None:
            self._since = now
        self._n_recent += n_bytes
        if now - self._since > self.patience_s:
            if self._n_recent < self.min_bytes:
                raise CheckpointError(
                    f"{self.what}: only {self._n_recent} bytes came in {now - self._since:.0f} s; "
                    "try again later or over another network"
                )
            self._since, self._n_recent = now, 0

    def _refuse_size(self, sent: str) -> None:
        raise CheckpointError(
            f"{self.what}: the server sends {sent} instead of {self.max_bytes} bytes at most: "
            "check HF_ENDPOINT and the proxy"
        )
