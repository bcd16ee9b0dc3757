"""Preprocessing under kills and damage: actors, the flow's process; corrupt photographs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from models.images import encode_png
from storage.manifest import Manifest
from storage.stores import Store, open_store
from tasks.generation import Generation, TooManyBadRows
from tasks.ray_pool import PoolConfig, ray_session
from tasks.shard import ShardConfig, shard
from tasks.sources import SourceConfig, list_photos

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400
"""Seconds before something counts as hanging, on a machine however busy."""
pytestmark = pytest.mark.faults


def start(root: Path, seconds: float, errors: IO[str] | int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(ROOT / "tests" / "preprocess_process.py"), str(root), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid`, and their command lines."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended meanwhile
    found, fringe = {}, {pid}
    while fringe:
        fringe = {child for child, parent in parents.items() if parent in fringe and child not in found}
        found.update({child: lines[child] for child in fringe})
    return found


def named(pid: int, name: str) -> list[int]:
    return sorted(child for child, line in descendants(pid).items() if name in line)


def wait_for_units(store: Store, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while sum("/units/" in info.key for info in store.list("numbers/")) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def content(root: Path) -> dict[str, bytes]:
    """Everything that a finished generation is made of."""
    store = open_store(root)
    names = [info.key for info in store.list("numbers/")]
    manifest = next(store.read(name) for name in names if name.endswith("/manifest.json"))
    shards = {entry.name for entry in Manifest.from_json(manifest).shards}
    wanted = ("manifest.json", "status.parquet", *shards)
    return {name.rsplit("/", 1)[1]: store.read(name) for name in names if name.rsplit("/", 1)[1] in wanted}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    process = start(root, 0.0)
    assert process.wait(PATIENCE) == 0
    return content(root)


def test_actors_killed_again_and_again_leave_no_trace(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    process, kills = start(tmp_path, 0.25), 0
    wait_for_units(open_store(tmp_path), 1, process)
    while process.poll() is None:
        hosts = named(process.pid, "ray::_Host")
        if hosts:
            os.kill(hosts[kills % len(hosts)], signal.SIGKILL)
            kills += 1
        time.sleep(4)
    assert process.wait() == 0
    assert kills >= 1
    assert content(tmp_path) == undisturbed


def test_a_killed_flow_goes_on_when_it_is_run_again(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    process, store = start(tmp_path, 0.15), open_store(tmp_path)
    wait_for_units(store, 2, process)
    rows = named(process.pid, "tasks.row_process")
    assert rows
    os.kill(process.pid, signal.SIGKILL)
    try:
        assert process.wait(PATIENCE) != 0
    finally:
        process.kill()
    assert not [info for info in store.list("numbers/") if info.key.endswith("manifest.json")]
    finished = {info.key for info in store.list("numbers/") if "/units/" in info.key}
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}/cmdline").exists() and b"row_process" in _line(pid) for pid in rows):
        assert time.monotonic() < deadline, "rows are still worked on, and nobody is there to take them"
        time.sleep(0.1)
    again = start(tmp_path, 0.0)
    assert again.wait(PATIENCE) == 0
    assert finished <= {info.key for info in store.list("numbers/")}  # what was done was not done again
    assert content(tmp_path) == undisturbed


def test_a_flow_whose_ray_node_dies_says_so_and_goes_on_when_it_is_run_again(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    root, store = tmp_path / "root", open_store(tmp_path / "root")
    with (tmp_path / "errors").open("w") as errors:
        process = start(root, 1.2, errors)  # its end is seconds away when Ray notices that the node is gone
        wait_for_units(store, 1, process)
        nodes = named(process.pid, "raylet/raylet")
        assert len(nodes) == 1
        os.kill(nodes[0], signal.SIGKILL)
        try:
            assert process.wait(PATIENCE) not in (0, None)  # it ends, instead of waiting for a node that never comes
        finally:
            process.kill()
    assert "the last node of Ray died. What was finished is kept: run it again" in (tmp_path / "errors").read_text()
    finished = {info.key for info in store.list("numbers/") if "/units/" in info.key}
    assert not [info for info in store.list("numbers/") if info.key.endswith("manifest.json")]
    again = start(root, 0.0)
    assert again.wait(PATIENCE) == 0
    assert finished <= {info.key for info in store.list("numbers/")}
    assert content(root) == undisturbed


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    with ray_session(2):
        yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def photographs(folder: Path, damaged: int, count: int = 200) -> None:
    """Small aligned pictures; every damaged one is damaged in another way."""
    folder.mkdir()
    for number in range(count):
        whole = encode_png(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8))
        ways = (
            whole[: len(whole) // 10], whole[: len(whole) // 2], whole[:60], b"", b"<html>404</html>",
            whole[:100] + bytes(200) + whole[300:], b"GIF89a" + whole, whole[:8], whole[:33], b"\x89PNG\r\n\x1a\n" * 9,
        )  # fmt: skip
        data = ways[number // 20 % len(ways)] + bytes(number % 2) if number % 20 == 3 else whole
        (folder / f"{number:04d}.png").write_bytes(data if number < 20 * damaged else whole)


def align(folder: Path, root: Store) -> Generation:
    config = ShardConfig(size=64, samples_per_shard=50)
    photos = list_photos(SourceConfig(source=str(folder), layout="aligned"), root)
    return shard(config, photos, root, PoolConfig(actors=1))


def test_one_percent_of_corrupt_photographs_passes_and_five_percent_commit_nothing(
    tmp_path: Path, ray_here: None
) -> None:
    photographs(tmp_path / "one", damaged=2)
    done = align(tmp_path / "one", open_store(tmp_path / "root"))
    assert dict(done.manifest.counts) == {"ok": 198, "corrupt": 2}
    reasons = sorted(row.reason for row in done.status() if row.status != "ok")
    assert all("damaged or truncated PNG file" in reason for reason in reasons)
    assert ["0003.png" in reasons[0], "0023.png" in reasons[1]] == [True, True]
    quarantined = b"".join(done.store().read(info.key) for info in done.store().list("quarantine/"))
    assert quarantined.count(b"\n") == 2

    photographs(tmp_path / "five", damaged=10)
    root = open_store(tmp_path / "other")
    with pytest.raises(TooManyBadRows, match=r"10 of 200 inputs failed \(10 corrupt\), more than the allowed 2%"):
        align(tmp_path / "five", root)
    assert not [info for info in root.list() if info.key.endswith(("manifest.json", "status.parquet"))]
    # Why is still to be read, for each of them.
    lines = [line for i in root.list() if "/quarantine/" in i.key for line in root.read(i.key).splitlines()]
    why = {Path(row["source"]).name: row["reason"] for row in map(json.loads, lines)}
    assert len(why) == 10
    for number, name in enumerate(sorted(why)):
        known = number not in (3, 4, 6)  # one byte, a page, a GIF
        assert name in why[name]
        assert ("damaged or truncated PNG file" if known else "not a JPEG, PNG or WebP file") in why[name]
