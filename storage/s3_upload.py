"""Multipart uploads, published by If-None-Match at their completion."""

import hashlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from storage.s3_requests import S3Requests

PARALLEL = 4
"""Parts under way at once; memory use is PARALLEL × part_size."""

MOST_PARTS = 10_000
"""S3's limit."""


def base64_sha256(data: bytes) -> str:
    """SHA-256 as S3's checksum headers want it."""
    return b64encode(hashlib.sha256(data).digest()).decode()


def upload_parts(
    requests: S3Requests, where: dict[str, str], attributes: dict[str, Any], path: Path, what: str
) -> None:
    """Uploads the file at `path`, each part with its SHA-256, and completes it once; aborts the upload on any failure.

    Raises Conflict when the object exists, StoreUnavailable.
    """
    size = path.stat().st_size
    part_size = max(requests.config.part_size, -(-size // MOST_PARTS))
    begun = requests.call("create_multipart_upload", what, **where, **attributes, ChecksumAlgorithm="SHA256")
    upload = {**where, "UploadId": begun["UploadId"]}

    def send_part(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * part_size)
            data = file.read(part_size)
        checksum = base64_sha256(data)
        request = {**upload, "PartNumber": number, "Body": data, "ChecksumSHA256": checksum}
        answer = requests.call("upload_part", f"part {number} of {what}", **request)
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            parts = list(pool.map(send_part, range(1, -(-size // part_size) + 1)))
        finished = {**upload, "MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
        requests.call("complete_multipart_upload", what, **finished)
    except BaseException:
        requests.call("abort_multipart_upload", what, **upload)
        raise
