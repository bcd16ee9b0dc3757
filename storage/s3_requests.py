"""Requests to S3: the client of this process, one place that retries, one place that turns faults into sentences."""

import functools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from storage.errors import Conflict, NotFound, ObjectCorrupt, StorageError, StoreUnavailable

Answer = TypeVar("Answer")

SMALLEST_PART = 5 << 20
"""Bytes; S3 refuses smaller parts except the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Config:
    """How to talk to the bucket. Credentials come by boto3's ordinary chain and are never part of it."""

    endpoint: str | None = None
    """URL of a server other than AWS; None asks AWS_ENDPOINT_URL, then AWS."""
    region: str | None = None
    """None asks boto3's chain, then us-east-1."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """"path": bucket in the path; "virtual": in the host name; "auto": path for an endpoint of one's own, else virtual."""
    kms_key: str | None = None
    """Encrypt what is written with this KMS key; None leaves it to the bucket's default."""
    attempts: int = 5
    """How often a request is made before a throttled, cut or unanswered one counts as failed."""
    part_size: int = 16 << 20
    """Bytes; larger objects travel as multipart uploads in parts of this size."""
    connect_timeout: float = 10.0
    """Seconds."""
    read_timeout: float = 60.0
    """Seconds without a byte."""

    def __post_init__(self) -> None:
        if self.addressing not in ("auto", "path", "virtual"):
            raise ValueError(f"addressing is {self.addressing!r}; use 'auto', 'path' or 'virtual'")
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; at least 1 is needed")
        if self.part_size < SMALLEST_PART:
            raise ValueError(
                f"part_size is {self.part_size:,} bytes; S3 takes parts of {SMALLEST_PART:,} bytes and more"
            )
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}; write it with http:// or https://")


_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_object_versions": {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
}
"""Which answer field continues a listing as which request field."""

_PASSING = {
    "BadDigest", "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
}  # fmt: skip
"""Error codes worth another attempt; the digest ones mean that the request was damaged on its way."""


@dataclass(frozen=True, slots=True)
class S3Requests:
    config: S3Config

    @property
    def endpoint(self) -> str:
        url: str = self._client.meta.endpoint_url
        return url

    @property
    def _client(self) -> Any:
        ambient = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        return _client(self.config, ambient, os.getpid())

    def send(self, request: Callable[[Any], Answer], what: str) -> Answer:
        """Calls `request(client)`, again after a growing pause while the fault may pass.

        Raises NotFound; Conflict when If-None-Match failed; ObjectCorrupt when every answer was damaged;
        StoreUnavailable otherwise.
        """
        for attempt in range(1, self.config.attempts + 1):
            try:
                return request(self._client)
            except (BotoCoreError, ClientError, ObjectCorrupt) as error:
                if attempt == self.config.attempts or not _may_pass(error):
                    raise self._sentence(error, what, attempt) from error
                # 0.1 s, 0.2 s, 0.4 s, …, at most 5 s; the random half keeps many clients from returning
                # together.
                pause = min(5.0, 0.1 * 2 ** (attempt - 1))
                time.sleep(pause * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable: attempts is at least 1")

    def call(self, operation: str, what: str, **request: Any) -> dict[str, Any]:
        """`send` for requests whose answer has no body to be read."""

        def ask(client: Any) -> dict[str, Any]:
            answer: dict[str, Any] = getattr(client, operation)(**request)
            return answer

        return self.send(ask, what)

    def pages(self, operation: str, what: str, **request: str) -> Iterator[dict[str, Any]]:
        """The answers of a listing, page by page."""
        position: dict[str, str] = {}
        while True:
            page = self.call(operation, what, **request, **position)
            yield page
            if not page.get("IsTruncated"):
                return
            position = {ask: page[told] for ask, told in _NEXT[operation].items() if page.get(told)}

    def _sentence(self, error: Exception, what: str, attempts: int) -> StorageError:
        if isinstance(error, StorageError):
            return error
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return StoreUnavailable(
                f"no credentials for {what}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
            )
        tried = "" if attempts == 1 else f" (tried {attempts} times)"
        if not isinstance(error, ClientError):
            return StoreUnavailable(f"{what} cannot be reached at {self.endpoint}: {error}{tried}")
        code, status = _code(error), _status(error)
        if status == 404 and code != "NoSuchUpload":
            missing = "bucket" if code == "NoSuchBucket" else "object"
            return NotFound(f"there is no {missing} for {what} at {self.endpoint}")
        if code in ("PreconditionFailed", "NoSuchUpload"):
            return Conflict(f"{what} exists already")
        message = error.response.get("Error", {}).get("Message", "no message")
        if status in (401, 403):
            return StoreUnavailable(f"{self.endpoint} refuses access to {what}: {code}, {message}")
        return StoreUnavailable(f"{self.endpoint} does not do what was asked for {what}: {code}, {message}{tried}")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return _code(error) in _PASSING or _status(error) >= 500
    return isinstance(error, HTTPClientError | IncompleteReadError | ResponseStreamingError | ObjectCorrupt)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _addressing(config: S3Config, ambient: dict[str, str]) -> Literal["auto", "virtual", "path"]:
    """Servers of one's own seldom have a host name a bucket; boto3's "auto" would ask http://bucket.server/ of them."""
    own = config.endpoint or ambient.get("AWS_ENDPOINT_URL_S3") or ambient.get("AWS_ENDPOINT_URL")
    return "path" if config.addressing == "auto" and own else config.addressing


_creating = threading.Lock()


@functools.lru_cache(maxsize=16)
def _client(config: S3Config, ambient: tuple[tuple[str, str], ...], process: int) -> Any:
    """One client a process (connections do not survive a fork), and another when the credentials change."""
    with _creating:
        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=config.endpoint,
            region_name=config.region or session.region_name or "us-east-1",
            config=Config(
                # S3Requests.send retries, and it does so for whole answers, not only for their headers.
                retries={"total_max_attempts": 1},
                s3={"addressing_style": _addressing(config, dict(ambient))},
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
                # Checksums are ours: SHA-256, named in every upload and compared after every download.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=16,
            ),
        )
