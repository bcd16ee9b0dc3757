"""The demo where there is no network at all: an empty network namespace, in which not even names can be resolved."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.instaface_command import private_environment

pytestmark = pytest.mark.slow
ALONE = ("unshare", "--map-root-user", "--net", "sh", "-c")
"""A network namespace of its own has nothing but a loopback interface that is down."""
PATIENCE = 400 * float(os.environ.get("INSTAFACE_TEST_PATIENCE", "1"))


def alone(command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*ALONE, f"ip link set lo up && {command}"], cwd=cwd, env=private_environment(cwd), capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A working directory, where this machine lets its users have network namespaces."""
    if shutil.which("unshare") is None or shutil.which("ip") is None or alone("true", tmp_path).returncode != 0:
        pytest.skip("this machine allows no network namespaces (unshare --map-root-user --net)")
    return tmp_path


def test_the_demo_needs_no_network(nowhere: Path) -> None:
    resolving = f"{sys.executable} -c 'import socket; socket.getaddrinfo(\"example.org\", 443)'"
    assert alone(resolving, nowhere).returncode != 0, "nothing can be reached or resolved there"
    demo = f"{sys.executable} -m flows.cli demo --photos embedded:portrait --preset debug --out report"
    done = alone(demo, nowhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (nowhere / "report" / "report.html").stat().st_size > 10_000
