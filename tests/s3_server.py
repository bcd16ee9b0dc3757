"""Fixtures that run a real S3 server (SeaweedFS on loopback), one for the whole test session.

A conftest that wants them says `from s3_server import s3_server, s3_store`; several may, the server is
shared.
"""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.interface import Store
from storage.seaweed import SeaweedServer
from storage.stores import open_store

_running: list[SeaweedServer] = []
_users = 0


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running server with the bucket "instaface"; `.environment` and `.config` say how to reach it."""
    global _users
    if not _running:
        _running.append(SeaweedServer(tmp_path_factory.mktemp("s3")).start())
    _users += 1
    yield _running[0]
    _users -= 1
    if not _users:
        _running.pop().stop()


def use_temporary_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests clean up their own unfinished uploads and nobody else's."""
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def s3_store(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """An empty store in the bucket; credentials and endpoint are in the environment, for child processes too."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    use_temporary_folder(tmp_path / "scratch", monkeypatch)
    return open_store(f"s3://{s3_server.bucket}/test-{uuid.uuid4().hex}")
