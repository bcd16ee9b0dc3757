"""An HTTP proxy on loopback that stands in front of a real S3 server and breaks what it is told to break."""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = str | None
"""
"503", "409": answered by the proxy, the server sees nothing
"cut request": the server gets half of the body, then both connections are reset
"flip request": the server gets the body with one bit flipped
"lose answer": the server does its work, the connection is reset before the answer
"cut answer": half of the answer's body, then reset
"flip answer": one bit of the answer's body is flipped
None: passed on
"""

_ERROR = """<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>"""
_CODES = {"503": "SlowDown", "409": "ConditionalRequestConflict"}


class FaultyProxy:
    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._choose: Callable[[str, str], Fault] = lambda method, path: None
        self._lock = threading.Lock()
        self.requests: list[tuple[str, str, Fault]] = []
        """Method, path and fault of all requests so far."""

    def break_next(self, fault: str, times: int, method: str, where: str = "") -> None:
        """The next `times` requests with this method whose path and query contain `where` get the fault."""
        remaining = times

        def choose(asked: str, path: str) -> Fault:
            nonlocal remaining
            if asked != method or where not in path or not remaining:
                return None
            remaining -= 1
            return fault

        self.requests.clear()
        self._choose = choose

    def decide(self, method: str, path: str) -> Fault:
        with self._lock:
            fault = self._choose(method, path)
            self.requests.append((method, path, fault))
            return fault

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Gives the proxy's URL."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *message: object) -> None: ...

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy.decide(self.command, self.path)
                if fault in _CODES:
                    self.answer(int(fault), {}, _ERROR.format(code=_CODES[fault]).encode())
                elif fault == "cut request":
                    self.send_half(body)
                    self.reset()
                else:
                    status, headers, answer = self.forward(_flipped(body) if fault == "flip request" else body)
                    if fault == "lose answer":
                        self.reset()
                    elif fault == "cut answer":
                        self.answer(status, headers, answer, len(answer) // 2)
                        self.reset()
                    else:
                        self.answer(status, headers, _flipped(answer) if fault == "flip answer" else answer)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                upstream = http.client.HTTPConnection(proxy._upstream, timeout=30)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                content = answer.read()
                headers = dict(answer.getheaders())
                upstream.close()
                return answer.status, headers, content

            def send_half(self, body: bytes) -> None:
                host, _, port = proxy._upstream.partition(":")
                lines = [f"{self.command} {self.path} HTTP/1.1"]
                lines += [f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "expect"]
                with socket.create_connection((host, int(port))) as upstream:
                    upstream.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])

            def answer(self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                if status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(body[:sent])
                self.wfile.flush()

            def reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            server.block_on_close = False
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
