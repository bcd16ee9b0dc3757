"""Types of flow parameters: documented in the UI's forms, and checked by Prefect's API before a run exists."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.image_uri import MAX_LENGTH, PATTERN, check_image_uri


def _checked(uri: str) -> str:
    check_image_uri(uri)
    return uri


PresetName = Annotated[
    Literal["tiny", "open", "paper"],
    Field(
        description="tiny: everything embedded, CPU; open: Stable Diffusion without registration walls; paper: as published"
    ),
]
Root = Annotated[
    str | None,
    Field(
        description="Where everything is kept, s3://bucket/prefix or a folder; INSTAFACE_ROOT, else .instaface/store, by default"
    ),
]
Source = Annotated[
    str,
    Field(description="Folder, file or s3:// prefix of photographs; embedded:portrait is the public-domain portrait"),
]
ImageUri = Annotated[
    str,
    Field(description="One photograph: s3://bucket/key.jpg or a local file", pattern=PATTERN, max_length=MAX_LENGTH),
    AfterValidator(_checked),
]
IdentityId = Annotated[
    str | None,
    Field(
        description="Name of the identity, letters, digits, - and _; derived from the photograph by default",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
    ),
]
