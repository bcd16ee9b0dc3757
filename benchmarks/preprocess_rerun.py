"""What a finished dataset of 70 shards costs when it is run again: `instaface run preprocess-ffhq`, first and again.

    python benchmarks/preprocess_rerun.py [--folder FOLDER]

rewrites the section "A finished dataset" of benchmarks/preprocess.md; benchmarks/preprocess.py does it too. Every run is a
command of its own, with Python's imports and a Prefect server that starts and stops; an empty flow is timed beside them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.sources import embedded_portrait

HERE = Path(__file__).resolve().parent
PAGE = HERE / "preprocess.md"
HEADING, NEXT = "## A finished dataset", "## Decoding and resizing"
SHARDS = 70
REPETITIONS = 3
EMPTY = "from prefect import flow\nflow(lambda: None, name='nothing')()"


def photographs(folder: Path) -> None:
    """Views of the embedded portrait, one a shard."""
    folder.mkdir()
    portrait = Image.open(embedded_portrait()).convert("RGB")
    for number in range(SHARDS):
        left, top = np.random.default_rng(number).integers(0, 24, 2)
        portrait.crop((left, top, left + 488, top + 488)).save(folder / f"{number:04d}.jpg", quality=90)


def timed(command: Sequence[str], folder: Path) -> float:
    """Seconds of a command that must succeed."""
    mine = ("PREFECT_", "INSTAFACE_", "RAY_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environment |= {
        "INSTAFACE_CACHE": str(folder / "cache"), "PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(HERE.parent),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip
    (folder / "prefect").mkdir(exist_ok=True)
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def rerun_lines(folder: Path | None) -> list[str]:
    """The section, without its heading."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        photographs(place / "photos")
        command = [sys.executable, "-m", "flows.cli", "run", "preprocess-ffhq"]
        given = {
            "source": place / "photos",
            "root": place / "root",
            "preset": "tiny",
            "changes": '{"samples_per_shard": 1}',
        }
        for name, value in given.items():
            command += ["-p", f"{name}={value}"]
        load = os.getloadavg()[0]
        first = timed(command, place)
        empty, again = [], []
        for _ in range(REPETITIONS):  # in turns
            empty.append(timed([sys.executable, "-c", EMPTY], place))
            again.append(timed(command, place))
    rerun, nothing = float(np.median(again)), float(np.median(empty))
    return [
        (
            f"`instaface run preprocess-ffhq`, preset tiny, {SHARDS} photographs in {SHARDS} shards, imports and a Prefect server "
            f"of its own included (load {load:.0f} when it began, medians of {REPETITIONS}; tests/flows/test_finished_dataset.py "
            "holds that no model is loaded and no Ray started):"
        ),
        "",
        "| | s | of the first run |",
        "|---|---|---|",
        f"| first run | {first:.1f} | 100 % |",
        f"| again | {rerun:.1f} | {rerun / first:.1%} |",
        f"| an empty Prefect flow | {nothing:.1f} | {nothing / first:.1%} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    section = "\n".join([HEADING, "", *rerun_lines(parser.parse_args().folder), "", ""])
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(HEADING if HEADING in text else NEXT)], text[text.index(NEXT) :]
    PAGE.write_text(before + section + after, encoding="utf-8")


if __name__ == "__main__":
    main()
