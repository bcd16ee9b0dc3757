"""`instaface finetune`, `instaface edit` and `instaface identities …`: the flows on one person, in few words."""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli_images import RootOption
from flows.cli_upkeep import show as show_table
from flows.run_here import quiet_services, run_here

identities_app = typer.Typer(no_args_is_help=True, help="People that were fine-tuned: list them, look at one, erase one.")
console = Console(highlight=False)

Name = Annotated[str, typer.Argument(help="Name of the identity")]
CheckpointOption = Annotated[
    str | None, typer.Option(help="Start of a checkpoint's digest, where the identity has several")
]
PresetOption = Annotated[Literal["tiny", "debug", "open", "paper"], typer.Option(help="tiny: all embedded, CPU")]


def finetune(
    photograph: Annotated[str, typer.Argument(help="A local file, or s3://bucket/key.jpg")],
    name: Annotated[str | None, typer.Option(help="Name of the identity; from the photograph's content by default")] = None,
    method: Annotated[Literal["full", "lora", "tokens"] | None, typer.Option(help="full is the paper's")] = None,
    base: Annotated[str | None, typer.Option(help="URI of a stage-1 model, or shipped")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; 50 in the paper")] = None,
    seed: Annotated[int | None, typer.Option(help="Of noise and timesteps")] = None,
    consent: Annotated[str | None, typer.Option(help="Reference of the person's consent")] = None,
    keep_photograph: Annotated[bool, typer.Option(help="Store the aligned crop of the photograph")] = True,
    preset: PresetOption = "tiny",
    root: RootOption = None,
) -> None:
    """Fine-tune on one photograph; what this person looks like is kept as an identity."""
    given = {
        "image_uri": photograph, "identity_id": name, "method": method, "base": base, "steps": steps, "seed": seed,
        "consent": consent, "keep_photograph": keep_photograph, "preset": preset, "root": root,
    }  # fmt: skip
    result = run_here("finetune-identity", {key: value for key, value in given.items() if value is not None})
    console.print(f"{'Was there before' if result['reused'] else 'Kept'}: {escape(result['uri'])}", soft_wrap=True)
    console.print(f"Edit it: [bold]instaface edit {result['identity_id']} --yaw 20 --light left[/bold]")


def edit(
    name: Name,
    checkpoint: CheckpointOption = None,
    yaw: Annotated[float | None, typer.Option(help="Degrees; > 0 to the picture's right")] = None,
    pitch: Annotated[float | None, typer.Option(help="Degrees; > 0 lifts the chin")] = None,
    roll: Annotated[float | None, typer.Option(help="Degrees; > 0 clockwise")] = None,
    jaw: Annotated[float | None, typer.Option(help="0 to 1: fully open")] = None,
    expression: Annotated[
        list[str] | None, typer.Option(help="smile, or smile=0.6; may be repeated; also the name of a saved one")
    ] = None,
    light: Annotated[str | None, typer.Option(help="left, right, above, below …")] = None,
    light_strength: Annotated[float | None, typer.Option(help="0 to 1")] = None,
    driver: Annotated[str | None, typer.Option(help="A photograph, or a folder of frames, to follow")] = None,
    take: Annotated[str, typer.Option(help="Of the driver: pose, expression, light, shape")] = "pose,expression",
    paste_back: Annotated[bool, typer.Option(help="Also into the original photograph")] = False,
    steps: Annotated[int | None, typer.Option(help="Of the sampler")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the starting noise")] = None,
    adaptation_scale: Annotated[float | None, typer.Option(help="How much of the fine-tune, 0 to 1")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures; by default a new one below .instaface/edits")] = None,
    preset: PresetOption = "tiny",
    root: RootOption = None,
) -> None:
    """Pictures of an identity under another pose, expression or light; a page of examples when nothing is asked for."""
    quiet_services()  # Prefect reads its settings once, when tasks.… import it
    numbers = {
        "yaw": yaw, "pitch": pitch, "roll": roll, "jaw": jaw, "light": light, "light_strength": light_strength,
    }  # fmt: skip
    from tasks.identities import checkpoint_of, pictures_of
    from tasks.workspace import store_at

    chosen = {"identity_id": name} if checkpoint is None else {"identity_uri": checkpoint_of(store_at(root), name, checkpoint)}
    given = chosen | {
        "edits": edits_asked(numbers, expression or [], root, driven=driver is not None),
        "driver_uri": driver, "take": [one.strip() for one in take.split(",")], "paste_back": paste_back,
        "steps": steps, "seed": seed, "adaptation_scale": adaptation_scale, "preset": preset, "root": root,
    }  # fmt: skip
    result = run_here("edit-identity", {key: value for key, value in given.items() if value is not None})
    folder = out or _edits_folder(name) / result["uri"].rpartition("/")[2][:12]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures_of(result["uri"])
    for file, data in pictures.items():
        (folder / file).write_bytes(data)
    place = escape(str(folder))
    console.print(f"{len(pictures)} files in [bold]{place}[/bold]; together: {place}/grid.png", soft_wrap=True)


def edits_asked(
    numbers: dict[str, Any], expressions: list[str], root: str | None, *, driven: bool
) -> list[dict[str, Any]] | None:
    """The edit of a command line as the flow takes it: one, none beside a driver, or None for the page of examples.

    Raises:
        ValueError: an expression's weight is no number, or more than one saved expression is named.
    """
    fields = {key: value for key, value in numbers.items() if value is not None}
    weights: dict[str, float] = {}
    saved: list[str] = []
    for text in expressions:
        key, separator, weight = text.partition("=")
        if not separator and key in _saved(root):
            saved.append(key)
            continue
        try:
            weights[key] = float(weight) if separator else 1.0
        except ValueError as error:
            raise ValueError(f"--expression {text!r}: give a number after =, for example smile=0.6") from error
    if len(saved) > 1:
        raise ValueError(f"--expression names {len(saved)} saved ones ({', '.join(saved)}): one edit takes one")
    fields |= {"expressions": weights} if weights else {}
    fields |= {"expression": saved[0]} if saved else {}
    if not fields:
        return [] if driven else None
    words = [f"{key} {value}" for key, value in fields.items() if key not in ("expressions", "expression")]
    return [{"name": ", ".join([*words, *expressions]), **fields}]


def _saved(root: str | None) -> set[str]:
    from tasks.expressions import saved_expressions
    from tasks.workspace import store_at

    return set(saved_expressions(store_at(root)))


@identities_app.command("list")
def list_command(root: RootOption = None) -> None:
    """All identities, and their checkpoints."""
    from tasks.identities import list_identities
    from tasks.workspace import store_at

    known = list(list_identities(store_at(root)))
    if not known:
        console.print("There are no identities yet: [bold]instaface finetune photograph.jpg[/bold] makes one")
        return
    show_table(
        "identities",
        ("identity", "checkpoint", "method", "steps", "rebuilt dB", "dlib", "sets of edits"),
        (
            (
                one.identity_id, one.record.uri.rpartition("/")[2][:12], one.record.facts["lineage"]["config"]["method"],
                str(len(one.record.facts["losses"])), _number(one.record.facts["metrics"]["reconstruction_psnr_db"]),
                _number(one.record.facts["metrics"]["reid_distance"]), str(one.edits),
            )
            for one in known
        ),
    )  # fmt: skip


@identities_app.command("show")
def show_command(
    name: Name,
    checkpoint: CheckpointOption = None,
    out: Annotated[Path | None, typer.Option(help="Where its preview goes; .instaface/NAME.png by default")] = None,
    root: RootOption = None,
) -> None:
    """The model card of an identity, and its preview as a picture."""
    from tasks.identities import checkpoint_of, introduce
    from tasks.workspace import store_at

    uri = checkpoint_of(store_at(root), name, checkpoint)
    card, picture = introduce(uri)
    print(card)
    preview = out or _preview_file(name)
    preview.parent.mkdir(parents=True, exist_ok=True)
    preview.write_bytes(picture)
    console.print(f"checkpoint: {escape(uri)}\npreview: [bold]{escape(str(preview))}[/bold]", soft_wrap=True)


@identities_app.command("erase")
def erase_command(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, without naming the person; kept in the receipt")],
    delete_original: Annotated[bool, typer.Option(help="Also the photograph, wherever it lies")] = False,
    delete_runs: Annotated[bool, typer.Option(help="Also Prefect's runs that name it")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    root: RootOption = None,
) -> None:
    """Remove everything derived from one person, and refuse late retries; this cannot be undone."""
    if not yes:
        typer.confirm(f"Erase {name}: photograph, maps, embeddings, weights and all edits?", abort=True)
    given = {"identity_id": name, "reason": reason, "delete_original": delete_original, "delete_runs": delete_runs}
    result = run_here("erase-identity", given | ({"root": root} if root is not None else {}))
    console.print(f"{result['objects_removed']} objects removed; receipt: {escape(result['receipt'])}", soft_wrap=True)
    copies = [place for place in (_edits_folder(name), _preview_file(name)) if place.exists()]
    for place in copies:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        console.print(f"Also removed: {escape(str(place))}", soft_wrap=True)
    console.print("Pictures that were copied elsewhere (--out) are yours to delete.")


def _edits_folder(name: str) -> Path:
    """Where `edit` puts pictures of a person unless told otherwise."""
    return Path(".instaface/edits") / name


def _preview_file(name: str) -> Path:
    """Where `show` puts the preview of a person unless told otherwise."""
    return Path(".instaface") / f"{name}.png"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
