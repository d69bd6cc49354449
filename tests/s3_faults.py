"""A proxy in front of an S3 service that spoils a stated share of the answers, and counts the requests."""

import http.client
import random
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

# Before the service sees the request: internal_error, slow_down, reset, stall. After it has done what was
# asked: lost_answer (a reset in place of the answer), truncated (the connection ends inside the body),
# short (a body that is cut and announced as whole, as broken gateways send it).
KINDS = ("internal_error", "slow_down", "reset", "stall", "lost_answer", "truncated", "short")
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'


@dataclass
class Faults:
    """What the proxy does and did: the rate of each kind, `refusal` as an answer to everything, the counts.

    headers: those of the last request.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    stall_s: float = 30.0
    refusal: tuple[int, str, Mapping[str, str]] | None = None
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert set(self.rates) <= set(KINDS)
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def choose(self) -> str | None:
        with self._lock:
            at, total = self._random.random(), 0.0
            for kind, rate in self.rates.items():
                total += rate
                if at < total:
                    self.injected[kind] += 1
                    return kind
        return None


@dataclass(frozen=True)
class Service:
    """Where a test's bucket is (`s3://…`), behind which URL, what the proxy there does, and what is behind it."""

    url: str
    bucket: str
    faults: Faults
    behind: str

    def committed(self, output: str, folder: str = "annotations") -> int:
        """Returns how many units of an output are done, past the proxy: who watches must not wait for its faults."""
        bucket, _, key = f"{output}/{folder}/".removeprefix("s3://").partition("/")
        query = urlencode({"list-type": 2, "prefix": key})
        with urllib.request.urlopen(f"{self.behind}/{bucket}?{query}") as answer:
            return int(answer.read().count(b"<Key>"))


def create_bucket(url: str, name: str) -> None:
    """Makes a bucket."""
    request = urllib.request.Request(f"{url}/{name}", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def operation(method: str, target: str) -> str:
    """Names a request as S3 does, as far as this project makes it."""
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    if "list-type" in query:
        return "ListObjects"
    if "uploads" in query:
        return "ListUploads" if method == "GET" else "CreateUpload"
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteUpload", "DELETE": "AbortUpload"}[method]
    return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _take(self) -> None:
        faults: Faults = self.server.faults
        faults.requests[operation(self.command, self.path)] += 1
        faults.headers = dict(self.headers.items())
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if faults.refusal is not None:
            status, code, headers = faults.refusal
            return self._error(status, code, headers)
        kind = faults.choose()
        if kind == "internal_error":
            return self._error(500, "InternalError")
        if kind == "slow_down":
            return self._error(503, "SlowDown")
        if kind == "reset":
            return self._reset()
        if kind == "stall":
            time.sleep(faults.stall_s)
            return self._reset()
        status, headers, data = self._forward(body)
        if kind == "lost_answer":
            return self._reset()
        if kind in ("truncated", "short") and (self.command != "GET" or len(data) < 2):
            kind = None
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        sent = data[: len(data) // 2] if kind else data
        said = len(sent) if kind != "truncated" else len(data)
        if self.command == "HEAD":
            said = int({name.lower(): value for name, value in headers}.get("content-length", 0))
        if status != 204:
            self.send_header("Content-Length", str(said))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if kind == "truncated":
            self.close_connection = True
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _take

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        # One connection per request: moto's server keeps one thread for each that stays open.
        upstream = http.client.HTTPConnection(*self.server.upstream)
        try:
            kept = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body=body, headers=kept)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _error(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        text = b"" if self.command == "HEAD" else _ERROR.format(code, "as the test has it").encode()
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _reset(self) -> None:
        # Zero seconds of lingering make close() send RST in place of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # A client that hangs up is no concern of the proxy's.


@contextmanager
def proxied(upstream: tuple[str, int], faults: Faults) -> Iterator[str]:
    """Runs the proxy and yields its URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream, server.faults = upstream, faults  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
