"""The command line: parameters, and one clear sentence with exit status 1 for what a user can mend."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli import parse_parameters
from tasks.workspace import NotEnoughDisk, require_free_space
from tests.instaface_command import run_instaface


def test_values_are_json_or_text() -> None:
    pairs = ["image_uri=s3://b/a=b.jpg", "steps=5", 'edits=[{"yaw": 3}]', "identity_id=anna", "root=null"]
    assert parse_parameters(pairs) == {
        "image_uri": "s3://b/a=b.jpg", "steps": 5, "edits": [{"yaw": 3}], "identity_id": "anna", "root": None,
    }  # fmt: skip


@pytest.mark.parametrize("pairs", [["steps"], ["=5"], ["steps=1", "steps=2"]])
def test_bad_pairs_are_refused(pairs: list[str]) -> None:
    with pytest.raises(ValueError, match="--param"):
        parse_parameters(pairs)


def test_an_unknown_flow_is_one_sentence(tmp_path: Path) -> None:
    done = run_instaface("run", "no-such-flow", cwd=tmp_path)
    assert done.returncode == 1
    assert "no-such-flow" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_photographs_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_instaface("demo", "--photos", "empty", cwd=tmp_path)
    assert done.returncode == 1
    assert "holds no photograph" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".instaface").exists(), "nothing is started or written for it"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_instaface("demo", "--s3-port", port, cwd=tmp_path)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    done = run_instaface(
        "demo", "--store", "s3://no-such-bucket/x", cwd=tmp_path, AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b",
    )  # fmt: skip
    assert done.returncode == 1
    assert "no-such-bucket" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_image_uri_is_refused_before_a_run_exists(tmp_path: Path) -> None:
    done = run_instaface("run", "finetune-identity", "-p", "image_uri=http://host/a.jpg", cwd=tmp_path)
    assert done.returncode == 1
    assert "http://host/a.jpg" in done.stderr
    assert "only s3://bucket/key and local files are read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_face_commits_nothing(tmp_path: Path) -> None:
    (tmp_path / "walls").mkdir()
    Image.fromarray(np.full((200, 300, 3), 200, np.uint8)).save(tmp_path / "walls" / "wall.png")
    done = run_instaface("run", "preprocess-ffhq", "-p", "source=walls", "-p", "root=store", cwd=tmp_path)
    assert done.returncode == 1
    assert "none of 1 inputs can be used (1 no_face)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    with pytest.raises(NotEnoughDisk, match="free some space"):
        require_free_space(tmp_path / "not" / "there" / "yet", needed=usage.free + (1 << 40))
    assert list(tmp_path.iterdir()) == []
