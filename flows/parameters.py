"""Types of flow parameters: documented in the UI's forms, and checked by Prefect's API before a run exists."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from tasks.image_uri import DRIVER_PATTERN, MAX_LENGTH, PATTERN, check_image_uri

Config = TypeVar("Config")


def _checked(uri: object) -> object:
    """Says what is wrong in words before the pattern, which is there for Prefect's API, says it in symbols."""
    if isinstance(uri, str):
        check_image_uri(uri)
    return uri


def with_fields(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration (dataclass) with some fields set otherwise.

    Raises:
        ValueError: a name that is no field, or a value that the configuration refuses.
    """
    known = [one.name for one in fields(config)]  # type: ignore[arg-type]  # a dataclass
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"changes={unknown}: there are {', '.join(known)}")
    try:
        return replace(config, **changes)  # type: ignore[type-var]
    except TypeError as error:
        raise ValueError(f"changes={dict(changes)}: {error}") from error


PresetName = Annotated[
    Literal["tiny", "tiny-scratch", "tiny-further", "tiny-concatenation", "debug", "open", "paper"],
    Field(
        description="tiny: all embedded, CPU; tiny-scratch: how its weights were trained; debug: a handful of steps; "
        "open: no registration walls; paper: as published"
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
    Field(
        description="Folder, file or s3:// prefix of photographs; embedded:portrait is the public-domain portrait, "
        "portraits:20x4@0 four pictures each of 20 synthetic people"
    ),
]
ImageUri = Annotated[
    str,
    Field(description="One photograph: s3://bucket/key.jpg or a local file", pattern=PATTERN, max_length=MAX_LENGTH),
    BeforeValidator(_checked),
]
DriverUri = Annotated[
    str,
    Field(
        description="Photograph whose pose, expression or light is taken; or a folder of frames, which become a film",
        pattern=DRIVER_PATTERN, max_length=MAX_LENGTH,
    ),
]  # fmt: skip
IdentityId = Annotated[
    str | None,
    Field(
        description="Name of the identity, lower-case letters, digits and dashes; derived from the photograph by default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
    ),
]
AdaptationScale = Annotated[
    float,
    Field(
        description="How much of the fine-tune is used: 1 all of it, 0 the base model; by default 0.35 for edits that turn or "
        "light the head and carry detail, all of it for others",
        ge=0, le=1,
    ),
]  # fmt: skip
