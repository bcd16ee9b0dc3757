"""A store in an S3 bucket: AWS, or any server that honours If-None-Match (SeaweedFS and MinIO do)."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError

from storage.canonical import sha256_of
from storage.disk import copy_verified, remove_abandoned, room_in, sha256_of_file, staging_folder
from storage.errors import Conflict, NotFound, ObjectCorrupt, StoreUnavailable
from storage.interface import Leftover, ObjectInfo
from storage.keys import STAGING, check_key, check_prefix, is_staging
from storage.s3_requests import S3Config, S3Requests
from storage.s3_upload import base64_sha256, upload_parts


@dataclass(frozen=True, slots=True)
class S3Store:
    """Objects carry their sha256 as metadata. See `storage.interface.Store` for what each method promises."""

    bucket: str
    prefix: str
    config: S3Config = field(default_factory=S3Config)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        def attempt(client: Any) -> bytes:
            answer = client.get_object(**self._where(key))
            data: bytes = answer["Body"].read()
            expected = answer["Metadata"].get("sha256")
            if expected is not None and sha256_of(data) != expected:
                raise ObjectCorrupt(f"{self._name(key)} does not have the sha256 it was committed with: it is damaged")
            return data

        return self._requests.send(attempt, self._name(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        wanted = f"bytes={start}-{start + length - 1}"

        def attempt(client: Any) -> bytes:
            try:
                data: bytes = client.get_object(**self._where(key), Range=wanted)["Body"].read()
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                return b""  # the object ends before
            return data

        return self._requests.send(attempt, self._name(key))

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            answer = self._requests.call("head_object", self._name(key), **self._where(key))
        except NotFound:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["Metadata"].get("sha256"), answer["ETag"].strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        found = [
            ObjectInfo(item["Key"][len(self._full("")) :], item["Size"], stamp=item["ETag"].strip('"'))
            for page in self._pages("list_objects_v2", check_prefix(prefix))
            for item in page.get("Contents", ())
        ]
        # AWS lists in byte order of the keys, SeaweedFS folder by folder.
        found.sort(key=lambda info: info.key.encode())
        return (info for info in found if not is_staging(info.key) and not info.key.endswith("/"))

    def folders(self, prefix: str = "") -> Iterator[str]:
        names = [
            item["Prefix"][len(self._full(prefix)) :].rstrip("/")
            for page in self._pages("list_objects_v2", check_prefix(prefix), Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]
        return (name for name in sorted(names) if name != STAGING)

    def create(self, key: str, data: bytes) -> None:
        sha256 = sha256_of(data)
        request = {
            **self._where(key),
            **self._attributes(sha256),
            "Body": data,
            "IfNoneMatch": "*",
            "ChecksumSHA256": base64_sha256(data),
        }

        def put() -> None:
            self._requests.call("put_object", self._name(key), **request)

        self._commit(put, key, len(data), sha256)

    def create_from_file(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        if size <= self.config.part_size:
            return self.create(key, path.read_bytes())
        sha256 = sha256_of_file(path)
        if self.stat(key) is not None:
            return self._same_or_conflict(key, size, sha256)

        def upload() -> None:
            upload_parts(self._requests, self._where(key), self._attributes(sha256), path, self._name(key))

        return self._commit(upload, key, size, sha256)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        def attempt(client: Any) -> None:
            answer = client.get_object(**self._where(key))
            with room_in(path.parent, answer["ContentLength"]):
                copy_verified(answer["Body"], path, sha256 or answer["Metadata"].get("sha256"), self._name(key))

        self._requests.send(attempt, self._name(key))

    def delete(self, key: str) -> None:
        self._requests.call("delete_object", self._name(key), **self._where(key))

    def delete_prefix(self, prefix: str) -> int:
        deleted = self._delete({"Key": self._full(info.key)} for info in self.list(prefix))
        self._drop_empty_folders(prefix)
        return deleted

    def purge(self, prefix: str) -> int:
        versions = [
            {"Key": item["Key"], "VersionId": item["VersionId"]}
            for page in self._pages("list_object_versions", check_prefix(prefix))
            for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
        ]
        uploads = list(self._uploads(prefix))
        for upload in uploads:
            self._abort(upload)
        removed = self._delete(versions) + len(uploads)
        self._drop_empty_folders(prefix)
        return removed

    def child(self, prefix: str) -> "S3Store":
        return S3Store(self.bucket, self._full(check_prefix(prefix)).rstrip("/"), self.config)

    def check(self) -> None:
        name = f"the bucket {self.bucket!r}"
        try:
            # Not head_bucket: its permission is that of listing, which a policy can then not limit to a prefix.
            listing = {"Prefix": self._full(f"{STAGING}/"), "MaxKeys": 1}
            self._requests.call("list_objects_v2", name, Bucket=self.bucket, **listing)
        except NotFound:
            raise StoreUnavailable(f"{name} does not exist at {self._requests.endpoint}; create it first") from None
        probe = {"Bucket": self.bucket, "Key": self._full(f"{STAGING}/check-{uuid4().hex}")}
        self._requests.call("put_object", self.uri, **probe, Body=b"check")
        self._requests.call("delete_object", self.uri, **probe)

    @contextmanager
    def _staging(self, needed: int) -> Iterator[Path]:
        with room_in(_scratch(), needed), staging_folder(_scratch()) as folder:
            yield folder

    def staging(self, needed: int = 0) -> AbstractContextManager[Path]:
        return self._staging(needed)

    def local_path(self, key: str) -> Path | None:
        return None

    def clean(self, older_than: float) -> Iterator[Leftover]:
        for upload in list(self._uploads("")):
            age = (datetime.now(UTC) - upload["Initiated"]).total_seconds()
            removed = age >= older_than
            if removed:
                self._abort(upload)
            yield Leftover(upload["Key"], "multipart upload", age, removed)
        for folder, age, removed in remove_abandoned(_scratch(), older_than):
            yield Leftover(str(folder), "staging folder", age, removed)

    @property
    def _requests(self) -> S3Requests:
        return S3Requests(self.config)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._full(check_key(key))}

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._full(key)}"

    def _attributes(self, sha256: str) -> dict[str, Any]:
        encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.config.kms_key} if self.config.kms_key else {}
        )
        return {"Metadata": {"sha256": sha256}, **encryption}

    def _commit(self, publish: Callable[[], None], key: str, size: int, sha256: str) -> None:
        try:
            publish()
        except Conflict:
            self._same_or_conflict(key, size, sha256)

    def _same_or_conflict(self, key: str, size: int, sha256: str) -> None:
        existing = self.stat(key)
        if existing is None:
            raise Conflict(f"{self._name(key)} was created and deleted by others at this moment; try again")
        theirs = existing.sha256
        if theirs is None and existing.size == size:
            with self.staging(size) as folder:
                self.download(key, folder / "theirs")
                theirs = sha256_of_file(folder / "theirs")
        if (existing.size, theirs) != (size, sha256):
            raise Conflict(
                f"{self._name(key)} exists with other bytes than the {size:,} bytes to be committed "
                f"(sha256 {sha256[:16]}…); committed objects are never replaced"
            )

    def _pages(self, operation: str, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        return self._requests.pages(
            operation, self._name(prefix), Bucket=self.bucket, Prefix=self._full(prefix), **options
        )

    def _drop_empty_folders(self, prefix: str) -> None:
        """SeaweedFS goes on listing folders whose objects are gone; AWS has no folders, and nothing is deleted there."""
        top = self._full(prefix)
        if not top.endswith("/"):
            return

        def below(folder: str) -> Iterator[str]:
            listing = {"Bucket": self.bucket, "Prefix": folder, "Delimiter": "/"}
            for page in self._requests.pages("list_objects_v2", self.uri, **listing):
                for item in page.get("CommonPrefixes", ()):
                    if item["Prefix"].startswith(top):
                        yield from below(item["Prefix"])
                        yield item["Prefix"]

        # Asked for "a/b", SeaweedFS does not name the empty folder "a/b/"; asked for "a/" it does.
        above = top[: top.rstrip("/").rfind("/") + 1]
        for folder in list(below(above)):
            self._requests.call("delete_object", self.uri, Bucket=self.bucket, Key=folder)

    def _uploads(self, prefix: str) -> Iterator[dict[str, Any]]:
        for page in self._pages("list_multipart_uploads", check_prefix(prefix)):
            yield from page.get("Uploads", ())

    def _abort(self, upload: dict[str, Any]) -> None:
        where = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        self._requests.call("abort_multipart_upload", upload["Key"], **where)

    def _delete(self, objects: Iterable[dict[str, str]]) -> int:
        deleted, remaining = 0, iter(objects)
        while batch := list(islice(remaining, 1000)):
            request = {"Bucket": self.bucket, "Delete": {"Objects": batch, "Quiet": True}}
            answer = self._requests.call("delete_objects", self.uri, **request)
            for fault in answer.get("Errors", ()):
                raise StoreUnavailable(
                    f"{fault['Key']} could not be deleted: {fault.get('Message', fault.get('Code'))}"
                )
            deleted += len(batch)
        return deleted


def _scratch() -> Path:
    """Where objects are put together before they are uploaded: a folder of this user in TMPDIR."""
    return Path(tempfile.gettempdir(), f"instaface-{os.getuid()}")
