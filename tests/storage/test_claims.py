"""Claims: one works, the others wait; a dead holder is succeeded, a failed one at once."""

import threading
import time
from pathlib import Path

import pytest

from storage.claims import sole_worker
from storage.errors import Tombstoned
from storage.identities import IdentityStore
from storage.interface import Store
from storage.stores import open_store


def _work(store: Store, ran: list[int], number: int, *, seconds: float = 0.3, patience: float = 5.0) -> None:
    def finished() -> bool:
        return store.stat("result.json") is not None

    with sole_worker(store, finished, beat=0.1, patience=patience) as mine:
        if mine:
            ran.append(number)
            time.sleep(seconds)
            store.create("result.json", b"{}")


def test_five_at_once_work_once(tmp_path: Path) -> None:
    ran: list[int] = []
    threads = [threading.Thread(target=_work, args=(open_store(tmp_path), ran, n)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 1
    assert [info.key for info in open_store(tmp_path).list()] == ["result.json"], "claims are cleared away"


def test_a_finished_result_needs_no_claim(tmp_path: Path) -> None:
    store, ran = open_store(tmp_path), list[int]()
    store.create("result.json", b"{}")
    _work(store, ran, 0)
    assert ran == []


def test_a_dead_holder_is_succeeded_after_the_patience(tmp_path: Path) -> None:
    store, ran = open_store(tmp_path), list[int]()
    store.create("claims/000001.json", b"a worker that was killed")
    store.create("claims/000001.beat-000003", b"")
    started = time.monotonic()
    _work(store, ran, 7, patience=0.8)
    assert ran == [7]
    assert time.monotonic() - started > 0.8


def test_a_living_holder_is_waited_for_beyond_the_patience(tmp_path: Path) -> None:
    store, ran = open_store(tmp_path), list[int]()
    holder = threading.Thread(target=_work, args=(store, ran, 1), kwargs={"seconds": 2.0, "patience": 0.7})
    holder.start()
    time.sleep(0.3)
    _work(store, ran, 2, patience=0.7)
    holder.join()
    assert ran == [1]


def test_a_failed_holder_frees_the_work_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def fail() -> None:
        with sole_worker(store, lambda: False) as mine:
            assert mine
            raise FloatingPointError("the loss is nan")

    with pytest.raises(FloatingPointError):
        fail()
    ran: list[int] = []
    started = time.monotonic()
    _work(store, ran, 3, seconds=0, patience=60)
    assert ran == [3]
    assert time.monotonic() - started < 10


def test_waiting_is_told_once(tmp_path: Path) -> None:
    store, told, ran = open_store(tmp_path), list[str](), list[int]()
    holder = threading.Thread(target=_work, args=(store, ran, 1), kwargs={"seconds": 1.2})
    holder.start()
    time.sleep(0.2)
    with sole_worker(store, lambda: store.stat("result.json") is not None, waiting=lambda: told.append("x")) as mine:
        assert not mine
    holder.join()
    assert told == ["x"]


def test_an_erased_identity_is_not_claimed_again(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    identities = IdentityStore(root)
    home = identities.home("ada").child("abc")

    def claim_and_be_erased() -> None:
        with sole_worker(home, lambda: False, beat=0.05) as mine:
            assert mine
            identities.erase("ada", reason="asked", time="2026-01-01T00:00:00Z")
            time.sleep(0.2)
            home.create("record.json", b"{}")

    for _ in range(2):  # the running worker, and a late retry
        with pytest.raises(Tombstoned):
            claim_and_be_erased()
        assert [info.key for info in root.list("identities/")] == []
