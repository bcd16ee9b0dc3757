"""A pool of Ray actors that hold their models; a shard is the unit of work.

A Ray task would reload its models for every unit, and a Prefect task an image costs more than the image
(benchmarks/preprocess.md). At most `in_flight` units an actor are on their way, and results stay in the worker: it
writes its own shard and returns a row of the manifest.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from tasks.live import Mailbox
from tasks.local_ray import without_reporter
from tasks.run_log import NAMESPACE, RUN_VARIABLE
from tasks.unit_host import RowLimits

MAX_RESTARTS = 3
WATCH_SECONDS = 1.0
REPORT_TIMEOUT = 30.0

Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitIn = TypeVar("UnitIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)
Report = Callable[[Mapping[str, Any]], None]


class UnitWorker(Protocol[UnitIn, ResultOut]):
    """What an actor holds: loaded models, and one method that does one unit."""

    def process(self, unit: UnitIn) -> ResultOut: ...


class UnitFailed(RuntimeError):
    """A unit of work failed as a whole (not one of its rows)."""


class Pool(Protocol):
    """Where units are done, once there are any."""

    @property
    def gpus(self) -> float: ...

    def ready(self) -> "PoolConfig":
        """The pool, with Ray running."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """How the work is spread. It changes no result, so it is part of no digest."""

    actors: int
    """Ray actors a stage."""
    cpus: float = 1.0
    """Cores that an actor asks Ray for."""
    gpus: float = 0.0
    """Share of a GPU that an actor asks Ray for: 0.25 puts four actors on each GPU, 0 leaves everything on the CPU."""
    in_flight: int = 2
    """Units on their way to an actor at once; with two the next one is there when one is done."""
    restarts: int = 20
    """Times that a killed actor comes back, and that a unit is tried again in it."""
    limits: RowLimits = field(default_factory=RowLimits)
    """What one row may cost."""

    def __post_init__(self) -> None:
        if self.actors < 1 or self.in_flight < 1 or self.restarts < 0:
            raise ValueError(
                f"actors={self.actors}, in_flight={self.in_flight}, restarts={self.restarts}: at least one actor with "
                "one unit is needed"
            )
        if self.cpus < 0 or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"cpus={self.cpus}, gpus={self.gpus}: Ray gives shares of one GPU or whole GPUs")

    def ready(self) -> "PoolConfig":
        """Itself: Ray runs already."""
        return self


def cluster_pool(workers: int | None, gpus: float = 0.0) -> PoolConfig:
    """As many actors as Ray's cluster has cores, or as share its GPUs. Needs a `ray_session`.

    Raises:
        ValueError: shares of GPUs where Ray has none.
    """
    resources = ray.cluster_resources()
    if not gpus:
        return PoolConfig(actors=workers or max(1, int(resources.get("CPU", 1))))
    there = resources.get("GPU", 0.0)
    if not there:
        raise ValueError(f"gpus={gpus}: Ray sees no GPU on its cluster; leave gpus at 0 to work on the CPU")
    return PoolConfig(actors=workers or max(1, int(there / gpus)), gpus=gpus)


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
    run = _run()
    without_reporter()
    for last in (False, False, True):
        try:
            ray.init(
                # By itself Ray would join whatever cluster somebody once started on this machine.
                address=None if cluster else "local",
                namespace=f"{NAMESPACE}{run}",
                num_cpus=None if cluster else max(2, cpus or os.cpu_count() or 2),
                include_dashboard=None if cluster else False,
                object_store_memory=None if cluster else 256 * 1024 * 1024,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            break
        except Exception as error:  # Ray raises no narrower one: a busy machine needs more than its fixed 30 s
            ray.shutdown()
            if last or "timed out during startup" not in str(error):
                raise
    os.environ[RUN_VARIABLE] = run
    try:
        yield
    finally:
        os.environ.pop(RUN_VARIABLE, None)
        ray.shutdown()


def _run() -> str:
    """Id of the outermost flow run, or a new one: by it the lines of all processes are found."""
    from prefect.context import FlowRunContext  # Ray's processes import this module too, and need no Prefect

    context = FlowRunContext.get()
    return str(context.flow_run.id if context is not None and context.flow_run is not None else uuid.uuid4())


@dataclass(frozen=True, kw_only=True)
class PoolOnDemand:
    """A pool over all of Ray's cluster, for which Ray is started when a stage finds work to do."""

    workers: int | None
    """Actors a stage; all cores, or GPU shares, by default."""
    sessions: ExitStack
    """Ends Ray with the block that made it."""
    gpus: float = 0.0

    def ready(self) -> PoolConfig:
        """As `cluster_pool`."""
        self.sessions.enter_context(ray_session())
        return cluster_pool(self.workers, self.gpus)


class _Host:
    """One actor: builds its worker for its first unit (and again after a restart), then does units.

    The worker is not built in the constructor: what it raises (a missing asset, say) would reach the caller as a dead
    actor instead of as itself. The mailbox comes with each unit: Ray restarts actors safely only where their constructor
    was given nothing that it counts references of.
    """

    def __init__(self, make_worker: Callable[[Report | None], UnitWorker[Any, Any]]) -> None:
        self.make_worker = make_worker
        self.mailbox: Any = None
        self.worker: UnitWorker[Any, Any] | None = None

    def process(self, unit: Any, mailbox: Any) -> Any:
        self.mailbox = mailbox
        self.worker = self.worker or self.make_worker(self.report)
        return self.worker.process(unit)

    def report(self, report: Mapping[str, Any]) -> None:
        if self.mailbox is not None:
            self.mailbox.put.remote(dict(report))


def run_units(
    make_worker: Callable[[Report | None], UnitWorker[Unit, Result]],
    units: Sequence[Unit],
    pool: PoolConfig,
    *,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
) -> Iterator[Result]:
    """Do all units on the pool's actors and yield their results as they finish.

    `make_worker` is called inside each actor (it must pickle); it is given a function whose reports reach `watch`.
    Needs a `ray_session`.

    Raises:
        UnitFailed: a unit failed with an exception, or its actor died more often than actors restart.
    """
    if not units:
        return
    actor: Any = ray.remote(
        num_cpus=pool.cpus, num_gpus=pool.gpus, max_restarts=pool.restarts, max_task_retries=pool.restarts
    )(_Host)
    mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote() if watch else None
    hosts = [actor.remote(make_worker) for _ in range(max(1, min(pool.actors, len(units))))]
    waiting = list(reversed(units))
    running: dict[Any, tuple[Any, Unit]] = {}
    try:
        for _ in range(pool.in_flight):
            for host in hosts:
                if waiting:
                    unit = waiting.pop()
                    running[host.process.remote(unit, mailbox)] = (host, unit)
        while running:
            finished, _ = ray.wait(list(running), num_returns=1, timeout=WATCH_SECONDS)
            if not finished:
                _refuse_dead_cluster()
            if mailbox is not None and watch is not None and not _forward(mailbox, watch):
                mailbox = None
            for done in finished:
                host, unit = running.pop(done)
                if waiting:
                    successor = waiting.pop()
                    running[host.process.remote(successor, mailbox)] = (host, successor)
                yield _result(done, unit, pool.restarts)
    finally:
        for host in filter(None, (*hosts, mailbox)):
            ray.kill(host)


def _forward(mailbox: Any, watch: Callable[[Mapping[str, Any]], None]) -> bool:
    """Pass on what the mailbox holds; False where it is gone with its node: the work goes on, unreported."""
    try:
        for report in ray.get(mailbox.take.remote(), timeout=REPORT_TIMEOUT):
            watch(report)
    except GetTimeoutError:
        _refuse_dead_cluster()  # else only slow
    except RayActorError:
        return False
    return True


def _refuse_dead_cluster() -> None:
    """Without a living node Ray would wait for one for ever."""
    if not any(node["Alive"] for node in ray.nodes()):
        raise UnitFailed("the last node of Ray died. What was finished is kept: run it again")


def run_remote(function: Callable[..., Result], *arguments: Any, gpu: bool = False) -> Result:
    """Run a function in a Ray process of its own and wait for it; what it raises is raised here as itself.

    Raises:
        ValueError: `gpu`, and no node of the cluster has one; Ray would wait for one for ever.
    """
    if gpu and not ray.cluster_resources().get("GPU"):
        raise ValueError(
            "this preset works on a GPU and no node of the Ray cluster has one: choose preset tiny, or join a node with a GPU"
        )
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0, max_retries=MAX_RESTARTS)(function)
    try:
        result: Result = ray.get(remote.remote(*arguments))
    except RayTaskError as error:
        raise error.cause from error
    return result


def _result(reference: Any, unit: object, restarts: int) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise UnitFailed(f"{unit}: {error.cause}") from error.cause
    except RayActorError as error:
        _refuse_dead_cluster()  # actors may be seen to die before their node is
        raise UnitFailed(f"{unit}: the process that worked on it died {restarts + 1} times: {error}") from error
