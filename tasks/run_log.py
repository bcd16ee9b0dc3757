"""One line format for everything that a run says, wherever it says it: Prefect's processes, Ray actors, trainers.

    2026-11-23T00:41:55.123Z info run=7c608ebe-… stage=maps shard=3 rows=8 ok=7 seconds=2.1 unit finished
    {"time": "2026-11-23T00:41:55.123Z", "level": "info", "run": "7c608ebe-…", "stage": "maps", "shard": 3, …}

INSTAFACE_LOG_FORMAT=json chooses the second form for standard error, which is what log collectors read. With
INSTAFACE_LOG_FOLDER every process also appends its JSON lines to `<folder>/<run>.jsonl`: the story of one run in one file.
The run is the outermost flow run of Prefect; Ray processes know it as the namespace of their job.
"""

import json
import logging
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RUN_VARIABLE = "INSTAFACE_RUN"
FOLDER_VARIABLE = "INSTAFACE_LOG_FOLDER"
FORMAT_VARIABLE = "INSTAFACE_LOG_FORMAT"
NAMESPACE = "run-"
"""What a job's namespace in Ray begins with."""
_logger = logging.getLogger("instaface")


def say(stage: str, message: str, *, shard: int | None = None, level: int = logging.INFO, **facts: Any) -> None:
    """One line of a run's story; `facts` are numbers and short words. Never a photograph's content or a secret."""
    _ready()
    story = {"stage": stage, "shard": shard, **facts}
    _logger.log(level, message, extra={"story": {name: value for name, value in story.items() if value is not None}})


def run_id() -> str:
    """The run that this process works for; empty outside of one."""
    # Prefect's own variable is there in the process of a deployment's run, before any stage has begun.
    known = os.environ.get(RUN_VARIABLE) or os.environ.get("PREFECT__FLOW_RUN_ID")
    if known:
        return known
    if not _in_ray():
        return ""
    namespace = str(sys.modules["ray"].get_runtime_context().namespace)
    return namespace.removeprefix(NAMESPACE) if namespace.startswith(NAMESPACE) else ""


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, in the order in which it says it."""
    story = dict(getattr(record, "story", {}))
    stage = story.pop("stage", None) or _stage_of_task(str(getattr(record, "task_run_name", "") or ""))
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "run": run_id() or str(getattr(record, "flow_run_id", "") or ""),
        "flow": str(getattr(record, "flow_name", "") or ""),
        "stage": stage,
        **story,
        "host": socket.gethostname(),
        "process": record.process,
        "logger": record.name,
        "message": message,
    }
    return {name: value for name, value in line.items() if value not in ("", None, "<unknown>")}


def _stage_of_task(name: str) -> str:
    """Prefect names a run of the task `maps` `maps-3f2`."""
    return name.rpartition("-")[0]


class LineFormatter(logging.Formatter):
    """The format of INSTAFACE_LOG_FORMAT (text or json; text by default), or the one it is made with."""

    def __init__(self, form: str | None = None) -> None:
        super().__init__()
        self.form = form or os.environ.get(FORMAT_VARIABLE, "text")
        if self.form not in ("text", "json"):
            raise ValueError(f"{FORMAT_VARIABLE}={self.form!r}: choose text or json")

    def format(self, record: logging.LogRecord) -> str:
        line = fields(record)
        if self.form == "json":
            return json.dumps(line, default=str, ensure_ascii=False)
        return as_text(line)


def as_text(line: dict[str, Any]) -> str:
    """A line for people: time, level, what it belongs to, what happened."""
    apart = ("time", "level", "message", "host", "process", "logger")
    facts = " ".join(f"{name}={value}" for name, value in line.items() if name not in apart)
    return " ".join(filter(None, (line["time"], line["level"], facts, str(line["message"]))))


class RunFile(logging.Handler):
    """Appends lines that belong to a run to the file of that run, where INSTAFACE_LOG_FOLDER says in which folder."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter("json"))

    def emit(self, record: logging.LogRecord) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            return
        try:
            line = self.format(record)
            run = str(json.loads(line).get("run", ""))
            if not run:
                return
            Path(folder).mkdir(parents=True, exist_ok=True)
            # One write of a whole line to a file opened for appending: lines of several processes do not mix.
            with (Path(folder) / f"{run}.jsonl").open("ab", buffering=0) as file:
                file.write(line.encode() + b"\n")
        except OSError:
            self.handleError(record)


def _ready() -> None:
    """In a process that Prefect does not configure, such as a Ray actor, the handlers are ours to attach."""
    if _logger.handlers:
        return
    root = logging.getLogger()
    if any(isinstance(handler, RunFile) for handler in root.handlers):
        return
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    for handler in (logging.StreamHandler(sys.stderr), RunFile()):
        if not isinstance(handler, RunFile):
            handler.setFormatter(LineFormatter())
            if not _for_collectors():
                handler.setLevel(logging.WARNING)  # the terminal of `instaface run` has progress bars
        _logger.addHandler(handler)


def _for_collectors() -> bool:
    """Whether somebody reads standard error as a log: a Ray process, or whoever chose a format."""
    return FORMAT_VARIABLE in os.environ or _in_ray()


def _in_ray() -> bool:
    """Whether this is a process of Ray's. One that only uses Ray knows its run by the variable."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def read_run(folder: Path, run: str) -> list[dict[str, Any]]:
    """The lines of a run in the order of their times. Raises: ValueError for none, or a beginning that fits several."""
    files = sorted(folder.glob(f"{run}*.jsonl")) if folder.is_dir() else []
    if len(files) != 1:
        known = ", ".join(file.stem for file in files[:5]) or "none"
        raise ValueError(f"{folder} holds {len(files)} runs that begin with {run!r} ({known}): give one run's id")
    lines = [json.loads(line) for line in files[0].read_text().splitlines() if line]
    return sorted(lines, key=lambda line: str(line["time"]))
