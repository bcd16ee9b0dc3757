"""`instaface portraits N --out FOLDER`: synthetic portraits with known parameters."""

from pathlib import Path
from typing import Annotated

import typer


def portraits(
    count: Annotated[int, typer.Argument(metavar="N", help="How many portraits")],
    out: Annotated[Path, typer.Option(help="Folder for pictures, parameters, maps, masks and a contact sheet")],
    people: Annotated[
        int | None, typer.Option(help="Of how many people; by default every portrait is another one")
    ] = None,
    pictures: Annotated[int | None, typer.Option(help="Pictures of each person")] = None,
    size: Annotated[int, typer.Option(help="Pixels a side")] = 256,
    seed: Annotated[int, typer.Option(help="Population: people of different seeds are different")] = 0,
) -> None:
    """Portraits of people who do not exist, with everything known about them; preprocess-ffhq reads portraits:400x12@0."""
    from tasks.portrait_folder import portrait_folder

    rows = portrait_folder(out, count, people=people, pictures=pictures, size=size, seed=seed)
    print(
        f"{len(rows)} portraits of {len({row.person for row in rows})} people in {out}; all at a glance: {out / 'sheet.png'}"
    )
