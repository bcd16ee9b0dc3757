"""`instaface logs RUN`: everything that one run said, in Prefect, in Ray's processes and in its trainers."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def logs(
    run: Annotated[str, typer.Argument(help="Id of a flow run, or its beginning")],
    folder: Annotated[
        Path | None, typer.Option(help="Where the lines are; INSTAFACE_LOG_FOLDER, else .instaface/logs/runs")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON lines")] = False,
) -> None:
    """The story of one run: lines of its worker, its flow, its stages and their shards, in the order of time."""
    from tasks.run_log import FOLDER_VARIABLE, as_text, read_run

    place = folder or Path(os.environ.get(FOLDER_VARIABLE, ".instaface/logs/runs"))
    for line in read_run(place, run):
        print(json.dumps(line, ensure_ascii=False) if as_json else as_text(line))
