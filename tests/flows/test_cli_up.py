"""`instaface up`, `register` and `doctor` before anything is started."""

import os
import socket
from pathlib import Path

import pytest

from tests.instaface_command import run_instaface

pytestmark = pytest.mark.slow


def test_a_taken_port_is_one_sentence_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_instaface("up", "--port", port, cwd=tmp_path)
    assert done.returncode == 1
    assert f"the port {port} is taken by another program" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_registering_needs_a_server_and_an_image(tmp_path: Path) -> None:
    nowhere = run_instaface("register", cwd=tmp_path)
    assert (nowhere.returncode, "PREFECT_API_URL is not set" in nowhere.stderr) == (1, True)
    docker = run_instaface("register", "--pool-type", "docker", cwd=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (docker.returncode, "INSTAFACE_IMAGE is not set" in docker.stderr) == (1, True)


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(tmp_path: Path) -> None:
    good = run_instaface("doctor", cwd=tmp_path, HOME=os.environ["HOME"])
    assert good.returncode == 0, good.stdout + good.stderr
    for subject in ("Python", "packages", "port of Prefect", "disk", "memory", "GPU", "preset tiny", "store"):
        assert subject in good.stdout
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bad = run_instaface(
            "doctor", "--port", str(port), cwd=tmp_path, AWS_ACCESS_KEY_ID="only-half",
            PREFECT_API_URL="http://127.0.0.1:9/api", INSTAFACE_ROOT="/proc/nowhere",
        )  # fmt: skip
    assert bad.returncode == 1
    for words in (f"{port} is taken", "only AWS_ACCESS_KEY_ID is set", "does not answer", "/proc"):
        assert words in bad.stdout, bad.stdout
    assert "only-half" not in bad.stdout, "no value of a credential is printed"
