"""`instaface runs …`: trainings below a root: list them, look at one, repeat its beginning; and what one would cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.cli_upkeep import show as show_table

runs_app = typer.Typer(
    no_args_is_help=True, help="Training runs: list them, show their curves, repeat their beginning."
)
console = Console(highlight=False)

Root = Annotated[str, typer.Argument(help="s3://bucket/prefix or a folder")]
Name = Annotated[str | None, typer.Argument(help="Name of the run or its beginning; the only one by default")]


@runs_app.command("list")
def list_command(root: Root) -> None:
    """All training runs below ROOT, finished or not."""
    from tasks.runs import list_runs

    show_table(
        "training runs",
        ("run", "model", "step", "state", "loss", "validation", "samples/s", "checkpoint"),
        (
            (
                run.name, run.model, f"{run.step:,} of {run.steps:,}", "finished" if run.finished else "unfinished",
                _number(run.loss), _number(run.validation), _number(run.samples_per_second), f"{run.checkpoint or '–'}",
            )
            for run in list_runs(root)
        ),
    )  # fmt: skip


@runs_app.command("show")
def show_command(
    root: Root,
    name: Name = None,
    out: Annotated[Path, typer.Option(help="Picture of the curves")] = Path(".instaface/run.png"),
) -> None:
    """The curves of a run: in the terminal, and as a picture."""
    from tasks.runs import curves, find_run, last_samples

    home = find_run(root, name)
    show_table(
        home.uri,
        ("figure", "first to last step", "first", "last"),
        ((figure, line, f"{first:.4g}", f"{last:.4g}") for figure, line, first, last in curves(home, out)),
    )
    console.print(f"curves: [bold]{out}[/bold]")
    samples = last_samples(home)
    if samples is not None:
        grid = out.with_name(f"{out.stem}-samples.png")
        grid.write_bytes(samples)
        console.print(f"latest samples: [bold]{grid}[/bold]")
    remote = home.uri.startswith("s3://")
    board = f".instaface/tensorboard/{home.uri.rpartition('/')[2]}" if remote else f"{home.uri[7:]}/tensorboard"
    console.print(f"TensorBoard: tensorboard --logdir {board}")


@runs_app.command("replay")
def replay_command(
    root: Root, name: Name = None, steps: Annotated[int, typer.Option(help="Steps to repeat", min=1)] = 10
) -> None:
    """Run the first steps of a run again, from what it recorded, and compare the losses. Exit status 1 where they differ
    by more than rounding (1e-4)."""
    from tasks.runs import replay

    result = replay(root, name, steps)
    show_table(
        f"{result.uri}, {result.steps} steps again",
        ("step", "recorded", "now", "difference"),
        (
            (str(i + 1), f"{a:.8f}", f"{b:.8f}", f"{abs(a - b):.1e}")
            for i, (a, b) in enumerate(zip(result.recorded, result.found, strict=True))
        ),
    )
    before, now = (commit[:12] or "unknown" for commit in result.commit)
    console.print(f"features {result.features}; code then {before}, now {now}")
    console.print(f"largest difference {result.largest_difference:.1e}")
    if result.largest_difference > 1e-4:
        raise typer.Exit(1)


def show_plan(parameters: Mapping[str, Any]) -> None:
    """`instaface run train-stage1 --dry-run`: what a training will be and cost, before it is one.

    Nothing is downloaded, allocated or sent to a GPU, and no server is started.
    """
    from flows.train_stage1 import configuration, train_stage1
    from tasks.train_plan import plan_of

    train_stage1.validate_parameters(dict(parameters))
    wanted = {name: value for name, value in parameters.items() if name not in ("root", "features")}
    plan = plan_of(configuration(**wanted))
    show_table("configuration", ("field", "value"), plan.configuration)
    show_table("parameters", ("part", "number"), ((part, f"{n:,}") for part, n in plan.parameters))
    show_table("memory of a rank (estimate)", ("use", "GiB"), ((use, f"{gib:.2f}") for use, gib in plan.memory))
    show_table(
        "when memory is short, each on top of those before",
        ("setting", "GiB"),
        ((lever, f"{gib:.1f}") for lever, gib in plan.ladder),
    )
    for sentence in plan.sentences:
        console.print(sentence)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
