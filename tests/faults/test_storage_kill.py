"""100 SIGKILLs at random moments, on a folder and on S3: nothing half-written is ever visible, and reruns complete."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import storage_writer
from s3_server import s3_server, s3_store  # noqa: F401

from storage.interface import Store
from storage.stores import open_store
from storage.upkeep import verify_dataset

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = 100


def _write(uri: str, environment: dict[str, str], ready: Connection) -> None:
    os.environ.update(environment)
    open_store(uri).stat("warm/connection")
    ready.send("ready")
    storage_writer.write(uri)


def _start(uri: str) -> multiprocessing.Process:
    """A fresh process from a server that has the libraries loaded, returned at the moment it begins to write."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storage.checkpoints", "storage.reader", "storage.units", "storage.stores"])
    ours, theirs = context.Pipe()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = context.Process(target=_write, args=(uri, environment, theirs))
    process.start()
    theirs.close()
    with ours:
        assert ours.poll(60)
        assert ours.recv() == "ready"
    return process


def _contents(store: Store) -> dict[str, str]:
    return {info.key: hashlib.sha256(store.read(info.key)).hexdigest() for info in store.list()}


def _kept(contents: dict[str, str]) -> dict[str, str]:
    """Without the outdated checkpoint, which a run that was killed while forgetting it leaves to the next commit."""
    return {key: sha256 for key, sha256 in contents.items() if "/step-00000001/" not in key}


def _everything_ever_visible(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Key → sha256 of all objects of an uninterrupted run, those included that retention deletes again."""
    seen: dict[str, str] = {}
    delete = type(store).delete

    def watched(self: Store, key: str) -> None:
        seen.update(_contents(store))
        delete(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete", watched)
        storage_writer.write(store.uri)
    return seen | _contents(store)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_killed_writer_shows_nothing_broken(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_store(tmp_path / "root") if place == "folder" else request.getfixturevalue("s3_store")
    reference = root.child("reference")
    allowed = _everything_ever_visible(reference, monkeypatch)
    final = _contents(reference)
    process = _start(root.child("timing").uri)
    begin = time.monotonic()
    process.join()
    assert process.exitcode == 0
    whole = time.monotonic() - begin

    chance = random.Random(place)
    killed = runs = attempt = 0
    while killed < KILLS:
        uri = root.child(f"run-{runs}").uri
        process = _start(uri)
        begin = time.monotonic()
        process.join(chance.uniform(0, whole))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        elapsed = time.monotonic() - begin
        store = open_store(uri)
        visible = _contents(store)
        strange = {key for key, sha256 in visible.items() if allowed.get(key) != sha256}
        assert not strange, f"after kill {killed}: {strange}"
        if killed % 4 == 0:
            storage_writer.check_what_is_visible(uri, str(tmp_path / "cache"))
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            attempt += 1
        else:
            assert process.exitcode == 0
            if attempt == 0:  # the machine has become faster than when it was timed
                whole = min(whole, elapsed)
            assert _kept(visible) == _kept(final), f"the run that took {attempt + 1} attempts ended differently"
            runs, attempt = runs + 1, 0
        if attempt > 8:  # let this one finish, so that the next begins with an empty store
            process = _start(uri)
            process.join()
            assert process.exitcode == 0
            assert _kept(_contents(store)) == _kept(final)
            runs, attempt = runs + 1, 0
    print(f"{place}: {killed} kills in {runs} finished runs, an uninterrupted run takes {whole:.2f} s")
    findings = list(verify_dataset(root.child("run-0")))
    assert {finding.verdict for finding in findings} == {"ok"}, findings
    list(root.clean(0))
    assert list(root.clean(0)) == []
