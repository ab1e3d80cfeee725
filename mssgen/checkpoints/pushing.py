"""Uploads of checkpoint folders to the Hugging Face Hub."""

from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from mssgen.checkpoints.hub import DEFAULTS, HubSettings
from mssgen.checkpoints.hub_client import TRANSIENT, HTTPError, first_line, masked, quiet, status_of
from mssgen.errors import CheckpointError

_LOGIN = "run `hf auth login` or set HF_TOKEN"


def push_files(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    message: str = "Add a checkpoint of mssgen",
    settings: HubSettings = DEFAULTS,
) -> str:
    """Upload files to a repository on the hub as one commit; return the commit's hash.

    Readers see either the previous commit or this one, never a part of it.

    Args:
        files: for each path in the repository (forward slashes), a local path or the content.
        repo: OWNER/NAME; created if it does not exist.
        private: create a private repository; one that exists must be private already.
        message: commit message.
        settings: which hub.

    Raises:
        CheckpointError: the upload failed; the message says what to do.
    """
    what = f"{repo} could not be pushed"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{what}: HF_HUB_OFFLINE forbids it; unset it")
    try:
        with quiet(progress=False):
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
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(masked(f"{what}: {_refusal(repo, error, settings)}")) from error
    return commit.oid


def _refusal(repo: str, error: BaseException, settings: HubSettings) -> str:
    """Why a push failed, and how to fix it."""
    status, endpoint = status_of(error), settings.shown_endpoint
    if status == 401:
        return f"{endpoint} does not accept the token (401): {_LOGIN} again"
    if status == 403:
        owner = repo.partition("/")[0]
        return (
            f"the token may not write there (403): {_LOGIN} with a token that has write access "
            f"to {owner}"
        )
    if status is not None and status in TRANSIENT:
        return f"{endpoint} is temporarily unavailable ({status}): push again later"
    if status is not None:
        return f"{endpoint} answered {status} ({first_line(error)})"
    if isinstance(error, HTTPError):
        return (
            f"no lasting connection to {endpoint} ({first_line(error)}): check the network, the "
            "proxy and HF_ENDPOINT, then push again"
        )
    return " ".join(str(error).split()) or type(error).__name__
