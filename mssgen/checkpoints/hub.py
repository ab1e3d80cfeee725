"""Downloads from and uploads to the Hugging Face Hub: the only file that imports huggingface_hub.

That library brings the cache, the token, resuming a cut connection, HF_ENDPOINT, HF_HUB_OFFLINE
and HF_HOME. What it lacks is here: hashes, sentences instead of exceptions, and waits that end. It
retries a failed look-up by itself for half a minute, or for as long as the server's Retry-After
says, so each round here first asks once, without its retries, and only a server that answered is
asked for the file. During a file's transfer its own resuming (five times in a row without
progress) stays on.

A server need not be the hub: HF_ENDPOINT names mirrors. Of its answers, headers, sizes and pace are
checked (see `transfers`) before the library sees them.
"""

import contextlib
import errno
import importlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import _http, logging
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from mssgen.checkpoints.formats import CONFIG, WEIGHTS
from mssgen.checkpoints.registry import Bundle, RemoteFile
from mssgen.checkpoints.transfers import Transfer
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of

# The HTTP library is the hub library's choice and has changed before: its base class by descent.
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_http_library = importlib.import_module(_HTTPError.__module__.partition(".")[0])
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
    | {errno.EEXIST, errno.EISDIR, errno.EIO, errno.ENAMETOOLONG}
)


@dataclass(frozen=True)
class HubSettings:
    """How to reach the hub; None means the library's own default (HF_ENDPOINT, HF_HOME)."""

    endpoint: str | None = None
    cache_dir: Path | None = None
    n_attempts: int = 4
    backoff_s: float = 1.0  # before the second attempt; doubles each time
    longest_wait_s: float = 60.0  # a Retry-After beyond this gives up at once
    patience_s: float = 30.0  # in which at least `min_bytes` must come
    min_bytes: int = 30_000

    @property
    def shown_endpoint(self) -> str:
        return _masked((self.endpoint or constants.ENDPOINT).rstrip("/"))

    @property
    def shown_cache(self) -> str:
        return str(self.cache_dir or constants.HF_HUB_CACHE)


DEFAULTS = HubSettings()
# The library would tell the hub about this machine, and asks it for a list of any size.
constants.HF_HUB_DISABLE_TELEMETRY = True
_MAX_CONFIG_BYTES = 2**20
_MAX_BYTES = 50 * 10**9
"""What the library downloads at most by plain HTTP."""
_LOGIN = "run `hf auth login` or set HF_TOKEN"


def cached(bundle: Bundle, file: RemoteFile, settings: HubSettings = DEFAULTS) -> Path | None:
    """The file in the hub's cache, unchecked, or None; never touches the network.

    Another tool may have fetched it from the default branch; the hash tells if it is the same. Of
    an address all files are of one commit, so that no other's will do.
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
    """The file's path in the hub's cache, downloaded if need be and checked against its sha256.

    A file with a wrong hash is downloaded once more, then refused. Of an address that names no
    commit the hub is asked what is newest, unless `offline`. `progress` draws a bar on standard
    error. Raises CheckpointError with what to do about it.
    """
    offline = offline or bool(constants.HF_HUB_OFFLINE)
    path = here = cached(bundle, file, settings)
    if bundle.is_address and not offline and not is_commit(bundle.revision):
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
            if here is None:
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


def is_commit(revision: str | None) -> bool:
    """Whether it names one commit for ever, unlike a branch or a tag."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _mismatch(bundle: Bundle, file: RemoteFile, path: Path) -> str | None:
    """The sha256 of `path` if it is not the expected one."""
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
    """Fetch one file in at most `n_attempts` rounds; `again` replaces a copy in the cache."""
    revision = bundle.revision or "main"
    url = huggingface_hub.hf_hub_url(
        bundle.repo, file.name, revision=revision, endpoint=settings.endpoint
    )
    for attempt in range(1, settings.n_attempts + 1):
        transfer = _transfer(bundle, file, settings)
        try:
            with _quiet(progress):
                with _watched(transfer, waits=True):
                    found = huggingface_hub.get_hf_file_metadata(
                        url, token=huggingface_hub.get_token(), endpoint=settings.endpoint
                    )
                if found.etag is None or found.commit_hash is None:
                    raise FileMetadataError(f"{url} has no hash or no commit")
                transfer.limit(found.size)
            with _quiet(progress), _watched(transfer, waits=False):
                path = huggingface_hub.hf_hub_download(
                    bundle.repo,
                    file.name,
                    revision=revision,
                    endpoint=settings.endpoint,
                    cache_dir=settings.cache_dir,
                    force_download=again,
                )
            return Path(path)
        except (_HTTPError, OSError, ValueError, RuntimeError) as error:
            cause = _root(error)
            wait_s = _wait_s(cause, attempt, settings)
            if wait_s is None or attempt == settings.n_attempts:
                raise CheckpointError(_masked(_sentence(bundle, file, cause, settings))) from error
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _transfer(bundle: Bundle, file: RemoteFile, settings: HubSettings) -> Transfer:
    most = _MAX_CONFIG_BYTES if file.name == CONFIG else _MAX_BYTES
    return Transfer(
        what=f"{bundle.name} could not be downloaded: {file.name}",
        max_bytes=most if file.size_bytes is None else file.size_bytes,
        longest_wait_s=settings.longest_wait_s,
        patience_s=settings.patience_s,
        min_bytes=settings.min_bytes,
    )


class _Watched(_http_library.SyncByteStream):  # type: ignore[misc, name-defined]
    """The body of an answer, which ends with an error where it breaks the rules of a transfer."""

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
def _watched(transfer: Transfer, *, waits: bool) -> Iterator[None]:
    """Check all that the library receives; `waits`: it sees for how long it is asked to wait."""
    make_client = _http._GLOBAL_CLIENT_FACTORY  # a user's own, for a company's certificates

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

    has_no_xet, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True  # not seen here
    huggingface_hub.set_client_factory(make_checked)
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(make_client)
        constants.HF_HUB_DISABLE_XET = has_no_xet


def _masked(text: str) -> str:
    """Without the user and password of an address."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", text)


@contextlib.contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Neither the library's own log lines nor, without `progress`, its bars."""
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


def _root(error: BaseException) -> BaseException:
    """What went wrong, beneath the library's 'cannot find it in the cache either'."""
    wrappers = (LocalEntryNotFoundError, ValueError)
    while isinstance(error, wrappers) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _wait_s(error: BaseException, attempt: int, settings: HubSettings) -> float | None:
    """Seconds until the next attempt, None if another one is of no use."""
    backoff_s: float = settings.backoff_s * 2 ** (attempt - 1)
    if isinstance(error, HfHubHTTPError):
        if _status(error) not in _TRANSIENT:
            return None
        asked = error.response.headers.get("Retry-After", "").strip()
        if asked.isdigit():
            return float(asked) if int(asked) <= settings.longest_wait_s else None
        return backoff_s
    if isinstance(error, FileMetadataError):
        return None
    if isinstance(error, _HTTPError):  # no connection, a cut one, a timeout
        return backoff_s
    if isinstance(error, OSError) and error.errno is None:  # fewer bytes than promised
        return backoff_s
    return None


def _sentence(bundle: Bundle, file: RemoteFile, error: BaseException, settings: HubSettings) -> str:
    """One sentence for the user: the model, what happened, the cure."""
    page = f"{settings.shown_endpoint}/{bundle.repo}"
    what = f"{bundle.name} could not be downloaded"
    retry = f"`mssgen models pull {bundle.name}`"
    status = _status(error)
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
    if status is not None and status in _TRANSIENT:
        reason = "allows no more requests for now" if status == 429 else "is out of order for now"
        return f"{what}: {settings.shown_endpoint} {reason} ({status}): run {retry} later"
    if status is not None:
        return f"{what}: {page} answered {status}: check HF_ENDPOINT, then run {retry}"
    if isinstance(error, FileMetadataError):
        return f"{what}: {settings.shown_endpoint} does not answer like a hub: check HF_ENDPOINT"
    if isinstance(error, _HTTPError):
        return (
            f"{what}: no lasting connection to {settings.shown_endpoint} ({_first_line(error)}): "
            f"check the network, the proxy and HF_ENDPOINT, then run {retry}"
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        return (
            f"{what}: {settings.shown_cache} cannot be written ({os.strerror(error.errno or 0)}): "
            "make room or set HF_HOME to another folder"
        )
    return f"{what}: {_first_line(error)}: run {retry} again"


def push_files(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    message: str = "Add a checkpoint of mssgen",
    settings: HubSettings = DEFAULTS,
) -> str:
    """Send files to OWNER/NAME on the hub as one commit; return the commit.

    A repository that is not there is made, for its owner's eyes only with `private`. Whoever reads
    it meanwhile finds the commit before or this one, never half of it.

    Args:
        files: what each is called there, with forward slashes, and its path or content here.
        repo: OWNER/NAME.
        private: a repository that exists must be private.
        message: of the commit.
        settings: which hub.

    Raises CheckpointError with what to do about it.
    """
    what = f"{repo} could not be pushed"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{what}: HF_HUB_OFFLINE forbids it; unset it")
    try:
        with _quiet(progress=False):
            if huggingface_hub.get_token() is None:
                raise CheckpointError(f"{what}: {settings.shown_endpoint} needs a token: {_LOGIN}")
            api = huggingface_hub.HfApi(endpoint=settings.endpoint)
            api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not api.model_info(repo).private:
                raise CheckpointError(
                    f"{what}: {settings.shown_endpoint}/{repo} is public: make it private on that "
                    "page, choose another name, or leave out `private`"
                )
            operations = [
                huggingface_hub.CommitOperationAdd(
                    name, str(content) if isinstance(content, Path) else content
                )
                for name, content in files.items()
            ]
            commit = api.create_commit(repo, operations, commit_message=message)
    except (_HTTPError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(_masked(f"{what}: {_refusal(repo, error, settings)}")) from error
    return commit.oid


def _refusal(repo: str, error: BaseException, settings: HubSettings) -> str:
    """Why a push failed, and the cure."""
    status, endpoint = _status(error), settings.shown_endpoint
    if status == 401:
        return f"{endpoint} does not accept the token (401): {_LOGIN} anew"
    if status == 403:
        owner = repo.partition("/")[0]
        return (
            f"the token may not write there (403): {_LOGIN} with a token that has write access "
            f"to {owner}"
        )
    if status is not None and status in _TRANSIENT:
        return f"{endpoint} is out of order or too busy for now ({status}): push again later"
    if status is not None:
        return f"{endpoint} answered {status} ({_first_line(error)})"
    if isinstance(error, _HTTPError):
        return (
            f"no lasting connection to {endpoint} ({_first_line(error)}): check the network, the "
            "proxy and HF_ENDPOINT, then push again"
        )
    return " ".join(str(error).split()) or type(error).__name__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
