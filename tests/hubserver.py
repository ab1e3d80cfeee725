"""A small Hugging Face hub on the loopback address, with faults on order."""

import hashlib
import struct
import threading
from collections import deque
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


class HubServer:
    """Serves `files` (name -> bytes) for every repository and revision; logs what was asked for."""

    def __init__(self, files: dict[str, bytes], commit: str = "c" * 40) -> None:
        self.files = files
        self.commit = commit
        self.is_hub = True  # False: answers without the headers of a hub
        self.faults: dict[str, deque[Fault]] = {"HEAD": deque(), "GET": deque()}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

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
        if "/resolve/" not in request.path:  # the library asks for other things now and then
            self._send(request, 404, {}, b"", 0)
            return
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.requests.append((method, request.path, headers))
        fault = self.faults[method].popleft() if self.faults[method] else Fault()
        body = self.files.get(request.path.rpartition("/")[2])
        if fault.status is None and body is None:
            fault = Fault(404, {"X-Error-Code": "EntryNotFound"})
        if fault.status is not None or body is None:
            self._send(request, fault.status or 404, fault.headers, b"", 0)
            return
        headers = {"Accept-Ranges": "bytes"}
        if self.is_hub:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            headers["X-Repo-Commit"] = self.commit
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
        self._send(request, status, headers, sent, length)
        if fault.reset:
            request.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()

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
