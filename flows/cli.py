"""The command line: `instaface demo`, `instaface run <flow> --param name=value`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="instaface", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="From one photograph of a person, photographs of the same person in another pose, expression or light.",
)  # fmt: skip
console = Console(stderr=True, highlight=False)

FLOWS = ("preprocess-ffhq", "train-stage1", "finetune-identity", "edit-identity", "evaluate")


@app.command()
def demo(
    photos: Annotated[str, typer.Option(help="Folder of photographs, or embedded:portrait")] = "embedded:portrait",
    store: Annotated[str, typer.Option(help="s3: an embedded S3 server; file: a folder; or a URI of your own")] = "s3",
    out: Annotated[Path, typer.Option(help="Folder of the report")] = Path(".instaface/demo"),
    s3_port: Annotated[int | None, typer.Option(help="Port of the embedded S3 server; a free one by default")] = None,
) -> None:
    """Run the whole DAG on this machine and write a page of pictures."""
    _quiet_services()
    from flows.demo import demo as demo_flow
    from tasks.workspace import HOME, embedded_s3

    started = time.monotonic()
    home = HOME.resolve()
    if store == "s3":
        console.print("Starting an S3 server (SeaweedFS) on this machine")
        with embedded_s3(home / "s3", s3_port) as root:
            result = demo_flow(source=photos, root=f"{root}/demo", out=str(out))
    else:
        root = str(home / "store") if store == "file" else store
        result = demo_flow(source=photos, root=root, out=str(out))
    if all(result["parts"][stage]["reused"] for stage in ("images", "maps", "features")):
        console.print("Preprocessing was finished before: nothing was redone.")
    console.print(f"Done in {time.monotonic() - started:.0f} s. The report: [bold]{result['report']}[/bold]")
    console.print("The runs in the Prefect UI: [bold]make ui[/bold]")


@app.command()
def run(
    flow_name: Annotated[str, typer.Argument(help=f"One of: {', '.join(FLOWS)}")],
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value; a value may be JSON")] = None,
) -> None:
    """Run a flow here and now, with the parameters of its deployment."""
    if flow_name not in FLOWS:
        raise ValueError(f"there is no flow {flow_name!r}: choose one of {', '.join(FLOWS)}")
    _quiet_services()
    from importlib import import_module

    module = flow_name.replace("-", "_")
    flow = getattr(import_module(f"flows.{module}"), module)
    result = flow(**parse_parameters(param or []))
    print(json.dumps(result, indent=2, sort_keys=True))


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs → keyword arguments; a value that is JSON is taken as such, anything else is a string.

    Raises:
        ValueError: a pair without `=`, or a name given twice.
    """
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"--param {pair!r} needs the form name=value")
        if name in parameters:
            raise ValueError(f"--param {name} is given twice")
        try:
            parameters[name] = json.loads(value)
        except json.JSONDecodeError:
            parameters[name] = value
    return parameters


def _quiet_services() -> None:
    """Defaults of a local run: Prefect keeps its database in this checkout, and nobody phones home."""
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(Path(".instaface/prefect").resolve()))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Console entry point: what a user can act on is one sentence, exit status 1; anything else keeps its traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        console.print(f"[bold red]instaface:[/bold red] {error}", soft_wrap=True)
        if os.environ.get("INSTAFACE_TRACEBACK"):
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
