"""`instaface verify-image` and `instaface expressions`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

console = Console(stderr=True, highlight=False)
expressions_app = typer.Typer(no_args_is_help=True, help="Expressions of your own, to be applied to many people.")
RootOption = Annotated[str | None, typer.Option(help="Where everything is kept; INSTAFACE_ROOT by default")]


def verify_image(file: Annotated[Path, typer.Argument(help="A PNG, JPEG or GIF")]) -> None:
    """Say where a picture came from; exit status 1 where it does not say, 2 where its pixels were changed since."""
    from tasks.verify_image import verify_image as verify

    found = verify(file)
    if found is None:
        console.print(
            f"{escape(str(file))} carries no provenance of InstaFace. That proves nothing: metadata can be removed"
        )
        raise typer.Exit(1)
    for name, text in found.items():
        print(f"{name}: {text}")
    if found["pixels"] != "unchanged since":
        raise typer.Exit(2)


@expressions_app.command("save")
def save(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, dashes")],
    values: Annotated[
        str, typer.Argument(help='JSON, for example {"expressions": {"smile": 0.6, "browInnerUp": 0.3}, "jaw": 0.1}')
    ],
    root: RootOption = None,
) -> None:
    """Keep an expression under a name; edits ask for it with "expression": "name"."""
    from tasks.expressions import save_expression
    from tasks.workspace import store_at

    save_expression(store_at(root), name, json.loads(values))
    console.print(f"Saved {escape(name)}")


@expressions_app.command("list")
def show(root: RootOption = None) -> None:
    """Saved expressions."""
    from tasks.expressions import saved_expressions
    from tasks.workspace import store_at

    for name, facts in sorted(saved_expressions(store_at(root)).items()):
        print(f"{name}: {json.dumps(facts, sort_keys=True)}")


@expressions_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name of a saved expression")], root: RootOption = None) -> None:
    """Forget an expression."""
    from tasks.expressions import remove_expression
    from tasks.workspace import store_at

    remove_expression(store_at(root), name)
    console.print(f"Removed {escape(name)}")
