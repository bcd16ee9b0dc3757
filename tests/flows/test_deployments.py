"""The documented commands against a real Prefect server and worker: deploy, run, refuse."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "preprocess-ffhq", "redrive-quarantine", "train-stage1", "finetune-identity", "edit-identity", "erase-identity",
    "evaluate", "rerun-crashed",
]  # fmt: skip

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prefect:
    """A server and a worker of their own, and the command line that talks to them."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AWS_", "INSTAFACE_", "RAY_"))
        }
        self.environment = {
            **inherited, "PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "INSTAFACE_ROOT": str(home / "store"), "INSTAFACE_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }  # fmt: skip
        (home / "prefect").mkdir(parents=True)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> None:
        log = (self.home / f"{arguments[0]}.log").open("wb")
        command = [sys.executable, "-m", "prefect", *arguments]
        self.processes.append(
            subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        )

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=cwd or self.home, env=self.environment, capture_output=True, text=True,
            timeout=400, check=False,
        )  # fmt: skip

    def states(self, flow: str, identity: str) -> list[str]:
        """States of the runs of a flow whose parameters name an identity."""
        query = json.dumps({"flows": {"name": {"any_": [flow]}}}).encode()
        request = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}/flow_runs/filter",
            data=query,
            headers={"Content-Type": "application/json"},
        )
        runs = json.loads(urllib.request.urlopen(request, timeout=10).read())
        return [run["state_type"] for run in runs if run["parameters"].get("identity_id") == identity]

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.environment['PREFECT_API_URL']}/health", timeout=2).read()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError((self.home / "server.log").read_text())

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    running = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        running.start("server", "start", "--host", "127.0.0.1", "--port", str(running.port))
        running.wait_until_healthy()
        pool = running.run("prefect", "work-pool", "create", "--type", "process", "instaface")
        assert pool.returncode == 0, pool.stderr
        deployed = running.run("prefect", "--no-prompt", "deploy", "--all", cwd=ROOT)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        running.start("worker", "start", "--pool", "instaface")
        yield running
    finally:
        running.stop()


def test_flow_and_deployment_share_their_name() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [one["name"] for one in deployments] == NAMES
    for one in deployments:
        module, function = one["entrypoint"].rsplit(".", 1)
        assert one["name"] == function.replace("_", "-") == module.split(".")[1].replace("_", "-")


def test_the_documented_commands_make_an_identity_and_its_edits(prefect: Prefect) -> None:
    for flow in ("preprocess-ffhq", "train-stage1"):
        done = prefect.run("flows.cli", "run", flow, "-p", "preset=debug")
        assert done.returncode == 0, done.stderr
    finetune = prefect.run(
        "prefect", "deployment", "run", "finetune-identity/finetune-identity", "--param", "image_uri=embedded:portrait",
        "--param", "identity_id=eileen", "--param", "preset=debug", "--watch",
    )  # fmt: skip
    assert finetune.returncode == 0, finetune.stdout + finetune.stderr + (prefect.home / "worker.log").read_text()
    edits = json.dumps([{"name": "left", "yaw": -20, "light": "left"}])
    edit = prefect.run(
        "prefect", "deployment", "run", "edit-identity/edit-identity", "--param", "identity_id=eileen",
        "--param", f"edits={edits}", "--param", "preset=debug", "--watch",
    )  # fmt: skip
    assert edit.returncode == 0, edit.stdout + edit.stderr + (prefect.home / "worker.log").read_text()
    assert len(list((prefect.home / "store" / "identities" / "eileen").glob("*/record.json"))) == 1
    manifests = list((prefect.home / "store" / "identities" / "eileen").glob("*/edits/*/record.json"))
    assert [image["name"] for image in json.loads(manifests[0].read_text())["facts"]["images"]] == ["left"]


def test_five_submissions_at_once_train_once_and_an_erasure_leaves_nothing(prefect: Prefect) -> None:
    """Needs the stage-1 model of the test before."""
    submit = (
        "prefect", "deployment", "run", "finetune-identity/finetune-identity", "--param", "image_uri=embedded:portrait",
        "--param", "identity_id=five", "--param", "preset=debug", "--param", "seed=5",
    )  # fmt: skip
    for _ in range(5):
        submitted = prefect.run(*submit)
        assert submitted.returncode == 0, submitted.stderr
    deadline = time.monotonic() + 500
    while (states := prefect.states("finetune-identity", "five")) != ["COMPLETED"] * 5:
        assert time.monotonic() < deadline, states
        assert not {"FAILED", "CRASHED"} & set(states), (prefect.home / "worker.log").read_text()
        time.sleep(2)
    home = prefect.home / "store" / "identities" / "five"
    assert len(list(home.rglob("record.json"))) == 1
    assert not list(home.rglob("claims/*"))

    erased = prefect.run(
        "prefect", "deployment", "run", "erase-identity/erase-identity", "--param", "identity_id=five", "--param",
        "reason=asked", "--watch",
    )  # fmt: skip
    assert erased.returncode == 0, erased.stdout + (prefect.home / "worker.log").read_text()
    assert not home.exists() or not list(home.rglob("*"))
    assert prefect.states("finetune-identity", "five") == [], "no run names the identity any more"
    receipts = list((prefect.home / "store" / "erasures" / "receipts").glob("*.json"))
    receipt = json.loads(receipts[0].read_text())
    assert receipt["remaining"] == 0
    assert receipt["runs"]["runs"] == 7, "five fine-tunes, the preprocessing of that photograph, the erasure itself"
    assert receipt["runs"]["artifacts_deleted"] >= 5


@pytest.mark.parametrize("uri", ["http://169.254.169.254/face.jpg", "s3://bucket/", "s3://bucket/x.svg", ""])
def test_the_api_refuses_a_bad_image_uri_before_a_run_exists(prefect: Prefect, uri: str) -> None:
    def runs() -> int:
        request = urllib.request.Request(
            f"{prefect.environment['PREFECT_API_URL']}/flow_runs/count",
            data=b"{}",
            headers={"Content-Type": "application/json"},
        )
        return int(urllib.request.urlopen(request, timeout=10).read())

    before = runs()
    refused = prefect.run(
        "prefect", "deployment", "run", "finetune-identity/finetune-identity", "--param", f"image_uri={uri}"
    )
    assert refused.returncode != 0
    assert "image_uri" in refused.stdout + refused.stderr
    assert runs() == before
