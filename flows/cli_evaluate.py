"""`instaface evaluate …`: a protocol here and now, its report, manifests for other systems, accepting a new standard."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from flows.cli_upkeep import show as show_table

evaluate_app = typer.Typer(
    invoke_without_command=True,
    help="Evaluate a model and its baselines by a protocol; see its report; compare a system.",
)
console = Console(highlight=False)

Protocol = Literal["smoke", "table1", "table2", "table3"]
Presets = Literal["tiny", "tiny-scratch", "tiny-further", "tiny-concatenation", "debug", "open", "paper"]
Root = Annotated[str | None, typer.Option(help="s3://bucket/prefix or a folder; INSTAFACE_ROOT by default")]
Source = Annotated[str | None, typer.Option(help="portraits:100x1@1000 or a folder of photographs")]
Name = Annotated[str | None, typer.Argument(help="Name of the evaluation or its beginning; the latest by default")]
Out = Annotated[Path, typer.Option(help="Folder of the report")]
REPORTS = Path(".instaface/evaluation")


@evaluate_app.callback()
def evaluate_command(
    context: typer.Context,
    protocol: Annotated[Protocol, typer.Option(help="What to measure")] = "smoke",
    root: Root = None,
    preset: Annotated[Presets, typer.Option(help="Networks and options")] = "tiny",
    source: Source = None,
    model: Annotated[str | None, typer.Option(help="Stage-1 model: URI, folder, shipped or untrained")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures of another system: FOLDER or NAME=FOLDER; can be repeated")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--other-model", help="Another stage-1 model: NAME=URI; can be repeated")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="Manifest to use as it is")] = None,
    people: Annotated[int | None, typer.Option(help="People, instead of the protocol's number", min=1)] = None,
    each: Annotated[int | None, typer.Option(help="Pictures of a person and mode, likewise", min=1)] = None,
    methods: Annotated[
        str | None, typer.Option(help="Built-in methods, comma-separated, instead of the protocol's")
    ] = None,
    parameters: Annotated[Literal["true", "estimated"], typer.Option(help="Parameters of synthetic sources")] = "true",
    workers: Annotated[int | None, typer.Option(help="Processes", min=1)] = None,
    out: Out = REPORTS,
) -> None:
    """Evaluate, going on where an earlier run was interrupted, and write a page of tables and pictures."""
    if context.invoked_subcommand is not None:
        return
    given: dict[str, Any] = {
        "protocol": protocol, "root": root, "preset": preset, "source": source, "model": model,
        "images": named(images or [], "images"), "models": named(models or [], None), "manifest": manifest,
        "people": people, "each": each, "parameters": parameters, "workers": workers,
        "methods": [key.strip() for key in methods.split(",")] if methods else [],
    }  # fmt: skip
    from flows.run_here import quiet_services
    from tasks.evaluation_history import EvaluationWorse

    quiet_services()
    from flows.evaluate import evaluate
    from tasks.evaluation_lookup import show_evaluation, write_report

    evaluate.validate_parameters(given)
    failed: EvaluationWorse | None = None
    try:
        uri = str(evaluate(**given)["uri"])
    except EvaluationWorse as error:  # the page says what is worse; the command fails after it is written
        failed, uri = error, error.uri
    place = write_report(uri, out)
    title, header, rows = show_evaluation(uri)
    show_table(title, header, rows)
    console.print(f"The report: [bold]{place}[/bold]")
    if failed is not None:
        raise failed


@evaluate_app.command("report")
def report_command(name: Name = None, root: Root = None, out: Out = REPORTS) -> None:
    """Write the page of a finished evaluation, with its tables, rows, manifest and pictures beside it."""
    from tasks.evaluation_lookup import find_evaluation, write_report

    place = write_report(find_evaluation(root, name), out)
    console.print(f"The report: [bold]{place}[/bold]")


@evaluate_app.command("list")
def list_command(root: Root = None) -> None:
    """Evaluations by protocols, in the order in which they were run."""
    from tasks.evaluation_lookup import list_evaluations

    header = ("time", "evaluation", "protocol", "preset", "model", "images", "accepted")
    show_table("evaluations", header, list_evaluations(root))


@evaluate_app.command("accept")
def accept_command(name: Name = None, root: Root = None) -> None:
    """Take an evaluation as the standard that later ones of its series are measured against."""
    from tasks.evaluation_lookup import accept_evaluation

    console.print(f"Accepted: {accept_evaluation(root, name)}")


@evaluate_app.command("manifest")
def manifest_command(
    out: Annotated[Path, typer.Option(help="Folder for the manifest and its pictures")],
    protocol: Annotated[Protocol, typer.Option(help="What is asked")] = "table1",
    preset: Annotated[Presets, typer.Option(help="Whose estimator and size")] = "tiny",
    source: Source = None,
    people: Annotated[int | None, typer.Option(help="People, instead of the protocol's number", min=1)] = None,
    each: Annotated[int | None, typer.Option(help="Pictures of a person and mode, likewise", min=1)] = None,
) -> None:
    """Write what a protocol asks for, for another system: manifest.json, sources, drivers, renders of what is asked."""
    from flows import presets
    from tasks.evaluation_export import export_manifest

    count = export_manifest(presets.by_name(preset), protocol, out, source=source, people=people, each=each)
    console.print(f"{count} pictures to be made: see [bold]{out / 'README.md'}[/bold]")


def named(pairs: list[str], default: str | None) -> dict[str, str]:
    """NAME=VALUE pairs; without a name, `default`.

    Raises:
        ValueError: no name where there is no default, or a name given twice.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            if default is None:
                raise ValueError(f"{pair!r} needs the form NAME=URI")
            name, value = default, pair
        if name in out:
            raise ValueError(f"the name {name!r} is given twice: use NAME=VALUE with names of their own")
        out[name] = value
    return out
