"""Every picture that leaves the project is marked: provenance in its metadata, and content credentials where configured.

With INSTAFACE_C2PA_CERTIFICATE (a PEM chain, the signer's first) and INSTAFACE_C2PA_KEY (its PEM private key), pictures
also carry a signed C2PA manifest that names the digital source type. It needs `c2pa-python` (`pip install
"instaface[c2pa]"`); INSTAFACE_C2PA_ALGORITHM is es256 by default.
"""

import functools
import io
import json
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.provenance import COMPOSITE_TYPE, SOURCE_TYPE, Provenance, stamp

CERTIFICATE_VARIABLE = "INSTAFACE_C2PA_CERTIFICATE"
KEY_VARIABLE = "INSTAFACE_C2PA_KEY"
SOFTWARE = f"InstaFace {version('instaface')}"
"""What made a picture, in its provenance."""
ALGORITHM_VARIABLE = "INSTAFACE_C2PA_ALGORITHM"
_KINDS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff\xe0": "image/jpeg",
    b"\xff\xd8\xff\xe1": "image/jpeg",
    b"GIF8": "image/gif",
}


class BadSigner(ValueError):
    """The configured certificate cannot sign; the message says what is missing."""


def mark(picture: bytes, provenance: Provenance) -> bytes:
    """The same PNG, JPEG or GIF with its provenance, and signed where a certificate is configured.

    Raises:
        BadProvenance: another format, or already marked. BadSigner: a certificate that cannot sign.
    """
    stamped = stamp(picture, provenance)
    certificate, key = os.environ.get(CERTIFICATE_VARIABLE), os.environ.get(KEY_VARIABLE)
    if not certificate and not key:
        return stamped
    if not certificate or not key:
        raise BadSigner(f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE} belong together: set both, or neither")
    return _signed(stamped, provenance, certificate, key)


def content_credentials(picture: bytes) -> str | None:
    """Who signed the picture's C2PA manifest and whether it holds, in words; None without one, or without the library."""
    if find_spec("c2pa") is None:
        return None
    import c2pa

    try:
        with c2pa.Reader(_KINDS[picture[:4]], io.BytesIO(picture)) as reader:
            report: dict[str, Any] = json.loads(reader.json())
    except (c2pa.C2paError, KeyError):
        return None
    issuer = report["manifests"][report["active_manifest"]].get("signature_info", {}).get("issuer", "an unnamed signer")
    codes = [str(one.get("code")) for one in report.get("validation_status", [])]
    state = str(report.get("validation_state", "Invalid"))
    return f"signed by {issuer}: {state.lower()}" + (f" ({', '.join(codes)})" if codes else "")


def _signed(picture: bytes, provenance: Provenance, certificate: str, key: str) -> bytes:
    signer = _signer(certificate, key, os.environ.get(ALGORITHM_VARIABLE, "es256"))
    import c2pa

    source = COMPOSITE_TYPE if provenance.composite else SOURCE_TYPE
    name, _, release = provenance.software.partition(" ")
    kind = _KINDS[picture[:4]]
    manifest = {
        "claim_generator_info": [{"name": name, "version": release or "unknown"}],
        "title": "edited portrait",
        "format": kind,
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": source}]},
            }
        ],
    }
    result = io.BytesIO()
    try:
        c2pa.Builder(json.dumps(manifest)).sign(signer, kind, io.BytesIO(picture), result)
    except c2pa.C2paError as error:
        raise BadSigner(f"{certificate} could not sign a picture ({error}): check chain, key and algorithm") from error
    return result.getvalue()


@functools.cache
def _signer(certificate: str, key: str, algorithm: str) -> Any:
    if find_spec("c2pa") is None:
        raise BadSigner(
            f'{CERTIFICATE_VARIABLE} is set and c2pa-python is not installed: pip install "instaface[c2pa]"'
        )
    import c2pa

    for file in (certificate, key):
        if not Path(file).is_file():
            raise BadSigner(f"{file} does not exist: {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} name two PEM files")
    try:
        return c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(algorithm, Path(certificate).read_bytes(), Path(key).read_bytes(), None)
        )
    except (c2pa.C2paError, ValueError) as error:
        raise BadSigner(f"{certificate} and {key} are no usable {algorithm} signer: {error}") from error
