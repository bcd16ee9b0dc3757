"""One line format, found again by the run's id; and calls that outlive a server."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tasks import reachable
from tasks.notices import DISK_FULL, DISK_LOW, tell_disk, tell_quarantine
from tasks.run_log import LineFormatter, RunFile, as_text, fields, read_run

SAY = """
import sys
from tasks.run_log import say
say("maps", "unit finished", shard=int(sys.argv[1]), rows=8, ok=7)
"""


@pytest.fixture(autouse=True)
def outside_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows that ran in this process before leave Prefect's variable behind."""
    for name in ("INSTAFACE_RUN", "PREFECT__FLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("instaface", logging.INFO, "f.py", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_lines_of_many_processes_are_one_story(tmp_path: Path) -> None:
    environment = {"INSTAFACE_RUN": "0123-run", "INSTAFACE_LOG_FOLDER": str(tmp_path), "INSTAFACE_LOG_FORMAT": "json"}
    processes = [
        subprocess.Popen([sys.executable, "-c", SAY, str(n)], env=environment, stderr=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in processes]
    lines = read_run(tmp_path, "0123")
    assert sorted(line["shard"] for line in lines) == [0, 1, 2]
    assert {line["run"] for line in lines} == {"0123-run"}
    assert [json.loads(text)["stage"] for text in said] == ["maps"] * 3, "collectors read the same lines on stderr"
    assert as_text(lines[0]).endswith(
        f"info run=0123-run stage=maps shard={lines[0]['shard']} rows=8 ok=7 unit finished"
    )


def test_lines_of_prefect_have_the_same_fields() -> None:
    line = fields(record("Finished", flow_run_id="abc", flow_name="train-stage1", task_run_name="train-stage1-a1b"))
    assert (line["run"], line["flow"], line["stage"]) == ("abc", "train-stage1", "train-stage1")
    assert json.loads(LineFormatter("json").format(record("two\nlines", flow_run_id="abc")))["message"] == "two\nlines"


def test_a_line_without_a_run_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAFACE_LOG_FOLDER", str(tmp_path))
    RunFile().emit(record("of nobody"))
    RunFile().emit(record("of a run", flow_run_id="abc"))
    assert [file.name for file in tmp_path.iterdir()] == ["abc.jsonl"]
    with pytest.raises(ValueError, match="holds 0 runs that begin with 'x'"):
        read_run(tmp_path, "x")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="choose text or json"):
        LineFormatter("xml")


def test_progress_is_left_out_and_results_wait_while_the_server_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "FIRST_WAIT", 0.01)
    calls: list[int] = []

    def flaky(good_after: int) -> int:
        calls.append(1)
        if len(calls) <= good_after:
            with httpx.Client() as client:
                client.get("http://127.0.0.1:9/health")  # nobody listens there
        return len(calls)

    assert reachable.if_reachable(flaky, 1) is None
    calls.clear()
    assert reachable.when_reachable(flaky)(2) == 3
    monkeypatch.setattr(reachable, "PATIENCE", 0.0)
    calls.clear()
    with pytest.raises(httpx.ConnectError):
        reachable.when_reachable(flaky)(99)


def test_errors_of_our_own_are_not_taken_for_an_outage() -> None:
    def wrong() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        reachable.if_reachable(wrong)
    with pytest.raises(RuntimeError, match="a mistake"):
        reachable.when_reachable(wrong)()


def test_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("tasks.notices.emit_event", lambda event, resource, payload: told.append(payload["sentence"]))
    assert not tell_quarantine("maps", "s3://b/maps/1", {"ok": 95, "no_face": 5})
    assert tell_quarantine("maps", "s3://b/maps/1", {"ok": 80, "no_face": 15, "corrupt": 5})
    assert told == ["20 of 100 rows of s3://b/maps/1 cannot be used (5 corrupt, 15 no_face)"]
    assert tell_disk(tmp_path, low=0, full=0) is None
    assert tell_disk(tmp_path, low=1 << 60, full=0) == DISK_LOW
    assert tell_disk(tmp_path / "not" / "yet", low=1 << 60, full=1 << 59, unless=DISK_LOW) == DISK_FULL
    assert tell_disk(tmp_path, low=1 << 60, full=1 << 59, unless=DISK_FULL) == DISK_FULL
    assert len(told) == 3, "the same is not told twice"
