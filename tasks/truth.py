"""Face parameters that are known exactly, as text that travels with a photograph: only synthetic sources have them."""

import base64
import json
from importlib import import_module
from typing import cast

from models.face3d.parameters import FaceParameters
from models.images import decode_png, encode_png

_ALBEDO = "albedo_png"


def truth_text(parameters: FaceParameters) -> str:
    """JSON of the parameters, their UV albedo picture included (PNG in base64); equal parameters give equal text."""
    body = json.loads(parameters.to_json())
    if parameters.albedo is not None:
        body[_ALBEDO] = base64.b64encode(encode_png(parameters.albedo)).decode()
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def truth_parameters(text: str) -> FaceParameters:
    """The parameters of `truth_text`, or those a reference to a synthetic portrait stands for.

    JSON of `FaceParameters.to_json` alone is parameters without a picture.

    Raises:
        ValueError: no parameters in this text.
    """
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError(f"known parameters are a JSON object, not {text[:40]!r}")
    if "portrait" in body:
        return cast(FaceParameters, import_module("tasks.portraits").portrait_truth(body["portrait"]))
    picture = body.pop(_ALBEDO, None)
    albedo = None if picture is None else decode_png(base64.b64decode(picture, validate=True))
    return FaceParameters.from_json(json.dumps(body), albedo)
