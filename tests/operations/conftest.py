"""One `instaface up` for all tests of this folder: starting it costs more than most of what is asked of it."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.operations.up_process import Up

CANARY = "canary-4f1d8cbf18170ceb"
"""A secret in the environment of everything that `up` starts."""
TOKEN = "token-2a9b71c0de5511aa"
"""The secret in the address of the webhook."""


class Webhook:
    """A receiver of notifications."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self.received = received
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[Up]:
    home: Path = tmp_path_factory.mktemp("up")
    running = Up(home, INSTAFACE_NOTIFY_URL=webhook.url, MY_SERVICE_PASSWORD=CANARY, HF_TOKEN=CANARY)
    try:
        running.start()
        yield running
    finally:
        running.kill()
