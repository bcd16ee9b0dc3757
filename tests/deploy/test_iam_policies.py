"""Each deployment does its work under its own policy, and the policy allows nothing that the work does not use."""

import ast
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from s3_server import s3_server

from storage.seaweed import SeaweedServer
from tests.deploy.policed_flows import NAMES, POLICIES
from tests.deploy.policed_s3 import Ask, Grant, Policy, asks

__all__ = ["s3_server"]
ROOT = Path(__file__).resolve().parents[2]
UNUSED = (
    # A failed upload of a large object is aborted; objects here are small.
    ("*", "s3:AbortMultipartUpload", "*"),
    # A late edit of an erased person takes back what it wrote; here only the late fine-tune does.
    ("edit-identity", "s3:ListBucketVersions", "*"),
    ("edit-identity", "s3:DeleteObjectVersion", "*"),
    ("edit-identity", "s3:ListBucketMultipartUploads", "*"),
    # An original that is the beginning of another object's name is deleted without a listing of its versions.
    ("erase-identity", "s3:DeleteObject", "arn:aws:s3:::photographs/*"),
)
"""Policy, action and resource of what a small, undisturbed run has no need of."""


def test_requests_are_told_apart() -> None:
    bucket, key = "arn:aws:s3:::b", "arn:aws:s3:::b/r/k é"
    path = "/b/r/k%20%C3%A9"
    assert asks("GET", path) == asks("HEAD", path) == [Ask("s3:GetObject", key)]
    assert asks("PUT", path) == asks("PUT", f"{path}?partNumber=1&uploadId=u") == [Ask("s3:PutObject", key)]
    assert asks("POST", f"{path}?uploads") == asks("POST", f"{path}?uploadId=u") == [Ask("s3:PutObject", key)]
    assert asks("DELETE", path) == [Ask("s3:DeleteObject", key)]
    assert asks("DELETE", f"{path}?versionId=1") == [Ask("s3:DeleteObjectVersion", key)]
    assert asks("DELETE", f"{path}?uploadId=1") == [Ask("s3:AbortMultipartUpload", key)]
    assert asks("GET", "/b?list-type=2&prefix=r%2F") == [Ask("s3:ListBucket", bucket, "r/")]
    assert asks("GET", "/b?list-type=2") == [Ask("s3:ListBucket", bucket, None)]
    assert asks("HEAD", "/b") == [Ask("s3:ListBucket", bucket, None)]
    assert asks("GET", "/b?versions&prefix=r") == [Ask("s3:ListBucketVersions", bucket, "r")]
    assert asks("GET", "/b/?uploads&prefix=r") == [Ask("s3:ListBucketMultipartUploads", bucket, "r")]
    body = (
        b'<Delete xmlns="x"><Object><Key>a</Key></Object><Object><Key>b</Key><VersionId>1</VersionId></Object></Delete>'
    )
    assert asks("POST", "/b?delete", body) == [
        Ask("s3:DeleteObject", f"{bucket}/a"),
        Ask("s3:DeleteObjectVersion", f"{bucket}/b"),
    ]
    with pytest.raises(ValueError, match="not a request"):
        asks("PUT", "/b")


def test_policies_keep_people_and_data_apart() -> None:
    def may(policy: str, action: str, key: str) -> bool:
        return Policy.read(POLICIES / f"{policy}.json", NAMES).allows(Ask(f"s3:{action}", f"arn:aws:s3:::{key}"))

    assert may("train-stage1", "GetObject", "instaface/faces/features/1/shard.tar")
    assert not may("train-stage1", "GetObject", "instaface/faces/identities/ada/1/record.json")
    assert not may("train-stage1", "GetObject", "instaface/other/features/1/shard.tar")
    assert not may("train-stage1", "GetObject", "another/faces/features/1/shard.tar")
    assert not may("finetune-identity", "GetObject", "instaface/faces/images/1/shard.tar")
    assert not may("finetune-identity", "PutObject", "instaface/faces/erasures/1.json")
    deleters = {path.stem for path in POLICIES.glob("*.json") if path.stem not in ("lifecycle", "bucket-policy", "kms")}
    deleters = {name for name in deleters if may(name, "DeleteObject", "photographs/album/ada.jpg")}
    assert deleters == {"erase-identity"}
    nobody = [
        name for name in ("preprocess-ffhq", "evaluate", "upkeep") if may(name, "PutObject", "photographs/album/x.jpg")
    ]
    assert not nobody
    listing = Policy.read(POLICIES / "evaluate.json", NAMES)
    assert listing.allows(Ask("s3:ListBucket", "arn:aws:s3:::instaface", "faces/identities/ada/"))
    assert not listing.allows(Ask("s3:ListBucket", "arn:aws:s3:::instaface", "faces/"))
    assert not listing.allows(Ask("s3:ListBucket", "arn:aws:s3:::instaface", None)), "not all names of the bucket"


CALLS = {
    "get_object", "head_object", "list_objects_v2", "put_object", "create_multipart_upload", "upload_part",
    "complete_multipart_upload", "abort_multipart_upload", "list_multipart_uploads", "list_object_versions",
    "delete_object", "delete_objects",
}  # fmt: skip


def test_storage_calls_s3_by_no_other_operations() -> None:
    """`policed_s3.asks` knows what these need; a new one has to be added there and to the policies."""
    operations = set(boto3.client("s3", region_name="us-east-1").meta.method_to_api_mapping)
    found: set[str] = set()
    for path in sorted((ROOT / "storage").glob("s3*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} & operations
            elif isinstance(node, ast.Attribute):
                found |= {node.attr} & operations
    assert found == CALLS


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every flow asked of S3 while its policy was enforced."""
    folder = tmp_path_factory.mktemp("policed")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AWS_", "INSTAFACE_", "RAY_"))}
    environment = {
        **inherited, "PREFECT_HOME": str(folder / "prefect"), "INSTAFACE_CACHE": str(folder / "cache"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.policed_flows", folder], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "asked.json").read_text()) if (folder / "asked.json").exists() else {}
    refused = {name: one["refused"] for name, one in found.items() if one["refused"]}
    assert done.returncode == 0, f"{refused}\n{done.stderr[-3000:]}"
    return found


@pytest.mark.slow
def test_every_flow_works_under_its_own_policy(asked: dict[str, Any]) -> None:
    assert {name for name, one in asked.items() if one["asked"] and not one["refused"]} == {
        "preprocess-ffhq", "redrive-quarantine", "train-stage1", "finetune-identity", "edit-identity", "evaluate", "upkeep",
        "erase-identity",
    }  # fmt: skip


def single_grants(policy: Policy) -> Iterator[Grant]:
    """Each action on each resource (under each prefix) by itself."""
    for grant in policy.grants:
        for action in grant.actions:
            for resource in grant.resources:
                for prefix in grant.prefixes or (None,):
                    yield Grant(grant.sid, (action,), (resource,), None if prefix is None else (prefix,))


@pytest.mark.slow
def test_no_policy_allows_what_its_flow_does_not_do(asked: dict[str, Any]) -> None:
    surplus = []
    # A redrive may do what a first run does, on another day; their policies are the same.
    assert (POLICIES / "redrive-quarantine.json").read_text() == (POLICIES / "preprocess-ffhq.json").read_text()
    for name in sorted(set(asked) - {"redrive-quarantine"}):
        used = [Ask(*one) for one in asked[name]["asked"]]
        for grant in single_grants(Policy.read(POLICIES / f"{name}.json", NAMES)):
            single = (name, grant.actions[0], grant.resources[0])
            excused = any(all(map(fnmatch.fnmatchcase, single, pattern)) for pattern in UNUSED)
            if not excused and not any(grant.allows(ask) for ask in used):
                surplus.append(f"{name}: {grant.sid} {grant.actions[0]} {grant.resources[0]} {grant.prefixes or ''}")
    assert not surplus, "\n".join(surplus)


# Lifecycle


def rules() -> dict[str, Any]:
    text = (POLICIES / "lifecycle.json").read_text()
    for name, value in NAMES.items():
        text = text.replace(name, value)
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_s3_server_takes_the_lifecycle_and_gives_it_back(s3_server: SeaweedServer) -> None:
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1",
                          aws_access_key_id=s3_server.environment["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=s3_server.environment["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    client.create_bucket(Bucket="lifecycle")
    client.put_bucket_lifecycle_configuration(Bucket="lifecycle", LifecycleConfiguration=rules())
    given_back = client.get_bucket_lifecycle_configuration(Bucket="lifecycle")["Rules"]
    assert {rule["ID"] for rule in given_back} == {rule["ID"] for rule in rules()["Rules"]}


def test_only_staging_expires() -> None:
    expiring = [rule for rule in rules()["Rules"] if "Expiration" in rule]
    assert [rule["Filter"] for rule in expiring] == [{"Prefix": "faces/.staging/"}]
    known = {"ID", "Status", "Filter", "Expiration", "AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"}
    assert {key for rule in rules()["Rules"] for key in rule} == known


@pytest.mark.slow
def test_no_object_that_a_flow_keeps_expires(asked: dict[str, Any]) -> None:
    prefixes = [rule["Filter"]["Prefix"] for rule in rules()["Rules"] if "Expiration" in rule]
    for name, one in asked.items():
        for action, resource, _ in one["asked"]:
            key = resource.removeprefix(f"arn:aws:s3:::{NAMES['DATA_BUCKET']}/")
            if action == "s3:PutObject" and any(key.startswith(prefix) for prefix in prefixes):
                assert key.startswith("faces/.staging/check-"), f"{name} keeps {key}"
                gone = [other for other in one["asked"] if other[:2] == ["s3:DeleteObject", resource]]
                assert gone, f"{name} leaves {key}"
