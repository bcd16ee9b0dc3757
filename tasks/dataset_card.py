"""dataset card: what a finished dataset holds, as people look at it before they train on it: dataset.md, dataset.html
and a sheet of samples.

They lie beside the features they describe, stand alone, and depend on nothing but the data.
"""

import base64
from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from storage.errors import Conflict
from tasks.generation import Generation
from tasks.progress import in_prefect_run
from tasks.reachable import when_reachable

MARKDOWN, PAGE, SHEET = FILES = ("dataset.md", "dataset.html", "dataset.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Where the card is, and its short form."""

    markdown_uri: str
    page_uri: str
    summary: str
    sheet: bytes
    """PNG of a few samples with their maps."""


def dataset_card(images: Generation, maps: Generation, features: Generation) -> Card:
    """Write the card beside the features, once; a later call with the same data finds it."""
    home = features.store()
    if any(home.stat(name) is None for name in FILES):
        from tasks.dataset_page import card_files  # draws plots and heads

        for name, data in zip(FILES, card_files(images, maps, features), strict=True):
            try:
                home.create(name, data)
            except Conflict:
                continue  # another process wrote it, or another version of this code: one is enough
    return Card(
        markdown_uri=f"{home.uri}/{MARKDOWN}", page_uri=f"{home.uri}/{PAGE}", summary=home.read(MARKDOWN).decode(),
        sheet=home.read(SHEET),
    )  # fmt: skip


@task(name="dataset-card", persist_result=False)
def card_task(images: Generation, maps: Generation, features: Generation) -> Card:
    """The card beside the data, and in the Prefect UI."""
    card = dataset_card(images, maps, features)
    if in_prefect_run():
        sheet = f"data:image/png;base64,{base64.b64encode(card.sheet).decode()}"
        when_reachable(create_markdown_artifact)(
            key="dataset-card", markdown=f"{card.summary}\n![samples]({sheet})\n", description=card.page_uri
        )
        when_reachable(create_image_artifact)(key="dataset-samples", image_url=sheet, description="Samples with their maps")
    return card
