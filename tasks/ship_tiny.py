"""Put a trained stage-1 model into the repository as the weights of `tiny`: python -m tasks.ship_tiny RECORD_URI.

Half precision, diffusers' folders, sha256 of every file beside them. The moving average is what a record holds as its
model (`tasks.train_state.export`).
"""

import shutil
import sys
from pathlib import Path

from models.diffusion.editor import InstaFace
from models.diffusion.folder import save_model
from models.tiny.shipped import FOLDER, STAGE1, write_sums
from storage.records import committed
from tasks.train_state import load_networks


def ship(record_uri: str, folder: Path = FOLDER) -> dict[str, str]:
    """Replace the shipped stage-1 model below `folder`; returns every shipped file with its sha256.

    Raises:
        ValueError: no finished training at the address, or one of other networks than `tiny`.
    """
    record = committed(record_uri)
    model = str(record.facts["config"]["model"])
    if model != "tiny":
        raise ValueError(f"{record_uri} trained model={model!r}: the weights that ship are those of model='tiny'")
    write_model(load_networks(record), folder / STAGE1)
    return write_sums(folder)


def write_model(model: InstaFace, target: Path) -> None:
    """A model in half precision, in place of what is in the target folder."""
    if target.exists():
        shutil.rmtree(target)
    for part in (model.denoiser, model.guidance, model.identity):
        part.half()
    save_model(model, target)


if __name__ == "__main__":
    for name, digest in ship(sys.argv[1]).items():
        print(digest, name)
