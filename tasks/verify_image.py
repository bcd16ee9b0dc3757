"""verify-image: what a picture says about where it came from."""

from collections.abc import Mapping
from pathlib import Path

from models.provenance import BadProvenance, read_stamp
from tasks.marking import content_credentials


def verify_image(path: Path) -> Mapping[str, str] | None:
    """The provenance of a PNG, JPEG or GIF file, as named texts; None where it carries none of ours.

    Raises:
        BadProvenance: not such a file, or a damaged entry. FileNotFoundError: no file.
    """
    data = path.read_bytes()
    try:
        found = read_stamp(data)
    except BadProvenance as error:
        raise BadProvenance(f"{path}: {error}") from error
    if found is None:
        return None
    one = found.provenance
    return {
        "origin": "a photograph with a part made by a trained model" if one.composite else "made by a trained model",
        "software": one.software,
        "model": one.model,
        "identity": one.identity or "none",
        "edit": one.edit,
        "credentials": content_credentials(data) or "no C2PA manifest that could be read",
        "pixels": "unchanged since" if found.intact else "CHANGED since it was stamped",
    }
