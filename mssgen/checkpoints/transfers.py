"""Limits on the headers, size and speed of one download.

The huggingface_hub library uses headers as file names, waits as long as a server asks, and reads
every response to its end, however large or slow.
"""

import re
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

from mssgen.errors import CheckpointError

# git's hash or the sha256 of the content; some servers quote it or mark it as weak (W/).
_ETAG = re.compile(r'(W/)?("?)[0-9a-f]{40,64}\2')
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_PAGE_BYTES = 2**20


@dataclass
class Transfer:
    """The limits for one file; its methods raise CheckpointError when one is exceeded."""

    what: str
    """Start of error messages, such as "htdemucs could not be downloaded"."""
    max_bytes: int
    """Maximum size of the file."""
    longest_wait_s: float
    """Longest Retry-After that is obeyed."""
    patience_s: float
    """Time in which at least `min_bytes` must arrive."""
    min_bytes: int
    clock: Callable[[], float] = time.monotonic
    _n_recent: int = field(default=0, init=False)
    _since: float | None = field(default=None, init=False)

    def limit(self, n_bytes: int | None) -> None:
        """Lower `max_bytes` to the size that the server has stated (None: not stated)."""
        if n_bytes is not None:
            if n_bytes > self.max_bytes:
                self._refuse_size(f"{n_bytes} bytes")
            self.max_bytes = n_bytes

    def allowed(self, status: int) -> int:
        """Maximum bytes of a response with HTTP `status`: the file, or an error page."""
        return self.max_bytes if 200 <= status < 300 else _MAX_PAGE_BYTES

    def check_headers(self, headers: MutableMapping[str, str], status: int, *, waits: bool) -> None:
        """Remove headers that would lead out of the cache and, without `waits`, long waits."""
        # The library refuses a response without these headers.
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
                f"{self.what}: the server compressed it, although asked not to: check "
                "HF_ENDPOINT and the proxy"
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.allowed(status):
            self._refuse_size(f"{int(length)} bytes")

    def count(self, n_bytes: int, n_total: int, status: int) -> None:
        """Check size and speed after `n_bytes` more arrived, `n_total` of this response."""
        if n_total > self.allowed(status):
            self._refuse_size("more")
        now = self.clock()
        if self._since is None:
            self._since = now
        self._n_recent += n_bytes
        if now - self._since > self.patience_s:
            if self._n_recent < self.min_bytes:
                raise CheckpointError(
                    f"{self.what}: only {self._n_recent} bytes arrived in {now - self._since:.0f} "
                    "s; try again later or over another network"
                )
            self._since, self._n_recent = now, 0

    def _refuse_size(self, sent: str) -> None:
        raise CheckpointError(
            f"{self.what}: the server sends {sent} instead of {self.max_bytes} bytes at most: "
            "check HF_ENDPOINT and the proxy"
        )
