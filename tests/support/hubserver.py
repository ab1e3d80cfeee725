"""A small Hugging Face hub on the loopback address, with faults on order."""

import base64
import hashlib
import json
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any


@dataclass
class Fault:
    """What to do instead of a plain answer, once."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection ends
    reset: bool = False  # ... with a reset instead of an orderly end
    endless: bool = False  # the body goes on for ever, and no length is said
    drip_s: float = 0.0  # between single bytes of the body


@dataclass
class Repository:
    """What was pushed to one name."""

    is_private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # oldest first

    @property
    def newest(self) -> str:
        return list(self.commits)[-1] if self.commits else "0" * 40

    def commit(self, files: dict[str, bytes]) -> str:
        """Add `files` to what the newest commit has."""
        whole = {**self.commits.get(self.newest, {}), **files}
        name = hashlib.sha1(f"{len(self.commits)} {sorted(whole)}".encode()).hexdigest()
        self.commits[name] = whole
        return name


class HubServer:
    """Serves `files` (name -> bytes) for every repository and revision, but those in `repos` as
    they were pushed; logs what was asked for."""

    def __init__(self, files: dict[str, bytes], commit: str = "c" * 40) -> None:
        self.files = files
        self.commit = commit
        self.is_hub = True  # False: answers without the headers of a hub
        self.repos: dict[str, Repository] = {}
        self.token: str | None = None  # None: every token may push
        self.before_request: Callable[[str, str], None] = lambda method, path: None
        self.faults: dict[str, deque[Fault]] = {"HEAD": deque(), "GET": deque(), "POST": deque()}
        self.n_endless_bytes = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

            def do_POST(self) -> None:
                hub._answer_post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def count(self, method: str) -> int:
        return sum(1 for made, _, _ in self.requests if made == method)

    def headers_of(self, method: str) -> list[dict[str, str]]:
        return [headers for made, _, headers in self.requests if made == method]

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        method = request.command
        if request.path.startswith("/api/models/"):
            self._answer_info(request)
            return
        if "/resolve/" not in request.path:  # the library asks for other things now and then
            self._send(request, 404, {}, b"", 0)
            return
        self.before_request(method, request.path)
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.requests.append((method, request.path, headers))
        fault = self.faults[method].popleft() if self.faults[method] else Fault()
        commit, body, code = self._find(request.path)
        if fault.status is None and body is None:
            fault = Fault(404, {"X-Error-Code": code})
        if fault.status is not None or body is None:
            self._send(request, fault.status or 404, fault.headers, b"", 0)
            return
        headers = {"Accept-Ranges": "bytes"}
        if self.is_hub:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            headers["X-Repo-Commit"] = commit
        headers |= fault.headers
        status, start = 200, 0
        if request.headers.get("Range", "").startswith("bytes="):
            start = int(request.headers["Range"][6:].split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status = 206
        sent = body[start:] if method == "GET" else b""
        length = len(body) - start
        if fault.cut_after is not None:
            sent = sent[: fault.cut_after]
            request.close_connection = True
        if fault.endless or fault.drip_s:
            self._send_slowly(request, headers, sent, fault)
            return
        self._send(request, status, headers, sent, length)
        if fault.reset:
            request.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

    def _find(self, path: str) -> tuple[str, bytes | None, str]:
        """Of /OWNER/NAME/resolve/REVISION/FILE: commit, content, and the error's code if none."""
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo not in self.repos:
            return self.commit, self.files.get(name), "EntryNotFound"
        commits = self.repos[repo].commits
        commit = self.repos[repo].newest if revision == "main" else revision
        if commit not in commits:
            return commit, None, "RevisionNotFound"
        return commit, commits[commit].get(name), "EntryNotFound"

    def _answer_info(self, request: BaseHTTPRequestHandler) -> None:
        """What is asked about a repository: whether it is there, whether it is private."""
        name = request.path.removeprefix("/api/models/").split("?")[0]
        repo = self.repos.get(name)
        if repo is None:
            self._send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"", 0)
            return
        self._json(request, {"id": name, "private": repo.is_private, "sha": repo.newest})

    def _answer_post(self, request: BaseHTTPRequestHandler) -> None:
        """Make a repository, check a card, take a commit."""
        sent = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.requests.append(("POST", request.path, headers))
        self.before_request("POST", request.path)
        fault = self.faults["POST"].popleft() if self.faults["POST"] else Fault()
        if fault.status is None and self.token is not None:
            is_known = headers.get("authorization") == f"Bearer {self.token}"
            fault = fault if is_known else Fault(401)
        if fault.status is not None:
            self._send(request, fault.status, fault.headers, b"", 0)
            return
        if request.path == "/api/repos/create":
            self._create(request, json.loads(sent))
            return
        if request.path == "/api/validate-yaml":
            is_card = json.loads(sent)["content"].startswith("---\nlicense: ")
            errors = [] if is_card else [{"message": '"license" is required'}]
            answer = {"errors": errors, "warnings": []}
            self._json(request, answer, 200 if is_card else 400)
            return
        # /api/models/OWNER/NAME/ACTION/main
        _, _, _, owner, short, action, _ = request.path.split("/")
        name = f"{owner}/{short}"
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(sent)["files"]
            ]
            self._json(request, {"files": files})
            return
        lines = [json.loads(line) for line in sent.splitlines()]
        commit = self.repos[name].commit(
            {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
        )
        url = f"{self.url}/{name}/commit/{commit}"
        self._json(request, {"commitUrl": url, "commitOid": commit, "hookOutput": ""})

    def _create(self, request: BaseHTTPRequestHandler, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        is_private = wanted.get("visibility") == "private" or wanted.get("private", False)
        status = 409 if name in self.repos else 200
        self.repos.setdefault(name, Repository(is_private))
        self._json(request, {"url": f"{self.url}/{name}"}, status)

    def _json(self, request: BaseHTTPRequestHandler, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._send(request, status, {"Content-Type": "application/json"}, body, len(body))

    def _send_slowly(
        self, request: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes, fault: Fault
    ) -> None:
        request.close_connection = True
        request.send_response(200)
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        try:
            while fault.endless:
                request.wfile.write(bytes(2**16))
                self.n_endless_bytes += 2**16
            for value in body:
                request.wfile.write(bytes([value]))
                time.sleep(fault.drip_s)
        except OSError:
            pass  # the other side has had enough

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        length: int,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)
        request.wfile.flush()
