"""Every deployment, small, against a real S3 server that enforces its own IAM policy; what was asked goes to a file.

Usage: python -m tests.deploy.policed_flows FOLDER [--record]

With --record nothing is refused. FOLDER/asked.json: for each policy the requests (action, resource, prefix) and what was
refused; a flow that fails ends the program.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import boto3
from prefect.testing.utilities import prefect_test_harness

from flows.edit_identity import edit_identity
from flows.erase_identity import erase_identity
from flows.evaluate import evaluate
from flows.finetune_identity import finetune_identity
from flows.preprocess_ffhq import preprocess_ffhq
from flows.redrive_quarantine import redrive_quarantine
from flows.train_stage1 import train_stage1
from storage.canonical import sha256_of
from storage.errors import Tombstoned
from storage.identities import IdentityStore
from storage.seaweed import SeaweedServer
from storage.stores import S3Store, Store, open_store
from storage.upkeep import clean_staging, repair_dataset, verify_dataset
from tasks.expressions import save_expression
from tasks.ray_pool import ray_session
from tasks.sources import list_photos
from tests.deploy.policed_s3 import PolicedS3, Policy
from tests.two_photographs import write_two_photographs

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "aws"
NAMES = {"DATA_BUCKET": "instaface", "DATA_ROOT": "faces", "PHOTO_BUCKET": "photographs", "PHOTO_ROOT": "album"}
ROOT = f"s3://{NAMES['DATA_BUCKET']}/{NAMES['DATA_ROOT']}"
ALBUM = f"s3://{NAMES['PHOTO_BUCKET']}/{NAMES['PHOTO_ROOT']}"
PORTRAIT = f"{ALBUM}/portrait.png"


def look_after() -> None:
    """As `instaface storage verify`, `repair` and `clean`."""
    root = open_store(ROOT)
    assert isinstance(root, S3Store)
    assert all(finding.verdict == "ok" for finding in verify_dataset(root))
    manifest = next(info.key for info in root.list("maps/") if info.key.endswith("/manifest.copy.json"))
    root.delete(manifest)
    assert [repair.name for repair in repair_dataset(root)] == ["manifest.copy.json"]
    upload = root.child("maps/unfinished")
    upload._requests.call("create_multipart_upload", "an upload", **upload._where("shard"))
    assert [leftover.kind for leftover in clean_staging(root, 60.0) if leftover.kind == "multipart upload"]
    list(root.clean(0.0))


def preprocess(folder: Path) -> None:
    """From S3, and the listing of a local folder, twice: digests of local files are kept and replaced."""
    preprocess_ffhq(source=ALBUM, workers=1, root=ROOT, preset="debug")
    store = open_store(ROOT)
    list_photos(str(folder), store)
    (folder / "portrait.png").touch()
    list_photos(str(folder), store)


def finetune(direct: Store) -> None:
    """And what a writer does that finds its identity erased (`direct`: by another, past this policy)."""
    finetune_identity(image_uri=PORTRAIT, identity_id="ada", steps=2, prior_weight=0.1, root=ROOT, preset="debug")
    late = IdentityStore(open_store(ROOT)).home("bo")
    direct.create("identities/bo/1/late.json", b"{}")
    direct.create(f"erasures/{sha256_of(b'bo')}.json", b"{}")
    try:
        late._take_back_if_erased("1/late.json")  # type: ignore[attr-defined]
    except Tombstoned:
        return
    raise AssertionError("a late writer was not stopped")


def measure() -> None:
    """The edits of a person, and a protocol over photographs."""
    evaluate(identity_id="ada", root=ROOT, preset="debug")
    evaluate(protocol="smoke", source=ALBUM, people=2, each=1, methods=["copy", "zero-shot"], root=ROOT, preset="debug")


def erase() -> None:
    """Twice: the second finds the tombstone of the first."""
    for _ in range(2):
        erase_identity("ada", "asked", root=ROOT, delete_original=True)


def steps(folder: Path, direct: Store) -> list[tuple[str, Callable[[], Any]]]:
    small: dict[str, Any] = {"root": ROOT, "preset": "debug"}
    source = {"source": ALBUM, "workers": 1}
    left = [{"name": "left", "yaw": -20, "expression": "grin"}]
    return [
        ("preprocess-ffhq", lambda: preprocess(folder)),
        ("redrive-quarantine", lambda: redrive_quarantine(**source, **small)),
        ("train-stage1", lambda: train_stage1(steps=6, workers=1, **small)),
        ("finetune-identity", lambda: finetune(direct)),
        (
            "edit-identity",
            lambda: edit_identity(identity_id="ada", edits=left, driver_uri=f"{ALBUM}/", paste_back=True, **small),
        ),
        ("evaluate", measure),
        ("upkeep", look_after),
        ("erase-identity", erase),
    ]


def main(folder: Path, record: bool) -> None:
    asked: dict[str, Any] = {}
    write_two_photographs(folder / "album")
    with SeaweedServer(folder / "s3", NAMES["DATA_BUCKET"]) as server:
        os.environ.update(server.environment)
        photographs = boto3.client("s3", endpoint_url=server.endpoint)
        photographs.create_bucket(Bucket=NAMES["PHOTO_BUCKET"])
        for path in (folder / "album").iterdir():
            photographs.upload_file(str(path), NAMES["PHOTO_BUCKET"], f"{NAMES['PHOTO_ROOT']}/{path.name}")
        direct = open_store(ROOT, s3=server.config)
        save_expression(direct, "grin", {"expressions": {"smile": 0.5}})
        police = PolicedS3(server.endpoint)
        with police.serving() as url:
            os.environ["AWS_ENDPOINT_URL"] = url
            with prefect_test_harness(server_startup_timeout=120), ray_session(2):
                for name, step in steps(folder / "album", direct):
                    police.enforce(None if record else Policy.read(POLICIES / f"{name}.json", NAMES))
                    try:
                        step()
                    finally:
                        asked[name] = {
                            "asked": sorted(map(astuple, police.seen), key=str), "refused": list(map(astuple, police.refused)),
                        }  # fmt: skip
                        (folder / "asked.json").write_text(json.dumps(asked, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--record" in sys.argv)
