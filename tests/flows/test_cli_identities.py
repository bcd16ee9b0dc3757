"""`instaface finetune`, `edit`, `identities`: one person from a photograph to erasure, in the words of a command line."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image

from flows.cli_identities import edits_asked
from storage.records import commit_record
from storage.stores import open_store
from tasks.expressions import save_expression
from tasks.identities import checkpoint_of, list_identities
from tests.instaface_command import run_instaface
from tests.two_photographs import write_two_photographs

PATIENCE = 300 * float(os.environ.get("INSTAFACE_TEST_PATIENCE", "1"))
NOTHING: dict[str, Any] = dict.fromkeys(("yaw", "pitch", "roll", "jaw", "light", "light_strength"))


@pytest.mark.parametrize(
    ("numbers", "expressions", "driven", "expected"),
    [
        ({}, [], False, None),
        ({}, [], True, []),
        ({"yaw": 20.0, "light": "left"}, [], False, [{"name": "yaw 20.0, light left", "yaw": 20.0, "light": "left"}]),
        ({"yaw": 0.0}, [], False, [{"name": "yaw 0.0", "yaw": 0.0}]),
        (
            {"jaw": 0.5}, ["smile=0.6", "blink"], True,
            [{"name": "jaw 0.5, smile=0.6, blink", "jaw": 0.5, "expressions": {"smile": 0.6, "blink": 1.0}}],
        ),
        ({}, ["smirk"], False, [{"name": "smirk", "expression": "smirk"}]),
    ],
)  # fmt: skip
def test_a_command_line_asks_for_one_edit(
    tmp_path: Path, numbers: dict[str, Any], expressions: list[str], driven: bool, expected: Any
) -> None:
    save_expression(open_store(tmp_path), "smirk", {"expressions": {"smile": 0.3}})
    assert edits_asked(NOTHING | numbers, expressions, str(tmp_path), driven=driven) == expected


def test_expressions_that_cannot_be(tmp_path: Path) -> None:
    for name in ("smirk", "wry"):
        save_expression(open_store(tmp_path), name, {"expressions": {"smile": 0.3}})
    with pytest.raises(ValueError, match=r"'smile=much': give a number after =, for example smile=0.6"):
        edits_asked(NOTHING, ["smile=much"], str(tmp_path), driven=False)
    with pytest.raises(ValueError, match=r"names 2 saved ones \(smirk, wry\): one edit takes one"):
        edits_asked(NOTHING, ["smirk", "wry"], str(tmp_path), driven=False)


def test_one_of_several_checkpoints_is_named_by_the_start_of_its_digest(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    for digest in ("aa11", "ab22"):
        commit_record(root.child(f"identities/ada/{digest}"), {}, {})
    commit_record(root.child("identities/ada/aa11/edits/cc33"), {}, {})
    root.child("identities/bo/dd44").create("weights.safetensors", b"unfinished")
    assert [(one.identity_id, one.record.uri[-4:], one.edits) for one in list_identities(root)] == [
        ("ada", "aa11", 1),
        ("ada", "ab22", 0),
    ]
    assert checkpoint_of(root, "ada", "ab").endswith("/identities/ada/ab22")
    with pytest.raises(ValueError, match=r"holds several: aa11, ab22. Say which one"):
        checkpoint_of(root, "ada", None)
    with pytest.raises(ValueError, match=r"2 checkpoints of 'ada' begin with 'a'; there are: aa11, ab22"):
        checkpoint_of(root, "ada", "a")
    with pytest.raises(ValueError, match="0 checkpoints of 'bo' begin with 'dd'; there are: none"):
        checkpoint_of(root, "bo", "dd")


@pytest.fixture
def instaface(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """`instaface …` in a folder with two photographs."""
    write_two_photographs(tmp_path)
    return lambda *words: run_instaface(*words, cwd=tmp_path, timeout=PATIENCE)


@pytest.mark.slow
def test_one_person_from_photograph_to_erasure(instaface: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    def done(*words: str) -> str:
        result = instaface(*words)
        assert result.returncode == 0, f"{words}: {result.stderr[-3000:]}"
        return result.stdout

    refused = instaface("finetune", "nobody.png", "--name", "ada")
    assert refused.returncode == 1
    assert "nobody.png" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "no identities yet" in done("identities", "list")

    assert "Kept: " in done("finetune", "portrait.png", "--name", "ada", "--steps", "2")
    assert "Was there before" in done("finetune", "portrait.png", "--name", "ada", "--steps", "2")
    assert re.search(r"ada .* full .* 2 ", done("identities", "list"))

    page = done("edit", "ada", "--yaw", "20", "--light", "left", "--expression", "smile=0.5", "--steps", "4")
    assert "2 files in .instaface/edits/ada/" in page
    (folder,) = (tmp_path / ".instaface" / "edits" / "ada").iterdir()
    assert sorted(one.name for one in folder.iterdir()) == ["000.png", "grid.png"]
    with Image.open(folder / "000.png") as picture:
        assert picture.size == (256, 256)
    assert "pixels: unchanged since" in done("verify-image", str(folder / "000.png"))
    driven = done(
        "edit", "ada", "--driver", "mirrored.jpg", "--take", "pose,expression", "--steps", "4", "--paste-back",
        "--out", "driven",
    )  # fmt: skip
    assert "3 files in driven" in driven
    unknown = instaface("edit", "ada", "--driver", "mirrored.jpg", "--take", "hair")
    assert unknown.returncode == 1
    assert "hair" in unknown.stderr
    assert "several" not in done("identities", "show", "ada", "--out", "ada.png")
    with Image.open(tmp_path / "ada.png") as preview:
        assert preview.width >= 256

    done("identities", "show", "ada")
    erased = done("identities", "erase", "ada", "--reason", "asked", "--yes")
    assert "objects removed" in erased
    assert "Also removed: .instaface/edits/ada" in erased
    assert not list((tmp_path / ".instaface").glob("**/ada*"))
    assert (tmp_path / "driven").exists(), "chosen by the person"
    gone = instaface("edit", "ada", "--yaw", "20")
    assert gone.returncode == 1
    assert "Traceback" not in gone.stderr
    assert "no identities yet" in done("identities", "list")
