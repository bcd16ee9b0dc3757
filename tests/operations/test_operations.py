"""Everything on one machine, used and broken as users and machines do: real Prefect, Ray, S3 and Chromium.

The tests share one `instaface up` and build on each other, in the order in which they stand here.
"""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tests.operations.browser import PROGRAM, Browser
from tests.operations.conftest import CANARY, TOKEN, Webhook
from tests.operations.up_process import OUTSIDE, PATIENCE, WINDOW, Up, kill

pytestmark = [pytest.mark.slow, pytest.mark.faults]
REPORTS = os.environ.get("INSTAFACE_SCREENSHOTS")
"""A folder for pictures of the UI, to be looked at."""


def documented(up: Up) -> list[list[str]]:
    """The commands that `up` prints."""
    return [shlex.split(line) for line in up.said.splitlines() if line.strip().startswith("prefect deployment run")]


def records(up: Up, place: str) -> list[str]:
    """Names of the finished records below a place of the store."""
    code = "import sys; from storage.stores import open_store as o\nfor i in o(sys.argv[1]).list(): print(i.key)"
    environment = dict(
        line.removeprefix("export ").replace("'", "").split("=", 1)
        for line in (up.home / ".instaface" / "up.env").read_text().splitlines()
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{environment['INSTAFACE_ROOT']}/{place}"], env={**up.environment, **environment},
        capture_output=True, text=True, check=True, timeout=60 * PATIENCE,
    )  # fmt: skip
    return done.stdout.split()


def test_the_two_printed_commands_make_an_identity_and_its_edits(up: Up) -> None:
    commands = documented(up)
    assert len(commands) == 2
    for command in commands:
        assert command[-1] == "--watch"
        done = up.command(*command[:-1], "--param", "preset=debug", "--watch")
        assert done.returncode == 0, done.stdout[-2000:] + up.log("worker")[-3000:]
    assert len([name for name in records(up, "identities/eileen") if name.endswith("record.json")]) == 2


@dataclass
class Lost:
    """A run whose worker and process were killed, and when."""

    run: str
    at: datetime


@pytest.fixture(scope="module")
def lost(up: Up) -> Lost:
    """Killed before the tests that need no slot for GPU work, which pass the time until it is noticed."""
    run = up.submit("finetune-identity", image_uri="embedded:portrait", identity_id="lost", seed=9)
    up.at_work(run, "finetune")
    kill([*up.find("prefect", "worker", "start"), *up.find("prefect.engine", run=run)])
    return Lost(run, datetime.now(UTC))


def test_a_dead_worker_is_started_again(up: Up, lost: Lost) -> None:
    up.until(lambda: up.find("prefect", "worker", "start"), 30)
    assert "the worker had died and was started again" in up.said
    assert up.state(lost.run) == "RUNNING", "nobody has noticed yet"


@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")
def test_the_pictures_are_in_the_ui(up: Up, tmp_path: Path) -> None:
    """As a person finds them: the run's page, then the artifact with the pictures, drawn."""
    artifacts = {one["key"]: one for one in up.ask("/artifacts/latest/filter", {})}
    shots = Path(REPORTS) if REPORTS else tmp_path
    with Browser(tmp_path / "profile") as browser:
        for key, smallest in (("identity", 500), ("edits", 300)):
            page = f"http://127.0.0.1:{up.port}/artifacts/artifact/{artifacts[key]['latest_id']}"
            browser.open(page)
            drawn = "[...document.images].filter(i => i.complete && i.src.startsWith('data:')).map(i => i.naturalWidth)"
            drawn = f"Math.max(0, ...{drawn})"
            assert browser.wait(drawn) >= smallest, key
            browser.photograph(shots / f"{key}.png")
        browser.open(f"http://127.0.0.1:{up.port}/runs")
        browser.wait("document.body.innerText.includes('finetune-identity')")
        browser.photograph(shots / "runs.png")
        browser.open(f"http://127.0.0.1:{up.port}/deployments")
        browser.wait("document.body.innerText.includes('redrive-quarantine')")
        browser.photograph(shots / "deployments.png")
        deployment = up.ask("/deployments/name/finetune-identity/finetune-identity")["id"]
        browser.open(f"http://127.0.0.1:{up.port}/deployments/deployment/{deployment}/run")
        browser.wait("document.body.innerText.includes('One photograph: s3://bucket/key.jpg or a local file')")
        browser.photograph(shots / "form.png")


def test_one_id_tells_the_story_of_a_run(up: Up) -> None:
    """Lines of the worker, of Prefect, of Ray's processes and of the trainer, with stage and shard, in one command."""
    run = next(
        one
        for one in up.ask("/flow_runs/filter", {})
        if one["parameters"].get("identity_id") == "eileen" and one["tags"]
    )
    first = min(
        (one for one in up.ask("/flow_runs/filter", {}) if one["parameters"].get("image_uri")),
        key=lambda one: one["created"],
    )
    assert run["state_type"] == "COMPLETED"
    done = up.command("flows.cli", "logs", first["id"], "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["run"] for line in lines} == {first["id"]}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert {"images", "maps", "features", "train", "finetune"} <= {line.get("stage") for line in lines}
    assert any(line.get("shard") == 0 and line["message"] == "unit finished" for line in lines), "of an actor"
    assert any(line["message"] == "rank ready" for line in lines), "of a trainer"
    assert any("Completed" in line["message"] for line in lines), "of Prefect"
    assert len({line["process"] for line in lines}) >= 4
    text = up.command("flows.cli", "logs", first["id"][:13]).stdout
    assert re.search(r"^\S+Z info run=\S+ .*stage=maps .*unit finished$", text, re.MULTILINE)


@pytest.mark.parametrize("uri", ["http://169.254.169.254/face.jpg", "s3://bucket/", "s3://bucket/x.svg", ""])
def test_the_api_refuses_a_bad_image_uri_before_a_run_exists(up: Up, uri: str) -> None:
    fine_tunes = {"flows": {"name": {"any_": ["finetune-identity"]}}}  # a schedule makes runs of its own at any time
    before = up.ask("/flow_runs/count", fine_tunes)
    with pytest.raises(urllib.error.HTTPError) as refused:
        up.submit("finetune-identity", image_uri=uri)
    assert refused.value.code == 409
    assert "image_uri" in refused.value.read().decode()
    assert up.ask("/flow_runs/count", fine_tunes) == before


TELLING = """
from pathlib import Path
from prefect.events.worker import EventsWorker
from tasks.notices import EVALUATION_REGRESSION, tell, tell_disk, tell_quarantine
tell(EVALUATION_REGRESSION, "tiny", "identity 0.8 → 0.6")
assert tell_quarantine("maps", "s3://b/maps/1", {"ok": 80, "no_face": 20})
assert tell_disk(Path.cwd(), low=1 << 60, full=0)
assert tell_disk(Path.cwd(), low=1 << 60, full=1 << 60)
EventsWorker.instance().drain()
"""


def test_what_a_person_should_hear_of_is_told_to_the_webhook(up: Up, webhook: Webhook) -> None:
    """And on a full disk no new run starts until somebody says so."""
    environment = {**up.environment, "PREFECT_API_URL": up.api, "PREFECT_HOME": str(up.home / "client")}
    subprocess.run([sys.executable, "-c", TELLING], env=environment, cwd=up.home, check=True, timeout=60 * PATIENCE)
    up.until(lambda: len(webhook.received) >= 4, 60)
    texts = sorted(one["text"] for one in webhook.received)
    assert [text.splitlines()[0] for text in texts] == [
        "InstaFace: instaface.disk.full", "InstaFace: instaface.disk.low", "InstaFace: instaface.evaluation.regression",
        "InstaFace: instaface.quarantine.high",
    ]  # fmt: skip
    assert texts[2].endswith("tiny: identity 0.8 → 0.6")
    assert texts[3].endswith("maps: 20 of 100 rows of s3://b/maps/1 cannot be used (20 no_face)")

    def paused(queue: str) -> bool:
        return bool(up.ask(f"/work_pools/instaface/queues/{queue}")["is_paused"])

    for queue in ("default", "gpu"):
        up.until(lambda queue=queue: paused(queue), 60)
        resumed = up.command("prefect", "work-queue", "resume", queue, "--pool", "instaface")
        assert resumed.returncode == 0, resumed.stderr
        assert not paused(queue)
    assert not paused("upkeep"), "an erasure frees space"


def test_a_lost_run_is_noticed_and_done_again(up: Up, lost: Lost) -> None:
    assert up.ended(lost.run) == "CRASHED"
    noticed = datetime.fromisoformat(up.run(lost.run)["state"]["timestamp"])
    assert (noticed - lost.at).total_seconds() < WINDOW + 30 * PATIENCE
    again = up.until(lambda: up.reruns_of(lost.run), 120)
    assert up.ended(again[0]["id"]) == "COMPLETED"
    assert len([name for name in records(up, "identities/lost") if name.endswith("record.json")]) == 1


def test_a_killed_flow_process_is_run_again_and_leaves_one_result(up: Up) -> None:
    run = up.submit("finetune-identity", image_uri="embedded:portrait", identity_id="killed", seed=7)
    up.at_work(run, "finetune")
    kill(up.find("prefect.engine", run=run))
    began = time.monotonic()
    assert up.ended(run) == "CRASHED"
    again = up.until(lambda: up.reruns_of(run), 120)
    assert time.monotonic() - began < 120 * PATIENCE
    assert again[0]["parameters"] == up.run(run)["parameters"]
    assert up.ended(again[0]["id"]) == "COMPLETED"
    assert len(up.reruns_of(run)) == 1
    assert len([name for name in records(up, "identities/killed") if name.endswith("record.json")]) == 1


def test_a_cancelled_training_stops_its_processes_and_publishes_nothing(up: Up) -> None:
    """Cancelled through the API, as the UI does."""
    before = set(records(up, "stage1"))
    run = up.submit("train-stage1", steps=500)
    up.at_work(run, "train-stage1")
    up.until(lambda: "rank ready" in up.command("flows.cli", "logs", run).stdout, 120)
    up.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert up.ended(run) == "CANCELLED"
    assert not up.find("prefect.engine", run=run)

    def actors() -> list[str]:
        found = [psutil.Process(one.pid).children(recursive=True) for one in up.find("raylet", "--raylet_socket_name")]
        lines = [" ".join(child.cmdline()) for children in found for child in children if child.is_running()]
        return [line for line in lines if line.startswith("ray::") and re.search("Rank|Train|Mailbox|_Host", line)]

    up.until(lambda: not actors(), 60)
    left = set(records(up, "stage1")) - before
    assert not any(name.endswith("record.json") for name in left)
    assert up.reruns_of(run) == []


def test_five_fine_tunes_and_one_slot_run_one_at_a_time(up: Up) -> None:
    runs = [up.submit("finetune-identity", image_uri="embedded:portrait", identity_id="five", seed=5) for _ in range(5)]
    up.until(lambda: all(up.state(run) == "COMPLETED" for run in runs), 400)
    times = sorted((up.run(run)["start_time"], up.run(run)["end_time"]) for run in runs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times)), times
    assert len([name for name in records(up, "identities/five") if name.endswith("record.json")]) == 1


def test_an_erasure_leaves_nothing_of_a_person(up: Up) -> None:
    """Of the five runs before: no object, no parameter, no artifact."""
    erased = up.command(
        "prefect", "deployment", "run", "erase-identity/erase-identity", "--param", "identity_id=five", "--param",
        "reason=asked", "--watch",
    )  # fmt: skip
    assert erased.returncode == 0, erased.stdout + up.log("worker")[-3000:]
    assert records(up, "identities/five") == []
    runs = up.ask("/flow_runs/filter", {})
    assert not [run for run in runs if "five" in json.dumps(run["parameters"])], "no run names the identity any more"
    blanked = [run["id"] for run in runs if "[erased]" in json.dumps(run["parameters"])]
    assert len(blanked) >= 6, "five fine-tunes and the erasure itself"
    assert (
        up.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": blanked}, "key": {"any_": ["identity"]}}})
        == []
    )
    assert len(records(up, "erasures/receipts")) == 1


def test_state_survives_a_restart_and_nothing_stays_behind(up: Up) -> None:
    # Registering again replaces the runs that a schedule has in store.
    names = {one["name"] for one in up.ask("/flow_runs/filter", {}) if not one["auto_scheduled"]}
    assert names
    assert up.stop() == 0
    assert [process.cmdline() for process in up.processes()] == []
    up.start(window=150)
    assert {one["name"] for one in up.ask("/flow_runs/filter", {}) if not one["auto_scheduled"]} == names
    assert [name for name in records(up, "identities/eileen") if name.endswith("record.json")]
    assert len(up.ask("/automations/filter", {})) == 7, "registering again makes no second ones"


def test_a_run_outlives_its_server(up: Up) -> None:
    """The server is gone for a minute while a fine-tune is under way; `up`, which would start it again, is held meanwhile."""
    run = up.submit("finetune-identity", image_uri="embedded:portrait", identity_id="patient", seed=11, steps=40)
    up.at_work(run, "finetune")
    assert up.process is not None
    up.process.send_signal(signal.SIGSTOP)
    try:
        kill(up.find("prefect", "server", "start") + up.find("uvicorn", "prefect.server"))
        time.sleep(40)
    finally:
        up.process.send_signal(signal.SIGCONT)

    def back() -> bool:
        try:
            return bool(up.ask("/health"))
        except OSError:
            return False

    up.until(back, 120)
    assert up.ended(run) == "COMPLETED"
    assert up.run(run)["run_count"] == 1
    assert len([name for name in records(up, "identities/patient") if name.endswith("record.json")]) == 1
    pictures = up.ask(
        "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["identity"]}}}
    )
    assert len(pictures) == 1


def test_secrets_are_nowhere(up: Up) -> None:
    """Not in Prefect's database, in logs, artifacts, manifests or Ray's session; the S3 key only where it is kept."""
    keys = json.loads((up.home / ".instaface" / "s3" / "server.json").read_text())
    allowed = {keys["secret_key"]: {"server.json", "up.env"}}
    began = (up.home / "outside").stat().st_mtime
    folders = [up.home, *(one for one in Path("/tmp/ray").glob("session_2*") if one.stat().st_mtime > began)]
    looked = 0
    for file in (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        data = file.read_bytes()
        looked += len(data)
        for secret in (CANARY, TOKEN, keys["secret_key"]):
            if secret.encode() in data:
                assert file.name in allowed.get(secret, ()), f"{secret} is in {file}"
    assert looked > 1_000_000


def test_nothing_was_asked_of_the_world_outside(up: Up) -> None:
    """The guard refuses, in every Python process of all tests above, whatever is not this machine; first that it does."""
    probe = up.home / "probe.log"
    code = "import urllib.request as u; u.urlopen('http://example.com/', timeout=5)"
    environment = {**up.environment, "INSTAFACE_OUTSIDE_LOG": str(probe), "PYTHONPATH": str(OUTSIDE)}
    refused = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "example.com" in probe.read_text()
    attempts = (up.home / "outside.log").read_text() if (up.home / "outside.log").exists() else ""
    assert attempts == ""
    # Ray's own processes speak through the address of a network card; that is this machine, too.
    own = {address.address for card in psutil.net_if_addrs().values() for address in card}
    for process in up.processes():
        for connection in process.net_connections("inet"):
            other = connection.raddr.ip.removeprefix("::ffff:") if connection.raddr else "127.0.0.1"
            assert other.startswith(("127.", "::1")) or other in own, (other, process.cmdline())
