"""A real browser for tests: Chromium without a window, over its DevTools protocol; nothing else needs to be installed."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import connect

from tests.operations.up_process import PATIENCE

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
    "--window-size=1400,1000", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """One page; `look` runs JavaScript in it."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lines = profile / "DevToolsActivePort"
        end = time.monotonic() + 60 * PATIENCE
        while not lines.exists() or not lines.read_text().strip():
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.2)
        port = lines.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            page = next(one for one in json.loads(answer.read()) if one["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60 * PATIENCE))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def look(self, script: str) -> Any:
        """The value of a JavaScript expression; None where it throws."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        return None if "exceptionDetails" in found else found["result"].get("value")

    def wait(self, script: str, within: float = 60) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + within * PATIENCE
        while not (value := self.look(script)):
            assert time.monotonic() < end, f"not in {within} s: {script}\n{self.look('document.body.innerText')}"
            time.sleep(0.5)
        return value

    def photograph(self, file: Path) -> None:
        """A screenshot."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
