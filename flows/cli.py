"""The command line: `instaface demo`, `instaface run <flow> --param name=value`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli_doctor import doctor
from flows.cli_evaluate import evaluate_app
from flows.cli_identities import edit, finetune, identities_app
from flows.cli_images import expressions_app, verify_image
from flows.cli_logs import logs
from flows.cli_portraits import portraits
from flows.cli_runs import runs_app, show_plan
from flows.cli_up import register, up
from flows.cli_upkeep import assets_app, storage_app
from flows.run_here import FLOWS, quiet_services, run_here

app = typer.Typer(
    name="instaface", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="From one photograph of a person, photographs of the same person in another pose, expression or light.",
)  # fmt: skip
app.add_typer(storage_app, name="storage")
app.add_typer(assets_app, name="assets")
app.add_typer(runs_app, name="runs")
app.add_typer(expressions_app, name="expressions")
app.add_typer(identities_app, name="identities")
app.add_typer(evaluate_app, name="evaluate")
app.command()(finetune)
app.command()(edit)
app.command("verify-image")(verify_image)
app.command()(portraits)
app.command()(up)
app.command()(doctor)
app.command()(logs)
app.command()(register)
console = Console(stderr=True, highlight=False)

PresetChoice = Literal["tiny", "tiny-scratch", "tiny-further", "tiny-concatenation", "debug", "open", "paper"]


@app.command()
def demo(
    photos: Annotated[
        str, typer.Option(help="Folder of photographs, embedded:portrait, or portraits:PEOPLExPICTURES@SEED")
    ] = "portraits:4x1@1000",
    store: Annotated[str, typer.Option(help="s3: an embedded S3 server; file: a folder; or a URI of your own")] = "s3",
    out: Annotated[Path, typer.Option(help="Folder of the report")] = Path(".instaface/demo"),
    preset: Annotated[PresetChoice, typer.Option(help="tiny, or debug for a handful of steps")] = "tiny",
    s3_port: Annotated[int | None, typer.Option(help="Port of the embedded S3 server; a free one by default")] = None,
) -> None:
    """Run the whole DAG on this machine and write a page of pictures."""
    from tasks.sources import list_photos
    from tasks.workspace import HOME, check_root, embedded_s3

    started = time.monotonic()
    # A bad folder or store fails here, before anything is started.
    count = len(list_photos(photos))
    home = HOME.resolve()
    root = str(home / "store") if store == "file" else store
    if store != "s3":
        check_root(root)
    quiet_services()
    console.print(f"{count} photograph{'s' * (count != 1)}; starting Prefect and Ray")
    from flows.demo import demo as demo_flow

    if store == "s3":
        console.print("Starting an S3 server (SeaweedFS) on this machine")
        with embedded_s3(home / "s3", s3_port) as bucket:
            result = demo_flow(source=photos, root=f"{bucket}/demo", out=str(out), preset=preset)
    else:
        result = demo_flow(source=photos, root=root, out=str(out), preset=preset)
    if all(result["parts"][stage]["reused"] for stage in ("images", "maps", "features")):
        console.print("Preprocessing was finished before: nothing was redone.")
    console.print(f"Done in {time.monotonic() - started:.0f} s. The report: [bold]{result['report']}[/bold]")
    console.print("The runs in the Prefect UI: [bold]make ui[/bold]")


@app.command()
def run(
    flow_name: Annotated[str, typer.Argument(help=f"One of: {', '.join(FLOWS)}")],
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value; a value may be JSON")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="train-stage1: only say what the training will be and cost")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="preprocess-ffhq: only say what it would take")] = False,
) -> None:
    """Run a flow here and now, with the parameters of its deployment."""
    if dry_run:
        if flow_name != "train-stage1":
            raise ValueError(f"--dry-run is for train-stage1; {flow_name} has none")
        show_plan(parse_parameters(param or []))
        return
    result = run_here(flow_name, parse_parameters([*(param or []), *(["plan=true"] if plan else [])]))
    print(json.dumps(result, indent=2, sort_keys=True))


@app.command()
def faces(
    source: Annotated[
        str, typer.Argument(help="Folder of photographs, or of the frames of a video in the order of names")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for maps, parameters and a contact sheet")],
    fps: Annotated[
        float | None, typer.Option(help="Frames of one person at this rate: one crop, smoothed over time")
    ] = None,
) -> None:
    """3D condition maps of a folder, straight into files: no store, no server."""
    from tasks.face_folder import face_folder

    rows = face_folder(source, out, frames_per_second=fps)
    for row in rows:
        if row.status != "ok":
            console.print(f"{escape(row.source)}: {row.status}: {escape(row.reason)}", soft_wrap=True)
    good = sum(row.status == "ok" for row in rows)
    console.print(f"{good} of {len(rows)} photographs; see [bold]{out / 'sheet.png'}[/bold] and {out / 'faces.json'}")
    if not good:
        raise typer.Exit(1)


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


def main() -> None:
    """Console entry point: what a user can act on is one sentence, exit status 1; anything else keeps its traceback."""
    try:
        app()
    except Exception as error:
        from tasks.train_stage1 import TrainingStopped
        from tasks.user_errors import sentence

        if isinstance(error, TrainingStopped):  # asked for, and saved: no failure
            console.print(escape(str(error)), soft_wrap=True)
            return
        text = sentence(error)
        if text is None or os.environ.get("INSTAFACE_TRACEBACK"):
            raise
        console.print(f"[bold red]instaface:[/bold red] {escape(text)}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
