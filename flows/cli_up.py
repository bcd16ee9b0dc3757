"""`instaface up` and `instaface register`: everything on one machine, and the same for a Prefect server elsewhere."""

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console

from flows.local_services import Service, Services

console = Console(highlight=False)
LOOK_SECONDS = 2.0
DISK_SECONDS = 60.0
SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Sent by every run; the automation for lost ones waits for five that are missing.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Eight tries, 2 to 256 s apart: a run survives a server that is gone for minutes.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.yml")),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Prefect runs hooks from a script whose folder holds a storage.py; first on sys.path, it would hide our storage.
    "PYTHONSAFEPATH": "1",
}
"""Of server, worker and runs, where the environment does not say otherwise."""

COMMANDS = (
    (
        "prefect deployment run finetune-identity/finetune-identity --param image_uri=embedded:portrait "
        "--param identity_id=eileen --watch"
    ),
    "prefect deployment run edit-identity/edit-identity --param identity_id=eileen --watch",
)
"""From one photograph to an identity, and from that to pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    prefect: int
    ray: int
    s3: int | None
    ray_dashboard: int | None

    def check(self) -> None:
        """Raises: ValueError for the first port that another program has, with its option."""
        from tasks.local_ray import is_free

        named = (("--port", self.prefect), ("--ray-port", self.ray), ("--ray-dashboard-port", self.ray_dashboard))
        numbers = [port for _, port in named if port is not None]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"the ports {numbers} must differ")
        for option, port in named:
            if port is not None and not is_free(port):
                raise ValueError(
                    f"the port {port} is taken by another program: stop it (is another `instaface up` running?), or choose "
                    f"another port with {option}"
                )


class Stopped(Exception):
    """Somebody asked us to stop."""


def up(
    port: Annotated[int, typer.Option(help="Prefect's server and UI")] = 4200,
    ray_port: Annotated[int, typer.Option(help="Ray")] = 6380,
    s3_port: Annotated[
        int | None, typer.Option(help="The S3 server; by default the one used before, or a free one")
    ] = None,
    ray_dashboard_port: Annotated[int | None, typer.Option(help="Ray's dashboard; none by default")] = None,
    root: Annotated[
        str | None, typer.Option(help="Where runs keep everything; the S3 server of this command by default")
    ] = None,
    gpu_slots: Annotated[int, typer.Option(help="Trainings, fine-tunes and edits at once", min=1)] = 1,
    cpu_slots: Annotated[int, typer.Option(help="Other runs at once", min=1)] = 1,
    heartbeat_window: Annotated[
        int, typer.Option(help="Seconds without a heartbeat after which a run has crashed", min=60)
    ] = 150,
) -> None:
    """Start a Prefect server, a worker, an S3 store and Ray on this machine, with all deployments; Ctrl-C stops them.

    Runs, datasets and identities stay in .instaface and are there again the next time.
    """
    ports = Ports(prefect=port, ray=ray_port, s3=s3_port, ray_dashboard=ray_dashboard_port)
    ports.check()
    home = Path(".instaface").resolve()
    try:
        with _asked_to_stop(), _surroundings(home, root, ports) as (services, where):
            _register(timedelta(seconds=heartbeat_window), gpu_slots, cpu_slots, home)
            services.start(_worker(home))
            _say(where, home)
            _watch(services, home)
    except Stopped:
        console.print("Stopped. Everything is kept in .instaface; `instaface up` goes on with it.")


def register(
    pool_type: Annotated[Literal["process", "docker", "kubernetes"], typer.Option(help="Where runs run")] = "process",
    gpu_slots: Annotated[int, typer.Option(help="Trainings, fine-tunes and edits at once", min=1)] = 1,
    cpu_slots: Annotated[int, typer.Option(help="Other runs at once", min=1)] = 1,
    heartbeat_window: Annotated[int, typer.Option(help="Seconds without a heartbeat: crashed", min=60)] = 150,
) -> None:
    """Tell the Prefect server at PREFECT_API_URL about pool, queues, deployments and automations.

    Docker and Kubernetes pools take their image from INSTAFACE_IMAGE, the namespace from INSTAFACE_NAMESPACE;
    notifications go to the webhook INSTAFACE_NOTIFY_URL.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ValueError("PREFECT_API_URL is not set: say which server, such as http://127.0.0.1:4200/api")
    needed = {"docker": ("INSTAFACE_IMAGE",), "kubernetes": ("INSTAFACE_IMAGE", "INSTAFACE_NAMESPACE")}
    for name in needed.get(pool_type, ()):
        if not os.environ.get(name):
            raise ValueError(f"{name} is not set, and a {pool_type} pool needs it")
    from flows.registration import register as register_all

    done = register_all(
        pool_type=pool_type, gpu_slots=gpu_slots, cpu_slots=cpu_slots, window=timedelta(seconds=heartbeat_window)
    )
    console.print(f"Registered {', '.join(done.deployments)}, and {done.automations} automations.")
    if not done.notifies:
        console.print("Nobody is notified: set INSTAFACE_NOTIFY_URL and register again, or look at the event feed.")


@contextmanager
def _surroundings(home: Path, root: str | None, ports: Ports) -> Iterator[tuple[Services, Mapping[str, str]]]:
    """S3, Ray and Prefect's server, and this process's environment pointing at them."""
    from tasks.local_ray import answers, ray_head
    from tasks.workspace import check_root, embedded_s3

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{ports.prefect}/api"
    os.environ.setdefault("INSTAFACE_LOG_FOLDER", str(home / "logs" / "runs"))
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    store = embedded_s3(home / "s3", ports.s3) if root is None else nullcontext()  # else a store of one's own, and its credentials
    console.print(f"Starting {'the S3 store, ' if root is None else ''}Ray and Prefect; the first time takes a minute")
    with store as bucket, Services() as services:
        os.environ["INSTAFACE_ROOT"] = check_root(root or f"{bucket}/demo")
        command, environment = ray_head(ports.ray, home / "ray", dashboard_port=ports.ray_dashboard)
        os.environ.update(environment)
        log = home / "logs"
        services.start(
            Service(name="Ray", command=command, environment={}, ready=lambda: answers(ports.ray), log=log / "ray.log")
        )
        api = os.environ["PREFECT_API_URL"]
        server = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(ports.prefect),
        ]
        services.start(
            Service(
                name="Prefect's server",
                command=server,
                environment={},
                ready=lambda: _healthy(api),
                log=log / "server.log",
            )
        )
        names = ("PREFECT_API_URL", "INSTAFACE_ROOT", *environment, *(n for n in os.environ if n.startswith("AWS_")))
        yield services, {name: os.environ[name] for name in names}


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _register(window: timedelta, gpu_slots: int, cpu_slots: int, home: Path) -> None:
    from flows.registration import give_up_orphans
    from flows.registration import register as register_all

    console.print("Registering deployments and automations")
    register_all(gpu_slots=gpu_slots, cpu_slots=cpu_slots, window=window, working_dir=home.parent)
    orphans = give_up_orphans()  # the worker is ours, and starts after this
    if orphans:
        console.print(f"{orphans} run{'s' * (orphans != 1)} of the last time had not finished and will be run again")


def _worker(home: Path) -> Service:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "instaface", "--name", "instaface"]
    return Service(
        name="the worker", command=command, environment={}, ready=lambda: True, log=home / "logs" / "worker.log",
        alone=False,
    )  # fmt: skip


def _say(where: Mapping[str, str], home: Path) -> None:
    """Addresses, and what to type next."""
    file = home / "up.env"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as written:
        written.write("".join(f"export {name}='{value}'\n" for name, value in sorted(where.items())))
    api = where["PREFECT_API_URL"]
    console.print(
        f"""
Prefect's UI    {api.removesuffix("/api")}
S3              {where["AWS_ENDPOINT_URL"]}, everything below {where["INSTAFACE_ROOT"]}
Ray             {where["RAY_ADDRESS"]}
Logs            {home / "logs"}; `instaface logs RUN` tells the story of one run

In another terminal:

    export PREFECT_API_URL={api}
    {COMMANDS[0]}
    {COMMANDS[1]}

and the pictures are at {api.removesuffix("/api")}/artifacts, and in each run's tab Artifacts.
`. {file}` is the whole environment, for `instaface run …` and S3 clients.
Ctrl-C stops everything.""",
        soft_wrap=True,
    )


def _watch(services: Services, home: Path) -> None:
    """Until somebody asks to stop: restart what dies, and look at the disk."""
    from tasks.notices import tell_disk
    from tasks.workspace import MIN_FREE_BYTES

    told, looked = None, 0.0
    while True:
        for name in services.look_after():
            console.print(f"{name} had died and was started again")
        if time.monotonic() - looked > DISK_SECONDS:
            looked = time.monotonic()
            told = tell_disk(home, full=MIN_FREE_BYTES, unless=told)
        time.sleep(LOOK_SECONDS)


@contextmanager
def _asked_to_stop() -> Iterator[None]:
    """Inside the block Ctrl-C and SIGTERM end it in order; a second one does not interrupt the stopping."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        console.print("Stopping")
        raise Stopped

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
