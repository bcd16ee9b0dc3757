"""`instaface storage …` and `instaface assets …`: look after what is stored, and what must be brought."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

storage_app = typer.Typer(no_args_is_help=True, help="Verify, repair and clean what is stored.")
assets_app = typer.Typer(no_args_is_help=True, help="Weights that you bring: what is missing, and their conversion.")
console = Console(highlight=False)

Root = Annotated[str, typer.Argument(help="s3://bucket/prefix or a folder")]


@storage_app.command()
def verify(root: Root) -> None:
    """Re-read every byte below ROOT and compare it with the manifests. Exit status 1 where something is damaged."""
    from tasks.upkeep import verify as verify_root

    findings = verify_root(root)
    show("verification", ("folder", "object", "verdict", "samples", "bytes", "detail"), (
        (f.place, f.name, f.verdict, str(f.samples or ""), f"{f.bytes:,}" if f.bytes else "", f.detail) for f in findings
    ))  # fmt: skip
    bad = [f for f in findings if f.verdict in ("damaged", "missing")]
    console.print(f"{len(findings)} objects, {len(bad)} damaged or missing")
    if bad:
        raise typer.Exit(1)


@storage_app.command()
def repair(
    root: Root,
    withdraw: Annotated[bool, typer.Option(help="Let a dataset that lost a shard stop existing")] = False,
) -> None:
    """Rebuild what can be rebuilt, and say what cannot."""
    from tasks.upkeep import repair as repair_root

    repairs = repair_root(root, withdraw=withdraw)
    show(
        "repair",
        ("folder", "object", "done", "detail"),
        ((r.place, r.name, "yes" if r.done else "no", r.detail) for r in repairs),
    )
    if any(not r.done for r in repairs):
        raise typer.Exit(1)


@storage_app.command()
def clean(root: Root, older_than: Annotated[float, typer.Option(help="Hours since it was begun")] = 24.0) -> None:
    """Remove staging folders and unfinished uploads that killed writers left."""
    from tasks.upkeep import clean as clean_root

    show("left behind", ("name", "kind", "age", "what was done"), clean_root(root, older_than))


@assets_app.command("check")
def check_assets(
    preset: Annotated[str | None, typer.Option(help="tiny, open or paper; all by default")] = None,
) -> None:
    """What each preset needs: present, missing, of which licence, and where to get it."""
    from tasks.upkeep import assets_folder, check

    console.print(f"assets folder: {assets_folder()}")
    for name in (preset,) if preset else ("tiny", "open", "paper"):
        rows = ((f.asset.title, f.asset.file, f.state.value, f.asset.licence, f.detail) for f in check(name))
        show(f"preset {name}", ("asset", "file", "state", "licence", "detail"), rows)


@assets_app.command("convert")
def convert_assets(
    sources: Annotated[
        Path, typer.Argument(help="Folder with the original FLAME and DECA files", exists=True, file_okay=False)
    ],
) -> None:
    """Convert FLAME and DECA files once, without running what is in them, to safetensors with recorded sha256."""
    from tasks.upkeep import assets_folder, convert

    rows = ((f.asset.title, f.asset.file, f.detail) for f in convert(sources))
    show(f"converted into {assets_folder()}", ("asset", "file", "detail"), rows)


def show(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
