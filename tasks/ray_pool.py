"""A pool of Ray actors that hold their models; a shard is the unit of work.

A Ray task would reload its models for every unit, and a Prefect task an image costs more than the image
(benchmarks: docs/log.md). At most two units an actor are in flight, and results stay in the worker: it writes
its own shard and returns a row of the manifest.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

IN_FLIGHT_PER_ACTOR = 2
MAX_RESTARTS = 3

Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitIn = TypeVar("UnitIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class UnitWorker(Protocol[UnitIn, ResultOut]):
    """What an actor holds: loaded models, and one method that does one unit."""

    def process(self, unit: UnitIn) -> ResultOut: ...


class UnitFailed(RuntimeError):
    """A unit of work failed as a whole (not one of its rows)."""


@contextmanager
def ray_session(cpus: int | None = None) -> Iterator[None]:
    """Ray for the duration of a block: the cluster at RAY_ADDRESS, or a local one on this machine's cores.

    Inside an already connected process it does nothing, so flows nest.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Actors ask for whole CPUs; on a machine with one core two logical ones keep a trainer and its driver from waiting
    # for each other.
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    ray.init(
        num_cpus=None if cluster else max(2, cpus or os.cpu_count() or 2),
        include_dashboard=None if cluster else False,
        object_store_memory=None if cluster else 256 * 1024 * 1024,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


class _Host:
    """One actor: builds its worker for its first unit (and again after a restart), then does units.

    The worker is not built in the constructor: what it raises (a missing asset, say) would reach the caller as a dead
    actor instead of as itself.
    """

    def __init__(self, make_worker: Callable[[], UnitWorker[Any, Any]]) -> None:
        self.make_worker = make_worker
        self.worker: UnitWorker[Any, Any] | None = None

    def process(self, unit: Any) -> Any:
        self.worker = self.worker or self.make_worker()
        return self.worker.process(unit)


def run_units(
    make_worker: Callable[[], UnitWorker[Unit, Result]], units: Sequence[Unit], *, workers: int
) -> Iterator[Result]:
    """Do all units on `workers` actors and yield their results as they finish.

    `make_worker` is called inside each actor (it must pickle). Needs a `ray_session`.

    Raises:
        UnitFailed: a unit failed with an exception, or killed its actor more often than actors restart.
    """
    if not units:
        return
    actor: Any = ray.remote(num_cpus=1, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)(_Host)
    hosts = [actor.remote(make_worker) for _ in range(max(1, min(workers, len(units))))]
    waiting = list(reversed(units))
    running: dict[Any, tuple[Any, Unit]] = {}
    try:
        for _ in range(IN_FLIGHT_PER_ACTOR):
            for host in hosts:
                if waiting:
                    unit = waiting.pop()
                    running[host.process.remote(unit)] = (host, unit)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            host, unit = running.pop(done)
            if waiting:
                successor = waiting.pop()
                running[host.process.remote(successor)] = (host, successor)
            yield _result(done, unit)
    finally:
        for host in hosts:
            ray.kill(host)


def run_remote(function: Callable[..., Result], *arguments: Any, gpu: bool = False) -> Result:
    """Run a function in a Ray process of its own and wait for it; what it raises is raised here as itself."""
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0, max_retries=MAX_RESTARTS)(function)
    try:
        result: Result = ray.get(remote.remote(*arguments))
    except RayTaskError as error:
        raise error.cause from error
    return result


def _result(reference: Any, unit: object) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise UnitFailed(f"{unit}: {error.cause}") from error.cause
    except RayActorError as error:
        raise UnitFailed(f"{unit}: the process that worked on it died {MAX_RESTARTS + 1} times: {error}") from error
