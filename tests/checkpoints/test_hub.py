"""Downloads against a real server on the loopback address; nothing is faked on our side."""

import dataclasses
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from mssgen.checkpoints import hub
from mssgen.checkpoints.bundles import Bundle, RemoteFile
from mssgen.checkpoints.registry import REGISTRY
from mssgen.checkpoints.resolving import resolve
from mssgen.errors import CheckpointError

from support.hubserver import Fault, HubServer

BODY = bytes(range(256)) * 4000  # 1 MB
FILE = RemoteFile("5c90dfd2.safetensors", hashlib.sha256(BODY).hexdigest(), len(BODY))
BUNDLE = dataclasses.replace(REGISTRY["htdemucs_6s"], files=(FILE,))


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between the tests and the loopback address; a fresh HTTP client each time."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    # It would ask the real hub for a list of user agents.
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    huggingface_hub.close_session()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer({FILE.name: BODY}, commit=str(BUNDLE.revision)) as running:
        yield running


@pytest.fixture
def settings(server: HubServer, tmp_path: Path) -> hub.HubSettings:
    return hub.HubSettings(endpoint=server.url, cache_dir=tmp_path / "cache", backoff_s=0.01)


def _fetch(settings: hub.HubSettings, bundle: Bundle = BUNDLE, offline: bool = False) -> Path:
    return hub.fetch(bundle, bundle.files[0], offline=offline, settings=settings)


def test_a_good_file_is_downloaded_once(server: HubServer, settings: hub.HubSettings) -> None:
    assert hub.cached(BUNDLE, FILE, settings) is None
    path = _fetch(settings)
    assert path.read_bytes() == BODY
    assert hub.cached(BUNDLE, FILE, settings) == path
    n_requests = len(server.requests)
    assert _fetch(settings) == path
    assert _fetch(settings, offline=True) == path
    assert len(server.requests) == n_requests  # pinned and in the cache: no network at all


def test_the_pinned_revision_is_asked_for(server: HubServer, settings: hub.HubSettings) -> None:
    _fetch(settings)
    assert all(f"/resolve/{BUNDLE.revision}/" in path for _, path, _ in server.requests)
    unpinned = dataclasses.replace(BUNDLE, revision=None)
    server.requests.clear()
    _fetch(dataclasses.replace(settings, cache_dir=settings.cache_dir / "other"), unpinned)
    assert all("/resolve/main/" in path for _, path, _ in server.requests)


@pytest.mark.parametrize(
    ("status", "headers", "cure"),
    [
        (404, {"X-Error-Code": "EntryNotFound"}, "path of a local copy"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "path of a local copy"),
        (401, {"X-Error-Code": "GatedRepo"}, "HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "HF_TOKEN"),
        (401, {}, "HF_TOKEN"),
        (429, {"Retry-After": "86400"}, "later"),
        (451, {}, "HF_ENDPOINT"),
    ],
)
def test_final_answers_are_not_repeated(
    server: HubServer,
    settings: hub.HubSettings,
    status: int,
    headers: dict[str, str],
    cure: str,
) -> None:
    server.faults["HEAD"].extend([Fault(status, headers)] * 9)
    with pytest.raises(CheckpointError) as caught:
        _fetch(settings)
    message = str(caught.value)
    assert len(server.requests) == 1
    assert "htdemucs_6s" in message
    assert str(status) in message
    assert cure in message
    assert "\n" not in message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_waited_out(
    server: HubServer, settings: hub.HubSettings, status: int
) -> None:
    server.faults["HEAD"].extend([Fault(status)] * 2)
    assert _fetch(settings).read_bytes() == BODY


def test_retry_after_is_honoured(server: HubServer, settings: hub.HubSettings) -> None:
    server.faults["HEAD"].append(Fault(503, {"Retry-After": "1"}))
    started = time.monotonic()
    assert _fetch(settings).read_bytes() == BODY
    assert time.monotonic() - started >= 1


def test_a_lasting_fault_ends_after_the_last_attempt(
    server: HubServer, settings: hub.HubSettings
) -> None:
    server.faults["HEAD"].extend([Fault(503)] * 99)
    with pytest.raises(CheckpointError, match=r"unavailable.*503.*models pull htdemucs_6s"):
        _fetch(settings)
    assert server.count("HEAD") == settings.n_attempts


def test_a_server_error_during_the_transfer_is_retried(
    server: HubServer, settings: hub.HubSettings
) -> None:
    server.faults["GET"].append(Fault(503))
    assert _fetch(settings).read_bytes() == BODY


def test_a_cut_connection_resumes_where_it_stopped(
    server: HubServer, settings: hub.HubSettings
) -> None:
    body = bytes(12 * 2**20)  # more than the 10 MiB that the library writes at a time
    file = RemoteFile(FILE.name, hashlib.sha256(body).hexdigest())
    server.files[FILE.name] = body
    server.faults["GET"].append(Fault(cut_after=11 * 2**20))
    assert _fetch(settings, dataclasses.replace(BUNDLE, files=(file,))).read_bytes() == body
    first, second = server.headers_of("GET")
    assert "range" not in first
    assert second["range"] == f"bytes={10 * 2**20}-"


def test_a_reset_connection_starts_again(server: HubServer, settings: hub.HubSettings) -> None:
    server.faults["GET"].append(Fault(cut_after=400_000, reset=True))
    assert _fetch(settings).read_bytes() == BODY
    assert server.count("GET") == 2


def test_a_wrong_hash_is_downloaded_once_more_then_refused(
    server: HubServer, settings: hub.HubSettings
) -> None:
    server.files[FILE.name] = b"not the weights"
    with pytest.raises(CheckpointError) as caught:
        _fetch(settings)
    assert server.count("GET") == 2
    assert str(FILE.sha256) in str(caught.value)
    assert hashlib.sha256(b"not the weights").hexdigest() in str(caught.value)


def test_a_damaged_copy_in_the_cache_is_replaced(
    server: HubServer, settings: hub.HubSettings
) -> None:
    path = _fetch(settings)
    path.resolve().write_bytes(BODY[:-1])
    with pytest.raises(CheckpointError, match=r"damaged.*models pull htdemucs_6s"):
        _fetch(settings, offline=True)
    assert _fetch(settings).read_bytes() == BODY
    assert server.count("GET") == 2


def test_without_a_known_hash_the_file_is_taken_as_it_is(
    server: HubServer, settings: hub.HubSettings
) -> None:
    bundle = dataclasses.replace(BUNDLE, files=(RemoteFile(FILE.name),))
    server.files[FILE.name] = b"anything"
    assert _fetch(settings, bundle).read_bytes() == b"anything"


def test_no_server_at_all(settings: hub.HubSettings) -> None:
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(CheckpointError) as caught:
            _fetch(dataclasses.replace(settings, endpoint=endpoint))
    assert endpoint in str(caught.value)
    assert "HF_ENDPOINT" in str(caught.value)


def test_offline_without_the_file(server: HubServer, settings: hub.HubSettings) -> None:
    with pytest.raises(CheckpointError, match="models pull htdemucs_6s"):
        _fetch(settings, offline=True)
    assert not server.requests


def test_a_server_that_is_no_hub(server: HubServer, settings: hub.HubSettings) -> None:
    server.is_hub = False
    with pytest.raises(CheckpointError, match="HF_ENDPOINT"):
        _fetch(settings)


def test_a_cache_that_cannot_be_written(
    server: HubServer, settings: hub.HubSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot be written.*HF_HOME"):
        _fetch(dataclasses.replace(settings, cache_dir=tmp_path / "file" / "cache"))
    assert server.count("HEAD") >= 1


def test_of_a_bag_only_the_members_of_wanted_stems_are_fetched(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bag = REGISTRY["htdemucs_ft"]
    server.files = {file.name: file.name.encode() * 999 for file in bag.files}
    members = tuple(
        RemoteFile(name, hashlib.sha256(body).hexdigest()) for name, body in server.files.items()
    )
    server.commit = str(bag.revision)
    monkeypatch.setitem(REGISTRY, bag.name, dataclasses.replace(bag, files=members))
    template = hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        template.replace(hub.constants.ENDPOINT, server.url),
    )
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    found = resolve("htdemucs_ft", wanted_stems=["bass", "vocals"])
    assert found.where == "hub"
    assert found.stems_of == (("bass",), ("vocals",))
    assert [path.name for path in found.paths] == [members[1].name, members[3].name]
    assert server.count("GET") == 2
    again = resolve("htdemucs_ft", wanted_stems=["bass"], offline=True)
    assert (again.where, again.paths) == ("cache", found.paths[:1])
    with pytest.raises(CheckpointError, match=members[0].name):
        resolve("htdemucs_ft", offline=True)


def test_a_file_that_another_tool_fetched_from_the_default_branch(
    server: HubServer, settings: hub.HubSettings
) -> None:
    server.commit = "d" * 40
    path = huggingface_hub.hf_hub_download(
        BUNDLE.repo, FILE.name, endpoint=server.url, cache_dir=settings.cache_dir
    )
    assert _fetch(settings, offline=True) == Path(path)


@pytest.mark.parametrize("name", ["ETag", "X-Linked-Etag"])
@pytest.mark.parametrize("is_second", [False, True])
def test_headers_write_no_files(
    server: HubServer, settings: hub.HubSettings, tmp_path: Path, name: str, is_second: bool
) -> None:
    """Neither outside of the cache nor over a file that is there, whichever answer lies."""
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    up = "../" * 40
    for path in (f"{up}{victim}", str(victim), f"{up}{tmp_path}/new.pth", "x" * 64):
        lies = [Fault(headers={name: f'"{path}"'})] * 2
        server.faults["HEAD"].extend([Fault(), *lies] if is_second else lies)
        with pytest.raises(CheckpointError, match="does not answer like a hub"):
            _fetch(settings)
        server.faults["HEAD"].clear()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "new.pth").exists()
    assert server.count("GET") == 0


def test_a_commit_is_no_path(server: HubServer, settings: hub.HubSettings) -> None:
    server.faults["HEAD"].append(Fault(headers={"X-Repo-Commit": "../../../x"}))
    with pytest.raises(CheckpointError, match="does not answer like a hub"):
        _fetch(settings)
    assert server.count("GET") == 0


def test_a_file_of_another_size_is_not_begun(server: HubServer, settings: hub.HubSettings) -> None:
    server.files[FILE.name] = BODY + b"x"
    with pytest.raises(CheckpointError, match=f"{len(BODY) + 1} bytes instead of {len(BODY)}"):
        _fetch(settings)
    assert server.count("GET") == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_endless_body_is_cut(server: HubServer, settings: hub.HubSettings, name: str) -> None:
    bundle = dataclasses.replace(BUNDLE, files=(RemoteFile(name),))
    server.files[name] = b"x" * 100
    server.faults["GET"].append(Fault(endless=True))
    with pytest.raises(CheckpointError, match="more instead of 100 bytes"):
        _fetch(settings, bundle)
    assert server.n_endless_bytes < 2**26  # what buffers between the two hold
    assert not list((settings.cache_dir or Path()).rglob("*.incomplete"))


def test_a_config_is_small(server: HubServer, settings: hub.HubSettings) -> None:
    bundle = dataclasses.replace(BUNDLE, files=(RemoteFile("config.json"),))
    server.files["config.json"] = bytes(2**20 + 1)
    with pytest.raises(CheckpointError, match="instead of 1048576 bytes at most"):
        _fetch(settings, bundle)
    assert server.count("GET") == 0


def test_a_trickle_ends(server: HubServer, settings: hub.HubSettings) -> None:
    server.faults["GET"].append(Fault(drip_s=0.02))
    impatient = dataclasses.replace(settings, patience_s=0.5, min_bytes=1000)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=r"only \d+ bytes arrived in"):
        _fetch(impatient)
    assert time.monotonic() - started < 10


def test_no_wait_of_a_day(server: HubServer, settings: hub.HubSettings) -> None:
    """The library obeys these headers, so it must not see them."""
    waits = {"Retry-After": "86400", "RateLimit": '"api";r=0;t=86400'}
    server.faults["GET"].append(Fault(429, waits))
    assert _fetch(settings).read_bytes() == BODY
    server.faults["HEAD"].extend([Fault(), Fault(503, waits)])
    other = dataclasses.replace(settings, cache_dir=settings.cache_dir / "other")
    assert _fetch(other).read_bytes() == BODY


def test_a_compressed_body_is_refused(server: HubServer, settings: hub.HubSettings) -> None:
    server.faults["GET"].append(Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(CheckpointError, match="compressed"):
        _fetch(settings)
    assert all(headers["accept-encoding"] == "identity" for headers in server.headers_of("GET"))


def test_a_password_in_the_endpoint_is_not_shown(
    server: HubServer, settings: hub.HubSettings
) -> None:
    secret = server.url.replace("://", "://me:secret@")
    server.faults["HEAD"].append(Fault(404))
    with pytest.raises(CheckpointError) as caught:
        _fetch(dataclasses.replace(settings, endpoint=secret))
    assert "secret" not in str(caught.value)
    assert server.url in str(caught.value)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"http://me:secret@127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(CheckpointError) as caught:
            _fetch(dataclasses.replace(settings, endpoint=gone))
    assert "secret" not in str(caught.value)


def test_nothing_is_told_about_this_machine() -> None:
    code = "import mssgen.checkpoints.hub; from huggingface_hub import constants as c; "
    code += "assert c.HF_HUB_DISABLE_TELEMETRY"
    subprocess.run([sys.executable, "-c", code], check=True)
