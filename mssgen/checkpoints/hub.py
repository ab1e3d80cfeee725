"""Downloads from the Hugging Face Hub, into the cache that it shares with other programs.

The huggingface_hub library provides the cache, the token, HF_ENDPOINT, HF_HUB_OFFLINE and HF_HOME,
and resumes a transfer that is cut (up to five times in a row without progress). Added here: hash
checks, one-sentence errors, and bounded waits. Left alone, the library repeats a failed look-up for
half a minute, or for as long as the server's Retry-After says; so each round here first makes one
look-up without its retries, and downloads the file only if the server answered.
"""

import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import FileMetadataError, GatedRepoError, HfHubHTTPError

from mssgen.checkpoints.bundles import Bundle, RemoteFile
from mssgen.checkpoints.formats import CONFIG, WEIGHTS
from mssgen.checkpoints.hub_client import (
    TRANSIENT,
    HTTPError,
    first_line,
    masked,
    quiet,
    root_cause,
    status_of,
    watched,
)
from mssgen.checkpoints.transfers import Transfer
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of

_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
    | {errno.EEXIST, errno.EISDIR, errno.EIO, errno.ENAMETOOLONG}
)


@dataclass(frozen=True)
class HubSettings:
    """How to reach the hub; None uses the library's own default (HF_ENDPOINT, HF_HOME)."""

    endpoint: str | None = None
    cache_dir: Path | None = None
    n_attempts: int = 4
    backoff_s: float = 1.0
    """Wait before the second attempt; doubles with each further one."""
    longest_wait_s: float = 60.0
    """A longer Retry-After ends the download at once."""
    patience_s: float = 30.0
    """A transfer fails if fewer than `min_bytes` arrive in this time."""
    min_bytes: int = 30_000

    @property
    def shown_endpoint(self) -> str:
        return masked((self.endpoint or constants.ENDPOINT).rstrip("/"))

    @property
    def shown_cache(self) -> str:
        return str(self.cache_dir or constants.HF_HUB_CACHE)


DEFAULTS = HubSettings()
_MAX_CONFIG_BYTES = 2**20
_MAX_BYTES = 50 * 10**9  # the library's own limit for plain HTTP


def cached(bundle: Bundle, file: RemoteFile, settings: HubSettings = DEFAULTS) -> Path | None:
    """The file's path in the hub's cache, unchecked, or None; never uses the network.

    A named model also accepts a copy that another program fetched from the default branch: its hash
    is checked before use. The files of an hf:// address must all come from the address's revision.
    """
    revisions = (bundle.revision or "main",) if bundle.is_address else (bundle.revision, "main")
    for revision in dict.fromkeys(revisions):
        found = huggingface_hub.try_to_load_from_cache(
            bundle.repo, file.name, cache_dir=settings.cache_dir, revision=revision
        )
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(
    bundle: Bundle,
    file: RemoteFile,
    *,
    offline: bool = False,
    progress: bool = False,
    settings: HubSettings = DEFAULTS,
) -> Path:
    """The file's path in the hub's cache, downloaded if necessary and checked against its sha256.

    A file with a wrong hash is downloaded once more, then refused. For an hf:// address without a
    commit, the hub is asked for the newest version unless `offline`. `progress` draws a bar on
    standard error. Raises CheckpointError that says what to do.
    """
    offline = offline or bool(constants.HF_HUB_OFFLINE)
    path = local_copy = cached(bundle, file, settings)
    # A commit never moves, unlike a branch or tag.
    is_commit = re.fullmatch("[0-9a-f]{40}", bundle.revision or "") is not None
    if bundle.is_address and not offline and not is_commit:
        path = None
    if path is None and offline:
        where = "under HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "offline"
        raise CheckpointError(
            f"{bundle.name} is not on this machine ({file.name} of {bundle.repo}), and {where} "
            f"nothing is downloaded: run `mssgen models pull {bundle.name}` online"
        )
    if path is None:
        try:
            path = _download(bundle, file, progress, settings, again=False)
        except CheckpointError as error:
            if local_copy is None:
                raise
            raise CheckpointError(
                f"{error}; `offline=True` uses the copy on this machine"
            ) from error
    got = _mismatch(bundle, file, path)
    if got is None:
        return path
    if offline:
        raise CheckpointError(
            f"{path} is damaged, {_difference(file, got)}: run `mssgen models pull {bundle.name}` "
            "online"
        )
    path = _download(bundle, file, progress, settings, again=True)
    got = _mismatch(bundle, file, path)
    if got is None:
        return path
    raise CheckpointError(
        f"{bundle.name} is refused: {file.name} from {settings.shown_endpoint}/{bundle.repo} came "
        f"twice with a wrong hash, {_difference(file, got)}; something between here and the hub "
        "changes it, or it was replaced there"
    )


def _mismatch(bundle: Bundle, file: RemoteFile, path: Path) -> str | None:
    """The sha256 of `path` if it differs from the expected one, else None."""
    if file.sha256 is None:
        return None
    try:
        got = sha256_of(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} ({bundle.name}) cannot be read: {error.strerror or error}"
        ) from None
    return None if got == file.sha256 else got


def _difference(file: RemoteFile, got: str) -> str:
    return f"expected sha256 {file.sha256} but got {got}"


def _download(
    bundle: Bundle, file: RemoteFile, progress: bool, settings: HubSettings, *, again: bool
) -> Path:
    """Download one file in at most `n_attempts` rounds; `again` replaces the cached copy."""
    revision = bundle.revision or "main"
    url = huggingface_hub.hf_hub_url(
        bundle.repo, file.name, revision=revision, endpoint=settings.endpoint
    )
    for attempt in range(1, settings.n_attempts + 1):
        transfer = _transfer(bundle, file, settings)
        try:
            with quiet(progress):
                with watched(transfer, waits=True):
                    found = huggingface_hub.get_hf_file_metadata(
                        url, token=huggingface_hub.get_token(), endpoint=settings.endpoint
                    )
                if found.etag is None or found.commit_hash is None:
                    raise FileMetadataError(f"{url} has no hash or no commit")
                transfer.limit(found.size)
            with quiet(progress), watched(transfer, waits=False):
                path = huggingface_hub.hf_hub_download(
                    bundle.repo,
                    file.name,
                    revision=revision,
                    endpoint=settings.endpoint,
                    cache_dir=settings.cache_dir,
                    force_download=again,
                )
            return Path(path)
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            cause = root_cause(error)
            wait_s = _wait_s(cause, attempt, settings)
            if wait_s is None or attempt == settings.n_attempts:
                raise CheckpointError(masked(_sentence(bundle, file, cause, settings))) from error
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _transfer(bundle: Bundle, file: RemoteFile, settings: HubSettings) -> Transfer:
    limit = _MAX_CONFIG_BYTES if file.name == CONFIG else _MAX_BYTES
    return Transfer(
        what=f"{bundle.name} could not be downloaded: {file.name}",
        max_bytes=limit if file.size_bytes is None else file.size_bytes,
        longest_wait_s=settings.longest_wait_s,
        patience_s=settings.patience_s,
        min_bytes=settings.min_bytes,
    )


def _wait_s(error: BaseException, attempt: int, settings: HubSettings) -> float | None:
    """Seconds until the next attempt; None if another attempt cannot help."""
    backoff_s: float = settings.backoff_s * 2 ** (attempt - 1)
    if isinstance(error, HfHubHTTPError):
        if status_of(error) not in TRANSIENT:
            return None
        asked = error.response.headers.get("Retry-After", "").strip()
        if asked.isdigit():
            return float(asked) if int(asked) <= settings.longest_wait_s else None
        return backoff_s
    if isinstance(error, FileMetadataError):
        return None
    if isinstance(error, HTTPError):  # no connection, a cut one, a timeout
        return backoff_s
    if isinstance(error, OSError) and error.errno is None:  # fewer bytes than promised
        return backoff_s
    return None


def _sentence(bundle: Bundle, file: RemoteFile, error: BaseException, settings: HubSettings) -> str:
    """Error message of one sentence: the model, what happened, how to fix it."""
    page = f"{settings.shown_endpoint}/{bundle.repo}"
    what = f"{bundle.name} could not be downloaded"
    retry = f"`mssgen models pull {bundle.name}`"
    status = status_of(error)
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return (
            f"{what}: {page} asks for a login ({status}), so it is gated, private or gone: ask "
            "for access on that page, then run `hf auth login` or set HF_TOKEN"
        )
    if status == 404:
        cure = "it was moved or removed there; give the path of a local copy instead of the name"
        if bundle.is_address:
            cure = f"check the address on that page, which must hold {CONFIG} and {WEIGHTS}"
        return (
            f"{what}: {page} has no {file.name} at revision {bundle.revision or 'main'} (404): "
            f"{cure}"
        )
    if status is not None and status in TRANSIENT:
        reason = "limits requests" if status == 429 else "is temporarily unavailable"
        return f"{what}: {settings.shown_endpoint} {reason} ({status}): run {retry} later"
    if status is not None:
        return f"{what}: {page} answered {status}: check HF_ENDPOINT, then run {retry}"
    if isinstance(error, FileMetadataError):
        return f"{what}: {settings.shown_endpoint} does not answer like a hub: check HF_ENDPOINT"
    if isinstance(error, HTTPError):
        return (
            f"{what}: no lasting connection to {settings.shown_endpoint} ({first_line(error)}): "
            f"check the network, the proxy and HF_ENDPOINT, then run {retry}"
        )
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return (
            f"{what}: {settings.shown_cache} cannot be written ({os.strerror(error.errno or 0)}): "
            "make room or set HF_HOME to another folder"
        )
    return f"{what}: {first_line(error)}: run {retry} again"
