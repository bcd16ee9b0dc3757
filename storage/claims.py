"""One worker at a time does a piece of work; whoever asks for the same work meanwhile waits for its result.

    <folder>/claims/000001.json         who claimed the work (created once, so only one can)
    <folder>/claims/000001.beat-000007  its sign of life; the newest replaces the one before
    <folder>/claims/000001.released     it gave up: the next may claim at once

A claim saves work, it does not protect a result: commits are create-once and stay correct when two workers run, which
happens when a holder is cut off for longer than `PATIENCE` and lives. Clocks are not compared: a waiter measures with its
own how long it has seen no new sign of life.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from storage.errors import Conflict, StoreUnavailable, Tombstoned
from storage.interface import Store

BEAT = 5.0
"""Seconds between signs of life."""
PATIENCE = 30.0
"""Seconds without one after which a holder counts as dead."""
POLL = 0.5
_FOLDER = "claims/"


@contextmanager
def sole_worker(
    store: Store,
    finished: Callable[[], bool],
    *,
    waiting: Callable[[], None] = lambda: None,
    beat: float = BEAT,
    patience: float = PATIENCE,
) -> Iterator[bool]:
    """Yields True to the one caller that is to do the work, False once `finished()` says another one has.

    `waiting` is called once, when another holds the claim. An exception inside the block releases the claim and passes on.

    Raises:
        Tombstoned: the work belongs to an identity that was erased meanwhile.
    """
    number = _claimed(store, finished, waiting, patience)
    if number is None:
        yield False
        return
    heart = _Heart(store, number, beat)
    heart.start()
    try:
        yield True
    except BaseException:
        heart.stop()
        _release(store, number)
        raise
    heart.stop()
    if not finished():
        _release(store, number)
    for info in list(store.list(_FOLDER)):
        store.delete(info.key)


def _claimed(store: Store, finished: Callable[[], bool], waiting: Callable[[], None], patience: float) -> int | None:
    seen, since, told = "", time.monotonic(), False
    while not finished():
        keys = [info.key for info in store.list(_FOLDER)]
        numbers = [int(key[len(_FOLDER) :].partition(".")[0]) for key in keys]
        latest = max(numbers, default=0)
        state = "|".join(key for key in keys if key.startswith(_name(latest)))
        if state != seen:
            seen, since = state, time.monotonic()
        free = latest == 0 or f"{_name(latest)}.released" in keys or time.monotonic() - since > patience
        if free:
            try:
                store.create(f"{_name(latest + 1)}.json", uuid.uuid4().hex.encode())
                return latest + 1
            except Conflict:
                continue  # another caller was faster
        if not told:
            waiting()
            told = True
        time.sleep(POLL)
    return None


def _release(store: Store, number: int) -> None:
    try:
        store.create(f"{_name(number)}.released", b"")
    except Tombstoned:
        return  # the identity is gone, and its claims with it


def _name(number: int) -> str:
    return f"{_FOLDER}{number:06d}"


class _Heart(threading.Thread):
    """Writes signs of life until it is stopped."""

    def __init__(self, store: Store, number: int, beat: float) -> None:
        super().__init__(daemon=True, name=f"claim-{number}")
        self._store, self._number, self._beat = store, number, beat
        self._stopped = threading.Event()

    def run(self) -> None:
        count = 0
        while not self._stopped.wait(self._beat):
            try:
                self._store.create(f"{_name(self._number)}.beat-{count + 1:06d}", b"")
                self._store.delete(f"{_name(self._number)}.beat-{count:06d}")
            except StoreUnavailable:
                continue  # a claim only saves work: the commit will say whether the store is gone for good
            except Tombstoned:
                return  # the commit will be refused with this very sentence
            count += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()
