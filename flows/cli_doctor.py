"""`instaface doctor`: is everything there, and what to do where it is not."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)
COLOURS = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def doctor(
    port: Annotated[int, typer.Option(help="Port meant for Prefect's server")] = 4200,
    ray_port: Annotated[int, typer.Option(help="Port meant for Ray")] = 6380,
    root: Annotated[str | None, typer.Option(help="Store to look at; INSTAFACE_ROOT by default")] = None,
) -> None:
    """Look at versions, ports, disk, memory, GPU, assets, credentials and store. Exit status 1 where something is wrong."""
    from tasks.checkup import checkup

    table = Table(header_style="bold", show_lines=False)
    for column in ("", "subject", "found", "what to do"):
        table.add_column(column, overflow="fold")
    verdicts = []
    for check in checkup(port=port, ray_port=ray_port, root=root):
        verdicts.append(check.verdict)
        colour = COLOURS[check.verdict]
        table.add_row(f"[{colour}]{check.verdict}[/{colour}]", check.subject, escape(check.found), escape(check.remedy))
    console.print(table)
    wrong, notes = verdicts.count("wrong"), verdicts.count("note")
    console.print(f"{len(verdicts)} checks: {wrong} wrong, {notes} to note")
    if wrong:
        raise typer.Exit(1)
