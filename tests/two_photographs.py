"""Write the two photographs on which CI runs the demo: the public-domain portrait, and the same mirrored and darkened.

Usage: python -m tests.two_photographs FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.sources import embedded_portrait


def write_two_photographs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    portrait = np.asarray(Image.open(embedded_portrait()).convert("RGB"))
    Image.fromarray(portrait).save(folder / "portrait.png")
    mirrored = np.clip(portrait[:, ::-1].astype(np.float32) * 0.8, 0, 255).astype(np.uint8)
    Image.fromarray(mirrored).save(folder / "mirrored.jpg", quality=92)


if __name__ == "__main__":
    write_two_photographs(Path(sys.argv[1]))
