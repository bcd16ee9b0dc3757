"""An HTTP proxy on loopback in front of a real S3 server that lets through what an AWS IAM policy allows.

Actions, resources and condition keys are those of AWS's reference for S3; the policy language is the part of it that the
project's policies use (Allow, Action, Resource, StringLike on s3:prefix), and anything else is refused by `Policy`.
"""

import fnmatch
import http.client
import json
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True, order=True)
class Ask:
    """What a request needs."""

    action: str
    resource: str
    """ARN of the bucket or object."""
    prefix: str | None = None
    """Of a listing."""


@dataclass(frozen=True, slots=True)
class Grant:
    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    prefixes: tuple[str, ...] | None

    def allows(self, ask: Ask) -> bool:
        if not any(fnmatch.fnmatchcase(ask.action, action) for action in self.actions):
            return False
        if not any(fnmatch.fnmatchcase(ask.resource, resource) for resource in self.resources):
            return False
        # A condition on a key that the request does not have is not met.
        return self.prefixes is None or (
            ask.prefix is not None and any(fnmatch.fnmatchcase(ask.prefix, like) for like in self.prefixes)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    grants: tuple[Grant, ...]

    @staticmethod
    def read(path: Path, names: Mapping[str, str]) -> "Policy":
        """A policy of deploy/aws with its capitalised names replaced."""
        text = path.read_text()
        for name, value in names.items():
            text = text.replace(name, value)
        return Policy(tuple(_grant(statement) for statement in json.loads(text)["Statement"]))

    def allows(self, ask: Ask) -> bool:
        return any(grant.allows(ask) for grant in self.grants)


def _grant(statement: Mapping[str, Any]) -> Grant:
    unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
    condition = statement.get("Condition", {"StringLike": {"s3:prefix": None}})
    if unknown or statement["Effect"] != "Allow" or list(condition) != ["StringLike"]:
        raise ValueError(f"{statement.get('Sid')}: this proxy does not understand {unknown or condition}")
    if list(condition["StringLike"]) != ["s3:prefix"]:
        raise ValueError(f"{statement.get('Sid')}: this proxy does not understand {condition}")
    prefixes = condition["StringLike"]["s3:prefix"]
    return Grant(
        statement["Sid"], _several(statement["Action"]), _several(statement["Resource"]),
        None if prefixes is None else _several(prefixes),
    )  # fmt: skip


def _several(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def asks(method: str, path: str, body: bytes = b"") -> list[Ask]:
    """What AWS would ask its policies for this request. Raises ValueError for a request that the project does not make."""
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    of_bucket, of_object = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{key}"
    if not key:
        if method == "POST" and "delete" in query:
            return _deletions(body, of_bucket)
        listing = {"versions": "ListBucketVersions", "uploads": "ListBucketMultipartUploads"}
        names = [action for name, action in listing.items() if name in query] or ["ListBucket"]
        if method not in ("GET", "HEAD"):
            raise ValueError(f"{method} {path}: not a request that storage/ makes")
        return [Ask(f"s3:{names[0]}", of_bucket, query.get("prefix", [None])[0])]
    if method == "DELETE":
        action = (
            "AbortMultipartUpload" if "uploadId" in query
            else "DeleteObjectVersion" if "versionId" in query
            else "DeleteObject"
        )  # fmt: skip
        return [Ask(f"s3:{action}", of_object)]
    names_of = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}
    return [Ask(f"s3:{names_of[method]}", of_object)]


def asks_when_missing(method: str, path: str) -> list[Ask]:
    """What AWS would ask besides when there is no such object: who may not list the key is told 403, not 404."""
    url = urlsplit(path)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    return [Ask("s3:ListBucket", f"arn:aws:s3:::{bucket}", key)] if key and method in ("GET", "HEAD") else []


def _deletions(body: bytes, of_bucket: str) -> list[Ask]:
    found = []
    for item in ElementTree.fromstring(body).iter():
        if item.tag.rpartition("}")[2] == "Object":
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
            action = "s3:DeleteObjectVersion" if "VersionId" in fields else "s3:DeleteObject"
            found.append(Ask(action, f"{of_bucket}/{fields['Key']}"))
    return found


class PolicedS3:
    """Requests so far, and the policy in force (None lets everything through)."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.policy: Policy | None = None
        self.seen: set[Ask] = set()
        self.refused: list[Ask] = []

    def enforce(self, policy: Policy | None) -> None:
        """From now on."""
        self.policy, self.seen, self.refused = policy, set(), []

    def refuses(self, needed: list[Ask]) -> bool:
        self.seen.update(needed)
        denied = [ask for ask in needed if self.policy is not None and not self.policy.allows(ask)]
        self.refused += denied
        return bool(denied)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Gives the proxy's URL."""
        police = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *message: object) -> None: ...

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if police.refuses(asks(self.command, self.path, body)):
                    return self.refuse()
                answer = self.forward(body)
                if answer[0] == 404 and police.refuses(asks_when_missing(self.command, self.path)):
                    return self.refuse()
                return self.answer(*answer)

            def refuse(self) -> None:
                self.answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>by policy</Message></Error>")

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                upstream = http.client.HTTPConnection(police.upstream, timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                content, headers = answer.read(), dict(answer.getheaders())
                upstream.close()
                return answer.status, headers, content

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                if status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            server.block_on_close = False
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()
