"""What a fine-tune starts from in a store that nobody has trained anything in."""

from pathlib import Path

import pytest
import torch

from flows.first_model import base_model
from models.diffusion.folder import load_model
from models.tiny.shipped import STAGE1, shipped_folder
from storage.records import committed
from storage.stores import open_store
from tasks.train_state import load_networks


def test_the_shipped_model_is_put_there_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = base_model(None, "tiny", str(tmp_path))
    assert uri is not None
    assert "ships with InstaFace" in capsys.readouterr().out
    assert base_model(None, "tiny", str(tmp_path)) is None, "the only one below root"
    assert base_model("shipped", "tiny", str(tmp_path)) == uri
    found, wanted = load_networks(committed(uri)), load_model(shipped_folder(STAGE1))
    assert found.config == wanted.config
    for part in ("denoiser", "guidance", "identity"):
        there = getattr(wanted, part).state_dict()
        assert all(torch.equal(tensor, there[name]) for name, tensor in getattr(found, part).state_dict().items())


def test_a_model_that_was_named_or_trained_comes_first(tmp_path: Path) -> None:
    assert base_model("s3://bucket/stage1/abc", "tiny", str(tmp_path)) == "s3://bucket/stage1/abc"
    assert base_model(None, "paper", str(tmp_path)) is None, "its weights are a person's to bring"
    open_store(str(tmp_path)).child("stage1/abc").create("record.json", b"{}")
    assert base_model(None, "tiny", str(tmp_path)) is None
